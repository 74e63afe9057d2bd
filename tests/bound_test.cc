#include "server/engine/bound.h"

#include <cmath>
#include <limits>
#include <vector>

#include "gtest/gtest.h"
#include "server/engine/exact.h"
#include "tests/data.h"
#include "tests/oracle.h"

namespace dotmax {
namespace {

using testing::Random;

// Rows made to err as much as possible: all products of one sign and magnitudes that grow, so that every
// partial sum rounds.
void FillHardCase(Random& random, uint32_t dim, std::vector<double>& a, std::vector<double>& b) {
  a.resize(dim);
  b.resize(dim);
  const bool cancel = random.Next() % 2 == 0;
  for (uint32_t i = 0; i < dim; ++i) {
    a[i] = static_cast<float>((1.0 + random.Uniform()) * (cancel && i % 2 == 1 ? -1.0 : 1.0));
    b[i] = static_cast<float>(1.0 + random.Uniform());
  }
}

double Exact(const std::vector<double>& a, const std::vector<double>& b) {
  const uint32_t dim = static_cast<uint32_t>(a.size());
  return testing::ExactScore(testing::MakeMatrix(a, dim, DType::kFloat64).view, 0,
                             testing::MakeMatrix(b, dim, DType::kFloat64).view, 0);
}

TEST(BoundTest, Float32SumsStayWithinTheScreenError) {
  Random random(1);
  double tightest = 0.0;  // the largest share of the bound that an error used
  for (int round = 0; round < 500; ++round) {
    const uint32_t dim = 1 + random.Next() % 300;
    std::vector<double> a, b;
    FillHardCase(random, dim, a, b);
    float sum = 0.0f;
    double aa = 0.0, bb = 0.0;
    for (uint32_t i = 0; i < dim; ++i) {
      sum += static_cast<float>(a[i]) * static_cast<float>(b[i]);
      aa += a[i] * a[i];
      bb += b[i] * b[i];
    }
    const double error = Float32ScreenError(dim)(NormUpperBound(dim, aa), NormUpperBound(dim, bb));
    EXPECT_LE(std::abs(sum - Exact(a, b)), error);
    tightest = std::max(tightest, std::abs(sum - Exact(a, b)) / error);
  }
  EXPECT_GT(tightest, 0.05) << "the bound is so loose that the test above shows nothing";
}

// float64 elements that float32 rounds the same way, as far as it can.
TEST(BoundTest, Float32ScreenErrorCountsTheRoundingOfItsSources) {
  const double a = 1.0 + 0x1.1p-24;
  const float sum = static_cast<float>(a) * static_cast<float>(a);
  EXPECT_LE(std::abs(sum - a * a), Float32ScreenError(1)(a, a));
  EXPECT_GT(std::abs(sum - a * a), 0.6 * Float32ScreenError(1)(a, a));
}

TEST(BoundTest, Float32ScreenErrorCountsUnderflow) {
  // Both of ordinary magnitude for float32, and their product is lost.
  volatile float a = 0x1p-75f;
  EXPECT_LE(std::abs(a * a - 0x1p-150), Float32ScreenError(1)(a, a));
  // One is lost already, and the other is large.
  const float lost = static_cast<float>(0x1p-160);
  EXPECT_LE(std::abs(lost * 0x1p60 - 0x1p-100), Float32ScreenError(1)(0x1p-160, 0x1p60));
  EXPECT_LE(std::abs(lost * 0x1p60 - 0x1p-100), Float32ScreenError(1)(0x1p60, 0x1p-160));
}

TEST(BoundTest, GammaIsNotBelowItsDefinition) {
  for (const double unit : {kUnitFloat32, kUnitFloat64}) {
    for (int n = 1; n <= 65538; ++n) {
      const long double exact = n * unit / (1.0L - n * static_cast<long double>(unit));
      ASSERT_GE(Gamma(n, unit), exact) << n;
    }
  }
}

// Every axis the same, along the row: all coordinates err alike, and by much of their bound.
TEST(BoundTest, ProjectionErrorCountsEveryAxis) {
  constexpr uint32_t kDim = 50, kAxes = 60000;
  Random random(4);
  std::vector<double> x, axis;
  FillHardCase(random, kDim, x, axis);
  double squares = 0.0;
  for (const double v : x) squares += v * v;
  float y = 0.0f;
  for (uint32_t i = 0; i < kDim; ++i) {
    axis[i] = static_cast<float>(x[i] / std::sqrt(squares) * (1.0 - 0x1p-20));
    y += static_cast<float>(x[i]) * static_cast<float>(axis[i]);
  }
  const double error = std::sqrt(1.0 * kAxes) * std::abs(y - Exact(x, axis));
  EXPECT_LE(error, ProjectionError(kDim, kAxes, std::sqrt(squares)));
  EXPECT_GT(error, 0.01 * ProjectionError(kDim, kAxes, std::sqrt(squares)));
}

TEST(BoundTest, TailsAreNotBelowTheTrueOnes) {
  // Nothing of the row is known to be missed by the axes, but for the error of its projection ...
  EXPECT_GE(TailBound(1.0, 1.0, 0x1p-20), std::sqrt(1.0 - (1.0 - 0x1p-20) * (1.0 - 0x1p-20)));
  // ... or for the rounding of its length ...
  EXPECT_GE(TailBound(1.0, 1.0 + 0x1p-38, 0.0), std::sqrt(1.0 - (1.0 - 0x1p-38) * (1.0 - 0x1p-38)));
  // ... or for that of its square.
  const long double norm = 1.0L + 0x1p-30L;
  EXPECT_GE(TailBound(static_cast<double>(norm), 1.0, 0.0), std::sqrt(norm * norm - 1.0L));
  EXPECT_GE(TailBound(1.0, 0.0, 1.0), 1.0);
  EXPECT_LE(TailBound(1.0, 0.6, 0.0), 0.8 * (1.0 + 0x1p-30));
}

TEST(BoundTest, IntegersThatReachTheScoreAreAboveItsThreshold) {
  for (const double score : {-3.0, -0.5, 0.0, 2.0, 1e6}) {
    const double least = std::ceil(score);  // the least integer that a pair of this score can have
    EXPECT_LT(Int8Threshold(score, 0.0, 1.0, 0.0), least);
    EXPECT_LT(Int8Threshold(score + 7.0, 7.0, 1.0, 0.0), least);
    EXPECT_LT(Int8Threshold(score - 1000.0, 0.0, 1.0, 1000.0), least);
    EXPECT_GE(Int8Threshold(score, 0.0, 1.0, 0.0), least - 1.0);
  }
  const double infinity = std::numeric_limits<double>::infinity();
  EXPECT_EQ(Int8Threshold(-infinity, 1.0, 1.0, 0.0), -2147483647);
  EXPECT_EQ(Int8Threshold(infinity, 1.0, 1.0, 0.0), 2147483647);
}

// As reduce.h compares them: the least integers that rows of a tile can have, where terms are far larger than
// what they add up to.
TEST(BoundTest, IntegersThatReachTheScoreAreAboveTheThresholdOfTheirRow) {
  Random random(9);
  for (int round = 0; round < 20'000; ++round) {
    const double most_x = std::exp(5.0 * random.Normal()), most_y = std::exp(5.0 * random.Normal());
    const float x = static_cast<float>(most_x * (1.0 - 0x1p-20) * random.Uniform());
    const float y = static_cast<float>(most_y * (1.0 - 0x1p-20) * random.Uniform());
    const double length_slope = std::exp(5.0 * random.Normal()),
                 along_slope = std::exp(5.0 * random.Normal()) * (random.Next() % 2 == 0 ? 1.0 : -1.0);
    const double wanted = 1e5 * random.Normal();
    const double score = wanted - length_slope * x - along_slope * y;
    const RowThreshold threshold =
        ThresholdByRow(score, 0.0, 1.0, 0.0, length_slope, most_x, along_slope, most_y);
    const int32_t least = static_cast<int32_t>(std::ceil(score + static_cast<long double>(length_slope) * x +
                                                         static_cast<long double>(along_slope) * y));
    for (const bool fused : {false, true}) {
      float at =
          fused ? std::fma(threshold.by_length, x, threshold.base) : threshold.by_length * x + threshold.base;
      at = fused ? std::fma(threshold.by_along, y, at) : threshold.by_along * y + at;
      ASSERT_GT(static_cast<float>(least), at);
      const double terms = std::abs(score) + length_slope * most_x + std::abs(along_slope) * most_y;
      ASSERT_GT(at, least - 2.0 - terms * 0x1p-18);
    }
  }
  const double infinity = std::numeric_limits<double>::infinity();
  EXPECT_EQ(ThresholdByRow(infinity, 1.0, 1.0, 0.0, 1.0, 1.0, 1.0, 1.0).base,
            std::numeric_limits<float>::infinity());
  for (const double score : {-infinity, -1e40}) {
    const RowThreshold everything = ThresholdByRow(score, 1.0, 1.0, 0.0, 1.0, 1e40, -1.0, 1e40);
    EXPECT_EQ(everything.base, -std::numeric_limits<float>::max());
    EXPECT_EQ(everything.by_length, 0.0f);
    EXPECT_EQ(everything.by_along, 0.0f);
  }
}

TEST(BoundTest, Float64SumsStayWithinTheirErrors) {
  Random random(2);
  for (int round = 0; round < 500; ++round) {
    const uint32_t dim = 1 + random.Next() % 300;
    std::vector<double> a, b;
    FillHardCase(random, dim, a, b);
    double sum = 0.0, sum_abs = 0.0;
    for (uint32_t i = 0; i < dim; ++i) {
      a[i] *= 1.0 + random.Uniform() * 1e-9;  // products no longer exact
      sum += a[i] * b[i];
      sum_abs += std::abs(a[i] * b[i]);
    }
    EXPECT_LE(std::abs(sum - Exact(a, b)), Float64DotError(dim)(sum_abs));
  }
}

TEST(BoundTest, Float64DotErrorCountsUnderflow) {
  // Eight products of three eighths of the least float64, each lost.
  const double sum = Exact(std::vector<double>(8, 0x1.8p-538), std::vector<double>(8, 0x1p-538));
  EXPECT_EQ(sum, 3 * 0x1p-1074);
  EXPECT_GE(Float64DotError(8)(0.0), sum);
}

double Exact(const std::vector<double>& a, const std::vector<double>& b, Metric metric) {
  const uint32_t dim = static_cast<uint32_t>(a.size());
  return testing::ExactScore(testing::MakeMatrix(a, dim, DType::kFloat64).view, 0,
                             testing::MakeMatrix(b, dim, DType::kFloat64).view, 0, metric);
}

TEST(BoundTest, DistancesStayWithinTheirErrors) {
  Random random(5);
  double tightest = 0.0;
  for (int round = 0; round < 1000; ++round) {
    const uint32_t dim = 1 + random.Next() % (round % 2 == 0 ? 2 : 300);
    std::vector<double> a(dim), b(dim);
    double sum = 0.0;
    for (uint32_t i = 0; i < dim; ++i) {
      a[i] = random.Normal();
      b[i] = random.Normal() * 1e-3;
      sum += (a[i] - b[i]) * (a[i] - b[i]);
    }
    const double error = std::abs(sum - Exact(a, b, Metric::kSquaredEuclidean));
    EXPECT_LE(error, Float64DistanceError(dim)(sum));
    tightest = std::max(tightest, error / Float64DistanceError(dim)(sum));
    EXPECT_LT(DoubleDoubleDistanceError(dim, sum), Float64DistanceError(dim)(sum));
  }
  EXPECT_GT(tightest, 0.3) << "the bound is so loose that the test above shows nothing";
}

TEST(BoundTest, Float64DistanceErrorCountsUnderflow) {
  // Eight squares of three eighths of the least float64, each lost.
  const double sum = Exact(std::vector<double>(8, 0x1.3988e1409212ep-538), std::vector<double>(8, 0.0),
                           Metric::kSquaredEuclidean);
  EXPECT_EQ(sum, 3 * 0x1p-1074);
  EXPECT_GE(Float64DistanceError(8)(0.0), sum);
}

struct CosineSums {
  double sum = 0.0, sum_abs = 0.0, a_squares = 0.0, b_squares = 0.0;
};
CosineSums SumUp(const std::vector<double>& a, const std::vector<double>& b) {
  CosineSums sums;
  for (size_t i = 0; i < a.size(); ++i) {
    sums.sum += a[i] * b[i];
    sums.sum_abs += std::abs(a[i] * b[i]);
    sums.a_squares += a[i] * a[i];
    sums.b_squares += b[i] * b[i];
  }
  return sums;
}

Interval CosineIntervalOf(const std::vector<double>& a, const std::vector<double>& b) {
  const CosineSums s = SumUp(a, b);
  return Float64CosineInterval(static_cast<uint32_t>(a.size()), DType::kFloat64, DType::kFloat64)(
      s.sum, s.sum_abs, s.a_squares, s.b_squares);
}

void ExpectWithin(double x, const Interval& interval) {
  EXPECT_LE(interval.lower, x);
  EXPECT_GE(interval.upper, x);
  EXPECT_GE(interval.lower, -1.0);
  EXPECT_LE(interval.upper, 1.0);
}

TEST(BoundTest, CosinesAreWithinTheirIntervals) {
  Random random(6);
  for (int round = 0; round < 1000; ++round) {
    const uint32_t dim = 1 + random.Next() % 300;
    std::vector<double> a, b;
    FillHardCase(random, dim, a, b);
    for (uint32_t i = 0; i < dim; ++i) {
      a[i] = std::ldexp(a[i] * (1.0 + random.Uniform() * 1e-9), round % 400 - 200);
      if (round % 5 == 0) b[i] = 3.0 * a[i];
    }
    const Interval interval = CosineIntervalOf(a, b);
    ExpectWithin(Exact(a, b, Metric::kCosine), interval);
    EXPECT_LT(interval.upper - interval.lower, 4.0 * Gamma(dim + 6.0, kUnitFloat64));
  }
}

TEST(BoundTest, CosineIntervalsCountTheErrorsOfProducts) {
  // They cancel, and only rounding is left.
  const std::vector<double> a = {1.0 + 0x1p-52, -1.0, 0.0}, b = {1.0 + 0x1p-52, 1.0 + 0x1p-51, 1.0};
  EXPECT_EQ(SumUp(a, b).sum, 0.0);
  ExpectWithin(Exact(a, b, Metric::kCosine), CosineIntervalOf(a, b));
}

TEST(BoundTest, CosineIntervalsCountTheErrorsOfSquares) {
  // Each of the small elements makes Σab lose, and Σa² gain, as much as rounding can: more than the error of
  // the product alone allows.
  constexpr uint32_t kSmall = 1000;
  const double unit = std::sqrt(0x1p-53) * (1.0 + 0x1p-20);
  std::vector<double> a(kSmall, unit), b(kSmall, -1.5 * unit);
  a.insert(a.begin(), {1.0, 0.0});
  b.insert(b.begin(), {0.5 + 0x1p-30, std::sqrt(0.75)});
  const CosineSums s = SumUp(a, b);
  const double exact = Exact(a, b, Metric::kCosine);
  EXPECT_GT(exact - s.sum / std::sqrt(s.a_squares * s.b_squares), Float64DotError(kSmall + 2)(s.sum_abs));
  ExpectWithin(exact, CosineIntervalOf(a, b));
}

TEST(BoundTest, CosineIntervalsCountUnderflow) {
  // Three quarters of the least float64, as a quotient, are rounded to all of it; what the dot product lost
  // is nothing when divided by such lengths.
  const double sum = 0x3p-976, length = 0x1p100;
  ASSERT_EQ(sum / length, 0x1p-1074);
  const Float64CosineInterval interval(1, DType::kFloat64, DType::kFloat64);
  EXPECT_LE(interval(sum, sum, length * length, 1.0).lower, 0.0);
  EXPECT_GE(interval(-sum, sum, length * length, 1.0).upper, 0.0);
}

TEST(BoundTest, CosineIntervalsOfExtremesAreEverything) {
  const auto is_everything = [](const Interval& interval) {
    return interval.lower == -1.0 && interval.upper == 1.0;
  };
  EXPECT_TRUE(is_everything(CosineIntervalOf({1e200}, {1.0})));
  EXPECT_TRUE(is_everything(CosineIntervalOf({1.0}, {1e-200})));
  EXPECT_TRUE(is_everything(CosineIntervalOf({1e-100}, {5e-324})));
  EXPECT_TRUE(is_everything(CosineIntervalOf({0.0}, {1.0})));  // of float64, it may be a square that vanished
  EXPECT_TRUE(is_everything(CosineIntervalOf({1e100, 1e100}, {1e100, 1e-200})));
  const double nan = std::numeric_limits<double>::quiet_NaN();
  const Float64CosineInterval narrow(3, DType::kFloat32, DType::kInt8);
  EXPECT_TRUE(is_everything(narrow(nan, nan, nan, nan)));
  EXPECT_TRUE(is_everything(narrow(1.0, 1.0, 1.0, nan)));
  EXPECT_TRUE(is_everything(narrow(1.0, 1.0, nan, 1.0)));
  for (const Interval& zero : {narrow(0.0, 0.0, 0.0, 5.0), narrow(0.0, 0.0, 5.0, 0.0)}) {
    EXPECT_EQ(zero.lower, 0.0);
    EXPECT_EQ(zero.upper, 0.0);
  }
  EXPECT_TRUE(is_everything(Float64CosineInterval(3, DType::kFloat64, DType::kInt8)(0.0, 0.0, 0.0, 5.0)));
}

TEST(BoundTest, DoubleDoubleCosineErrorCountsItsSums) {
  EXPECT_GE(DoubleDoubleCosineError(0.5, 0x1p-80, 2.0, 0.0, 0.0), 0x1p-81);  // of the product, by the lengths
  // 1 / √(1 + α) and so on.
  EXPECT_GE(DoubleDoubleCosineError(1.0, 0.0, 1.0, 0x1p-70, 0.0), 0x1p-71);
  EXPECT_GE(DoubleDoubleCosineError(-1.0, 0.0, 1.0, 0x1p-70, 0x1p-70), 0x1p-70);
}

// With Q = q² and R = 1 the cosine is p/q, whose rest can be told exactly.
TEST(BoundTest, DoubleDoubleCosinesStayWithinTheirError) {
  Random random(7);
  double tightest = 0.0;
  for (int round = 0; round < 10000; ++round) {
    const double p = 1.0 + random.Uniform(), q = 1.0 + random.Uniform();
    const auto [cosine, lengths] =
        DoubleDoubleCosine({p, 0.0}, {q * q, std::fma(q, q, -(q * q))}, {1.0, 0.0});
    EXPECT_NEAR(lengths, q, 1e-15);
    const double rest = std::fma(-cosine.lo, q, std::fma(-cosine.hi, q, p));
    const double error = std::abs(rest) / q;
    EXPECT_LE(error, DoubleDoubleCosineError(cosine.hi, 0.0, lengths, 0.0, 0.0));
    tightest = std::max(tightest, error / DoubleDoubleCosineError(cosine.hi, 0.0, lengths, 0.0, 0.0));
  }
  EXPECT_GT(tightest, 0.01) << "the bound is so loose that the test above shows nothing";
}

TEST(BoundTest, NormIsNotBelowTheTrueOne) {
  EXPECT_EQ(NormUpperBound(3, 0.0) >= 0.0, true);
  for (const double x : {3.0, 1e-30, 1e30, 0.1}) {
    const double norm = NormUpperBound(1, x * x);
    EXPECT_GE(norm, x);
    EXPECT_LE(norm, x * (1.0 + 1e-12));
  }
}

TEST(BoundTest, NormCountsWhatItsSumLost) {
  // One large square, and many that each round away.
  constexpr uint32_t kSmall = 10000;
  double squares = 1.0;
  for (uint32_t i = 0; i < kSmall; ++i) squares += 0x1p-27 * 0x1p-27;
  EXPECT_EQ(squares, 1.0);
  EXPECT_GE(NormUpperBound(kSmall + 1, squares), std::sqrt(1.0 + kSmall * 0x1p-54));
  // Squares that underflow: of four elements 2^-540.
  EXPECT_GE(NormUpperBound(4, 0.0), 0x1p-539);
}

TEST(BoundTest, LeastNormIsNotAboveTheTrueOne) {
  // A sum whose terms all round up, squared elements and all: x is the same 60,000 times.
  constexpr uint32_t kDim = 60000;
  for (const double x : {1.0, 3.1, 0x1.6a09e667f3bcdp-1, 1e-30, 1e60}) {
    double squares = 0.0;
    for (uint32_t i = 0; i < kDim; ++i) squares += x * x;
    const double least = LeastNorm(NormUpperBound(kDim, squares));
    EXPECT_LE(least, std::sqrt(1.0L * kDim) * x);
    EXPECT_GE(least, std::sqrt(1.0L * kDim) * x * (1.0 - 0x1p-34));
  }
  // The upper bound itself rounds up.
  EXPECT_LE(LeastNorm(NormUpperBound(1, 1.0)), 1.0);
  EXPECT_EQ(LeastNorm(0.0), 0.0);
  EXPECT_EQ(LeastNorm(NormUpperBound(100, 0.0)), 0.0);  // nothing but what may have underflowed
  EXPECT_EQ(LeastNorm(std::numeric_limits<double>::infinity()), 0.0);
  EXPECT_EQ(LeastNorm(std::numeric_limits<double>::quiet_NaN()), 0.0);
}

TEST(BoundTest, ThresholdIsBelowScoreLessError) {
  Random random(3);
  for (int round = 0; round < 10000; ++round) {
    const double score = std::ldexp(random.Normal(), static_cast<int>(random.Next() % 200) - 100);
    const double error = std::abs(score) * random.Uniform() * 1e-3;
    const float threshold = ScreenThreshold(score, error);
    EXPECT_LT(static_cast<double>(threshold), score - error);
    EXPECT_GE(static_cast<double>(threshold), score - error - std::abs(score) * 0x1p-21);
  }
}

TEST(BoundTest, Float64ScoresThatReachTheScoreAreNotBelowTheBaseOfTheirRow) {
  Random random(12);
  for (int round = 0; round < 20'000; ++round) {
    const double score = random.Normal(), slope = std::exp(5.0 * random.Normal()), x = random.Uniform();
    const double base = ScreenBase(score, 0.0, slope);
    const long double wanted = score + static_cast<long double>(slope) * x;
    double least = static_cast<double>(wanted);  // that reaches it
    if (least < wanted) least = std::nextafter(least, std::numeric_limits<double>::infinity());
    ASSERT_GE(least, base + slope * x);
    ASSERT_LE(least, (base + slope * x) + (std::abs(score) + slope) * 0x1p-48);
    EXPECT_LT(ScreenBase(score, 1.0, slope), base - 0.999);
  }
  const double infinity = std::numeric_limits<double>::infinity();
  EXPECT_EQ(ScreenBase(infinity, 1.0, 1.0), infinity);
  EXPECT_EQ(ScreenBase(-infinity, 1.0, 1.0), -infinity);
}

TEST(BoundTest, ThresholdAtTheEdges) {
  const double infinity = std::numeric_limits<double>::infinity();
  EXPECT_EQ(ScreenThreshold(-infinity, 1.0), -std::numeric_limits<float>::infinity());
  EXPECT_LE(ScreenThreshold(infinity, 1.0), std::numeric_limits<float>::max());
  EXPECT_LT(ScreenThreshold(0.0, 0.0), 0.0f);
  EXPECT_LT(ScreenThreshold(1e-45, 0.0), 1e-45);
}

}  // namespace
}  // namespace dotmax
