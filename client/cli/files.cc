#include "client/cli/files.h"

#include "absl/strings/match.h"
#include "client/cli/hdf5.h"
#include "server/store/ingest.h"

namespace dotmax {

std::optional<Hdf5Path> ParseHdf5Path(absl::string_view path) {
  for (const absl::string_view extension : {".hdf5", ".h5"}) {
    if (absl::EndsWithIgnoreCase(path, extension)) return Hdf5Path{std::string(path), ""};
    const size_t at = path.find(std::string(extension) + "/");
    if (at == path.npos) continue;
    const size_t end = at + extension.size();
    return Hdf5Path{std::string(path.substr(0, end)), std::string(path.substr(end + 1))};
  }
  return std::nullopt;
}

absl::StatusOr<SharedMatrix> ReadMatrixFile(const std::string& path, const FileOptions& options) {
  const std::optional<Hdf5Path> hdf5 = ParseHdf5Path(path);
  if (!hdf5.has_value()) return ReadMatrix(path, {.map = options.map, .progress = options.progress});
  const absl::StatusOr<Hdf5File> file = Hdf5File::Open(hdf5->file);
  if (!file.ok()) return file.status();
  return file->Read(hdf5->dataset.empty() ? options.dataset : hdf5->dataset, options.progress);
}

}  // namespace dotmax
