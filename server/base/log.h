// Structured logs: one JSON object per line, for machines to read and for people to grep.
//
//   log.Write(LogLevel::kInfo, "listening", {{"grpc_port", 50051}, {"http_port", 9464}});
//   {"time":"2026-01-02T03:04:05.678901Z","level":"info","event":"listening","grpc_port":50051,"http_port":9464}
#ifndef DOTMAX_SERVER_BASE_LOG_H_
#define DOTMAX_SERVER_BASE_LOG_H_

#include <cstdint>
#include <initializer_list>
#include <optional>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"

namespace dotmax {

enum class LogLevel : uint8_t { kDebug, kInfo, kWarning, kError };

// "debug", "info", "warning", "error"; nullopt for anything else.
std::optional<LogLevel> ParseLogLevel(absl::string_view name);

// A key and its value, already as JSON. Keys are our own identifiers and are not escaped.
class LogField {
 public:
  LogField(absl::string_view key, absl::string_view value);
  LogField(absl::string_view key, const char* value) : LogField(key, absl::string_view(value)) {}
  LogField(absl::string_view key, const std::string& value) : LogField(key, absl::string_view(value)) {}
  LogField(absl::string_view key, int value) : LogField(key, static_cast<int64_t>(value)) {}
  LogField(absl::string_view key, int64_t value);
  LogField(absl::string_view key, uint64_t value);
  LogField(absl::string_view key, double value);  // NaN and infinities become null

  const std::string& key() const { return key_; }
  const std::string& json() const { return json_; }

 private:
  std::string key_;
  std::string json_;
};

// Thread-safe; lines never interleave.
class Logger {
 public:
  // Writes to the file descriptor `fd`, which must outlive the logger, what is at `least` or above.
  Logger(LogLevel least, int fd) : least_(least), fd_(fd) {}

  Logger(const Logger&) = delete;
  Logger& operator=(const Logger&) = delete;

  bool Enabled(LogLevel level) const { return level >= least_; }

  // A line that cannot be written is lost: logging never fails its caller.
  void Write(LogLevel level, absl::string_view event, std::initializer_list<LogField> fields = {});

 private:
  const LogLevel least_;
  absl::Mutex mutex_;
  const int fd_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace dotmax

#endif  // DOTMAX_SERVER_BASE_LOG_H_
