#include "server/engine/exact.h"

#include <cmath>
#include <limits>
#include <vector>

#include "gtest/gtest.h"
#include "tests/data.h"
#include "tests/oracle.h"

namespace dotmax {
namespace {

using testing::ExactScore;
using testing::MakeMatrix;
using testing::Random;

double Oracle(const std::vector<double>& a, const std::vector<double>& b) {
  const uint32_t dim = static_cast<uint32_t>(a.size());
  const SharedMatrix x = MakeMatrix(a, dim, DType::kFloat64);
  const SharedMatrix y = MakeMatrix(b, dim, DType::kFloat64);
  return ExactScore(x.view, 0, y.view, 0);
}

void ExpectExact(const std::vector<double>& a, const std::vector<double>& b) {
  const double expected = Oracle(a, b);
  EXPECT_EQ(CorrectlyRoundedDot(a, b), expected);
  EXPECT_EQ(AccumulatedDot(a, b), expected);
  EXPECT_FALSE(std::signbit(CorrectlyRoundedDot(a, b)) && expected == 0.0);
}

TEST(ExactTest, EmptyAndZeroAreZero) {
  EXPECT_EQ(CorrectlyRoundedDot({}, {}), 0.0);
  ExpectExact({0.0, -0.0}, {-1.0, 5.0});
}

TEST(ExactTest, NegativeZeroIsReportedAsZero) {
  const std::vector<double> a = {-0.0}, b = {1.0};
  EXPECT_FALSE(std::signbit(CorrectlyRoundedDot(a, b)));
}

TEST(ExactTest, CancellationToTheLastBit) {
  ExpectExact({1e16, 1.0, -1e16}, {1.0, 1.0, 1.0});
  ExpectExact({0x1p600, 1.0, -0x1p600}, {0x1p400, 0x1p-300, 0x1p400});
}

TEST(ExactTest, TiesRoundToEven) {
  ExpectExact({1.0, 0x1p-53}, {1.0, 1.0});
  ExpectExact({1.0 + 0x1p-52, 0x1p-53}, {1.0, 1.0});
  ExpectExact({1.0, 0x1p-53, 0x1p-200}, {1.0, 1.0, 1.0});
  ExpectExact({1.0, 0x1p-53, -0x1p-200}, {1.0, 1.0, 1.0});
}

TEST(ExactTest, ErrorsThatTheDoubleDoubleLoses) {
  // A large error covers a small one, and cancels.
  ExpectExact({0x1p110, 0x1p50, 0x1p-20, -0x1p110, -0x1p50}, {1.0, 1.0, 1.0, 1.0, 1.0});
  // A tie, but for what underflows of the second product.
  ExpectExact({0x1p-1000, 0x1p-500}, {1.0, 0x1p-553 * (1.0 + 0x1p-27)});
}

TEST(ExactTest, IntermediateOverflowIsNotAnError) {
  ExpectExact({1e308, -1e308, 3.0}, {1e308, 1e308, 5.0});
  ExpectExact({1e308, 1e308, -1e308}, {1.0, 1.0, 1.0});
}

TEST(ExactTest, OverflowOfTheResultIsInfinite) {
  EXPECT_EQ(CorrectlyRoundedDot(std::vector<double>{1e200}, std::vector<double>{1e200}),
            std::numeric_limits<double>::infinity());
  EXPECT_EQ(CorrectlyRoundedDot(std::vector<double>{1e200}, std::vector<double>{-1e200}),
            -std::numeric_limits<double>::infinity());
  // The largest finite number plus just under, and just, half a unit.
  const double max = std::numeric_limits<double>::max();
  ExpectExact({max, std::nextafter(0x1p969, 0.0)}, {1.0, 1.0});
  ExpectExact({max, 0x1p970}, {1.0, 1.0});
}

TEST(ExactTest, DenormalResultsRoundOnce) {
  ExpectExact({0x1p-1074, 0x1p-1074}, {0.5, 0.25});
  ExpectExact({0x1p-1074}, {0.5});
  ExpectExact({0x1p-1074, 0x1p-1074}, {0.5, 0x1p-50});
  ExpectExact({0x1.fffffffffffffp-1022, 0x1p-1074}, {0.5, 0.25});
  ExpectExact({0x1p-540, 0x1p-538}, {0x1p-540, -0x1p-537});
}

TEST(ExactTest, RandomVectorsOfEveryScale) {
  Random random(7);
  for (int round = 0; round < 3000; ++round) {
    const size_t dim = 1 + random.Next() % 40;
    const int spread = static_cast<int>(random.Next() % 900);
    std::vector<double> a(dim), b(dim);
    for (size_t i = 0; i < dim; ++i) {
      a[i] = std::ldexp(random.Normal(), static_cast<int>(random.Next() % (spread + 1)) - spread / 2);
      b[i] = std::ldexp(random.Normal(), static_cast<int>(random.Next() % (spread + 1)) - spread / 2);
    }
    // Half of them cancel but for the last elements.
    for (size_t i = 0; round % 2 == 1 && 2 * i + 1 < dim; ++i) {
      a[2 * i + 1] = -a[2 * i];
      b[2 * i + 1] = i % 3 == 0 ? b[2 * i] : std::nextafter(b[2 * i], 1e300);
    }
    ExpectExact(a, b);
  }
}

}  // namespace
}  // namespace dotmax
