// The page for people at "/" of the HTTP port: what is resident, live figures, and searches by the names of
// rows. Knows nothing of connections; http does.
#ifndef DOTMAX_SERVER_RPC_PAGE_H_
#define DOTMAX_SERVER_RPC_PAGE_H_

#include <atomic>
#include <cstdint>
#include <map>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "server/base/metrics.h"
#include "server/base/searcher.h"
#include "server/rpc/tokens.h"

namespace dotmax {

// Thread-safe.
class Page {
 public:
  struct Request {
    std::string path;
    std::map<std::string, std::string> parameters = {};  // of the query, decoded
    std::string authorization = {};                      // the header; may be empty
    std::string peer = {};                               // the caller's address
  };
  struct Reply {
    int status = 200;
    absl::string_view content_type;
    std::string body = {};
    std::string retry_after = {};  // seconds; empty: none
  };

  static constexpr uint32_t kMaxHits = 100;
  static constexpr int kMaxSearches = 2;  // at once: each holds a thread of the HTTP server
  static constexpr absl::Duration kDeadline = absl::Seconds(5);

  // All outlive the page. Figures need one of `tokens`, with scope `search`, unless that is null.
  Page(Searcher* searcher, Metrics* metrics, const Tokens* tokens)
      : searcher_(searcher), metrics_(metrics), tokens_(tokens) {}

  Page(const Page&) = delete;
  Page& operator=(const Page&) = delete;

  // "/", "/page.css", "/page.js": the page, which holds no figures.
  // "/collections.json": what is resident.
  // "/search.json?collection=NAME&word=NAME&metric=METRIC&top_k=K": the best rows for the row of that name,
  //   without it; waits for the answer, for kDeadline at most.
  // Otherwise 404. Failures are {"error": {"code", "reason", "field", "message"}}.
  Reply Answer(const Request& request) const;

 private:
  absl::StatusOr<std::string> Collections() const;
  absl::StatusOr<std::string> Search(const Request& request, const std::string& client) const;

  Searcher* const searcher_;
  Metrics* const metrics_;
  const Tokens* const tokens_;
  mutable std::atomic<int> searches_{0};
};

}  // namespace dotmax

#endif  // DOTMAX_SERVER_RPC_PAGE_H_
