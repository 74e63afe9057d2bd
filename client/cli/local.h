// Searches in this process, without a server: the same engine, and the same answers.
#ifndef DOTMAX_CLIENT_CLI_LOCAL_H_
#define DOTMAX_CLIENT_CLI_LOCAL_H_

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "dotmax/client.h"
#include "server/base/searcher.h"
#include "server/base/types.h"

namespace dotmax {

// As Client::MaxInnerProduct, on `threads` threads; the timeout is not looked at. `base_name` is what
// messages call B. With a range and top_k = 0 there are at most kMaxLocalHits hits, per query row or
// globally.
inline constexpr uint32_t kMaxLocalHits = 1'000'000;
absl::StatusOr<SearchResult> LocalMax(const SharedMatrix& queries, const SharedMatrix& base,
                                      const std::string& base_name, const SearchOptions& options,
                                      int threads);

// A matrix that is searched many times, prepared as a server does it: within seconds, whatever is fastest.
class LocalCollection {
 public:
  LocalCollection(const SharedMatrix& rows, const std::string& name, int threads);

  // As Client::Search, of all queries at once; the timeout is not looked at.
  absl::StatusOr<SearchResult> Search(const SharedMatrix& queries, const SearchOptions& options) const;

  std::string screen() const;  // as Collection.screen of the protos

 private:
  const std::unique_ptr<Searcher> searcher_;
};

// The best pairs of different rows of one matrix, each once, with options.global, or else each row's best
// others: as Client::SearchRows with kEachOnce or kNotItself.
absl::StatusOr<SearchResult> LocalPairs(const SharedMatrix& rows, const std::string& name,
                                        const SearchOptions& options, int threads);

}  // namespace dotmax

#endif  // DOTMAX_CLIENT_CLI_LOCAL_H_
