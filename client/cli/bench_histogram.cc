#include "client/cli/bench_histogram.h"

#include <algorithm>
#include <bit>
#include <cmath>

namespace dotmax {

uint64_t LatencyHistogram::BucketOf(uint64_t nanoseconds) {
  if (nanoseconds < kPerOctave) return nanoseconds;
  const int shift = std::bit_width(nanoseconds) - 1 - kBits;
  return (static_cast<uint64_t>(shift) << kBits) + (nanoseconds >> shift);
}

double LatencyHistogram::MiddleOf(uint64_t bucket) {
  if (bucket < 2 * kPerOctave) return static_cast<double>(bucket);  // one number each
  const int shift = static_cast<int>(bucket >> kBits) - 1;
  const uint64_t first = ((bucket & (kPerOctave - 1)) + kPerOctave) << shift;
  const double last = static_cast<double>(first) + std::ldexp(1.0, shift) - 1;
  return (static_cast<double>(first) + last) / 2;
}

void LatencyHistogram::Record(absl::Duration duration) {
  const uint64_t nanoseconds =
      static_cast<uint64_t>(std::max<int64_t>(0, absl::ToInt64Nanoseconds(duration)));
  ++buckets_[BucketOf(nanoseconds)];
  ++count_;
  min_ = std::min(min_, nanoseconds);
  max_ = std::max(max_, nanoseconds);
  sum_ += static_cast<double>(nanoseconds);
}

absl::Duration LatencyHistogram::min() const {
  return absl::Nanoseconds(count_ == 0 ? 0 : static_cast<int64_t>(min_));
}

absl::Duration LatencyHistogram::max() const { return absl::Nanoseconds(static_cast<int64_t>(max_)); }

absl::Duration LatencyHistogram::mean() const {
  return absl::Nanoseconds(count_ == 0 ? 0.0 : sum_ / static_cast<double>(count_));
}

absl::Duration LatencyHistogram::Quantile(double q) const {
  if (count_ == 0) return absl::ZeroDuration();
  const uint64_t rank =
      std::clamp<uint64_t>(static_cast<uint64_t>(std::ceil(q * static_cast<double>(count_))), 1, count_);
  uint64_t seen = 0;
  for (uint64_t bucket = 0; bucket < kBuckets; ++bucket) {
    seen += buckets_[bucket];
    if (seen < rank) continue;
    // The ends are known better.
    return absl::Nanoseconds(
        std::clamp(MiddleOf(bucket), static_cast<double>(min_), static_cast<double>(max_)));
  }
  return max();
}

}  // namespace dotmax
