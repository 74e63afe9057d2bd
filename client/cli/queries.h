// The query vectors of a command line: from a matrix file, from standard input, or by name; or random ones.
#ifndef DOTMAX_CLIENT_CLI_QUERIES_H_
#define DOTMAX_CLIENT_CLI_QUERIES_H_

#include <cstdint>
#include <istream>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "server/base/types.h"

namespace dotmax {

// One name per line, in the order of a matrix's rows.
absl::StatusOr<std::vector<std::string>> ReadIds(const std::string& path);

// The names in the .ids file beside `path`, if there is one that names `rows` rows; else none.
std::vector<std::string> NamesBeside(const std::string& path, uint64_t rows);

// One vector per line, numbers separated by blanks or commas; empty lines are skipped. float32 when every
// number is one exactly, float64 otherwise. kInvalidArgument names the line and what is wrong with it.
absl::StatusOr<SharedMatrix> ReadTextMatrix(std::istream& in);

// The rows whose names in `ids` are `words`, in the order of `words`. kNotFound names the first word that is
// not there.
absl::StatusOr<std::vector<uint64_t>> FindByName(const std::vector<std::string>& ids,
                                                 const std::vector<std::string>& words);

// These rows of a matrix, which has them, in their order.
SharedMatrix SelectRows(const SharedMatrix& matrix, const std::vector<uint64_t>& rows);

// Independent standard normal numbers, float32; the same for the same seed.
SharedMatrix StandardNormalRows(uint64_t rows, uint32_t dim, uint64_t seed);

}  // namespace dotmax

#endif  // DOTMAX_CLIENT_CLI_QUERIES_H_
