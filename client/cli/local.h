// Searches in this process, without a server: the same engine, and the same answers.
#ifndef DOTMAX_CLIENT_CLI_LOCAL_H_
#define DOTMAX_CLIENT_CLI_LOCAL_H_

#include <string>

#include "absl/status/statusor.h"
#include "dotmax/client.h"
#include "server/base/types.h"

namespace dotmax {

// As Client::MaxInnerProduct, on `threads` threads; the timeout is not looked at. `base_name` is what
// messages call B. With a range and top_k = 0 there are at most kMaxLocalHits hits, per query row or
// globally.
inline constexpr uint32_t kMaxLocalHits = 1'000'000;
absl::StatusOr<SearchResult> LocalMax(const SharedMatrix& queries, const SharedMatrix& base,
                                      const std::string& base_name, const SearchOptions& options,
                                      int threads);

// The pairs of different rows of one matrix, each pair once: as Client::SearchRows with kEachOnce.
absl::StatusOr<SearchResult> LocalPairs(const SharedMatrix& rows, const std::string& name,
                                        const SearchOptions& options, int threads);

}  // namespace dotmax

#endif  // DOTMAX_CLIENT_CLI_LOCAL_H_
