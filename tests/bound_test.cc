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

TEST(BoundTest, NormIsNotBelowTheTrueOne) {
  EXPECT_EQ(NormUpperBound(3, 0.0) >= 0.0, true);
  for (const double x : {3.0, 1e-30, 1e30, 0.1}) {
    const double norm = NormUpperBound(1, x * x);
    EXPECT_GE(norm, x);
    EXPECT_LE(norm, x * (1.0 + 1e-12));
  }
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
