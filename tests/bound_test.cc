#include "server/engine/bound.h"

#include <cmath>
#include <limits>
#include <vector>

#include "gtest/gtest.h"
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
    EXPECT_LT(DoubleDoubleDotError(dim, sum_abs), Float64DotError(dim)(sum_abs));
  }
}

TEST(BoundTest, Float64DotErrorCountsUnderflow) {
  // Eight products of three eighths of the least float64, each lost.
  const double sum = Exact(std::vector<double>(8, 0x1.8p-538), std::vector<double>(8, 0x1p-538));
  EXPECT_EQ(sum, 3 * 0x1p-1074);
  EXPECT_GE(Float64DotError(8)(0.0), sum);
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

TEST(BoundTest, ThresholdAtTheEdges) {
  const double infinity = std::numeric_limits<double>::infinity();
  EXPECT_EQ(ScreenThreshold(-infinity, 1.0), -std::numeric_limits<float>::infinity());
  EXPECT_LE(ScreenThreshold(infinity, 1.0), std::numeric_limits<float>::max());
  EXPECT_LT(ScreenThreshold(0.0, 0.0), 0.0f);
  EXPECT_LT(ScreenThreshold(1e-45, 0.0), 1e-45);
}

}  // namespace
}  // namespace dotmax
