// How a failure says what was wrong: an absl::Status whose payloads name the reason and, for bad input,
// the field. rpc/convert turns them into google.rpc ErrorInfo and BadRequest; nobody else needs to know
// that those exist.
#ifndef DOTMAX_SERVER_BASE_ERRORS_H_
#define DOTMAX_SERVER_BASE_ERRORS_H_

#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"

namespace dotmax {

// A failure with a machine-readable reason, UPPER_SNAKE_CASE, for example "QUEUE_FULL".
absl::Status Error(absl::StatusCode code, absl::string_view reason, absl::string_view message);

// kInvalidArgument about one field of the request, for example field "queries.data", reason
// "WRONG_BYTE_COUNT". The message is complete by itself: it names the field and the offending values.
absl::Status InvalidField(absl::string_view field, absl::string_view reason, absl::string_view message);

// kResourceExhausted that is over after `delay`: trying again sooner is in vain.
absl::Status RetryAfter(absl::Duration delay, absl::string_view reason, absl::string_view message);

// What the above attached; nullopt when the status was made elsewhere.
std::optional<std::string> ErrorReason(const absl::Status& status);
std::optional<std::string> ErrorField(const absl::Status& status);
std::optional<absl::Duration> ErrorRetryDelay(const absl::Status& status);

}  // namespace dotmax

#endif  // DOTMAX_SERVER_BASE_ERRORS_H_
