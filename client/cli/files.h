// Matrix files that the command reads and writes: those that a server reads, and HDF5.
#ifndef DOTMAX_CLIENT_CLI_FILES_H_
#define DOTMAX_CLIENT_CLI_FILES_H_

#include <cstdint>
#include <functional>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "server/base/types.h"

namespace dotmax {

// FILE.hdf5 or FILE.h5, or a data set of it, FILE.hdf5/DATASET.
struct Hdf5Path {
  std::string file;
  std::string dataset;  // empty: not said
};
std::optional<Hdf5Path> ParseHdf5Path(absl::string_view path);

struct FileOptions {
  std::string dataset = "train";  // of an HDF5 file, where the path does not say it
  bool map = false;               // as ReadOptions'
  std::function<void(uint64_t done, uint64_t total)> progress = nullptr;  // bytes
};

// As ReadMatrix, of HDF5 files too.
absl::StatusOr<SharedMatrix> ReadMatrixFile(const std::string& path, const FileOptions& options = {});

}  // namespace dotmax

#endif  // DOTMAX_CLIENT_CLI_FILES_H_
