// dotmax bench: how fast a server answers, and how it fares under load.
#include <algorithm>
#include <iostream>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "client/cli/bench_load.h"
#include "client/cli/bench_metrics.h"
#include "client/cli/bench_report.h"
#include "client/cli/bench_verify.h"
#include "client/cli/commands.h"
#include "client/cli/common.h"
#include "client/cli/files.h"
#include "client/cli/progress.h"
#include "client/cli/queries.h"
#include "client/cli/question.h"
#include "dotmax/client.h"
#include "server/base/flags.h"

namespace dotmax {
namespace {

// Different requests, at most: enough that no cache holds what each of them needs, and few enough to be kept
// as messages. Their hits are kept, too, where answers are verified.
constexpr uint64_t kMostRequests = 1024;
constexpr uint64_t kMostRequestBytes = uint64_t{16} << 20;
constexpr uint64_t kMostHits = uint64_t{1} << 22;

constexpr int64_t kMostConcurrency = 100'000;
constexpr int64_t kMostRate = 10'000'000;
constexpr int64_t kMostOutstanding = 1'000'000;
constexpr int64_t kMostConnections = 1024;
constexpr int64_t kMostRows = 1 << 20;

struct BenchFlags {
  CommonFlags common;
  std::string queries, collection, base, verify, metrics;
  bool global = false;
  int64_t concurrency = 1;
  int64_t rate = 0;
  int64_t max_outstanding = LoadOptions().max_outstanding;
  int64_t connections = 1;
  int64_t rows = 1;
  int64_t seed = 1;
  absl::Duration warmup = LoadOptions().warmup;
  absl::Duration duration = LoadOptions().duration;
  absl::Duration deadline = LoadOptions().deadline;
  QuestionFlags question;  // metric and top_k

  void AddTo(Flags& flags);
  // Everything but what answers are checked against. kInvalidArgument names the flag.
  absl::StatusOr<LoadOptions> Load() const;
};

void BenchFlags::AddTo(Flags& flags) {
  flags.Add(
      {"concurrency", "N",
       "Closed loop: so many requests are in flight, and the next one is sent when one is answered.", ""},
      1, kMostConcurrency, &concurrency);
  flags.Add(
      {"rate", "R",
       "Open loop: a request is due every 1/R seconds whatever became of those before, and its time runs "
       "from when it was due, so that a server that stalls is seen to. 0 for a closed loop.",
       ""},
      0, kMostRate, &rate);
  flags.Add(
      {"max-outstanding", "N",
       "Open loop: the most requests in flight; those that are due beyond are counted as not sent.", ""},
      1, kMostOutstanding, &max_outstanding);
  flags.Add({"connections", "N", "Connections, on which requests take turns.", ""}, 1, kMostConnections,
            &connections);
  flags.Add({"rows", "M", "Query rows per request.", ""}, 1, kMostRows, &rows);
  flags.Add(
      {"queries", "FILE",
       "Query rows, as of dotmax search, of which requests take M each in turn; without, standard normal "
       "numbers.",
       ""},
      &queries);
  flags.Add({"seed", "N", "What standard normal numbers are drawn from.", ""}, 0, INT64_MAX, &seed);
  flags.Add({"collection", "NAME", "The collection; empty: the server's only one.", "DOTMAX_COLLECTION"},
            &collection);
  flags.Add({"metric", "METRIC", "What is scored: inner_product, cosine or squared_euclidean.", ""},
            &question.metric);
  flags.Add({"top-k", "K", "How many hits, per query row or globally; 1 by default.", ""}, &question.top_k);
  flags.Add({"global", "", "The best pairs of each request's query rows together.", ""}, &global);
  flags.Add({"warmup", "DURATION", "How long before measuring begins.", ""}, &warmup);
  flags.Add({"duration", "DURATION", "How long is measured.", ""}, &duration);
  flags.Add({"deadline", "DURATION", "Of each request.", ""}, &deadline);
  flags.Add(
      {"verify", "SHARE",
       "Compare this share of the answers, from 0 to 1, with those of an exact search of --base in this "
       "process, made before. Exit status 1 when one is wrong.",
       ""},
      &verify);
  flags.Add({"base", "FILE", "The file that the collection was loaded from, for --verify.", ""}, &base);
  flags.Add({"metrics", "HOST:PORT",
             "Where the server's /metrics are, to show what it counted beside what is seen here.", ""},
            &metrics);
  common.AddTo(flags);
  common.AddFormatTo(flags);
}

absl::StatusOr<LoadOptions> BenchFlags::Load() const {
  LoadOptions load;
  const absl::StatusOr<ClientOptions> server = common.Options();
  if (!server.ok()) return server.status();
  load.target = server->target;
  load.tls = server->tls;
  load.token = server->token;
  load.timeout = common.timeout;
  load.connections = static_cast<int>(connections);
  load.concurrency = concurrency;
  load.rate = static_cast<double>(rate);
  load.max_outstanding = max_outstanding;
  load.warmup = warmup;
  load.duration = duration;
  load.deadline = deadline;
  if (rate > 0 && concurrency != 1) {
    return absl::InvalidArgumentError(absl::StrCat("--concurrency: ", concurrency,
                                                   " does not go with --rate=", rate,
                                                   ", which --max-outstanding limits"));
  }
  // So that whoever waits for the end does not wait for ever.
  for (const auto& [flag, value] : {std::pair("--duration", duration), std::pair("--deadline", deadline)}) {
    if (value > absl::ZeroDuration() && value <= absl::Hours(24)) continue;
    return absl::InvalidArgumentError(
        absl::StrCat(flag, ": \"", absl::FormatDuration(value), "\" is not above 0 and at most 24h"));
  }
  if (warmup > absl::Hours(24)) {
    return absl::InvalidArgumentError(
        absl::StrCat("--warmup: \"", absl::FormatDuration(warmup), "\" is not at most 24h"));
  }
  if (!verify.empty() &&
      (!absl::SimpleAtod(verify, &load.check_share) || !(load.check_share >= 0 && load.check_share <= 1))) {
    return absl::InvalidArgumentError(absl::StrCat("--verify: \"", verify, "\" is not a number from 0 to 1"));
  }
  if (load.check_share > 0 && base.empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat("--verify: ", verify, " needs --base=FILE, the rows that the answers are of"));
  }
  return load;
}

// The collection that is searched; of 0 rows where there is none, which the server will say.
CollectionDescription FindCollection(const ServerDescription& server, const std::string& name) {
  for (const CollectionDescription& c : server.collections) {
    if (c.name == name || (name.empty() && server.collections.size() == 1)) return c;
  }
  CollectionDescription none;
  none.name = name;
  return none;
}

absl::StatusOr<LoadRequests> MakeRequests(const BenchFlags& flags, const SearchOptions& options,
                                          const CollectionDescription& collection) {
  LoadRequests requests;
  requests.rows = static_cast<uint64_t>(flags.rows);
  requests.options = options;
  const auto most = [&](size_t row_bytes) {
    return std::clamp<uint64_t>(std::min(kMostRequestBytes / (requests.rows * row_bytes),
                                         kMostHits / (requests.rows * options.top_k)),
                                1, kMostRequests);
  };
  if (flags.queries.empty()) {
    if (collection.dim == 0) {
      return absl::NotFoundError(absl::StrCat("--collection: the server has no collection \"",
                                              collection.name,
                                              "\" to tell the dim of query rows; give --queries=FILE"));
    }
    const uint64_t rows = most(collection.dim * sizeof(float)) * requests.rows;
    requests.queries = StandardNormalRows(rows, collection.dim, static_cast<uint64_t>(flags.seed));
    return requests;
  }
  absl::StatusOr<SharedMatrix> file =
      flags.queries == "-" ? ReadTextMatrix(std::cin) : ReadMatrixFile(flags.queries, {.dataset = "test"});
  if (!file.ok()) return file.status();
  requests.queries = *std::move(file);
  MatrixView& view = requests.queries.view;
  if (view.rows < requests.rows) {
    return absl::InvalidArgumentError(
        absl::StrCat("--rows: ", requests.rows, ", but ", flags.queries, " has ", view.rows));
  }
  view.rows = std::min(view.rows, most(view.row_bytes()) * requests.rows);
  return requests;
}

// Makes the requests and, if asked to, finds their answers; then runs the load.
absl::StatusOr<BenchReport> RunBench(const BenchFlags& flags, LoadOptions load,
                                     const SearchOptions& options) {
  const absl::StatusOr<Client> client = flags.common.Connect();
  if (!client.ok()) return client.status();
  const absl::StatusOr<ServerDescription> server = client->Describe();
  if (!server.ok()) return server.status();
  BenchReport report;
  report.collection = FindCollection(*server, options.collection);
  absl::StatusOr<LoadRequests> requests = MakeRequests(flags, options, report.collection);
  if (!requests.ok()) return requests.status();

  std::optional<ExpectedAnswers> expected;
  if (load.check_share > 0) {
    const absl::StatusOr<SharedMatrix> base = ReadMatrixFile(flags.base);
    if (!base.ok()) return base.status();
    Progress progress;
    requests->options.progress = [&progress](uint64_t done, uint64_t total) { progress.Update(done, total); };
    absl::StatusOr<ExpectedAnswers> found =
        ExpectedAnswers::Find(*requests, *base, flags.base, DefaultThreads());
    if (!found.ok()) return found.status();
    requests->options.progress = nullptr;
    expected = *std::move(found);
    load.check = [&expected](uint64_t request, const SearchResult& answer) {
      return expected->Match(request, answer);
    };
  }

  absl::StatusOr<std::string> before, after;
  if (!flags.metrics.empty()) {
    // Now, so that a wrong address is not found out at the end.
    const absl::StatusOr<ClientOptions> shown = flags.common.Options();
    if (!shown.ok()) return shown.status();
    const auto fetch = [&flags, token = shown->token] {
      return FetchMetrics(flags.metrics, token, flags.common.timeout);
    };
    if (before = fetch(); !before.ok()) return before.status();
    load.window_begins = [&before, fetch] { before = fetch(); };
    load.window_ends = [&after, fetch] { after = fetch(); };
  }
  Progress progress;
  load.progress = [&progress](const LoadProgress& now) {
    const double seconds = std::max(absl::ToDoubleSeconds(now.elapsed), 1e-9);
    progress.Update(
        static_cast<uint64_t>(absl::ToInt64Milliseconds(now.elapsed)),
        static_cast<uint64_t>(absl::ToInt64Milliseconds(now.total)),
        absl::StrFormat("%.0f answers/s, %d failed", static_cast<double>(now.ok) / seconds, now.failed));
  };
  absl::StatusOr<LoadResult> result = RunLoad(load, *requests);
  if (!result.ok()) return result.status();
  if (!flags.metrics.empty()) {
    if (!before.ok()) return before.status();
    if (!after.ok()) return after.status();
    report.server = FiguresBetween(*before, *after);
  }
  report.load = std::move(load);
  report.rows = requests->rows;
  report.distinct_requests = requests->count();
  report.options = options;
  report.metric = flags.question.metric;
  report.result = *std::move(result);
  return report;
}

}  // namespace

ExitCode Bench(int argc, const char* const* argv) {
  BenchFlags f;
  Flags flags("dotmax bench [FLAGS]",
              "Asks a server again and again, and shows how long answers take and how many there are per\n"
              "second. Requests are made before: while measuring, this process does as little as it can.");
  f.AddTo(flags);
  return WithFlags(flags, argc, argv, {}, [&f](const std::vector<std::string>&) {
    absl::StatusOr<SearchOptions> options = f.question.Options();
    if (!options.ok()) return WrongUse(std::string(options.status().message()));
    options->collection = f.collection;
    options->global = f.global;
    absl::StatusOr<LoadOptions> load = f.Load();
    if (!load.ok()) return WrongUse(std::string(load.status().message()));
    const absl::StatusOr<BenchReport> report = RunBench(f, *std::move(load), *options);
    if (!report.ok()) return Fail(report.status());
    const ExitCode printed = Print(f.common.WantsTable() ? BenchTable(*report) : BenchJson(*report));
    if (printed != kOk) return printed;
    const LoadResult& result = report->result;
    if (result.mismatched > 0) {
      return Fail(absl::InternalError(
          absl::StrCat(result.mismatched, " of ", result.checked, " answers verified are wrong")));
    }
    // Nothing was measured.
    if (result.ok.count() == 0 && !result.failures.empty())
      return Fail(result.failures.begin()->second.first);
    return kOk;
  });
}

}  // namespace dotmax
