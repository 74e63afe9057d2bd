// What a server counted between two looks at its /metrics.
#ifndef DOTMAX_CLIENT_CLI_BENCH_METRICS_H_
#define DOTMAX_CLIENT_CLI_BENCH_METRICS_H_

#include <cstdint>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"

namespace dotmax {

// The text at http://HOST:PORT/metrics, `address` being HOST:PORT, for whoever has `token`, if any.
// kInvalidArgument when that is no address, kUnavailable when nothing of the kind is there within the
// timeout.
absl::StatusOr<std::string> FetchMetrics(const std::string& address, const std::string& token,
                                         absl::Duration timeout);

struct ServerFigures {
  // Of a histogram; quantiles are estimates, as Prometheus makes them: even within a bucket.
  struct Distribution {
    double count = 0;
    double mean = 0, p50 = 0, p99 = 0;
  };

  // Absent where the server has no such histogram, or counted nothing meanwhile.
  std::optional<Distribution> queue_seconds, compute_seconds;
  std::optional<Distribution> total_seconds;     // of Search, from a request's start to its status
  std::optional<Distribution> batch_query_rows;  // searched together

  double pairs_screened = 0, pairs_survived = 0, pairs_checked = 0, pairs_rescored = 0;
};

// Both in Prometheus' text format.
ServerFigures FiguresBetween(absl::string_view before, absl::string_view after);

}  // namespace dotmax

#endif  // DOTMAX_CLIENT_CLI_BENCH_METRICS_H_
