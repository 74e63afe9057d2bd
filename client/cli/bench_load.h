// Load for a server: requests of one kind, as many at a time or as many per second as wanted, and how they
// fared.
#ifndef DOTMAX_CLIENT_CLI_BENCH_LOAD_H_
#define DOTMAX_CLIENT_CLI_BENCH_LOAD_H_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "client/cli/bench_histogram.h"
#include "dotmax/client.h"
#include "server/base/types.h"

namespace dotmax {

// The requests: Search for `rows` query rows each, over and over through as many of them as `queries` has.
struct LoadRequests {
  SharedMatrix queries;
  uint64_t rows = 1;
  SearchOptions options;  // collection, top_k, global and metric are looked at

  uint64_t count() const { return queries.view.rows / rows; }
};

// So far, in all.
struct LoadProgress {
  absl::Duration elapsed, total;
  uint64_t ok = 0;
  uint64_t failed = 0;
};

struct LoadOptions {
  std::string target;
  std::optional<TlsOptions> tls;               // as ClientOptions'
  std::string token;                           // likewise
  absl::Duration timeout = absl::Seconds(60);  // to connect
  int connections = 1;                         // requests take turns; each is a TCP connection of its own

  // Closed loop: this many requests are in flight, each followed by the next as soon as it is answered.
  int64_t concurrency = 1;
  // Open loop, if above 0: a request is due every 1/rate seconds, whatever happened to those before. Its time
  // runs from when it was due. Only so many are in flight; one that finds no room is not sent.
  double rate = 0;
  int64_t max_outstanding = 10'000;

  absl::Duration warmup = absl::Seconds(1);
  absl::Duration duration = absl::Seconds(10);  // of the measured window, after the warm-up
  absl::Duration deadline = absl::Seconds(10);  // of each request, from when it is sent

  // The share of the answers that `check` is given, evenly; it says whether they are right. Called by one
  // thread, not the caller's.
  double check_share = 0;
  std::function<bool(uint64_t request, const SearchResult& answer)> check;

  // Called on the calling thread: at either end of the window, and ten times a second.
  std::function<void()> window_begins, window_ends;
  std::function<void(const LoadProgress& progress)> progress;
};

struct LoadResult {
  struct Failures {
    absl::Status first;
    LatencyHistogram latency;
  };

  // Of the requests that were due within the window, whenever they ended.
  LatencyHistogram ok;
  LatencyHistogram failed;
  std::map<absl::StatusCode, Failures> failures;
  uint64_t not_sent = 0;        // open loop
  LatencyHistogram send_delay;  // open loop: from when one was due until it was sent

  // What went on within the window, whenever it had begun.
  double seconds = 0;
  double cpu_seconds = 0;  // of this process
  uint64_t answered = 0;
  uint64_t request_bytes = 0, reply_bytes = 0;  // of the answered ones

  // In all.
  uint64_t checked = 0, mismatched = 0;
};

// Runs it, and waits until all requests have ended, at most a deadline after warm-up and window. Fails with
// kUnavailable when there is no connection within the timeout, and in no other way: what becomes of the
// requests is the result.
// REQUIRES: requests.count() ≥ 1; with a check_share above 0 there is a check.
absl::StatusOr<LoadResult> RunLoad(const LoadOptions& options, const LoadRequests& requests);

}  // namespace dotmax

#endif  // DOTMAX_CLIENT_CLI_BENCH_LOAD_H_
