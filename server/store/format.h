// Where the rows lie in a matrix file, by format. Each parser sees the file's beginning and its size, and
// trusts neither: nothing is allocated before CheckLayout has held one against the other.
#ifndef DOTMAX_SERVER_STORE_FORMAT_H_
#define DOTMAX_SERVER_STORE_FORMAT_H_

#include <cstddef>
#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "server/base/types.h"

namespace dotmax {

// As much of a file as a parser may look at; NumPy's headers are shorter by far.
inline constexpr size_t kMaxHeaderBytes = 1 << 16;

// Element types that files have and matrices do not.
enum class Widened : uint8_t {
  kNot,
  kUint8,  // becomes float16, in which every value is exact
  kInt32,  // becomes float64
};

struct MatrixLayout {
  uint64_t rows = 0;
  uint64_t dim = 0;               // not yet checked against kMaxDim
  DType dtype = DType::kFloat32;  // in memory
  Widened widened = Widened::kNot;
  uint64_t data_offset = 0;     // ≤ the file's size
  size_t row_prefix_bytes = 0;  // before each row; its first 4 bytes are the row's dim

  // Of a row in the file, without its prefix.
  size_t file_row_bytes() const {
    return dim * (widened == Widened::kUint8 ? 1 : widened == Widened::kInt32 ? 4 : ByteWidth(dtype));
  }
  size_t row_bytes() const { return dim * ByteWidth(dtype); }  // in memory
};

// All fail with kInvalidArgument and a message that continues "<path>: ". `head` is the first
// min(file_bytes, kMaxHeaderBytes) bytes.

// By the extension of `path`, in any case:
//   .npy                     NumPy's format, versions 1.0 to 3.0: C order, '<f2', '<f4', '<f8', '|i1' or
//   '|u1', two
//                            dimensions
//   .fvecs, .bvecs, .ivecs   each row: int32 dim, then dim float32, uint8 or int32
//   .fbin, .u8bin, .i8bin    uint32 rows, uint32 dim, then float32, uint8 or int8
absl::StatusOr<MatrixLayout> ParseLayout(absl::string_view path, absl::string_view head, uint64_t file_bytes);

// NumPy's header, version 1.0, of a file in C order: `descr` and `shape` as Python writes them, "'<f4'" and
// "(3, 4)". Data begins at a multiple of 64.
std::string NpyHeader(absl::string_view descr, absl::string_view shape);

// For messages and help: ".npy, .fvecs, ...".
inline constexpr absl::string_view kFormats = ".npy, .fvecs, .bvecs, .ivecs, .fbin, .u8bin and .i8bin";

// Whether dim is allowed and the file holds exactly the promised rows.
absl::Status CheckLayout(const MatrixLayout& layout, uint64_t file_bytes);

}  // namespace dotmax

#endif  // DOTMAX_SERVER_STORE_FORMAT_H_
