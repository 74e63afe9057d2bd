// Reading a matrix from a file that people have, in one of the formats of format.h.
#ifndef DOTMAX_SERVER_STORE_INGEST_H_
#define DOTMAX_SERVER_STORE_INGEST_H_

#include <cstdint>
#include <functional>
#include <string>

#include "absl/status/statusor.h"
#include "server/base/types.h"
#include "server/store/file.h"

namespace dotmax {

struct ReadOptions {
  // The rows stay in the file, mapped into memory, where its format allows (not of .fvecs and its like, nor
  // where elements are widened; and rows must be aligned to their elements): the system keeps in memory what
  // is used. The file should not change after; SharedMatrix::backing says whether it has.
  bool map = false;
  // Called once the matrix's shape is known (data is null), and whether it will be mapped, before memory is
  // taken or anything is mapped. What it fails with, reading fails with.
  std::function<absl::Status(const MatrixView& shape, bool map)> admit = nullptr;
  // Called now and then while reading, on the calling thread, with bytes read so far of bytes in all.
  std::function<void(uint64_t done, uint64_t total)> progress = nullptr;
  // Asked as often; what it fails with, reading fails with.
  std::function<absl::Status()> stop = nullptr;
};

// Reads the whole file into memory, 64-byte aligned (or maps it), and checks every element.
//
// The format is the extension's; the header must agree with the file's size before anything is allocated.
// Fails with a message that starts with the path: kNotFound or kPermissionDenied (cannot be opened),
// kInvalidArgument (unknown extension, wrong magic, unsupported dtype, big-endian, Fortran order, not two
// dimensions, dim of 0 or over kMaxDim, truncated or with bytes left over, empty file, rows of different
// dims, NaN or infinity with its row and column), kResourceExhausted (does not fit into memory).
// A matrix of 0 rows is valid where the format can say its dim (.npy, .fbin and its like).
absl::StatusOr<SharedMatrix> ReadMatrix(const std::string& path, const ReadOptions& options = {});

// The same of a file that has been opened, or could not be; `path` says its format, and is what messages call
// it.
absl::StatusOr<SharedMatrix> ReadMatrix(absl::StatusOr<File> file, const std::string& path,
                                        const ReadOptions& options);

}  // namespace dotmax

#endif  // DOTMAX_SERVER_STORE_INGEST_H_
