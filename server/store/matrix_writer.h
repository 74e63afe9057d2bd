// Writing a matrix to a file in one of the formats of format.h.
#ifndef DOTMAX_SERVER_STORE_MATRIX_WRITER_H_
#define DOTMAX_SERVER_STORE_MATRIX_WRITER_H_

#include <cstdint>
#include <functional>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "server/base/types.h"

namespace dotmax {

// Element types of files.
enum class FileType : uint8_t { kFloat16, kFloat32, kFloat64, kInt8, kUint8, kInt32 };

// "float32", "uint8", ...; kInvalidArgument lists them.
absl::StatusOr<FileType> ParseFileType(absl::string_view name);

struct WriteOptions {
  // Of the file's elements; without, what the format has, or for .npy what the matrix has.
  std::optional<FileType> type = std::nullopt;
  // Elements that the type does not have are rounded to the nearest that it has, ties to even, instead of
  // refused. Those beyond its range are refused anyway.
  bool round = false;
  // Called now and then, on the calling thread, with bytes written so far of bytes in all.
  std::function<void(uint64_t done, uint64_t total)> progress = nullptr;
};

// Replaces the file, all or nothing. The format is the extension's. kInvalidArgument, with a message that
// starts with the path: unknown extension, a type that the format does not have, an element that the type
// does not have (with its row, column and value), more rows than the format can say, or no rows where it
// could not say their dim; kPermissionDenied, kResourceExhausted, ...: the system's answer.
absl::Status WriteMatrix(const MatrixView& matrix, const std::string& path, const WriteOptions& options = {});

}  // namespace dotmax

#endif  // DOTMAX_SERVER_STORE_MATRIX_WRITER_H_
