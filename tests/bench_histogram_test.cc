#include "client/cli/bench_histogram.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "gtest/gtest.h"
#include "tests/data.h"

namespace dotmax {
namespace {

int64_t NanosecondsAt(const LatencyHistogram& histogram, double q) {
  return absl::ToInt64Nanoseconds(histogram.Quantile(q));
}

TEST(LatencyHistogramTest, NothingRecordedIsZero) {
  const LatencyHistogram none;
  EXPECT_EQ(none.count(), 0u);
  EXPECT_EQ(none.min(), absl::ZeroDuration());
  EXPECT_EQ(none.max(), absl::ZeroDuration());
  EXPECT_EQ(none.mean(), absl::ZeroDuration());
  EXPECT_EQ(none.Quantile(0.5), absl::ZeroDuration());
}

TEST(LatencyHistogramTest, OneIsAllQuantiles) {
  for (const int64_t ns : {int64_t{0}, int64_t{1}, int64_t{127}, int64_t{128}, int64_t{129},
                           int64_t{999'999'937}, int64_t{86'400'000'000'007}, INT64_MAX}) {
    LatencyHistogram histogram;
    histogram.Record(absl::Nanoseconds(ns));
    for (const double q : {0.0, 0.5, 1.0}) EXPECT_EQ(NanosecondsAt(histogram, q), ns) << q;
    EXPECT_EQ(histogram.min(), absl::Nanoseconds(ns));
    EXPECT_EQ(histogram.max(), absl::Nanoseconds(ns));
  }
}

TEST(LatencyHistogramTest, BelowZeroCountsAsZero) {
  LatencyHistogram histogram;
  histogram.Record(absl::Nanoseconds(-5));
  EXPECT_EQ(histogram.count(), 1u);
  EXPECT_EQ(histogram.max(), absl::ZeroDuration());
}

// Both sides of every bucket's edge near each power of two: the two others keep min and max from hiding the
// error.
TEST(LatencyHistogramTest, EveryNumberIsKnownToItsPrecision) {
  for (int bits = 0; bits < 62; ++bits) {
    const int64_t power = int64_t{1} << bits;
    for (const int64_t ns :
         {power - 1, power, power + 1, power + power / 128, power + power / 2, 2 * power - 1}) {
      LatencyHistogram histogram;
      histogram.Record(absl::ZeroDuration());
      histogram.Record(absl::Nanoseconds(ns));
      histogram.Record(absl::Nanoseconds(INT64_MAX));
      const int64_t found = NanosecondsAt(histogram, 0.5);
      EXPECT_LE(std::abs(found - ns), ns / 250) << ns;
    }
  }
}

TEST(LatencyHistogramTest, QuantilesAreThoseOfTheSortedList) {
  testing::Random random(7);
  std::vector<int64_t> sorted;
  LatencyHistogram histogram;
  double sum = 0;
  for (int i = 0; i < 10'000; ++i) {
    const int64_t ns = static_cast<int64_t>(std::exp(5 + 15 * random.Uniform()));  // 150 ns to 0.5 s
    histogram.Record(absl::Nanoseconds(ns));
    sorted.push_back(ns);
    sum += static_cast<double>(ns);
  }
  std::sort(sorted.begin(), sorted.end());
  EXPECT_EQ(histogram.count(), sorted.size());
  EXPECT_EQ(absl::ToInt64Nanoseconds(histogram.min()), sorted.front());
  EXPECT_EQ(absl::ToInt64Nanoseconds(histogram.max()), sorted.back());
  EXPECT_NEAR(absl::ToDoubleNanoseconds(histogram.mean()), sum / 10'000, 1);
  for (const double q : {0.0001, 0.01, 0.5, 0.9, 0.99, 0.999, 1.0}) {
    const int64_t right = sorted[static_cast<size_t>(std::ceil(q * 10'000)) - 1];
    EXPECT_LE(std::abs(NanosecondsAt(histogram, q) - right), right / 250) << q;
  }
}

}  // namespace
}  // namespace dotmax
