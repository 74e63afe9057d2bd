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
#include "server/base/collections.h"
#include "server/base/log.h"
#include "server/base/metrics.h"
#include "server/base/searcher.h"
#include "server/rpc/convert.h"
#include "server/rpc/request.h"

namespace dotmax {

// Everything outlives the listener.
struct Backend {
  Searcher* searcher = nullptr;
  CollectionAdmin* admin = nullptr;
  Metrics* metrics = nullptr;
  Logger* log = nullptr;
  RequestLimits limits;
};

// Which calls a drain waits for: those that began before it. Thread-safe.
class OpenCalls {
 public:
  bool Begin();  // whether the call is counted; if so, End() is due
  void End();

  // Counts no further calls: they are late.
  void Close();
  // Waits until the counted calls have ended, or `deadline`.
  void Await(absl::Time deadline);

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

// What is counted and logged of one call, from its arrival on, and whether it gets a reply.
class CallRecord {
 public:
  CallRecord(const Backend& backend, OpenCalls* open, const Metrics::Rpc& rpc);
  ~CallRecord();  // the call is over

  CallRecord(const CallRecord&) = delete;
  CallRecord& operator=(const CallRecord&) = delete;

  // The call's status is known: exactly once. Whether it is to be finished with it; otherwise (see
  // OpenCalls::HoldLate) that is left to the call's cancellation.
  bool End(const absl::Status& status);
  // Whether the call began after the drain, which is to refuse it.
  bool late() const { return !counted_; }

  // The call was cancelled: at most once, also after End. Whether it is now to be finished.
  bool Cancel();

 private:
  enum class State { kRunning, kHeld, kCancelled };

  const Backend& backend_;
  OpenCalls* const open_;
  const Metrics::Rpc rpc_;
  const bool counted_;
  const absl::Time started_;
  std::atomic<State> state_{State::kRunning};
};

// The reactor of one call (grpc::ServerUnaryReactor, or one of a stream). Made with new, owns itself: gRPC
// calls OnDone when the call is over and neither requests nor replies are used any more, which is only after
// End, also for a cancelled call.
template <typename Reactor>
class Call : public Reactor {
 public:
  Call(const Backend& backend, OpenCalls* open, const Metrics::Rpc& rpc)
      : backend_(backend), record_(backend, open, rpc) {}

 protected:
  // Ends the call with `status`. Exactly once, from any thread, when neither a search nor a write of its is
  // under way; a read may be. The object may be gone when it returns.
  void End(const absl::Status& status) {
    if (record_.End(status)) this->Finish(ToGrpcStatus(status));
  }

  // The caller withdrew, the deadline passed, or the connection broke. On any thread, at most once, also
  // after End.
  virtual void Cancelled() {}

  const Backend& backend() const { return backend_; }
  // See CallRecord.
  bool late() const { return record_.late(); }

 private:
  void OnCancel() final {
    const bool finish = record_.Cancel();
    Cancelled();
    if (finish) this->Finish(grpc::Status(grpc::StatusCode::UNAVAILABLE, "the server has stopped"));
  }
  void OnDone() final { delete this; }

  const Backend& backend_;
  CallRecord record_;
};

using UnaryCall = Call<grpc::ServerUnaryReactor>;

// What a late call is told.
absl::Status Draining();

// What a stream says that ended because its caller is gone.
absl::Status CallerIsGone(absl::Time deadline);

}  // namespace dotmax

#endif  // DOTMAX_SERVER_RPC_CALL_H_
