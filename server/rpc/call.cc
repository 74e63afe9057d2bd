#include "server/rpc/call.h"

#include "absl/time/clock.h"

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

void OpenCalls::CloseAndWait(absl::Time deadline) {
  absl::MutexLock lock(&mutex_);
  closed_ = true;
  mutex_.AwaitWithDeadline(absl::Condition(this, &OpenCalls::None), deadline);
}

Call::Call(const Backend& backend, OpenCalls* open, const char* service, const char* method)
    : backend_(backend),
      open_(open),
      service_(service),
      method_(method),
      counted_(open->Begin()),
      started_(absl::Now()) {
  backend_.metrics->RpcStarted(service_, method_);
}

void Call::End(const absl::Status& status) {
  const absl::Duration took = absl::Now() - started_;
  backend_.metrics->RpcHandled(service_, method_, status.code(), took);
  const LogLevel level = IsOurFault(status.code()) ? LogLevel::kError : LogLevel::kDebug;
  if (backend_.log->Enabled(level)) {
    backend_.log->Write(level, "rpc",
                        {{"service", service_},
                         {"method", method_},
                         {"code", absl::StatusCodeToString(status.code())},
                         {"message", status.message()},
                         {"seconds", absl::ToDoubleSeconds(took)}});
  }
  // A held call is finished by its cancellation, which may have come already.
  if (!counted_ && open_->holding() && state_.exchange(State::kHeld) == State::kRunning) return;
  Finish(ToGrpcStatus(status));
}

void Call::OnCancel() {
  const State before = state_.exchange(State::kCancelled);
  Cancelled();
  if (before == State::kHeld) Finish(grpc::Status(grpc::StatusCode::UNAVAILABLE, "the server has stopped"));
}

void Call::OnDone() {
  if (counted_) open_->End();
  delete this;
}

}  // namespace dotmax
