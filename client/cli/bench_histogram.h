// How long things took: any number of durations, whose quantiles are known to 1%, in constant memory.
#ifndef DOTMAX_CLIENT_CLI_BENCH_HISTOGRAM_H_
#define DOTMAX_CLIENT_CLI_BENCH_HISTOGRAM_H_

#include <cstdint>
#include <vector>

#include "absl/time/time.h"

namespace dotmax {

// Counts nanoseconds in buckets: one for each number below 2^7, and 2^7 of equal width from each power of two
// to the next. So a bucket is at most 2^-7 of its numbers wide, and its middle within 0.4% of them. 58 KB.
//
// Not thread-safe.
class LatencyHistogram {
 public:
  LatencyHistogram() : buckets_(kBuckets) {}

  // O(1). Durations below zero count as zero.
  void Record(absl::Duration duration);

  uint64_t count() const { return count_; }

  // Exact. Zero where nothing was recorded, as are all of the following.
  absl::Duration min() const;
  absl::Duration max() const;
  absl::Duration mean() const;

  // The least duration that a share of `q` of all does not exceed, within 0.4%. `q` is in [0, 1].
  absl::Duration Quantile(double q) const;

 private:
  static constexpr int kBits = 7;
  static constexpr uint64_t kPerOctave = uint64_t{1} << kBits;
  static constexpr uint64_t kBuckets = (64 - kBits + 1) * kPerOctave;

  static uint64_t BucketOf(uint64_t nanoseconds);
  static double MiddleOf(uint64_t bucket);

  std::vector<uint64_t> buckets_;
  uint64_t count_ = 0;
  uint64_t min_ = UINT64_MAX;
  uint64_t max_ = 0;
  double sum_ = 0;
};

}  // namespace dotmax

#endif  // DOTMAX_CLIENT_CLI_BENCH_HISTOGRAM_H_
