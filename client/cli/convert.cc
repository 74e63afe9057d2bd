// dotmax convert: a matrix file in another format.
#include <filesystem>
#include <string>
#include <system_error>
#include <vector>

#include "absl/strings/str_cat.h"
#include "client/cli/commands.h"
#include "client/cli/common.h"
#include "client/cli/files.h"
#include "client/cli/hdf5.h"
#include "client/cli/progress.h"
#include "client/cli/queries.h"
#include "server/base/flags.h"
#include "server/store/matrix_writer.h"
#include "server/store/names.h"

namespace dotmax {
namespace {

struct ConvertFlags {
  std::string type;
  bool round = false;
};

absl::Status Write(const ConvertFlags& flags, const MatrixView& matrix, const std::string& to) {
  Progress progress;
  WriteOptions options = {.round = flags.round, .progress = [&](uint64_t done, uint64_t total) {
                            progress.Update(done, total, "written");
                          }};
  if (!flags.type.empty()) {
    const absl::StatusOr<FileType> type = ParseFileType(flags.type);
    if (!type.ok()) return absl::InvalidArgumentError(absl::StrCat("--dtype: ", type.status().message()));
    options.type = *type;
  }
  const std::optional<Hdf5Path> hdf5 = ParseHdf5Path(to);
  if (!hdf5.has_value()) return WriteMatrix(matrix, to, options);
  if (options.type.has_value())
    return absl::InvalidArgumentError("--dtype: HDF5 keeps the type of the elements");
  return WriteHdf5(matrix, hdf5->file, hdf5->dataset.empty() ? "train" : hdf5->dataset);
}

absl::Status Run(const ConvertFlags& flags, const std::string& from, const std::string& to) {
  std::error_code none;
  if (std::filesystem::equivalent(from, to, none)) {
    return absl::InvalidArgumentError(absl::StrCat(to, " is the file that is read"));
  }
  Progress progress;
  const absl::StatusOr<SharedMatrix> matrix = ReadMatrixFile(
      from, {.map = true,
             .progress = [&](uint64_t done, uint64_t total) { progress.Update(done, total, "read"); }});
  if (!matrix.ok()) return matrix.status();
  if (absl::Status s = Write(flags, matrix->view, to); !s.ok()) return s;
  // Names of rows go along.
  if (NamesBeside(from, matrix->view.rows).empty() || ParseHdf5Path(to).has_value()) return absl::OkStatus();
  const std::string ids = NamesPathBeside(to);
  if (std::filesystem::equivalent(NamesPathBeside(from), ids, none)) return absl::OkStatus();
  std::error_code failed;
  std::filesystem::copy_file(NamesPathBeside(from), ids, std::filesystem::copy_options::overwrite_existing,
                             failed);
  return failed ? absl::ErrnoToStatus(failed.value(), absl::StrCat(ids, ": cannot be written"))
                : absl::OkStatus();
}

}  // namespace

ExitCode Convert(int argc, const char* const* argv) {
  ConvertFlags f;
  Flags flags(
      "dotmax convert FROM TO [FLAGS]",
      "Writes a matrix file in another format; the extensions say which:\n"
      "  .npy                     NumPy: float16, float32, float64, int8, uint8\n"
      "  .fvecs, .bvecs, .ivecs   float32, uint8, int32, each row after its dim\n"
      "  .fbin, .u8bin, .i8bin    float32, uint8, int8, after the numbers of rows and dim\n"
      "  .hdf5, .h5               a data set of the file, by default train: FILE.hdf5/DATASET\n"
      "Every number stays what it is; one that the format does not have is refused. Names of rows in an\n"
      ".ids file beside FROM are copied beside TO.");
  flags.Add({"dtype", "TYPE",
             "Of an .npy file's elements: float16, float32, float64, int8, uint8; by default FROM's.", ""},
            &f.type);
  flags.Add({"round", "", "Round numbers that the format does not have to the nearest that it has.", ""},
            &f.round);
  return WithFlags(flags, argc, argv, {"FROM", "TO"}, [&f](const std::vector<std::string>& files) {
    const absl::Status status = Run(f, files[0], files[1]);
    return status.ok() ? kOk : Fail(status);
  });
}

}  // namespace dotmax
