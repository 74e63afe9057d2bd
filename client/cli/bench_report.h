// What dotmax bench found, as text: tables for people, JSON for programs.
#ifndef DOTMAX_CLIENT_CLI_BENCH_REPORT_H_
#define DOTMAX_CLIENT_CLI_BENCH_REPORT_H_

#include <cstdint>
#include <optional>
#include <string>

#include "client/cli/bench_load.h"
#include "client/cli/bench_metrics.h"
#include "dotmax/client.h"

namespace dotmax {

struct BenchReport {
  LoadOptions load;
  uint64_t rows = 1;               // query rows per request
  uint64_t distinct_requests = 0;  // that were sent in turn
  SearchOptions options;
  std::string metric;
  CollectionDescription collection;  // 0 rows where the server has no such one
  LoadResult result;
  std::optional<ServerFigures> server;
};

std::string BenchTable(const BenchReport& report);
std::string BenchJson(const BenchReport& report);  // one line

}  // namespace dotmax

#endif  // DOTMAX_CLIENT_CLI_BENCH_REPORT_H_
