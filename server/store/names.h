// The .ids file beside a matrix file: a name for each of its rows, one per line.
#ifndef DOTMAX_SERVER_STORE_NAMES_H_
#define DOTMAX_SERVER_STORE_NAMES_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "server/store/file.h"

namespace dotmax {

inline constexpr uint64_t kMaxNamesBytes = uint64_t{1} << 30;

// `path` with its extension replaced by ".ids".
std::string NamesPathBeside(const std::string& path);

// The lines of a file that has been opened, or could not be. kInvalidArgument when it is larger than
// kMaxNamesBytes or no regular file; otherwise the system's answer. Messages start with the path.
absl::StatusOr<std::vector<std::string>> ReadNames(absl::StatusOr<File> file, const std::string& path);

}  // namespace dotmax

#endif  // DOTMAX_SERVER_STORE_NAMES_H_
