// What the server counts, in Prometheus' exposition format. Every name is in one table in metrics.cc.
#ifndef DOTMAX_SERVER_BASE_METRICS_H_
#define DOTMAX_SERVER_BASE_METRICS_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "server/base/searcher.h"

namespace dotmax {

// Thread-safe. Each call takes locks inside: call once per request, not per tile.
class Metrics {
 public:
  Metrics(absl::string_view version, absl::string_view onednn_version);
  ~Metrics();

  Metrics(const Metrics&) = delete;
  Metrics& operator=(const Metrics&) = delete;

  // Every RPC: once when it starts, once when its status is known. `service` is "dotmax.v1.Dotmax".
  void RpcStarted(absl::string_view service, absl::string_view method);
  void RpcHandled(absl::string_view service, absl::string_view method, absl::StatusCode code,
                  absl::Duration took);

  // Every search that was answered.
  void SearchAnswered(uint64_t query_rows, const SearchStats& stats);

  // What is resident. Collections not named again keep their last figures.
  void SetResident(const std::vector<CollectionInfo>& collections);

  // The text of /metrics, version 0.0.4.
  std::string Text() const;

 private:
  struct Impl;
  const std::unique_ptr<Impl> impl_;
};

}  // namespace dotmax

#endif  // DOTMAX_SERVER_BASE_METRICS_H_
