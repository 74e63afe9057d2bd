#include "server/load/budget.h"

#include <algorithm>
#include <fstream>
#include <limits>
#include <optional>
#include <sstream>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"
#include "absl/strings/strip.h"
#include "server/base/errors.h"

namespace dotmax {
namespace {

constexpr uint64_t kMost = std::numeric_limits<uint64_t>::max();

std::optional<std::string> ReadAll(const std::string& path) {
  std::ifstream file(path);
  if (!file.good()) return std::nullopt;
  std::stringstream text;
  text << file.rdbuf();
  return std::move(text).str();
}

// The number in a file that holds nothing else; kMost for "max".
std::optional<uint64_t> ReadNumber(const std::string& path) {
  const std::optional<std::string> text = ReadAll(path);
  uint64_t value;
  if (!text.has_value()) return std::nullopt;
  if (absl::StartsWith(*text, "max")) return kMost;
  if (!absl::SimpleAtoi(*text, &value)) return std::nullopt;
  return value;
}

// Of lines "key value" or "key:  value kB" the first value of that key.
std::optional<uint64_t> ValueOf(absl::string_view text, absl::string_view key) {
  for (absl::string_view line : absl::StrSplit(text, '\n')) {
    if (!absl::ConsumePrefix(&line, key)) continue;
    const bool kilobytes = absl::ConsumeSuffix(&line, " kB");
    uint64_t value;
    if (absl::SimpleAtoi(line, &value)) return kilobytes ? value * 1024 : value;
  }
  return std::nullopt;
}

// What is left of the limit of one cgroup, whose files have these names; kMost if it has none.
uint64_t LeftOf(const std::string& cgroup, const char* limit_name, const char* usage_name,
                const char* prefix) {
  const std::optional<uint64_t> limit = ReadNumber(absl::StrCat(cgroup, "/", limit_name));
  const std::optional<uint64_t> usage = ReadNumber(absl::StrCat(cgroup, "/", usage_name));
  if (!limit.has_value() || !usage.has_value() || *limit == kMost) return kMost;
  const std::string stat = ReadAll(absl::StrCat(cgroup, "/memory.stat")).value_or("");
  // Cached files are given up before anything is refused.
  uint64_t cached = 0;
  for (const char* key : {"inactive_file ", "active_file "}) {
    cached += ValueOf(stat, absl::StrCat(prefix, key)).value_or(0);
  }
  const uint64_t taken = *usage - std::min(cached, *usage);
  return *limit - std::min(taken, *limit);
}

uint64_t LeftOfCgroups(const std::string& root) {
  uint64_t left = kMost;
  const std::string groups = ReadAll(absl::StrCat(root, "/proc/self/cgroup")).value_or("");
  for (const absl::string_view line : absl::StrSplit(groups, '\n')) {
    // "0::/a/b" of version 2, "7:memory:/a/b" of version 1.
    const std::vector<absl::string_view> parts = absl::StrSplit(line, absl::MaxSplits(':', 2));
    if (parts.size() != 3) continue;
    const bool version_2 = parts[1].empty();
    const std::vector<absl::string_view> controllers = absl::StrSplit(parts[1], ',');
    if (!version_2 && std::find(controllers.begin(), controllers.end(), "memory") == controllers.end())
      continue;
    // A limit holds for all groups below. Within a container, those above its own cannot be seen, and its own
    // is the root.
    const std::string base = absl::StrCat(root, version_2 ? "/sys/fs/cgroup" : "/sys/fs/cgroup/memory");
    for (absl::string_view path = parts[2];; path = path.substr(0, path.rfind('/'))) {
      path = absl::StripSuffix(path, "/");
      const std::string cgroup = absl::StrCat(base, path);
      left = std::min(left, version_2
                                ? LeftOf(cgroup, "memory.max", "memory.current", "")
                                : LeftOf(cgroup, "memory.limit_in_bytes", "memory.usage_in_bytes", "total_"));
      if (path.empty()) break;
    }
  }
  return left;
}

}  // namespace

uint64_t PeakLoadBytes(const MatrixView& shape, bool mapped) {
  // Codes of all axes, or of some and a second look, take up to 1.3 bytes per element
  // (server/engine/planner); codes in balls one, and the balls' centres less than another one.
  constexpr double kCodeBytesPerElement = 2.0;
  constexpr double kDimAlignment = 64.0;
  // Norms, orders and what sorts them, tails, scales, clusters' members and distances.
  constexpr double kBytesPerRow = 64.0;
  // Clusters are learnt from so many rows, with centres of up to as many float32.
  constexpr double kSampleRows = 16384.0;
  // Scratch: kernels, a tile in float32, the second moment.
  constexpr double kFixedBytes = 64 << 20;
  const double rows = static_cast<double>(shape.rows);
  const double dim = static_cast<double>(shape.dim) + kDimAlignment;
  const double own = mapped ? 0.0 : rows * static_cast<double>(shape.row_bytes());
  const double beside = rows * (kCodeBytesPerElement * dim + kBytesPerRow) +
                        std::min(rows, kSampleRows) * dim * sizeof(float) + kFixedBytes;
  return own + beside >= 0x1p64 ? kMost : static_cast<uint64_t>(own + beside);
}

uint64_t AvailableBytes(const std::string& root) {
  const std::string memory = ReadAll(absl::StrCat(root, "/proc/meminfo")).value_or("");
  return std::min(ValueOf(memory, "MemAvailable:").value_or(kMost), LeftOfCgroups(root));
}

uint64_t OwnBytes() { return ValueOf(ReadAll("/proc/self/status").value_or(""), "RssAnon:").value_or(0); }

absl::Status CheckMemory(const MatrixView& shape, bool mapped, uint64_t limit) {
  const uint64_t needed = PeakLoadBytes(shape, mapped);
  const uint64_t left = limit > 0 ? limit - std::min(limit, OwnBytes()) : AvailableBytes();
  if (needed <= left) return absl::OkStatus();
  return Error(absl::StatusCode::kResourceExhausted, "NOT_ENOUGH_MEMORY",
               absl::StrCat("loading ", shape.rows, " rows of ", shape.dim, " takes up to ", needed,
                            " bytes of memory, and ", left, " are left",
                            limit > 0 ? absl::StrCat(" of ", limit, " (--memory-limit)") : ""));
}

}  // namespace dotmax
