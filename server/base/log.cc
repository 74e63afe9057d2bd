#include "server/base/log.h"

#include <unistd.h>

#include <cerrno>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "server/base/json.h"

namespace dotmax {
namespace {

constexpr absl::string_view kLevelNames[] = {"debug", "info", "warning", "error"};

}  // namespace

std::optional<LogLevel> ParseLogLevel(absl::string_view name) {
  for (const LogLevel level : {LogLevel::kDebug, LogLevel::kInfo, LogLevel::kWarning, LogLevel::kError}) {
    if (kLevelNames[static_cast<int>(level)] == name) return level;
  }
  return std::nullopt;
}

LogField::LogField(absl::string_view key, absl::string_view value) : key_(key), json_(JsonString(value)) {}
LogField::LogField(absl::string_view key, int64_t value) : key_(key), json_(absl::StrCat(value)) {}
LogField::LogField(absl::string_view key, uint64_t value) : key_(key), json_(absl::StrCat(value)) {}
LogField::LogField(absl::string_view key, double value) : key_(key), json_(JsonNumber(value)) {}

void Logger::Write(LogLevel level, absl::string_view event, std::initializer_list<LogField> fields) {
  if (!Enabled(level)) return;
  std::string line = absl::StrCat(
      "{\"time\":\"", absl::FormatTime("%Y-%m-%dT%H:%M:%E6SZ", absl::Now(), absl::UTCTimeZone()),
      "\",\"level\":\"", kLevelNames[static_cast<int>(level)], "\",\"event\":", JsonString(event));
  for (const LogField& field : fields) absl::StrAppend(&line, ",\"", field.key(), "\":", field.json());
  line += "}\n";

  absl::MutexLock lock(&mutex_);
  for (absl::string_view rest = line; !rest.empty();) {
    const ssize_t written = write(fd_, rest.data(), rest.size());
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) return;
    rest.remove_prefix(written);
  }
}

}  // namespace dotmax
