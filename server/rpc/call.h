// What every RPC handler shares: what it needs of the server, and the life of one call.
#ifndef DOTMAX_SERVER_RPC_CALL_H_
#define DOTMAX_SERVER_RPC_CALL_H_

#include <grpcpp/support/byte_buffer.h>
#include <grpcpp/support/server_callback.h>

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_set.h"
#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "server/base/collections.h"
#include "server/base/log.h"
#include "server/base/metrics.h"
#include "server/base/searcher.h"
#include "server/rpc/bytes.h"
#include "server/rpc/convert.h"
#include "server/rpc/request.h"
#include "server/rpc/tokens.h"

namespace dotmax {

// Which requests are logged, besides those that fail by our fault.
struct LoggedRequests {
  double share = 0;                                // of all, at random
  absl::Duration slow = absl::InfiniteDuration();  // those that take longer
};

// Everything outlives the listener.
struct Backend {
  Searcher* searcher = nullptr;
  CollectionAdmin* admin = nullptr;
  Metrics* metrics = nullptr;
  Logger* log = nullptr;
  Tokens* tokens = nullptr;  // null: whoever reaches the port may ask
  RequestLimits limits;
  uint64_t max_grpc_bytes = 0;  // that messages on their way may take
  LoggedRequests logged;
};

// A call that may go on for as long as its caller likes, so that a drain asks it to end.
class EndsWithDrain {
 public:
  virtual void Drain() = 0;

 protected:
  ~EndsWithDrain() = default;
};

// Which calls a drain waits for: those that began before it. And their numbers. Thread-safe.
class OpenCalls {
 public:
  OpenCalls();

  // A number that no other call has, nor likely one of another server; all 64 bits look random.
  uint64_t NextNumber();

  bool Begin();  // whether the call is counted; if so, End() is due
  void End();

  // Has call->Drain() called, once, when the drain begins. False: it has begun.
  bool Watch(EndsWithDrain* call);
  // No longer. False: Drain() has been called, or is about to be, and the call has to be there for it.
  bool Unwatch(EndsWithDrain* call);

  // The drain begins. Counts no further calls: they are late.
  void Close();
  // Waits until the counted calls have ended, or `deadline`.
  void Await(absl::Time deadline);

  // From now on late calls get no reply (see Listener::Shutdown).
  void HoldLate() { holding_.store(true); }
  bool holding() const { return holding_.load(); }

 private:
  bool None() const ABSL_SHARED_LOCKS_REQUIRED(mutex_) { return open_ == 0; }

  std::atomic<uint64_t> next_number_;
  std::atomic<bool> holding_{false};
  absl::Mutex mutex_;
  uint64_t open_ ABSL_GUARDED_BY(mutex_) = 0;
  bool closed_ ABSL_GUARDED_BY(mutex_) = false;
  absl::flat_hash_set<EndsWithDrain*> watched_ ABSL_GUARDED_BY(mutex_);
};

// What is known of one call: who asks and how, from its metadata; what is counted and logged of it, from its
// arrival on; and whether it gets a reply.
class CallRecord {
 public:
  // `scope` is what a caller's token must allow.
  CallRecord(const Backend& backend, OpenCalls* open, const Metrics::Rpc& rpc, Scope scope,
             grpc::CallbackServerContext* context);
  ~CallRecord();  // the call is over

  CallRecord(const CallRecord&) = delete;
  CallRecord& operator=(const CallRecord&) = delete;

  // Ok, or why the call is to be refused before anything of it is read: its token (kUnauthenticated,
  // kPermissionDenied, kResourceExhausted), its metadata (kInvalidArgument), or that it began after the drain
  // (kUnavailable).
  const absl::Status& admission() const { return admission_; }
  // What every question of the call is asked with.
  const CallLimits& limits() const { return limits_; }

  // For the log. Bytes: from any thread; the others: before End, one at a time.
  void AddRequestBytes(uint64_t bytes) { request_bytes_.fetch_add(bytes, std::memory_order_relaxed); }
  void AddReplyBytes(uint64_t bytes) { reply_bytes_.fetch_add(bytes, std::memory_order_relaxed); }
  void AddQuestion(absl::string_view collection, uint64_t query_rows);
  void AddFailedQuestion() { ++failed_questions_; }  // whose call goes on
  void AddStats(const SearchStats& stats);

  // The call's status is known: exactly once. Whether it is to be finished with it; otherwise (see
  // OpenCalls::HoldLate) that is left to the call's cancellation.
  bool End(const absl::Status& status);

  // What the call has asked for is no longer wanted.
  void Withdraw() { cancelled_->store(true, std::memory_order_relaxed); }

  // The caller withdrew, the deadline passed, or the connection broke: at most once, also after End. Whether
  // it is now to be finished.
  bool Cancel();

  // What a call says that ended because its caller is gone.
  absl::Status CallerIsGone() const;

 private:
  enum class State { kRunning, kHeld, kCancelled };

  absl::Status Admit(absl::string_view authorization, Scope scope, grpc::CallbackServerContext* context);
  void Log(const absl::Status& status, absl::Duration took);

  const Backend& backend_;
  OpenCalls* const open_;
  const Metrics::Rpc rpc_;
  const bool counted_;
  const absl::Time started_;
  const uint64_t number_;
  const std::shared_ptr<std::atomic<bool>> cancelled_;
  std::string request_id_;
  std::string trace_id_;
  absl::Status admission_;
  CallLimits limits_;

  std::atomic<uint64_t> request_bytes_{0}, reply_bytes_{0};
  std::string collection_;
  uint64_t query_rows_ = 0, questions_ = 0, failed_questions_ = 0;
  double queue_seconds_ = 0, compute_seconds_ = 0;

  std::atomic<State> state_{State::kRunning};
};

// The reactor of one call (grpc::ServerUnaryReactor, or one of a stream). Made with new, owns itself: gRPC
// calls OnDone when the call is over and neither requests nor replies are used any more, which is only after
// End, also for a cancelled call.
template <typename Reactor>
class Call : public Reactor {
 public:
  Call(const Backend& backend, OpenCalls* open, const Metrics::Rpc& rpc, Scope scope,
       grpc::CallbackServerContext* context)
      : backend_(backend), record_(backend, open, rpc, scope, context) {}

 protected:
  // Ends the call with `status`. Exactly once, from any thread, when neither a search nor a write of its is
  // under way; a read may be. The object may be gone when it returns.
  void End(const absl::Status& status) {
    if (record_.End(status)) this->Finish(ToGrpcStatus(status));
  }

  // Parses a request, whose bytes are freed, and makes the bytes of a reply, as bytes.h says.
  template <typename Message>
  absl::Status Parse(grpc::ByteBuffer* bytes, Message* message) {
    if (!bytes->Valid()) return record_.CallerIsGone();  // before all of it had come
    record_.AddRequestBytes(bytes->Length());
    return ParseBytes(bytes, message);
  }
  template <typename Message>
  void Write(const Message& message, grpc::ByteBuffer* bytes) {
    WriteBytes(message, bytes);
    record_.AddReplyBytes(bytes->Length());
  }

  const Backend& backend() const { return backend_; }
  CallRecord& record() { return record_; }

 private:
  void OnCancel() final {
    if (record_.Cancel()) {
      this->Finish(grpc::Status(grpc::StatusCode::UNAVAILABLE, "the server has stopped"));
    }
  }
  void OnDone() final { delete this; }

  const Backend& backend_;
  CallRecord record_;
};

using UnaryCall = Call<grpc::ServerUnaryReactor>;

// A call of more than one message, whose parts come back on any thread: its first failure ends it.
template <typename Reactor>
class StreamCall : public Call<Reactor> {
 protected:
  using Call<Reactor>::Call;

  // To end the call with `status`, unless it is ok or another failure came first, as soon as nothing of the
  // call is under way that End must wait for.
  void Fail(const absl::Status& status) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    if (status.ok() || !failure_.ok()) return;
    failure_ = status;
    this->record().Withdraw();
  }

  absl::Mutex mutex_;
  absl::Status failure_ ABSL_GUARDED_BY(mutex_);
  bool ended_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace dotmax

#endif  // DOTMAX_SERVER_RPC_CALL_H_
