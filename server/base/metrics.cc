#include "server/base/metrics.h"

#include <prometheus/counter.h>
#include <prometheus/gauge.h>
#include <prometheus/histogram.h>
#include <prometheus/registry.h>
#include <prometheus/text_serializer.h>

#include <map>
#include <sstream>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"

namespace dotmax {
namespace {

using prometheus::Counter;
using prometheus::Gauge;
using prometheus::Histogram;

struct NamedMetric {
  const char* name;
  const char* help;  // ends with the labels
};

// The table: everything that /metrics shows. The grpc_* names and labels are those of the gRPC ecosystem's
// interceptors, so that their dashboards work.
constexpr NamedMetric kRpcStarted = {"grpc_server_started_total",
                                     "RPCs started. {grpc_type, grpc_service, grpc_method}"};
constexpr NamedMetric kRpcHandled = {
    "grpc_server_handled_total", "RPCs done, by status. {grpc_type, grpc_service, grpc_method, grpc_code}"};
constexpr NamedMetric kRpcSeconds = {
    "grpc_server_handling_seconds",
    "From an RPC's start to its status. {grpc_type, grpc_service, grpc_method}"};
constexpr NamedMetric kInFlight = {"dotmax_rpcs_in_flight", "RPCs started and not yet done."};
constexpr NamedMetric kQueryRows = {"dotmax_query_rows_total", "Query vectors answered."};
constexpr NamedMetric kMatrixPairs = {"dotmax_matrix_pairs_total",
                                      "Pairs of matrices answered, in batches of them."};
constexpr NamedMetric kPairsScreened = {"dotmax_pairs_screened_total",
                                        "(query row, row) pairs scored in low precision."};
constexpr NamedMetric kPairsSurvived = {"dotmax_pairs_survived_total",
                                        "Pairs that the screen could not rule out."};
constexpr NamedMetric kPairsChecked = {"dotmax_pairs_checked_total",
                                       "Pairs that no low precision could rule out: scored in float64."};
constexpr NamedMetric kPairsRescored = {"dotmax_pairs_rescored_total", "Pairs scored exactly."};
constexpr NamedMetric kQueueSeconds = {"dotmax_search_queue_seconds", "Time that an answered search waited."};
constexpr NamedMetric kComputeSeconds = {"dotmax_search_compute_seconds",
                                         "Wall time in the engine of an answered search."};
constexpr NamedMetric kResidentRows = {"dotmax_resident_rows", "Rows held. {collection}"};
constexpr NamedMetric kResidentBytes = {
    "dotmax_resident_bytes", "Memory of the rows and what the screen keeps beside them. {collection}"};
constexpr NamedMetric kScreenInfo = {"dotmax_screen_info",
                                     "Always 1: how hopeless pairs are ruled out. {collection, screen}"};
constexpr NamedMetric kScreenEstimate = {"dotmax_screen_estimate_seconds",
                                         "What the screen was chosen by: per query, alone or in a batch. "
                                         "{collection, screen, queries}"};
constexpr NamedMetric kVersion = {"dotmax_collection_version", "What answers name. {collection}"};
constexpr NamedMetric kIntact = {"dotmax_collection_intact",
                                 "0 when a mapped file has changed, and searches fail. {collection}"};
constexpr NamedMetric kReloadOk = {"dotmax_reload_last_success",
                                   "Whether the last load of the collection worked. {collection}"};
constexpr NamedMetric kReloadTime = {"dotmax_reload_last_success_timestamp_seconds",
                                     "When a load of the collection last worked. {collection}"};
constexpr NamedMetric kBuildInfo = {"dotmax_build_info", "Always 1. {version, onednn}"};

// A request may take 100 µs (one query, a small collection) to minutes (a large batch over a large one);
// factors of about 2.5 keep quantiles within that factor at 19 series each.
const Histogram::BucketBoundaries kSeconds = {1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 1e-2, 2.5e-2, 5e-2,
                                              0.1,  0.25,   0.5,  1,    2.5,    5,    10,   30,     60};

prometheus::Labels RpcLabels(const Metrics::Rpc& rpc) {
  return {{"grpc_type", rpc.type}, {"grpc_service", rpc.service}, {"grpc_method", rpc.method}};
}

}  // namespace

struct Metrics::Impl {
  template <typename T>
  prometheus::Family<T>& Add(const NamedMetric& metric) {
    return prometheus::detail::Builder<T>().Name(metric.name).Help(metric.help).Register(registry);
  }

  // Shows `value` until the next SetResident.
  void Show(prometheus::Family<Gauge>& family, const prometheus::Labels& labels, double value)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex) {
    Gauge& gauge = family.Add(labels);
    gauge.Set(value);
    shown.emplace_back(&family, &gauge);
  }

  prometheus::Registry registry;

  // So that /metrics never sees half of a change.
  absl::Mutex mutex;
  std::vector<std::pair<prometheus::Family<Gauge>*, Gauge*>> shown ABSL_GUARDED_BY(mutex);
  struct Load {
    bool ok = false;
    absl::Time succeeded = absl::InfinitePast();
  };
  std::map<std::string, Load> loads ABSL_GUARDED_BY(mutex);  // by collection

  prometheus::Family<Counter>& rpc_started = Add<Counter>(kRpcStarted);
  prometheus::Family<Counter>& rpc_handled = Add<Counter>(kRpcHandled);
  prometheus::Family<Histogram>& rpc_seconds = Add<Histogram>(kRpcSeconds);
  prometheus::Family<Gauge>& resident_rows = Add<Gauge>(kResidentRows);
  prometheus::Family<Gauge>& resident_bytes = Add<Gauge>(kResidentBytes);

  prometheus::Family<Gauge>& version = Add<Gauge>(kVersion);
  prometheus::Family<Gauge>& intact = Add<Gauge>(kIntact);
  prometheus::Family<Gauge>& reload_ok = Add<Gauge>(kReloadOk);
  prometheus::Family<Gauge>& reload_time = Add<Gauge>(kReloadTime);
  prometheus::Family<Gauge>& screen_info = Add<Gauge>(kScreenInfo);
  prometheus::Family<Gauge>& screen_estimate = Add<Gauge>(kScreenEstimate);

  Gauge& in_flight = Add<Gauge>(kInFlight).Add({});
  Counter& query_rows = Add<Counter>(kQueryRows).Add({});
  Counter& matrix_pairs = Add<Counter>(kMatrixPairs).Add({});
  Counter& pairs_screened = Add<Counter>(kPairsScreened).Add({});
  Counter& pairs_survived = Add<Counter>(kPairsSurvived).Add({});
  Counter& pairs_checked = Add<Counter>(kPairsChecked).Add({});
  Counter& pairs_rescored = Add<Counter>(kPairsRescored).Add({});
  Histogram& queue_seconds = Add<Histogram>(kQueueSeconds).Add({}, kSeconds);
  Histogram& compute_seconds = Add<Histogram>(kComputeSeconds).Add({}, kSeconds);
};

Metrics::Metrics(absl::string_view version, absl::string_view onednn_version)
    : impl_(std::make_unique<Impl>()) {
  impl_->Add<Gauge>(kBuildInfo)
      .Add({{"version", std::string(version)}, {"onednn", std::string(onednn_version)}})
      .Set(1);
}

Metrics::~Metrics() = default;

void Metrics::RpcStarted(const Rpc& rpc) {
  impl_->rpc_started.Add(RpcLabels(rpc)).Increment();
  impl_->in_flight.Increment();
}

void Metrics::RpcHandled(const Rpc& rpc, absl::StatusCode code, absl::Duration took) {
  prometheus::Labels labels = RpcLabels(rpc);
  impl_->rpc_seconds.Add(labels, kSeconds).Observe(absl::ToDoubleSeconds(took));
  labels["grpc_code"] = absl::StatusCodeToString(code);
  impl_->rpc_handled.Add(labels).Increment();
  impl_->in_flight.Decrement();
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
  std::ostringstream text;
  absl::MutexLock lock(&impl_->mutex);
  prometheus::TextSerializer().Serialize(text, impl_->registry.Collect());
  return std::move(text).str();
}

}  // namespace dotmax
