#include "server/engine/exact.h"

#include <bit>
#include <cmath>
#include <limits>
#include <vector>

#include "gtest/gtest.h"
#include "server/base/dtype.h"
#include "server/engine/pair_sums.h"
#include "tests/data.h"
#include "tests/oracle.h"

namespace dotmax {
namespace {

using testing::ExactScore;
using testing::MakeMatrix;
using testing::Random;

double Oracle(const std::vector<double>& a, const std::vector<double>& b,
              Metric metric = Metric::kInnerProduct) {
  const uint32_t dim = static_cast<uint32_t>(a.size());
  const SharedMatrix x = MakeMatrix(a, dim, DType::kFloat64);
  const SharedMatrix y = MakeMatrix(b, dim, DType::kFloat64);
  return ExactScore(x.view, 0, y.view, 0, metric);
}

const std::byte* Bytes(const std::vector<double>& row) {
  return reinterpret_cast<const std::byte*>(row.data());
}

double Dot(const std::vector<double>& a, const std::vector<double>& b) {
  return CorrectlyRoundedDot(ExactQuery(a, DType::kFloat64), Bytes(b), DType::kFloat64);
}

double Cosine(const std::vector<double>& a, const std::vector<double>& b) {
  return CorrectlyRoundedCosine(ExactQuery(a, DType::kFloat64), Bytes(b), DType::kFloat64);
}

double SquaredDistance(const std::vector<double>& a, const std::vector<double>& b) {
  return CorrectlyRoundedSquaredDistance(ExactQuery(a, DType::kFloat64), Bytes(b), DType::kFloat64);
}

// Bits, so that -0.0 is not 0.0.
uint64_t Bits(double x) { return std::bit_cast<uint64_t>(x); }

void ExpectExact(const std::vector<double>& a, const std::vector<double>& b) {
  const double expected = Oracle(a, b);
  EXPECT_EQ(Bits(Dot(a, b)), Bits(expected)) << Dot(a, b) << " instead of " << expected;
  EXPECT_EQ(AccumulatedDot(a, b), expected);
}

// Of float32 numbers, whose products are exact; with what is known of the row's length, and without.
void ExpectExactFloat32(const std::vector<double>& a, const std::vector<double>& b) {
  const SharedMatrix row = MakeMatrix(b, static_cast<uint32_t>(b.size()), DType::kFloat32);
  const ExactQuery query(a, DType::kFloat32);
  const double dot = Oracle(a, b), cosine = Oracle(a, b, Metric::kCosine);
  const double distance = Oracle(a, b, Metric::kSquaredEuclidean);
  for (const double longest : {LengthOf(b), 1e3 * LengthOf(b), 1e12 * LengthOf(b), kUnknownLength}) {
    const std::byte* const bytes = row.view.row(0);
    EXPECT_EQ(Bits(CorrectlyRoundedDot(query, bytes, DType::kFloat32, longest)), Bits(dot));
    EXPECT_EQ(Bits(CorrectlyRoundedCosine(query, bytes, DType::kFloat32, longest)), Bits(cosine));
    EXPECT_EQ(Bits(CorrectlyRoundedSquaredDistance(query, bytes, DType::kFloat32, longest)), Bits(distance));
  }
}

TEST(ExactTest, EmptyAndZeroAreZero) {
  EXPECT_EQ(Dot({}, {}), 0.0);
  ExpectExact({0.0, -0.0}, {-1.0, 5.0});
}

TEST(ExactTest, NegativeZeroIsReportedAsZero) {
  const std::vector<double> a = {-0.0}, b = {1.0};
  EXPECT_FALSE(std::signbit(Dot(a, b)));
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
  for (const float odd : {1.0f, 1.0f + 0x1p-20f}) {
    ExpectExactFloat32({odd, 0x1p-52, 0x1p-53}, {1.0, 1.0, 1.0});
    ExpectExactFloat32({odd, 0x1p-53}, {1.0, 1.0});
    // Beyond what two anchors hold.
    for (const float rest : {0x1p-149f, -0x1p-149f, 0x1p-100f, -0x1p-100f}) {
      ExpectExactFloat32({odd, 0x1p-53, rest}, {1.0, 1.0, 1.0});
      ExpectExactFloat32({odd, 0x1p-53, rest}, {1.0, 1.0, 0x1p-100});
    }
  }
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
  EXPECT_EQ(Dot({1e200}, {1e200}), std::numeric_limits<double>::infinity());
  EXPECT_EQ(Dot({1e200}, {-1e200}), -std::numeric_limits<double>::infinity());
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
  // Each product rounds to zero, and their sum does not.
  ExpectExact({0x1p-538, 0x1p-538, 0x1p-538, 0x1p-538}, {0x1p-538, 0x1p-538, 0x1p-538, 0x1p-538});
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

// Integers, and what is an integer of some unit: as float64 adds them up, but only as far as that is exact.
TEST(ExactTest, IntegersAddUp) {
  Random random(9);
  int exact = 0, others = 0;
  for (int round = 0; round < 2000; ++round) {
    const size_t dim = 1 + random.Next() % 64;
    const double unit = std::ldexp(1.0, static_cast<int>(random.Next() % 40) - 20);
    const uint64_t range = uint64_t{1} << (8 + random.Next() % 23);
    std::vector<double> a(dim), b(dim);
    for (std::vector<double>* row : {&a, &b}) {
      for (double& x : *row) {
        x = unit * static_cast<double>(random.Next() % range);
        if (round % 2 == 0 && random.Next() % 2 == 0) x = -x;
      }
    }
    const double common = CommonUnit(b, CommonUnit(a, kAnyUnit));
    EXPECT_GE(common, unit);
    for (const std::vector<double>* row : {&a, &b}) {
      for (const double x : *row) EXPECT_EQ(x / common, std::nearbyint(x / common));
    }
    ExactQuery query(a, DType::kFloat64);
    query.unit = common;
    const SharedMatrix row = MakeMatrix(b, static_cast<uint32_t>(dim), DType::kFloat64);
    const std::byte* const bytes = row.view.row(0);
    const double longest = LengthOf(b);
    for (const Metric metric : {Metric::kInnerProduct, Metric::kSquaredEuclidean}) {
      ++(AddsUpExactly(metric, query, longest) ? exact : others);
    }
    EXPECT_EQ(Bits(CorrectlyRoundedDot(query, bytes, DType::kFloat64, longest)), Bits(Oracle(a, b)));
    EXPECT_EQ(Bits(CorrectlyRoundedSquaredDistance(query, bytes, DType::kFloat64, longest)),
              Bits(Oracle(a, b, Metric::kSquaredEuclidean)));
    EXPECT_FALSE(AddsUpExactly(Metric::kInnerProduct, query, kUnknownLength));
  }
  EXPECT_GT(exact, 1000);
  EXPECT_GT(others, 1000);
}

TEST(ExactTest, UnitsAreCommon) {
  EXPECT_EQ(CommonUnit({}, 8.0), 8.0);
  EXPECT_EQ(CommonUnit({0.0, -0.0}, 8.0), 8.0);
  EXPECT_EQ(CommonUnit({16.0, -24.0}, 8.0), 8.0);
  EXPECT_EQ(CommonUnit({16.0, 20.0}, 8.0), 4.0);
  EXPECT_EQ(CommonUnit({0x1p60, 0.375}, kAnyUnit), 0.125);
  EXPECT_EQ(CommonUnit({0x1p53 + 2.0}, 4.0), 2.0);
  EXPECT_EQ(CommonUnit({1.0, 0x1p-500}, 1.0), 0x1p-500);
  EXPECT_EQ(CommonUnit({1.0, 0x1p-501}, 1.0), 0.0);
  EXPECT_EQ(CommonUnit({1.0, 0x1p-1074}, 1.0), 0.0);
  EXPECT_EQ(CommonUnit({0x1p-700}, kAnyUnit), 0.0);  // that many units underflow
  EXPECT_EQ(CommonUnit({0x1p-450, 0x1p500}, kAnyUnit), 0x1p-450);
  EXPECT_EQ(CommonUnit({0x1p-1000, 1.0}, 0x1p80), 0.0);
}

TEST(ExactTest, RandomFloat32OfEveryScale) {
  Random random(8);
  for (int round = 0; round < 3000; ++round) {
    const size_t dim = 1 + random.Next() % 40;
    const int spread = static_cast<int>(random.Next() % 140);
    const auto number = [&] {
      const int exponent = static_cast<int>(random.Next() % (spread + 1)) - spread / 2;
      return static_cast<double>(static_cast<float>(std::ldexp(random.Normal(), exponent)));
    };
    std::vector<double> a(dim), b(dim);
    for (size_t i = 0; i < dim; ++i) {
      a[i] = number();
      b[i] = number();
    }
    // Half of them cancel but for the last elements.
    for (size_t i = 0; round % 2 == 1 && 2 * i + 1 < dim; ++i) {
      a[2 * i + 1] = -a[2 * i];
      b[2 * i + 1] = i % 3 == 0 ? b[2 * i] : std::nextafter(static_cast<float>(b[2 * i]), 1e30f);
    }
    ExpectExactFloat32(a, b);
    for (size_t i = 0; i < dim; ++i) {  // rows that are near each other
      b[i] = i % 3 == 0 ? std::nextafter(static_cast<float>(a[i]), 1e30f) : a[i];
    }
    ExpectExactFloat32(a, b);
  }
}

// What is half of sums of few numbers is often half a unit: two anchors tell.
TEST(ExactTest, Float32ThatTie) {
  Random random(9);
  for (int round = 0; round < 3000; ++round) {
    const size_t dim = 2 + random.Next() % 20;
    std::vector<double> a(dim), b(dim);
    for (size_t i = 0; i < dim; ++i) {
      a[i] = std::ldexp(random.Next() % (1 << 24), -24);
      b[i] = std::ldexp(random.Next() % (1 << 24), -24 - static_cast<int>(random.Next() % 8));
    }
    ExpectExactFloat32(a, b);
  }
}

void ExpectExactMetrics(const std::vector<double>& a, const std::vector<double>& b) {
  const double cosine = Oracle(a, b, Metric::kCosine);
  EXPECT_EQ(Bits(Cosine(a, b)), Bits(cosine)) << Cosine(a, b) << " instead of " << cosine;
  EXPECT_EQ(Bits(AccumulatedCosine(a, b)), Bits(cosine)) << AccumulatedCosine(a, b);
  const double distance = Oracle(a, b, Metric::kSquaredEuclidean);
  EXPECT_EQ(Bits(SquaredDistance(a, b)), Bits(distance)) << SquaredDistance(a, b);
  EXPECT_EQ(Bits(AccumulatedSquaredDistance(a, b)), Bits(distance)) << AccumulatedSquaredDistance(a, b);
}

TEST(ExactTest, MetricsOfEmptyAndZeroRowsAreZero) {
  EXPECT_EQ(Bits(Cosine({}, {})), 0);
  EXPECT_EQ(Bits(SquaredDistance({}, {})), 0);
  for (const std::vector<double>& other : {std::vector<double>{-1.0, 5.0}, {-0.0, 0.0}, {5e-324, 1e308}}) {
    EXPECT_EQ(Bits(Cosine({0.0, -0.0}, other)), 0);
    EXPECT_EQ(Bits(Cosine(other, {-0.0, -0.0})), 0);
    ExpectExactMetrics({-0.0, 0.0}, other);
  }
}

TEST(ExactTest, ParallelRowsHaveACosineOfOne) {
  Random random(8);
  for (int round = 0; round < 1000; ++round) {
    const size_t dim = 1 + random.Next() % 40;
    const int scale = static_cast<int>(random.Next() % 1900) - 950;
    const double factor = round % 2 == 0 ? -std::ldexp(1.0, scale / 2) : std::ldexp(3.0, scale / 4);
    std::vector<double> a(dim), b(dim);
    for (size_t i = 0; i < dim; ++i) {
      a[i] = std::ldexp(double{static_cast<float>(random.Normal())}, scale / 3);
      b[i] = factor * a[i];
    }
    EXPECT_EQ(Cosine(a, b), factor < 0.0 ? -1.0 : 1.0);
    EXPECT_EQ(Bits(SquaredDistance(a, a)), 0);
  }
  ExpectExactMetrics({5e-324, -1e-323}, {1e308, -1e308});
  ExpectExactMetrics({5e-324, -1e-323}, {5e307, -1e308});
  ExpectExactMetrics({1e200, 1e200}, {2e200, 2e200});
}

TEST(ExactTest, NearlyParallelRowsDifferInTheLastBit) {
  Random random(9);
  for (int round = 0; round < 1000; ++round) {
    const size_t dim = 1 + random.Next() % 20;
    std::vector<double> a(dim), b(dim);
    for (size_t i = 0; i < dim; ++i) a[i] = b[i] = static_cast<float>(random.Normal());
    const size_t changed = random.Next() % dim;
    if (round % 3 == 0) b[changed] = std::nextafter(b[changed], 9.0);
    if (round % 3 == 1) b[changed] = std::nextafter(static_cast<float>(b[changed]), 9.0f);
    if (round % 3 == 2) b[changed] += std::ldexp(1.0, -27);  // about where the cosine leaves 1
    ExpectExactMetrics(a, b);
  }
}

TEST(ExactTest, OrthogonalRowsHaveACosineOfZero) {
  EXPECT_EQ(Bits(Cosine({1.0, 1.0}, {-1.0, 1.0})), 0);
  EXPECT_EQ(Bits(Cosine({1e16, 1.0, -1e16}, {1.0, 0.0, 1.0})), 0);
  ExpectExactMetrics({1e16, 1.0, -1e16}, {1.0, 1.0, 1.0});
  ExpectExactMetrics({1e16, 1.0, -1e16}, {1.0, -1e-300, 1.0});
}

TEST(ExactTest, RationalCosinesAreTheirRounding) {
  EXPECT_EQ(Cosine({3.0, 4.0}, {1.0, 0.0}), 0.6);
  EXPECT_EQ(Cosine({3.0, 4.0}, {0.0, -7.0}), -0.8);
  EXPECT_EQ(Cosine({1.0, 1.0, 1.0, 1.0}, {0.0, 0.0, 1e-310, 0.0}), 0.5);
}

// b₁ is odd, |b| = 2^54 and 3b₁ + 4b₂ = 5M with an odd M in [2^53, 2^54), so the cosine with (3, 4, 0, 0, 0)
// is M/2^54, a midpoint. Found in Python: b₁ odd, b₂ = 2 mod 4, b₃ odd at random until half the rest, p =
// (4^54 - b₁² - b₂² - b₃²) / 2, is a prime of the form 4n + 1; then p = x² + y² (Cornacchia), and 2p = (x +
// y)² + (x - y)².
TEST(ExactTest, CosinesThatTieRoundToEven) {
  for (const std::vector<double>& b :
       {std::vector<double>{8230400470010391, 10951522504471638, 6911933843646273, 7132899231374741,
                            6179816800831689},  // M = 1 mod 4: down
        {2886388417637121, 17167688943491418, 4560429365921997, 811407271686429, 43291319802029},  // up
        {3934457736599531, 13436002933909058, 5638232226537337, 8473867857252781, 4991625189733299},
        {7062135700331177, 14009295042585186, 4857540601401815, 5381169324794075, 5082495589959809}}) {
    std::vector<double> a = {3.0, 4.0, 0.0, 0.0, 0.0};
    ExpectExactMetrics(a, b);
    for (double& x : a) x *= -0x1p-700;
    ExpectExactMetrics(a, b);
    // Off the tie by less than double-double tells, on either side.
    std::vector<double> longer = b;
    longer.push_back(0x1p-100);
    for (const double side : {0.0, 0x1p-300, 0x1p-80, -0x1p-80})
      ExpectExactMetrics({3, 4, 0, 0, 0, side}, longer);
  }
}

TEST(ExactTest, DenormalCosinesRoundOnce) {
  ExpectExactMetrics({1e308, 1e-308, 0.0}, {0.0, 1e-308, 1e308});   // beyond float64
  ExpectExactMetrics({1.0, 0x1p-540, 0.0}, {0.0, 0x1p-534, 1.0});   // the least
  ExpectExactMetrics({1.0, 0x1p-540, 0.0}, {0.0, -0x1p-535, 1.0});  // half of it, but for the lengths
  ExpectExactMetrics({1.0, 0x1.8p-540, 0.0}, {0.0, -0x1p-535, 1.0});
  ExpectExactMetrics({1.0, 0x1.8p-540, 0.0}, {0.0, -0x1.4p-530, 1.0});
  ExpectExactMetrics({1.0, 0x1.8p-540, 0.0}, {0.0, 0x1.7p-490, 1.0});
}

TEST(ExactTest, DistancesOfAllMagnitudes) {
  const double max = std::numeric_limits<double>::max();
  EXPECT_EQ(SquaredDistance({max}, {-max}), std::numeric_limits<double>::infinity());
  EXPECT_EQ(SquaredDistance({1e200, 1.0}, {1e200, 3.0}), 4.0);
  ExpectExactMetrics({max, 1.0}, {std::nextafter(max, 0.0), 1.0});
  ExpectExactMetrics({0x1p512, 0x1p485}, {0.0, 0.0});  // just overflows, and just does not
  ExpectExactMetrics({0x1p512}, {0x1p459});
  ExpectExactMetrics({0x1p512}, {0x1p458});
  ExpectExactMetrics({0x1p-537, 0x1p-538}, {0.0, 0.0});
  ExpectExactMetrics({0x1p-538, 0x1p-538}, {0.0, 0.0});  // a tie of 0 and the least
  ExpectExactMetrics({0x1p-538, 0x1p-538, 0x1p-1074}, {0.0, 0.0, 0.0});
  ExpectExactMetrics({5e-324}, {-5e-324});
}

TEST(ExactTest, DistancesThatTieRoundToEven) {
  ExpectExactMetrics({1.0, 0x1p-27, 0x1p-27}, {0.0, 0.0, 0.0});
  ExpectExactMetrics({1.0, 0x1p-27, 0x1p-27, 0x1p-100}, {0.0, 0.0, 0.0, 0.0});
  ExpectExactMetrics({1.0, 0x1p-27, 0x1p-27, 0x1p-530}, {0.0, 0.0, 0.0, 0.0});
  ExpectExactMetrics({0x1p-500, 0x1p-527, 0x1p-527, 0x1p-540},
                     {0.0, 0.0, 0.0, 0.0});  // what underflows decides
  ExpectExactMetrics({1.0, 0x1p-27, 0.0}, {0x1p-60, 0.0, 0x1p-27});
  ExpectExactMetrics({1.0, 0x1p-27, 0x1p-27}, {0x1p-140, 0.0, 0.0});
  ExpectExactMetrics({1.0, 0x1p-27, 0x1p-27}, {-0x1p-140, 0.0, 0.0});
}

TEST(ExactTest, MetricsOfRandomVectorsOfEveryScale) {
  Random random(10);
  for (int round = 0; round < 2000; ++round) {
    const size_t dim = 1 + random.Next() % 40;
    const int spread = round % 4 == 0 ? 0 : static_cast<int>(random.Next() % 900);
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
    ExpectExactMetrics(a, b);
  }
}

// Where rows lie, and with what is said of queries of narrow dtypes.
TEST(ExactTest, MetricsOfEveryDtypeSizeAndAddress) {
  constexpr DType kAll[] = {DType::kFloat32, DType::kFloat16, DType::kBFloat16, DType::kFloat64,
                            DType::kInt8};
  for (const DType a_dtype : kAll) {
    for (const DType b_dtype : kAll) {
      for (const uint32_t dim : {1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 33, 100}) {
        const SharedMatrix a = testing::RandomNormal(1, dim, dim, a_dtype);
        const SharedMatrix b = testing::RandomNormal(3, dim, dim + 1, b_dtype);
        std::vector<double> wide(dim);
        ToFloat64(a.view.data, a_dtype, dim, wide.data());
        for (uint64_t row = 0; row < 3; ++row) {  // odd rows of odd dims are misaligned for vectors
          const ExactQuery query(wide, a_dtype);
          EXPECT_EQ(CorrectlyRoundedDot(query, b.view.row(row), b_dtype),
                    ExactScore(a.view, 0, b.view, row, Metric::kInnerProduct));
          EXPECT_EQ(CorrectlyRoundedCosine(query, b.view.row(row), b_dtype),
                    ExactScore(a.view, 0, b.view, row, Metric::kCosine));
          EXPECT_EQ(CorrectlyRoundedSquaredDistance(query, b.view.row(row), b_dtype),
                    ExactScore(a.view, 0, b.view, row, Metric::kSquaredEuclidean));
        }
      }
    }
  }
}

// Of the squared distances of float32 rows one in a hundred or so lies halfway between two float64 numbers.
TEST(ExactTest, DistancesThatTie) {
  constexpr uint32_t kDim = 256;
  testing::Random random(4);
  int ties = 0;
  for (int i = 0; i < 1000; ++i) {
    std::vector<double> a(kDim), b(kDim);
    for (double& x : a) x = static_cast<float>(3.0 + random.Normal());
    for (double& x : b) x = static_cast<float>(3.0 + random.Normal());
    const SharedMatrix row = MakeMatrix(b, kDim, DType::kFloat32);
    const double expected = AccumulatedSquaredDistance(a, b);
    EXPECT_EQ(Bits(CorrectlyRoundedSquaredDistance(ExactQuery(a, DType::kFloat32), row.view.row(0),
                                                   DType::kFloat32, LengthOf(b))),
              Bits(expected));
    // But for the roundings of `lo`, which differ by instruction set.
    const DoubleDouble sum = DoubleDoubleSquaredDistance(a.data(), row.view.row(0), DType::kFloat32, kDim);
    const double rounded = sum.hi + sum.lo, rest = sum.lo - (rounded - sum.hi);
    const double half = 0.5 * (std::nextafter(rounded, 1e300) - rounded);
    ties += std::abs(std::abs(rest) - half) < 1e-9 * half ? 1 : 0;
  }
  EXPECT_GT(ties, 3);
}

TEST(ExactTest, TheLargestDimOfTheLargestNumbers) {
  const std::vector<double> a(kMaxDim, std::numeric_limits<double>::max());
  std::vector<double> b(kMaxDim, -std::numeric_limits<double>::max());
  EXPECT_EQ(SquaredDistance(a, b), std::numeric_limits<double>::infinity());
  EXPECT_EQ(Cosine(a, b), -1.0);
  b = a;
  b[77] = std::nextafter(b[77], 0.0);
  ExpectExactMetrics(a, b);
  const std::vector<double> ones(kMaxDim, 1.0), tenths(kMaxDim, 0.1);
  ExpectExactMetrics(ones, tenths);
}

}  // namespace
}  // namespace dotmax
