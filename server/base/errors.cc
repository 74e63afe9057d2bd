#include "server/base/errors.h"

#include "absl/strings/cord.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/types/optional.h"

namespace dotmax {
namespace {

constexpr char kReasonUrl[] = "dotmax/reason";
constexpr char kFieldUrl[] = "dotmax/field";
constexpr char kRetryUrl[] = "dotmax/retry";  // in nanoseconds

std::optional<std::string> PayloadText(const absl::Status& status, const char* url) {
  const absl::optional<absl::Cord> payload = status.GetPayload(url);
  if (!payload.has_value()) return std::nullopt;
  return std::string(*payload);
}

}  // namespace

absl::Status Error(absl::StatusCode code, absl::string_view reason, absl::string_view message) {
  absl::Status status(code, message);
  status.SetPayload(kReasonUrl, absl::Cord(reason));
  return status;
}

absl::Status InvalidField(absl::string_view field, absl::string_view reason, absl::string_view message) {
  absl::Status status = Error(absl::StatusCode::kInvalidArgument, reason, message);
  status.SetPayload(kFieldUrl, absl::Cord(field));
  return status;
}

absl::Status RetryAfter(absl::Duration delay, absl::string_view reason, absl::string_view message) {
  absl::Status status = Error(absl::StatusCode::kResourceExhausted, reason, message);
  status.SetPayload(kRetryUrl, absl::Cord(absl::StrCat(absl::ToInt64Nanoseconds(delay))));
  return status;
}

std::optional<std::string> ErrorReason(const absl::Status& status) { return PayloadText(status, kReasonUrl); }
std::optional<std::string> ErrorField(const absl::Status& status) { return PayloadText(status, kFieldUrl); }

std::optional<absl::Duration> ErrorRetryDelay(const absl::Status& status) {
  int64_t nanoseconds = 0;
  if (!absl::SimpleAtoi(PayloadText(status, kRetryUrl).value_or(""), &nanoseconds)) return std::nullopt;
  return absl::Nanoseconds(nanoseconds);
}

}  // namespace dotmax
