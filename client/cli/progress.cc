#include "client/cli/progress.h"

#include <unistd.h>

#include <algorithm>
#include <iostream>

#include "absl/strings/str_format.h"
#include "absl/time/clock.h"

namespace dotmax {
namespace {

constexpr absl::Duration kPatience = absl::Seconds(1);
constexpr absl::Duration kInterval = absl::Milliseconds(100);
constexpr int kColumns = 40;
constexpr char kWipe[] = "\r\x1b[K";

}  // namespace

Progress::Progress()
    : terminal_(isatty(STDERR_FILENO) != 0), started_(absl::Now()), next_(started_ + kPatience) {}

Progress::~Progress() {
  if (shown_) std::cerr << kWipe << std::flush;
}

void Progress::Update(uint64_t done, uint64_t total, const std::string& note) {
  const absl::Time now = absl::Now();
  if (!terminal_ || total == 0 || now < next_) return;
  next_ = now + kInterval;
  shown_ = true;
  const double share = std::min(1.0, static_cast<double>(done) / static_cast<double>(total));
  const int full = static_cast<int>(share * kColumns);
  std::cerr << kWipe << "[" << std::string(full, '#') << std::string(kColumns - full, ' ') << "] "
            << absl::StrFormat("%3d%% %d s", static_cast<int>(share * 100),
                               absl::ToInt64Seconds(now - started_))
            << (note.empty() ? "" : "  ") << note << std::flush;
}

}  // namespace dotmax
