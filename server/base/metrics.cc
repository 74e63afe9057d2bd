#include "server/base/metrics.h"

#include <prometheus/counter.h>
#include <prometheus/gauge.h>
#include <prometheus/histogram.h>
#include <prometheus/metric_family.h>
#include <prometheus/registry.h>
#include <prometheus/text_serializer.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <iterator>
#include <map>
#include <sstream>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "server/base/process.h"

namespace dotmax {
namespace {

using prometheus::Counter;
using prometheus::Gauge;
using prometheus::Histogram;

// One line of the table below. T is its type.
template <typename T>
struct Named {
  const char* name;
  const char* labels;  // separated by ", "; empty for none
  const char* help;
};

// The table: everything that /metrics shows. ARCHITECTURE.md has the same, and a test compares them. The
// grpc_* and process_* names and labels are those of the ecosystem, so that its dashboards work.
constexpr Named<Counter> kRpcStarted = {"grpc_server_started_total", "grpc_type, grpc_service, grpc_method",
                                        "RPCs started."};
constexpr Named<Counter> kRpcHandled = {
    "grpc_server_handled_total", "grpc_type, grpc_service, grpc_method, grpc_code", "RPCs done, by status."};
constexpr Named<Histogram> kRpcSeconds = {"grpc_server_handling_seconds",
                                          "grpc_type, grpc_service, grpc_method",
                                          "From an RPC's start to its status."};
constexpr Named<Gauge> kInFlight = {"dotmax_rpcs_in_flight", "", "RPCs started and not yet done."};
constexpr Named<Counter> kRefused = {"dotmax_refused_total", "reason",
                                     "RPCs that were turned away whatever they asked."};
constexpr Named<Counter> kQueryRows = {"dotmax_query_rows_total", "", "Query vectors answered."};
constexpr Named<Counter> kMatrixPairs = {"dotmax_matrix_pairs_total", "",
                                         "Pairs of matrices answered, in batches of them."};
constexpr Named<Counter> kPairsScreened = {"dotmax_pairs_screened_total", "",
                                           "(query row, row) pairs scored in low precision."};
constexpr Named<Counter> kPairsSurvived = {"dotmax_pairs_survived_total", "",
                                           "Pairs that the screen could not rule out."};
constexpr Named<Counter> kPairsChecked = {"dotmax_pairs_checked_total", "",
                                          "Pairs that no low precision could rule out: scored in float64."};
constexpr Named<Counter> kPairsRescored = {"dotmax_pairs_rescored_total", "", "Pairs scored exactly."};
constexpr Named<Histogram> kBatchRows = {"dotmax_batch_query_rows", "",
                                         "Query rows that a pass over a matrix had, of all its requests."};
constexpr Named<Histogram> kBatchRequests = {"dotmax_batch_requests", "",
                                             "Requests that shared a pass over a matrix."};
constexpr Named<Gauge> kQueueRequests = {"dotmax_queue_requests", "",
                                         "Searches that waited after the last pass."};
constexpr Named<Gauge> kQueueRows = {"dotmax_queue_query_rows", "", "Query rows of those."};
constexpr Named<Gauge> kQueueBytes = {"dotmax_queue_bytes", "",
                                      "Bytes of the matrices that came with those."};
constexpr Named<Histogram> kQueueSeconds = {"dotmax_search_queue_seconds", "",
                                            "Time that an answered search waited."};
constexpr Named<Histogram> kComputeSeconds = {"dotmax_search_compute_seconds", "",
                                              "Wall time in the engine of an answered search."};
constexpr Named<Gauge> kResidentRows = {"dotmax_resident_rows", "collection", "Rows held."};
constexpr Named<Gauge> kResidentBytes = {"dotmax_resident_bytes", "collection",
                                         "Memory of the rows and what the screen keeps beside them."};
constexpr Named<Gauge> kScreenInfo = {"dotmax_screen_info", "collection, screen",
                                      "Always 1: how hopeless pairs are ruled out."};
constexpr Named<Gauge> kScreenEstimate = {"dotmax_screen_estimate_seconds", "collection, screen, queries",
                                          "What the screen was chosen by: per query, alone or in a batch."};
constexpr Named<Gauge> kVersion = {"dotmax_collection_version", "collection", "What answers name."};
constexpr Named<Gauge> kIntact = {"dotmax_collection_intact", "collection",
                                  "0 when a mapped file has changed, and searches fail."};
constexpr Named<Gauge> kReloadOk = {"dotmax_reload_last_success", "collection",
                                    "Whether the last load of the collection worked."};
constexpr Named<Gauge> kReloadTime = {"dotmax_reload_last_success_timestamp_seconds", "collection",
                                      "When a load of the collection last worked, since the epoch."};
constexpr Named<Gauge> kReloadSuccess = {
    "dotmax_config_last_reload_success", "file",
    "Whether the file was usable when last read; if not, what it said before holds."};
constexpr Named<Gauge> kCertificateExpiry = {"dotmax_certificate_expiry_timestamp_seconds", "",
                                             "When the server's certificate expires, since the epoch."};
constexpr Named<Gauge> kBuildInfo = {"dotmax_build_info", "version, onednn", "Always 1."};
constexpr Named<Counter> kCpuSeconds = {"process_cpu_seconds_total", "",
                                        "User and system time of all threads."};
constexpr Named<Gauge> kResidentMemory = {"process_resident_memory_bytes", "", "Memory in use."};
constexpr Named<Gauge> kVirtualMemory = {"process_virtual_memory_bytes", "", "Address space in use."};
constexpr Named<Gauge> kOpenFds = {"process_open_fds", "", "Open file descriptors."};
constexpr Named<Gauge> kMaxFds = {"process_max_fds", "", "Most file descriptors that may be open."};
constexpr Named<Gauge> kThreads = {"process_threads", "", "Threads."};
constexpr Named<Gauge> kStartTime = {"process_start_time_seconds", "",
                                     "When the process started, since the epoch."};

// The reasons that kRefused counts.
constexpr absl::string_view kRefusals[] = {"QUEUE_FULL",      "CLIENT_QUEUE_FULL", "QUEUE_TOO_LONG",
                                           "LOAD_QUEUE_FULL", "NOT_ENOUGH_MEMORY", "DEADLINE_UNREACHABLE",
                                           "RATE_LIMITED",    "TOKEN_MISSING",     "TOKEN_UNKNOWN",
                                           "SCOPE_MISSING",   "DRAINING",          "LOADING"};

// A request may take 100 µs (one query, a small collection) to minutes (a large batch over a large one);
// factors of about 2.5 keep quantiles within that factor at 19 series each.
const Histogram::BucketBoundaries kSeconds = {1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 1e-2, 2.5e-2, 5e-2,
                                              0.1,  0.25,   0.5,  1,    2.5,    5,    10,   30,     60};

const Histogram::BucketBoundaries kBatchSizes = {1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024};

prometheus::Labels RpcLabels(const Metrics::Rpc& rpc) {
  return {{"grpc_type", rpc.type}, {"grpc_service", rpc.service}, {"grpc_method", rpc.method}};
}

// What one RPC counts into.
struct RpcSeries {
  Counter* started;
  Histogram* seconds;
  // By code: those that have come up, as few of all ever do.
  std::array<std::atomic<Counter*>, 17> handled = {};
};

}  // namespace

struct Metrics::Impl {
  template <typename T>
  prometheus::Family<T>& Add(const Named<T>& metric) {
    const absl::string_view labels = metric.labels;
    const std::string help = labels.empty() ? metric.help : absl::StrCat(metric.help, " {", labels, "}");
    families.push_back({metric.name, help, T::metric_type, {}});
    return prometheus::detail::Builder<T>().Name(metric.name).Help(help).Register(registry);
  }

  // Shows `value` until the next SetResident.
  void Show(prometheus::Family<Gauge>& family, const prometheus::Labels& labels, double value)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex) {
    Gauge& gauge = family.Add(labels);
    gauge.Set(value);
    shown.emplace_back(&family, &gauge);
  }

  RpcSeries& Of(const Rpc& rpc) { return *rpcs.at({rpc.service, rpc.method}); }

  void ReadProcess();

  prometheus::Registry registry;
  std::vector<prometheus::MetricFamily> families;  // without samples

  prometheus::Family<Counter>& rpc_started = Add(kRpcStarted);
  prometheus::Family<Counter>& rpc_handled = Add(kRpcHandled);
  prometheus::Family<Histogram>& rpc_seconds = Add(kRpcSeconds);
  Gauge& in_flight = Add(kInFlight).Add({});
  prometheus::Family<Counter>& refused = Add(kRefused);
  std::vector<Counter*> refused_by_reason;  // as kRefusals
  // By service and method.
  absl::flat_hash_map<std::pair<absl::string_view, absl::string_view>, std::unique_ptr<RpcSeries>> rpcs;

  Counter& query_rows = Add(kQueryRows).Add({});
  Counter& matrix_pairs = Add(kMatrixPairs).Add({});
  Counter& pairs_screened = Add(kPairsScreened).Add({});
  Counter& pairs_survived = Add(kPairsSurvived).Add({});
  Counter& pairs_checked = Add(kPairsChecked).Add({});
  Counter& pairs_rescored = Add(kPairsRescored).Add({});
  Histogram& batch_rows = Add(kBatchRows).Add({}, kBatchSizes);
  Histogram& batch_requests = Add(kBatchRequests).Add({}, kBatchSizes);
  Gauge& queue_requests = Add(kQueueRequests).Add({});
  Gauge& queue_rows = Add(kQueueRows).Add({});
  Gauge& queue_bytes = Add(kQueueBytes).Add({});
  Histogram& queue_seconds = Add(kQueueSeconds).Add({}, kSeconds);
  Histogram& compute_seconds = Add(kComputeSeconds).Add({}, kSeconds);

  // So that /metrics never sees half of a change.
  absl::Mutex mutex;
  std::vector<std::pair<prometheus::Family<Gauge>*, Gauge*>> shown ABSL_GUARDED_BY(mutex);
  struct Load {
    bool ok = false;
    absl::Time succeeded = absl::InfinitePast();
  };
  std::map<std::string, Load> loads ABSL_GUARDED_BY(mutex);  // by collection
  prometheus::Family<Gauge>& version = Add(kVersion);
  prometheus::Family<Gauge>& intact = Add(kIntact);
  prometheus::Family<Gauge>& reload_ok = Add(kReloadOk);
  prometheus::Family<Gauge>& reload_time = Add(kReloadTime);

  prometheus::Family<Gauge>& resident_rows = Add(kResidentRows);
  prometheus::Family<Gauge>& resident_bytes = Add(kResidentBytes);
  prometheus::Family<Gauge>& screen_info = Add(kScreenInfo);
  prometheus::Family<Gauge>& screen_estimate = Add(kScreenEstimate);
  prometheus::Family<Gauge>& reload_success = Add(kReloadSuccess);
  prometheus::Family<Gauge>& certificate_expiry = Add(kCertificateExpiry);
  prometheus::Family<Gauge>& build_info = Add(kBuildInfo);

  absl::Mutex process_mutex;  // of those that read at once, the last one counts
  Counter& cpu_seconds = Add(kCpuSeconds).Add({});
  Gauge& resident_memory = Add(kResidentMemory).Add({});
  Gauge& virtual_memory = Add(kVirtualMemory).Add({});
  Gauge& open_fds = Add(kOpenFds).Add({});
  Gauge& max_fds = Add(kMaxFds).Add({});
  Gauge& threads = Add(kThreads).Add({});
  Gauge& start_time = Add(kStartTime).Add({});
};

void Metrics::Impl::ReadProcess() {
  absl::MutexLock lock(&process_mutex);
  const ProcessStats stats = ReadProcessStats();
  cpu_seconds.Increment(std::max(0.0, stats.cpu_seconds - cpu_seconds.Value()));
  resident_memory.Set(static_cast<double>(stats.resident_bytes));
  virtual_memory.Set(static_cast<double>(stats.virtual_bytes));
  open_fds.Set(static_cast<double>(stats.open_fds));
  max_fds.Set(static_cast<double>(stats.max_fds));
  threads.Set(static_cast<double>(stats.threads));
  start_time.Set(stats.start_time_seconds);
}

Metrics::Metrics(absl::string_view version, absl::string_view onednn_version)
    : impl_(std::make_unique<Impl>()) {
  for (const absl::string_view reason : kRefusals) {
    impl_->refused_by_reason.push_back(&impl_->refused.Add({{"reason", std::string(reason)}}));
  }
  impl_->build_info.Add({{"version", std::string(version)}, {"onednn", std::string(onednn_version)}}).Set(1);
}

Metrics::~Metrics() = default;

void Metrics::Declare(const Rpc& rpc) {
  auto series = std::make_unique<RpcSeries>();
  series->started = &impl_->rpc_started.Add(RpcLabels(rpc));
  series->seconds = &impl_->rpc_seconds.Add(RpcLabels(rpc), kSeconds);
  impl_->rpcs.emplace(std::pair(rpc.service, rpc.method), std::move(series));
}

void Metrics::RpcStarted(const Rpc& rpc) {
  impl_->Of(rpc).started->Increment();
  impl_->in_flight.Increment();
}

void Metrics::RpcHandled(const Rpc& rpc, absl::StatusCode code, absl::Duration took) {
  RpcSeries& series = impl_->Of(rpc);
  series.seconds->Observe(absl::ToDoubleSeconds(took));
  std::atomic<Counter*>& cached = series.handled.at(static_cast<size_t>(code));
  Counter* handled = cached.load(std::memory_order_acquire);
  if (handled == nullptr) {
    prometheus::Labels labels = RpcLabels(rpc);
    labels["grpc_code"] = absl::StatusCodeToString(code);
    handled = &impl_->rpc_handled.Add(labels);  // the same one, whoever comes first
    cached.store(handled, std::memory_order_release);
  }
  handled->Increment();
  impl_->in_flight.Decrement();
}

void Metrics::Refused(absl::string_view reason) {
  const auto* const known = std::find(std::begin(kRefusals), std::end(kRefusals), reason);
  if (known != std::end(kRefusals)) impl_->refused_by_reason[known - kRefusals]->Increment();
}

void Metrics::ConfigLoaded(const std::string& flag, bool success) {
  impl_->reload_success.Add({{"file", flag}}).Set(success ? 1 : 0);
}

void Metrics::SetCertificateExpiry(absl::Time expiry) {
  impl_->certificate_expiry.Add({}).Set(static_cast<double>(absl::ToUnixSeconds(expiry)));
}

void Metrics::SearchAnswered(uint64_t query_rows, const SearchStats& stats) {
  impl_->query_rows.Increment(static_cast<double>(query_rows));
  impl_->pairs_screened.Increment(static_cast<double>(stats.pairs_screened));
  impl_->pairs_survived.Increment(static_cast<double>(stats.pairs_survived));
  impl_->pairs_checked.Increment(static_cast<double>(stats.pairs_checked));
  impl_->pairs_rescored.Increment(static_cast<double>(stats.pairs_rescored));
  impl_->queue_seconds.Observe(stats.queue_seconds);
  impl_->compute_seconds.Observe(stats.compute_seconds);
}

void Metrics::PassDone(uint64_t requests, uint64_t query_rows) {
  impl_->batch_requests.Observe(static_cast<double>(requests));
  impl_->batch_rows.Observe(static_cast<double>(query_rows));
}

void Metrics::SetQueue(uint64_t requests, uint64_t query_rows, uint64_t bytes) {
  impl_->queue_requests.Set(static_cast<double>(requests));
  impl_->queue_rows.Set(static_cast<double>(query_rows));
  impl_->queue_bytes.Set(static_cast<double>(bytes));
}

void Metrics::PairsAnswered(uint64_t matrix_pairs, uint64_t query_rows, const SearchStats& stats) {
  impl_->matrix_pairs.Increment(static_cast<double>(matrix_pairs));
  SearchAnswered(query_rows, stats);
}

void Metrics::SetResident(const std::vector<CollectionInfo>& collections) {
  absl::MutexLock lock(&impl_->mutex);
  for (const auto& [family, gauge] : impl_->shown) family->Remove(gauge);
  impl_->shown.clear();
  std::map<std::string, Impl::Load> loads;
  for (const CollectionInfo& info : collections) {
    const prometheus::Labels of = {{"collection", info.name}};
    impl_->Show(impl_->resident_rows, of, static_cast<double>(info.rows));
    impl_->Show(impl_->resident_bytes, of, static_cast<double>(info.resident_bytes));
    impl_->Show(impl_->version, of, static_cast<double>(info.version));
    impl_->Show(impl_->intact, of, info.intact ? 1 : 0);
    impl_->Show(impl_->screen_info, {{"collection", info.name}, {"screen", info.screen}}, 1);
    for (const ScreenEstimate& e : info.estimates) {
      prometheus::Labels labels = {{"collection", info.name}, {"screen", e.screen}, {"queries", "batch"}};
      impl_->Show(impl_->screen_estimate, labels, e.batch_query_seconds);
      if (!e.single_query_seconds) continue;
      labels["queries"] = "one";
      impl_->Show(impl_->screen_estimate, labels, *e.single_query_seconds);
    }
    const auto load = impl_->loads.find(info.name);
    if (load == impl_->loads.end()) continue;
    impl_->Show(impl_->reload_ok, of, load->second.ok ? 1 : 0);
    if (load->second.succeeded != absl::InfinitePast()) {
      impl_->Show(impl_->reload_time, of, absl::ToDoubleSeconds(load->second.succeeded - absl::UnixEpoch()));
    }
    loads.insert(*load);
  }
  impl_->loads = std::move(loads);
}

void Metrics::LoadEnded(const std::string& collection, bool ok, absl::Time when) {
  absl::MutexLock lock(&impl_->mutex);
  Impl::Load& load = impl_->loads[collection];
  load.ok = ok;
  if (ok) load.succeeded = when;
}

std::string Metrics::Text() const {
  impl_->ReadProcess();
  std::vector<prometheus::MetricFamily> collected;
  {
    absl::MutexLock lock(&impl_->mutex);
    collected = impl_->registry.Collect();
  }
  // Those without a sample are not collected, but to be known from the start.
  for (const prometheus::MetricFamily& family : impl_->families) {
    const bool there = std::any_of(collected.begin(), collected.end(),
                                   [&](const auto& other) { return other.name == family.name; });
    if (!there) collected.push_back(family);
  }
  std::ostringstream text;
  prometheus::TextSerializer().Serialize(text, collected);
  return std::move(text).str();
}

}  // namespace dotmax
