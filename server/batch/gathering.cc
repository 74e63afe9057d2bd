#include "server/batch/gathering.h"

namespace dotmax {
namespace {

// Parts of what a pass takes: how long to wait without anybody coming, and in all. Answers and questions of a
// cohort take about as long as its pass, where passes are short.
constexpr double kGap = 0.4;
constexpr double kLongest = 0.8;
// A running pass, the wait and its own pass, at least.
constexpr double kUrgent = 3.0;

}  // namespace

void Gathering::PassEnded(uint64_t requests, uint64_t waiting, double seconds) {
  shared_ = requests > 1;
  seconds_ = seconds;
  // Up at once, and down in a few passes: of those under way some are always being sent.
  const uint64_t now = requests + waiting;
  under_way_ = now >= under_way_ ? now : under_way_ - (under_way_ - now + 3) / 4;
}

Gathering::Wait Gathering::From(absl::Time now) const {
  if (!shared_ || now - answered_ > absl::Seconds(seconds_)) return {};
  return {under_way_, absl::Seconds(kGap * seconds_), now + absl::Seconds(kLongest * seconds_)};
}

bool Gathering::IsUrgent(absl::Time deadline, absl::Time now) const {
  return deadline - now < absl::Seconds(kUrgent * seconds_);
}

}  // namespace dotmax
