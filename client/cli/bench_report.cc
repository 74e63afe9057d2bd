#include "client/cli/bench_report.h"

#include <cmath>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "client/cli/format.h"
#include "server/base/json.h"

namespace dotmax {
namespace {

using Row = std::vector<std::string>;

constexpr double kQuantiles[] = {0.5, 0.9, 0.99, 0.999};

// Per second, within the window.
struct Throughput {
  explicit Throughput(const BenchReport& report)
      : requests(static_cast<double>(report.result.answered) / report.result.seconds),
        queries(requests * static_cast<double>(report.rows)),
        pairs(queries * static_cast<double>(report.collection.rows)),
        request_bytes(static_cast<double>(report.result.request_bytes) / report.result.seconds),
        reply_bytes(static_cast<double>(report.result.reply_bytes) / report.result.seconds) {}

  double requests, queries, pairs, request_bytes, reply_bytes;
};

double CpuSecondsPerRequest(const LoadResult& result) {
  return result.cpu_seconds / static_cast<double>(result.answered);  // NaN or infinite without any: no number
}

std::string Milliseconds(double seconds) { return absl::StrFormat("%.3f", seconds * 1e3); }
std::string Milliseconds(absl::Duration duration) { return Milliseconds(absl::ToDoubleSeconds(duration)); }

Row LatencyRow(const std::string& name, const LatencyHistogram& latency) {
  Row row = {name, absl::StrCat(latency.count())};
  if (latency.count() == 0) return row;
  row.push_back(Milliseconds(latency.min()));
  for (const double q : kQuantiles) row.push_back(Milliseconds(latency.Quantile(q)));
  row.push_back(Milliseconds(latency.max()));
  row.push_back(Milliseconds(latency.mean()));
  return row;
}

void AddServerRow(const std::string& name, const std::optional<ServerFigures::Distribution>& seconds,
                  std::vector<Row>& rows) {
  if (!seconds) return;
  rows.push_back({name, absl::StrFormat("%.0f", seconds->count), "", Milliseconds(seconds->p50), "",
                  Milliseconds(seconds->p99), "", "", Milliseconds(seconds->mean)});
}

std::string LatencyTable(const BenchReport& report) {
  const LoadResult& result = report.result;
  std::vector<Row> rows = {{"milliseconds", "count", "min", "p50", "p90", "p99", "p99.9", "max", "mean"}};
  rows.push_back(LatencyRow("answered", result.ok));
  for (const auto& [code, failures] : result.failures) {
    rows.push_back(LatencyRow(absl::StatusCodeToString(code), failures.latency));
  }
  if (result.failures.size() > 1) rows.push_back(LatencyRow("all that failed", result.failed));
  if (report.load.rate > 0) rows.push_back(LatencyRow("sent late by", result.send_delay));
  if (report.server) {
    AddServerRow("server: queue", report.server->queue_seconds, rows);
    AddServerRow("server: compute", report.server->compute_seconds, rows);
    AddServerRow("server: total", report.server->total_seconds, rows);
  }
  return Table(rows);
}

std::string ThroughputTable(const BenchReport& report) {
  const Throughput per_second(report);
  const auto number = [](double value) { return absl::StrFormat("%.1f", value); };
  return Table({{"per second", "requests", "queries", "pairs", "bytes sent", "bytes received"},
                {"", number(per_second.requests), number(per_second.queries),
                 absl::StrFormat("%.4g", per_second.pairs), absl::StrFormat("%.0f", per_second.request_bytes),
                 absl::StrFormat("%.0f", per_second.reply_bytes)}});
}

std::string Plural(int64_t count, absl::string_view what) {
  return absl::StrCat(count, " ", what, count == 1 ? "" : "s");
}

std::string LatencyJson(const LatencyHistogram& latency) {
  const auto number = [&](absl::Duration duration) {
    return latency.count() == 0 ? "null" : JsonNumber(absl::ToDoubleSeconds(duration));
  };
  return absl::StrCat("{\"count\":", latency.count(), ",\"min\":", number(latency.min()),
                      ",\"p50\":", number(latency.Quantile(0.5)), ",\"p90\":", number(latency.Quantile(0.9)),
                      ",\"p99\":", number(latency.Quantile(0.99)),
                      ",\"p999\":", number(latency.Quantile(0.999)), ",\"max\":", number(latency.max()),
                      ",\"mean\":", number(latency.mean()), "}");
}

std::string DistributionJson(const std::optional<ServerFigures::Distribution>& of) {
  if (!of) return "null";
  return absl::StrCat("{\"count\":", JsonNumber(of->count), ",\"mean\":", JsonNumber(of->mean),
                      ",\"p50\":", JsonNumber(of->p50), ",\"p99\":", JsonNumber(of->p99), "}");
}

std::string ServerJson(const ServerFigures& server) {
  return absl::StrCat("{\"queue_seconds\":", DistributionJson(server.queue_seconds),
                      ",\"compute_seconds\":", DistributionJson(server.compute_seconds),
                      ",\"total_seconds\":", DistributionJson(server.total_seconds),
                      ",\"batch_query_rows\":", DistributionJson(server.batch_query_rows),
                      ",\"pairs_screened\":", JsonNumber(server.pairs_screened),
                      ",\"pairs_survived\":", JsonNumber(server.pairs_survived),
                      ",\"pairs_checked\":", JsonNumber(server.pairs_checked),
                      ",\"pairs_rescored\":", JsonNumber(server.pairs_rescored), "}");
}

}  // namespace

std::string BenchTable(const BenchReport& report) {
  const LoadOptions& load = report.load;
  const LoadResult& result = report.result;
  const CollectionDescription& collection = report.collection;
  std::string out = absl::StrCat(
      load.rate > 0 ? absl::StrCat("open loop: ", load.rate, " requests due per second, at most ",
                                   load.max_outstanding, " in flight")
                    : absl::StrCat("closed loop: ", load.concurrency, " in flight"),
      ", ", Plural(load.connections, "connection"), "\n", Plural(report.rows, "query row"), ", ",
      report.options.global ? "all together" : "each", ": top ", report.options.top_k, " by ", report.metric,
      " of \"", collection.name, "\", ", collection.rows, " x ", collection.dim, "; ",
      report.distinct_requests, " different requests\nmeasured for ", absl::FormatDuration(load.duration),
      " after ", absl::FormatDuration(load.warmup), " of warm-up\n\n", LatencyTable(report), "\n",
      ThroughputTable(report), "\n");
  if (report.server) {
    const ServerFigures& server = *report.server;
    absl::StrAppendFormat(&out, "server: %.4g pairs screened, %.4g survived, %.4g checked, %.4g rescored\n",
                          server.pairs_screened, server.pairs_survived, server.pairs_checked,
                          server.pairs_rescored);
    if (server.batch_query_rows) {
      absl::StrAppendFormat(&out, "server: batches of %.1f query rows, p50 %.1f, p99 %.1f\n",
                            server.batch_query_rows->mean, server.batch_query_rows->p50,
                            server.batch_query_rows->p99);
    }
  }
  if (const double cpu = CpuSecondsPerRequest(result); std::isfinite(cpu)) {
    absl::StrAppendFormat(&out, "this process: %.1f us of processor time per answer\n", cpu * 1e6);
  }
  if (load.rate > 0) absl::StrAppend(&out, "not sent: ", result.not_sent, "\n");
  for (const auto& [code, failures] : result.failures) {
    absl::StrAppend(&out, absl::StatusCodeToString(code), ": ", failures.first.message(), "\n");
  }
  if (load.check_share > 0) {
    absl::StrAppend(&out, "verified: ", Plural(result.checked, "answer"), ", ", result.mismatched,
                    " wrong\n");
  }
  return out;
}

std::string BenchJson(const BenchReport& report) {
  const LoadOptions& load = report.load;
  const LoadResult& result = report.result;
  const Throughput per_second(report);
  const bool open = load.rate > 0;
  std::vector<std::string> errors;
  for (const auto& [code, failures] : result.failures) {
    errors.push_back(absl::StrCat("{\"code\":", JsonString(absl::StatusCodeToString(code)),
                                  ",\"count\":", failures.latency.count(),
                                  ",\"first_message\":", JsonString(failures.first.message()),
                                  ",\"latency_seconds\":", LatencyJson(failures.latency), "}"));
  }
  const std::string loop =
      open ? absl::StrCat("\"rate\":", JsonNumber(load.rate), ",\"max_outstanding\":", load.max_outstanding)
           : absl::StrCat("\"concurrency\":", load.concurrency);
  const std::string verified = load.check_share > 0 ? absl::StrCat("{\"checked\":", result.checked,
                                                                   ",\"wrong\":", result.mismatched, "}")
                                                    : "null";
  return absl::StrCat(
      "{\"loop\":\"", open ? "open" : "closed", "\",", loop, ",\"connections\":", load.connections,
      ",\"rows\":", report.rows, ",\"top_k\":", report.options.top_k,
      ",\"metric\":", JsonString(report.metric), ",\"global\":", report.options.global ? "true" : "false",
      ",\"collection\":{\"name\":", JsonString(report.collection.name), ",\"rows\":", report.collection.rows,
      ",\"dim\":", report.collection.dim, "},\"distinct_requests\":", report.distinct_requests,
      ",\"warmup_seconds\":", JsonNumber(absl::ToDoubleSeconds(load.warmup)),
      ",\"seconds\":", JsonNumber(result.seconds),
      ",\"deadline_seconds\":", JsonNumber(absl::ToDoubleSeconds(load.deadline)),
      ",\"requests\":{\"ok\":", result.ok.count(), ",\"failed\":", result.failed.count(),
      ",\"not_sent\":", result.not_sent, "},\"latency_seconds\":", LatencyJson(result.ok),
      ",\"failed_latency_seconds\":", LatencyJson(result.failed),
      ",\"send_delay_seconds\":", open ? LatencyJson(result.send_delay) : "null", ",\"errors\":[",
      absl::StrJoin(errors, ","), "],\"per_second\":{\"requests\":", JsonNumber(per_second.requests),
      ",\"queries\":", JsonNumber(per_second.queries), ",\"pairs\":", JsonNumber(per_second.pairs),
      ",\"request_bytes\":", JsonNumber(per_second.request_bytes),
      ",\"reply_bytes\":", JsonNumber(per_second.reply_bytes),
      "},\"client_cpu_seconds_per_answer\":", JsonNumber(CpuSecondsPerRequest(result)),
      ",\"verified\":", verified, ",\"server\":", report.server ? ServerJson(*report.server) : "null", "}\n");
}

}  // namespace dotmax
