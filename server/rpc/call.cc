#include "server/rpc/call.h"

#include "absl/time/clock.h"
#include "server/base/errors.h"

namespace dotmax {
namespace {

// Codes that no caller can cause.
bool IsOurFault(absl::StatusCode code) {
  return code == absl::StatusCode::kInternal || code == absl::StatusCode::kUnknown ||
         code == absl::StatusCode::kDataLoss;
}

}  // namespace

bool OpenCalls::Begin() {
  absl::MutexLock lock(&mutex_);
  if (closed_) return false;
  ++open_;
  return true;
}

void OpenCalls::End() {
  absl::MutexLock lock(&mutex_);
  --open_;
}

void OpenCalls::Close() {
  absl::MutexLock lock(&mutex_);
  closed_ = true;
}

void OpenCalls::Await(absl::Time deadline) {
  absl::MutexLock lock(&mutex_);
  mutex_.AwaitWithDeadline(absl::Condition(this, &OpenCalls::None), deadline);
}

CallRecord::CallRecord(const Backend& backend, OpenCalls* open, const Metrics::Rpc& rpc)
    : backend_(backend), open_(open), rpc_(rpc), counted_(open->Begin()), started_(absl::Now()) {
  backend_.metrics->RpcStarted(rpc_);
}

CallRecord::~CallRecord() {
  if (counted_) open_->End();
}

bool CallRecord::End(const absl::Status& status) {
  const absl::Duration took = absl::Now() - started_;
  backend_.metrics->RpcHandled(rpc_, status.code(), took);
  const LogLevel level = IsOurFault(status.code()) ? LogLevel::kError : LogLevel::kDebug;
  if (backend_.log->Enabled(level)) {
    backend_.log->Write(level, "rpc",
                        {{"service", rpc_.service},
                         {"method", rpc_.method},
                         {"code", absl::StatusCodeToString(status.code())},
                         {"message", status.message()},
                         {"seconds", absl::ToDoubleSeconds(took)}});
  }
  // A held call is finished by its cancellation, which may have come already.
  return counted_ || !open_->holding() || state_.exchange(State::kHeld) != State::kRunning;
}

bool CallRecord::Cancel() { return state_.exchange(State::kCancelled) == State::kHeld; }

absl::Status Draining() {
  return Error(absl::StatusCode::kUnavailable, "DRAINING", "the server is shutting down");
}

absl::Status CallerIsGone(absl::Time deadline) {
  if (absl::Now() >= deadline) {
    return Error(absl::StatusCode::kDeadlineExceeded, "DEADLINE_EXCEEDED",
                 "the deadline passed before the stream was done");
  }
  return Error(absl::StatusCode::kCancelled, "CANCELLED", "the caller cancelled the stream");
}

}  // namespace dotmax
