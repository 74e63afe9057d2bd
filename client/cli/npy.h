// Answers as a NumPy file.
#ifndef DOTMAX_CLIENT_CLI_NPY_H_
#define DOTMAX_CLIENT_CLI_NPY_H_

#include <string>

#include "absl/status/status.h"
#include "dotmax/client.h"

namespace dotmax {

// Writes format version 1.0, little-endian, one dimension: the hits in the order of `result` as records of
// query_row, id (<u8) and score (<f8); or with `counts` its counts (<u8). Replaces the file, all or nothing.
absl::Status WriteNpy(const SearchResult& result, bool counts, const std::string& path);

}  // namespace dotmax

#endif  // DOTMAX_CLIENT_CLI_NPY_H_
