// The answers that requests should get, found without a server.
#ifndef DOTMAX_CLIENT_CLI_BENCH_VERIFY_H_
#define DOTMAX_CLIENT_CLI_BENCH_VERIFY_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "client/cli/bench_load.h"
#include "dotmax/client.h"
#include "server/base/types.h"

namespace dotmax {

// Immutable.
class ExpectedAnswers {
 public:
  // Searches `base` in this process, on `threads` threads. Fails as LocalMax does: kInvalidArgument when dims
  // differ.
  static absl::StatusOr<ExpectedAnswers> Find(const LoadRequests& requests, const SharedMatrix& base,
                                              const std::string& base_name, int threads);

  // Whether `answer` has the very hits that request `request` should get, bit for bit.
  bool Match(uint64_t request, const SearchResult& answer) const;

 private:
  struct Hits {
    std::vector<uint64_t> row_splits, ids, query_rows;
    std::vector<double> scores;
  };

  std::vector<Hits> hits_;  // by request
};

}  // namespace dotmax

#endif  // DOTMAX_CLIENT_CLI_BENCH_VERIFY_H_
