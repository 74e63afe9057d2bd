// What every RPC handler shares: what it needs of the server, and the bookkeeping of one call.
#ifndef DOTMAX_SERVER_RPC_CALL_H_
#define DOTMAX_SERVER_RPC_CALL_H_

#include <grpcpp/support/server_callback.h>

#include <cstdint>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "server/base/log.h"
#include "server/base/metrics.h"
#include "server/base/searcher.h"
#include "server/rpc/convert.h"

namespace dotmax {

// Everything outlives the listener.
struct Backend {
  Searcher* searcher = nullptr;
  Metrics* metrics = nullptr;
  Logger* log = nullptr;
  RequestLimits limits;
};

// Counts the calls that a drain waits for: those that began before it. Thread-safe.
class OpenCalls {
 public:
  bool Begin();  // whether the call is counted; if so, End() is due
  void End();

  // Counts no further calls, and waits until the counted ones have ended, or `deadline`.
  void CloseAndWait(absl::Time deadline);

 private:
  bool None() const ABSL_SHARED_LOCKS_REQUIRED(mutex_) { return open_ == 0; }

  absl::Mutex mutex_;
  uint64_t open_ ABSL_GUARDED_BY(mutex_) = 0;
  bool closed_ ABSL_GUARDED_BY(mutex_) = false;
};

// One call, from its arrival until its reactor is done; lives in the reactor. Not thread-safe.
class CallRecord {
 public:
  // `service` and `method` are literals: "dotmax.v1.Dotmax", "Search".
  CallRecord(const Backend& backend, OpenCalls* open, const char* service, const char* method);
  ~CallRecord();

  CallRecord(const CallRecord&) = delete;
  CallRecord& operator=(const CallRecord&) = delete;

  // Ends the call with `status`: counted, logged, then sent. Exactly once; `reactor`, and this record with
  // it, may be gone when it returns.
  void Finish(grpc::ServerUnaryReactor* reactor, const absl::Status& status);

 private:
  const Backend& backend_;
  OpenCalls* const open_;
  const char* const service_;
  const char* const method_;
  const bool counted_;
  const absl::Time started_;
};

}  // namespace dotmax

#endif  // DOTMAX_SERVER_RPC_CALL_H_
