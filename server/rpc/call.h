// What every RPC handler shares: what it needs of the server, and the life of one call.
#ifndef DOTMAX_SERVER_RPC_CALL_H_
#define DOTMAX_SERVER_RPC_CALL_H_

#include <grpcpp/support/server_callback.h>

#include <atomic>
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

// Which calls a drain waits for: those that began before it. Thread-safe.
class OpenCalls {
 public:
  bool Begin();  // whether the call is counted; if so, End() is due
  void End();

  // Counts no further calls: they are late. Waits until the counted ones have ended, or `deadline`.
  void CloseAndWait(absl::Time deadline);

  // From now on late calls get no reply (see Listener::Shutdown).
  void HoldLate() { holding_.store(true); }
  bool holding() const { return holding_.load(); }

 private:
  bool None() const ABSL_SHARED_LOCKS_REQUIRED(mutex_) { return open_ == 0; }

  std::atomic<bool> holding_{false};
  absl::Mutex mutex_;
  uint64_t open_ ABSL_GUARDED_BY(mutex_) = 0;
  bool closed_ ABSL_GUARDED_BY(mutex_) = false;
};

// The reactor of one unary call, from its arrival on: counts, logs and ends it. Made with new, owns itself:
// gRPC calls OnDone when the call is over and neither request nor reply is used any more, which is only
// after End, also for a cancelled call.
class Call : public grpc::ServerUnaryReactor {
 public:
  // `service` and `method` are literals: "dotmax.v1.Dotmax", "Search".
  Call(const Backend& backend, OpenCalls* open, const char* service, const char* method);

 protected:
  // Ends the call with `status`. Exactly once, from any thread; the object may be gone when it returns.
  void End(const absl::Status& status);

  // The caller withdrew, the deadline passed, or the connection broke. On any thread, at most once, also
  // after End.
  virtual void Cancelled() {}

  const Backend& backend() const { return backend_; }

 private:
  enum class State { kRunning, kHeld, kCancelled };

  void OnCancel() final;
  void OnDone() final;

  const Backend& backend_;
  OpenCalls* const open_;
  const char* const service_;
  const char* const method_;
  const bool counted_;
  const absl::Time started_;
  std::atomic<State> state_{State::kRunning};
};

}  // namespace dotmax

#endif  // DOTMAX_SERVER_RPC_CALL_H_
