// HDF5 files as ann-benchmarks has them: data sets of two dimensions, "train", "test", "neighbors", and an
// attribute "distance". Read and written by libhdf5, for the command alone: a server reads what dotmax
// convert makes of them.
#ifndef DOTMAX_CLIENT_CLI_HDF5_H_
#define DOTMAX_CLIENT_CLI_HDF5_H_

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "server/base/types.h"

namespace dotmax {

// An open file. Movable; not thread-safe, as libhdf5 is not. Messages start with the path.
class Hdf5File {
 public:
  using Progress = std::function<void(uint64_t done, uint64_t total)>;  // bytes

  // kNotFound, kInvalidArgument.
  static absl::StatusOr<Hdf5File> Open(const std::string& path);

  Hdf5File(Hdf5File&& other) noexcept;
  Hdf5File& operator=(Hdf5File&&) = delete;
  ~Hdf5File();

  // A data set's rows, exactly: int8, and what float32 has exactly, as it is or as float32; other integers
  // and float64 as float64. kNotFound names the data sets that there are; kInvalidArgument for other shapes
  // and types, numbers that float64 does not have, and NaN or infinity.
  absl::StatusOr<SharedMatrix> Read(const std::string& dataset, const Progress& progress = nullptr) const;

  // Non-negative integers, row by row, `columns` to the row.
  struct Ids {
    std::vector<uint64_t> values;
    uint64_t rows = 0;
    uint64_t columns = 0;
  };
  absl::StatusOr<Ids> ReadIds(const std::string& dataset) const;

  // A text attribute of the file; empty if there is none.
  std::string Attribute(const std::string& name) const;

 private:
  Hdf5File(std::string path, int64_t file) : path_(std::move(path)), file_(file) {}

  absl::Status Refuse(const std::string& dataset, absl::string_view what) const;

  std::string path_;
  int64_t file_;  // libhdf5's
};

// Writes `matrix` as a data set of a file, which is made if it is not there and keeps its other data sets;
// one of that name is kAlreadyExists. bfloat16 is written as float32.
absl::Status WriteHdf5(const MatrixView& matrix, const std::string& path, const std::string& dataset);

}  // namespace dotmax

#endif  // DOTMAX_CLIENT_CLI_HDF5_H_
