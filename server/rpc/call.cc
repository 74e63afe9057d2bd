#include "server/rpc/call.h"

#include <grpc/grpc_security_constants.h>
#include <grpcpp/server_context.h>

#include <cmath>
#include <random>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "server/base/errors.h"
#include "server/rpc/metadata.h"

namespace dotmax {
namespace {

// Codes that no caller can cause.
bool IsOurFault(absl::StatusCode code) {
  return code == absl::StatusCode::kInternal || code == absl::StatusCode::kUnknown ||
         code == absl::StatusCode::kDataLoss;
}

// Callers' own words are logged up to here.
constexpr size_t kMaxLoggedText = 512;
constexpr size_t kMaxPriorityName = 64;  // in the message about a wrong one

}  // namespace

OpenCalls::OpenCalls() {
  std::random_device random;
  next_number_ = uint64_t{random()} << 32 | random();
}

uint64_t OpenCalls::NextNumber() {
  // Splitmix64's steps and mix (Steele, Lea, Flood 2014), which is one to one.
  uint64_t z = next_number_.fetch_add(0x9e3779b97f4a7c15u, std::memory_order_relaxed);
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return z ^ (z >> 31);
}

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

bool OpenCalls::Watch(EndsWithDrain* call) {
  absl::MutexLock lock(&mutex_);
  if (!closed_) watched_.insert(call);
  return !closed_;
}

bool OpenCalls::Unwatch(EndsWithDrain* call) {
  absl::MutexLock lock(&mutex_);
  return watched_.erase(call) > 0;
}

void OpenCalls::Close() {
  absl::flat_hash_set<EndsWithDrain*> watched;
  {
    absl::MutexLock lock(&mutex_);
    closed_ = true;
    watched.swap(watched_);
  }
  // Without the lock: a call may end within.
  for (EndsWithDrain* const call : watched) call->Drain();
}

void OpenCalls::Await(absl::Time deadline) {
  absl::MutexLock lock(&mutex_);
  mutex_.AwaitWithDeadline(absl::Condition(this, &OpenCalls::None), deadline);
}

CallRecord::CallRecord(const Backend& backend, OpenCalls* open, const Metrics::Rpc& rpc, Scope scope,
                       grpc::CallbackServerContext* context)
    : backend_(backend),
      open_(open),
      rpc_(rpc),
      counted_(open->Begin()),
      started_(absl::Now()),
      number_(open->NextNumber()),
      cancelled_(std::make_shared<std::atomic<bool>>(false)) {
  backend_.metrics->RpcStarted(rpc_);
  const CallMetadata metadata = ReadMetadata(context->client_metadata());
  request_id_ = metadata.request_id.empty() ? absl::StrCat(absl::Hex(number_, absl::kZeroPad16))
                                            : std::string(metadata.request_id);
  context->AddInitialMetadata(kRequestIdKey, request_id_);
  trace_id_ = std::string(metadata.trace_id);
  limits_.priority = metadata.priority.value_or(Priority::kNormal);
  limits_.deadline = absl::FromChrono(context->deadline());
  limits_.cancelled = cancelled_;
  admission_ = Admit(metadata.authorization, scope, context);
  if (admission_.ok() && !metadata.priority.has_value()) {
    admission_ =
        InvalidField(kPriorityKey, "UNKNOWN_PRIORITY",
                     absl::StrCat(kPriorityKey, ": \"", metadata.priority_name.substr(0, kMaxPriorityName),
                                  "\" is not low, normal or high"));
  }
  if (admission_.ok() && !counted_) {
    admission_ = Error(absl::StatusCode::kUnavailable, "DRAINING", "the server is shutting down");
  }
}

CallRecord::~CallRecord() {
  if (counted_) open_->End();
}

absl::Status CallRecord::Admit(absl::string_view authorization, Scope scope,
                               grpc::CallbackServerContext* context) {
  if (backend_.tokens != nullptr) {
    absl::StatusOr<std::string> name = backend_.tokens->Admit(authorization, scope, started_);
    limits_.client = name.ok() ? *std::move(name) : HostOfPeer(context->peer());
    return name.status();
  }
  // Whoever has a certificate that was verified is who it says.
  if (const auto peer = context->auth_context(); peer != nullptr) {
    for (const char* property : {GRPC_X509_CN_PROPERTY_NAME, GRPC_X509_SUBJECT_PROPERTY_NAME}) {
      const auto values = peer->FindPropertyValues(property);
      if (!limits_.client.empty() || values.empty()) continue;
      limits_.client = std::string(values[0].data(), values[0].size());
    }
  }
  if (limits_.client.empty()) limits_.client = HostOfPeer(context->peer());
  return absl::OkStatus();
}

void CallRecord::AddQuestion(absl::string_view collection, uint64_t query_rows) {
  collection_ = std::string(collection.substr(0, kMaxLoggedText));
  query_rows_ += query_rows;
  ++questions_;
}

void CallRecord::AddStats(const SearchStats& stats) {
  queue_seconds_ += stats.queue_seconds;
  compute_seconds_ += stats.compute_seconds;
}

bool CallRecord::End(const absl::Status& status) {
  const absl::Duration took = absl::Now() - started_;
  backend_.metrics->RpcHandled(rpc_, status.code(), took);
  if (!status.ok()) backend_.metrics->Refused(ErrorReason(status).value_or(""));
  Log(status, took);
  // A held call is finished by its cancellation, which may have come already.
  return counted_ || !open_->holding() || state_.exchange(State::kHeld) != State::kRunning;
}

void CallRecord::Log(const absl::Status& status, absl::Duration took) {
  const bool slow = took > backend_.logged.slow;
  LogLevel level = LogLevel::kDebug;
  if (IsOurFault(status.code())) {
    level = LogLevel::kError;
  } else if (slow) {
    level = LogLevel::kWarning;
  } else if (std::ldexp(static_cast<double>(number_), -64) < backend_.logged.share) {
    level = LogLevel::kInfo;
  }
  if (!backend_.log->Enabled(level)) return;
  backend_.log->Write(level, slow ? "slow_request" : "rpc",
                      {{"service", rpc_.service},
                       {"method", rpc_.method},
                       {"code", absl::StatusCodeToString(status.code())},
                       {"reason", ErrorReason(status).value_or("")},
                       {"message", status.message().substr(0, kMaxLoggedText)},
                       {"seconds", absl::ToDoubleSeconds(took)},
                       {"queue_seconds", queue_seconds_},
                       {"compute_seconds", compute_seconds_},
                       {"query_rows", query_rows_},
                       {"questions", questions_},
                       {"failed_questions", failed_questions_},
                       {"collection", collection_},
                       {"client", limits_.client},
                       {"request_bytes", request_bytes_.load(std::memory_order_relaxed)},
                       {"reply_bytes", reply_bytes_.load(std::memory_order_relaxed)},
                       {"request_id", request_id_},
                       {"trace_id", trace_id_}});
}

bool CallRecord::Cancel() {
  Withdraw();
  return state_.exchange(State::kCancelled) == State::kHeld;
}

absl::Status CallRecord::CallerIsGone() const {
  if (absl::Now() >= limits_.deadline) {
    return Error(absl::StatusCode::kDeadlineExceeded, "DEADLINE_EXCEEDED",
                 "the deadline passed before the call was done");
  }
  return Error(absl::StatusCode::kCancelled, "CANCELLED", "the caller cancelled the call");
}

}  // namespace dotmax
