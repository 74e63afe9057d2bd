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

// Thread-safe. Calls that are made for every request take a few atomic operations and no memory, and
// histograms a lock of their own: call once per request, not per tile.
class Metrics {
 public:
  Metrics(absl::string_view version, absl::string_view onednn_version);
  ~Metrics();

  Metrics(const Metrics&) = delete;
  Metrics& operator=(const Metrics&) = delete;

  // An RPC in the words of the gRPC ecosystem: {"unary", "dotmax.v1.Dotmax", "Search"}, all literals. The
  // type is unary, client_stream, server_stream or bidi_stream.
  struct Rpc {
    const char* type;
    const char* service;
    const char* method;
  };

  // Shows `rpc` from now on. Not thread-safe: before anything of any RPC is counted.
  void Declare(const Rpc& rpc);

  // Every RPC: once when it starts, once when its status is known. REQUIRES: it was declared.
  void RpcStarted(const Rpc& rpc);
  void RpcHandled(const Rpc& rpc, absl::StatusCode code, absl::Duration took);

  // Every RPC that failed, by the reason (ErrorReason), which counts if it is one of those that turn callers
  // away whatever they ask: see the list in metrics.cc.
  void Refused(absl::string_view reason);

  // What was read from the file that `flag` names ("tokens-file"), and whether that could be used.
  void ConfigLoaded(const std::string& flag, bool success);
  // When the certificate that is shown to callers expires.
  void SetCertificateExpiry(absl::Time expiry);

  // Every search that was answered, in however many blocks.
  void SearchAnswered(uint64_t query_rows, const SearchStats& stats);

  // Every batch of pairs of matrices that was answered.
  void PairsAnswered(uint64_t matrix_pairs, uint64_t query_rows, const SearchStats& stats);

  // Every pass over a matrix: what it searched for, and for how many requests.
  void PassDone(uint64_t requests, uint64_t query_rows);

  // What waits for a pass.
  void SetQueue(uint64_t requests, uint64_t query_rows, uint64_t bytes);

  // What is resident. Collections that are not named are no longer shown.
  void SetResident(const std::vector<CollectionInfo>& collections);

  // A load of a collection has ended; shown while it is resident.
  void LoadEnded(const std::string& collection, bool ok, absl::Time when);

  // The text of /metrics, version 0.0.4.
  std::string Text() const;

 private:
  struct Impl;
  const std::unique_ptr<Impl> impl_;
};

}  // namespace dotmax

#endif  // DOTMAX_SERVER_BASE_METRICS_H_
