#include "server/store/names.h"

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"

namespace dotmax {
namespace {

absl::StatusOr<std::vector<std::string>> Read(const absl::StatusOr<File>& file) {
  if (!file.ok()) return file.status();
  const absl::StatusOr<uint64_t> bytes = file->Size();
  if (!bytes.ok()) return bytes.status();
  if (*bytes > kMaxNamesBytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("has ", *bytes, " bytes; at most ", kMaxNamesBytes, " can be"));
  }
  std::string text(*bytes, '\0');
  if (absl::Status s = file->Read(0, text.size(), text.data()); !s.ok()) return s;
  std::vector<std::string> names = absl::StrSplit(text, '\n');
  if (names.back().empty()) names.pop_back();  // after the last line's end
  for (std::string& name : names) {
    if (!name.empty() && name.back() == '\r') name.pop_back();
  }
  return names;
}

}  // namespace

std::string NamesPathBeside(const std::string& path) {
  const size_t slash = path.rfind('/');
  const size_t dot = path.rfind('.');
  const bool has_extension = dot != path.npos && (slash == path.npos || dot > slash);
  return path.substr(0, has_extension ? dot : path.size()) + ".ids";
}

absl::StatusOr<std::vector<std::string>> ReadNames(absl::StatusOr<File> file, const std::string& path) {
  absl::StatusOr<std::vector<std::string>> names = Read(file);
  if (names.ok()) return names;
  return absl::Status(names.status().code(), absl::StrCat(path, ": ", names.status().message()));
}

}  // namespace dotmax
