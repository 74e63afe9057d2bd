#include "server/engine/measure.h"

#include <cmath>
#include <limits>
#include <vector>

#include "gtest/gtest.h"
#include "tests/data.h"

namespace dotmax {
namespace {

using testing::Random;

constexpr Metric kMetrics[] = {Metric::kInnerProduct, Metric::kCosine, Metric::kSquaredEuclidean};
constexpr double kInfinity = std::numeric_limits<double>::infinity();

// Long double is far more precise than what is tested.
long double Merit(Metric metric, long double dot, long double a, long double b) {
  if (metric == Metric::kInnerProduct) return dot;
  if (metric == Metric::kCosine) return a == 0 || b == 0 ? 0 : dot / (a * b);
  return 2 * dot - a * a - b * b;
}

// That of a query of length a·2^e, whose product is dot·2^e, and a row of length b, rounded once.
double MeritOfScaled(Metric metric, double dot, double a, int e, double b) {
  return static_cast<double>(Merit(metric, std::ldexp(static_cast<long double>(dot), e),
                                   std::ldexp(static_cast<long double>(a), e), b));
}

// Pairs of all magnitudes, near the limits of what lengths allow too.
template <typename Try>
void ForEachPair(const Try& attempt) {
  Random random(1);
  for (int i = 0; i < 20000; ++i) {
    const int exponent = static_cast<int>(random.Next() % 120) - 60;
    const double scaled = 1.0 + 2.0 * random.Uniform();
    const double row = std::ldexp(1.0 + random.Uniform(), static_cast<int>(random.Next() % 60) - 30);
    const double sides[] = {1.0, -1.0, random.Uniform(), -random.Uniform(), 1e-9 * random.Uniform(), 0.0};
    const double dot = scaled * row * sides[random.Next() % 6];
    const double wider = random.Next() % 2 == 0 ? 1.0 : 1.0 + random.Uniform();
    attempt(MeasuredQuery(scaled / wider, scaled * wider, exponent), scaled, exponent,
            LengthRange{row / wider, row * wider}, row, dot);
  }
}

TEST(MeasureTest, NoPairOfAMeritHasASmallerInnerProduct) {
  ForEachPair([](const MeasuredQuery& query, double a, int e, const LengthRange& rows, double b, double dot) {
    for (const Metric metric : kMetrics) {
      const double merit = MeritOfScaled(metric, dot, a, e, b);
      EXPECT_GE(dot, LeastDot(metric, ScaledMerit(metric, merit, query.unit), query, rows))
          << static_cast<int>(metric) << " " << a << " " << b << " " << dot << " " << e;
    }
  });
}

TEST(MeasureTest, NorOneWhoseRowIsKnownToBeLonger) {
  int sharper = 0;
  ForEachPair(
      [&](const MeasuredQuery& query, double a, int e, const LengthRange& rows, double b, double dot) {
        for (const Metric metric : kMetrics) {
          const double merit = MeritOfScaled(metric, dot, a, e, b);
          const double scaled = ScaledMerit(metric, merit, query.unit);
          const double term = LengthTerm(metric, rows.least, (b - rows.least) * (1.0 - 0x1p-50));
          const double least = LeastDot(metric, scaled, query, rows);
          const double own = least + LeastDotSlope(metric, scaled, query) * term;
          EXPECT_GE(dot, own) << static_cast<int>(metric) << " " << a << " " << b << " " << dot << " " << e;
          sharper += own > least ? 1 : 0;
        }
      });
  EXPECT_GT(sharper, 10000);
}

TEST(MeasureTest, NoPairHasABetterMeritThanItsInnerProductAllows) {
  ForEachPair([](const MeasuredQuery& query, double a, int e, const LengthRange& rows, double b, double dot) {
    for (const Metric metric : kMetrics) {
      const double merit = MeritOfScaled(metric, dot, a, e, b);
      EXPECT_LE(ScaledMerit(metric, merit, query.unit), BestMerit(metric, dot, query, rows))
          << static_cast<int>(metric) << " " << a << " " << b << " " << dot << " " << e;
    }
  });
}

TEST(MeasureTest, WhatIsFinishedHasNoHits) {
  int finished = 0;
  ForEachPair(
      [&](const MeasuredQuery& query, double a, int e, const LengthRange& rows, double b, double dot) {
        for (const Metric metric : kMetrics) {
          const double merit = MeritOfScaled(metric, dot, a, e, b);
          const double scaled = ScaledMerit(metric, merit, query.unit);
          EXPECT_FALSE(Finished(metric, scaled, query, rows.most)) << static_cast<int>(metric);
          finished += Finished(metric, scaled + std::abs(scaled) * 0.5, query, rows.most) ? 1 : 0;
        }
      });
  EXPECT_GT(finished, 1000);
}

TEST(MeasureTest, WithoutLengthsNothingIsRuledOut) {
  const MeasuredQuery zero(0.0, 0x1p-500, 0), one(1.0, 1.0, 0);
  EXPECT_LE(LeastDot(Metric::kCosine, 0.0, zero, {0.0, 5.0}), 0.0);
  EXPECT_LE(LeastDot(Metric::kCosine, 0.0, one, {0.0, 0.0}), 0.0);
  EXPECT_LE(LeastDot(Metric::kSquaredEuclidean, 0.0, zero, {0.0, 0.0}), 0.0);
  EXPECT_EQ(BestMerit(Metric::kCosine, 0.0, one, {0.0, 0.0}), kInfinity);
  EXPECT_EQ(BestMerit(Metric::kCosine, 1.0, one, {0.0, 1.0}), kInfinity);
  for (const Metric metric : kMetrics) {
    EXPECT_EQ(LeastDot(metric, -kInfinity, one, {0.5, 2.0}), -kInfinity);
    EXPECT_FALSE(Finished(metric, -kInfinity, one, 0.0));
  }
}

}  // namespace
}  // namespace dotmax
