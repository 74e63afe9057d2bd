#include "server/engine/reduce.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "gtest/gtest.h"
#include "server/base/dtype.h"
#include "server/engine/aligned.h"
#include "server/engine/bound.h"
#include "tests/data.h"
#include "tests/oracle.h"

namespace dotmax {
namespace {

using testing::Random;

// Every width around the vector widths, survivors from none to all: equal to the obvious loop.
TEST(ReduceTest, SurvivorsAreThoseOfTheObviousLoop) {
  Random random(1);
  AlignedArray<float> scores, thresholds;
  for (const int columns : {1, 2, 3, 4, 7, 8, 15, 16, 17, 31, 32, 33, 63, 64, 65, 256}) {
    for (const double cut : {-4.0, 0.0, 2.5, 9.0}) {
      const int rows = 37;
      scores.Reserve(37 * 256 + 64);
      std::fill_n(scores.data(), 37 * 256 + 64, 1000);
      thresholds.Reserve(256);
      for (int i = 0; i < rows * columns; ++i) scores.data()[i] = static_cast<float>(random.Normal());
      for (int c = 0; c < columns; ++c)
        thresholds.data()[c] = static_cast<float>(cut + 0.1 * random.Normal());
      thresholds.data()[columns / 2] = scores.data()[columns / 2];  // equal does not survive
      std::vector<Survivor> expected;
      for (int r = 0; r < rows; ++r) {
        for (int c = 0; c < columns; ++c) {
          if (scores.data()[r * columns + c] > thresholds.data()[c]) {
            expected.push_back({static_cast<uint16_t>(c), static_cast<uint16_t>(r)});
          }
        }
      }
      std::vector<Survivor> got(rows * columns + kSurvivorPadding);
      got.resize(CollectSurvivors(scores.data(), rows, columns, thresholds.data(), got.data()));
      ASSERT_EQ(got.size(), expected.size()) << columns << " columns, cut " << cut;
      for (size_t i = 0; i < got.size(); ++i) {
        EXPECT_EQ(got[i].row, expected[i].row);
        EXPECT_EQ(got[i].column, expected[i].column);
      }
    }
  }
}

TEST(ReduceTest, IntegerSurvivorsAreThoseOfTheObviousLoop) {
  Random random(2);
  for (const int columns : {1, 15, 16, 17, 64, 65, 256}) {
    const int rows = 21;
    AlignedArray<int32_t> scores, thresholds;
    scores.Reserve(37 * 256 + 64);
    std::fill_n(scores.data(), 37 * 256 + 64, 1000);
    thresholds.Reserve(columns);
    for (int i = 0; i < rows * columns; ++i)
      scores.data()[i] = static_cast<int32_t>(random.Next() % 1000) - 500;
    for (int c = 0; c < columns; ++c) thresholds.data()[c] = static_cast<int32_t>(random.Next() % 1100) - 600;
    thresholds.data()[columns / 2] = std::numeric_limits<int32_t>::max();
    thresholds.data()[columns / 3] = scores.data()[columns / 3];
    std::vector<Survivor> got(rows * columns + kSurvivorPadding);
    const size_t count = CollectSurvivors(scores.data(), rows, columns, thresholds.data(), got.data());
    size_t next = 0;
    for (int r = 0; r < rows; ++r) {
      for (int c = 0; c < columns; ++c) {
        if (scores.data()[r * columns + c] <= thresholds.data()[c]) continue;
        ASSERT_LT(next, count);
        EXPECT_EQ(got[next].row, r);
        EXPECT_EQ(got[next++].column, c);
      }
    }
    EXPECT_EQ(next, count);
  }
}

TEST(ReduceTest, InfinityRulesAColumnOut) {
  float scores[64] = {std::numeric_limits<float>::max(), 1.0f};
  const float thresholds[] = {std::numeric_limits<float>::infinity(), 0.0f};
  Survivor survivors[2 + kSurvivorPadding];
  ASSERT_EQ(CollectSurvivors(scores, 1, 2, thresholds, survivors), 1);
  EXPECT_EQ(survivors[0].column, 1);
}

TEST(ReduceTest, CheckDotOfEveryDtypeSizeAndAddressIsWithinItsError) {
  for (const DType dtype :
       {DType::kFloat32, DType::kFloat16, DType::kBFloat16, DType::kFloat64, DType::kInt8}) {
    for (const uint32_t dim : {1, 2, 7, 8, 9, 15, 16, 17, 31, 33, 100}) {
      const SharedMatrix a = testing::RandomNormal(1, dim, dim, DType::kFloat64);
      const SharedMatrix b = testing::RandomNormal(3, dim, dim + 1, dtype);
      std::vector<double> wide(dim);
      ToFloat64(a.view.data, DType::kFloat64, dim, wide.data());
      for (uint64_t row = 0; row < 3; ++row) {  // odd rows of odd dims are misaligned for vectors
        const DotSums dot = CheckDot(wide.data(), b.view.row(row), dtype, dim);
        const double exact = testing::ExactScore(a.view, 0, b.view, row);
        EXPECT_LE(std::abs(dot.sum - exact), Float64DotError(dim)(dot.sum_abs)) << DTypeName(dtype) << dim;
        EXPECT_GE(dot.sum_abs * (1.0 + 1e-12), std::abs(exact));
        EXPECT_LE(dot.sum_abs, 1e5 * dim);
      }
    }
  }
}

TEST(ReduceTest, Float32DotsOfEverySizeAreWithinTheirError) {
  for (const uint32_t dim : {1u, 7u, 16u, 31u, 64u, 100u, 300u}) {
    for (const size_t count : {1u, 3u, 4u, 9u}) {
      const SharedMatrix row = testing::RandomNormal(1, dim, dim),
                         queries = testing::RandomNormal(count, dim, 2);
      std::vector<const float*> of;
      for (size_t q = 0; q < count; ++q) of.push_back(reinterpret_cast<const float*>(queries.view.row(q)));
      std::vector<float> dots(count);
      Float32Dots(reinterpret_cast<const float*>(row.view.row(0)), dim, of, dots.data());
      for (size_t q = 0; q < count; ++q) {
        const double exact = testing::ExactScore(queries.view, q, row.view, 0);
        EXPECT_NEAR(dots[q], exact, Float32ScreenError(dim)(2.0 * std::sqrt(dim), 2.0 * std::sqrt(dim)));
      }
    }
  }
}

TEST(ReduceTest, CheckDotThatOverflowsIsNotFinite) {
  const SharedMatrix a = testing::MakeMatrix({1e300, 1e300}, 2, DType::kFloat64);
  const SharedMatrix b = testing::MakeMatrix({1e300, -1e300}, 2, DType::kFloat64);
  std::vector<double> wide = {1e300, 1e300};
  const DotSums dot = CheckDot(wide.data(), b.view.data, DType::kFloat64, 2);
  EXPECT_FALSE(std::isfinite(dot.sum_abs));
}

// Within their errors, and the same as the obvious loop but for the order.
TEST(ReduceTest, ChecksOfOtherMetricsAreWithinTheirErrors) {
  for (const DType dtype :
       {DType::kFloat32, DType::kFloat16, DType::kBFloat16, DType::kFloat64, DType::kInt8}) {
    for (const uint32_t dim : {1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 33, 100, 1000}) {
      const SharedMatrix a = testing::RandomNormal(1, dim, dim, DType::kFloat64);
      const SharedMatrix b = testing::RandomNormal(3, dim, dim + 1, dtype);
      std::vector<double> wide(dim), row_wide(dim);
      ToFloat64(a.view.data, DType::kFloat64, dim, wide.data());
      double a_squares = 0.0;
      for (const double x : wide) a_squares += x * x;
      for (uint64_t row = 0; row < 3; ++row) {
        const std::byte* const at = b.view.row(row);
        ToFloat64(at, dtype, dim, row_wide.data());
        double squares = 0.0;
        for (const double x : row_wide) squares += x * x;
        const DotAndSquares got = CheckDotAndSquares(wide.data(), at, dtype, dim);
        const DotSums dot = CheckDot(wide.data(), at, dtype, dim);
        EXPECT_EQ(got.sum, dot.sum);
        EXPECT_EQ(got.sum_abs, dot.sum_abs);
        EXPECT_NEAR(got.squares, squares, squares * 1e-13);
        const double cosine = testing::ExactScore(a.view, 0, b.view, row, Metric::kCosine);
        const Interval interval =
            Float64CosineInterval(dim, DType::kFloat64, dtype)(got.sum, got.sum_abs, a_squares, got.squares);
        EXPECT_LE(interval.lower, cosine) << DTypeName(dtype) << dim;
        EXPECT_GE(interval.upper, cosine) << DTypeName(dtype) << dim;
        EXPECT_LE(interval.upper - interval.lower, 1e-12);
        const double distance = CheckSquaredDistance(wide.data(), at, dtype, dim);
        const double exact = testing::ExactScore(a.view, 0, b.view, row, Metric::kSquaredEuclidean);
        EXPECT_LE(std::abs(distance - exact), Float64DistanceError(dim)(distance)) << DTypeName(dtype) << dim;
      }
    }
  }
}

TEST(ReduceTest, ChecksOfOtherMetricsThatOverflowAreNotFinite) {
  const std::vector<double> a = {1e300, 1.0}, b = {1e200, -1e300};
  const std::byte* const row = reinterpret_cast<const std::byte*>(b.data());
  EXPECT_FALSE(std::isfinite(CheckDotAndSquares(a.data(), row, DType::kFloat64, 2).squares));
  EXPECT_FALSE(std::isfinite(CheckSquaredDistance(a.data(), row, DType::kFloat64, 2)));
  EXPECT_FALSE(std::isfinite(Float64DistanceError(2)(std::numeric_limits<double>::infinity())));
}

TEST(ReduceTest, CodesAreThoseOfTheObviousLoop) {
  Random random(5);
  for (const size_t n : {0, 1, 3, 7, 8, 9, 15, 16, 17, 100, 784}) {
    std::vector<float> x(n);
    for (float& v : x) v = static_cast<float>(random.Normal());
    if (n > 2) x[n / 2] = 1e30f;  // beyond the limit
    EXPECT_EQ(MaxAbs(x.data(), n), n > 2 ? 1e30f : n == 1 ? std::abs(x[0]) : 0.0f);
    const double scale = 3.0 / 127;
    const float inverse_scale = static_cast<float>(1.0 / scale);
    std::vector<int8_t> codes(n + 1, 77);
    std::vector<uint8_t> unsigned_codes(n + 1, 77);
    const CodeSums sums = EncodeSigned(x.data(), n, scale, inverse_scale, 127, codes.data());
    const CodeSums same = EncodeUnsigned(x.data(), n, scale, inverse_scale, 127, 128, unsigned_codes.data());
    EXPECT_EQ(codes[n], 77);
    EXPECT_EQ(unsigned_codes[n], 77);
    CodeSums expected = {};
    for (size_t i = 0; i < n; ++i) {
      const double rounded = std::nearbyint(x[i] * inverse_scale);
      const int code = static_cast<int>(std::min(std::max(rounded, -127.0), 127.0));
      ASSERT_EQ(codes[i], code);
      ASSERT_EQ(unsigned_codes[i], code + 128);
      const double rest = x[i] - code * scale;
      expected.codes += code;
      expected.error += rest * rest;
      expected.decoded += code * scale * (code * scale);
      expected.squares += static_cast<double>(x[i]) * x[i];
    }
    for (const CodeSums& got : {sums, same}) {
      EXPECT_EQ(got.codes, expected.codes);
      EXPECT_DOUBLE_EQ(got.error, expected.error);
      EXPECT_DOUBLE_EQ(got.decoded, expected.decoded);
      EXPECT_DOUBLE_EQ(got.squares, expected.squares);
    }
  }
}

TEST(ReduceTest, PlainCodesAreThoseOfTheObviousLoop) {
  constexpr size_t kRows = 3;
  Random random(15);
  for (const size_t n : {0, 1, 3, 15, 16, 17, 31, 33, 47, 100, 784}) {
    std::vector<float> x(kRows * n);
    for (float& v : x) v = static_cast<float>(random.Uniform() * 2.0 - 1.0);
    const float inverse_scale = 127.0f;
    const size_t stride = n + 5;
    std::vector<uint8_t> unsigned_codes(kRows * stride + 1, 77);
    const PlainSquares range =
        EncodePlainUnsigned(x.data(), kRows, n, inverse_scale, 128, stride, unsigned_codes.data());
    EXPECT_EQ(unsigned_codes.back(), 77);
    double least = std::numeric_limits<double>::infinity(), most = 0.0;
    for (size_t row = 0; row < kRows; ++row) {
      const float* const its = x.data() + row * n;
      const uint8_t* const its_codes = unsigned_codes.data() + row * stride;
      std::vector<int8_t> codes(n + 1, 77);
      const PlainSums sums = EncodePlainSigned(its, n, inverse_scale, codes.data());
      EXPECT_EQ(codes[n], 77);
      int64_t code_sum = 0;
      double squares = 0.0;
      for (size_t i = 0; i < n; ++i) {
        ASSERT_LE(std::abs(static_cast<double>(its[i]) * inverse_scale - codes[i]), 0.5 + 0x1p-16);
        ASSERT_EQ(its_codes[i], codes[i] + 128);
        code_sum += codes[i];
        squares += 1.0 * its[i] * its[i];
      }
      for (size_t i = n; i < stride; ++i) ASSERT_EQ(its_codes[i], 0);
      EXPECT_EQ(sums.codes, code_sum);
      EXPECT_LE(squares, LargestSquares(static_cast<uint32_t>(n), sums.squares));
      EXPECT_GE(squares, LeastSquares(static_cast<uint32_t>(n), sums.squares));
      least = std::min(least, squares);
      most = std::max(most, squares);
    }
    EXPECT_LE(most, LargestSquares(static_cast<uint32_t>(n), range.most));
    EXPECT_GE(most, LeastSquares(static_cast<uint32_t>(n), range.most));
    EXPECT_LE(least, LargestSquares(static_cast<uint32_t>(n), range.least));
    EXPECT_GE(least, LeastSquares(static_cast<uint32_t>(n), range.least));
  }
}

TEST(ReduceTest, WidensEveryDtype) {
  for (const DType dtype :
       {DType::kFloat32, DType::kFloat16, DType::kBFloat16, DType::kFloat64, DType::kInt8}) {
    for (const uint32_t dim : {1u, 7u, 8u, 9u, 40u}) {
      const SharedMatrix row = testing::RandomNormal(1, dim, dim, dtype);
      std::vector<double> got(dim + 1, 77.0), expected(dim);
      ToFloat64(row.view.row(0), dtype, dim, expected.data());
      double largest = 0.0;
      for (const double x : expected) largest = std::max(largest, std::abs(x));
      EXPECT_EQ(Widen(row.view.row(0), dtype, dim, got.data()), largest);
      EXPECT_EQ(got.back(), 77.0);
      got.pop_back();
      EXPECT_EQ(got, expected);
    }
  }
}

TEST(ReduceTest, LargestByColumnIsThatOfTheObviousLoop) {
  Random random(16);
  for (const int rows : {1, 2, 33}) {
    for (const int columns : {1, 2, 4, 8, 9, 16, 100, 256}) {
      AlignedArray<int32_t> scores;
      scores.Reserve(rows * columns + kScoresPadding);
      for (int i = 0; i < rows * columns; ++i) scores.data()[i] = static_cast<int>(random.Next() % 20) - 10;
      LargestScores largest;
      LargestByColumn(scores.data(), rows, columns, largest);
      for (int c = 0; c < columns; ++c) {
        int best = 0;
        for (int r = 1; r < rows; ++r) {
          if (scores.data()[r * columns + c] > scores.data()[best * columns + c]) best = r;
        }
        ASSERT_EQ(largest.row[c], best);
        ASSERT_EQ(largest.score[c], scores.data()[best * columns + c]);
      }
    }
  }
}

TEST(ReduceTest, LargestOfGroupsAndAboutTheKthOfThese) {
  constexpr int kGroups = 50, kRows = 3;
  Random random(17);
  for (const int columns : {1, 8, 16, 40}) {
    AlignedArray<int32_t> scores;
    scores.Reserve(kGroups * kRows * columns + kScoresPadding);
    for (int i = 0; i < kGroups * kRows * columns; ++i)
      scores.data()[i] = static_cast<int>(random.Next() % 2000);
    std::vector<float> offset(columns + kColumnsTogether);
    for (int c = 0; c < columns; ++c) offset[c] = static_cast<float>(c);
    const size_t stride = kGroups * kColumnsTogether;
    std::vector<float> largest((columns / kColumnsTogether + 1) * stride);
    for (int g = 0; g < kGroups; ++g) {
      LargestOfGroup(scores.data() + g * kRows * columns, kRows, columns, offset.data(), 0.5f, stride,
                     largest.data() + g * kColumnsTogether);
    }
    for (int c = 0; c < columns; ++c) {
      std::vector<float> expected;
      for (int g = 0; g < kGroups; ++g) {
        int32_t most = 0;
        for (int r = 0; r < kRows; ++r) most = std::max(most, scores.data()[(g * kRows + r) * columns + c]);
        expected.push_back(static_cast<float>(most - c) * 0.5f);
        ASSERT_EQ(largest[c / kColumnsTogether * stride + g * kColumnsTogether + c % kColumnsTogether],
                  expected.back());
      }
      const int wanted = 1 + static_cast<int>(random.Next() % kGroups);
      const std::vector<int32_t> all_wanted(kColumnsTogether, wanted);
      std::vector<float> kth(kColumnsTogether);
      KthLargest(largest.data() + c / kColumnsTogether * stride, kGroups, kColumnsTogether, all_wanted.data(),
                 kth.data());
      const float got = kth[c % kColumnsTogether];
      const auto larger = std::count_if(expected.begin(), expected.end(), [&](float x) { return x > got; });
      const bool is_least = got == *std::min_element(expected.begin(), expected.end());
      EXPECT_TRUE(is_least || larger >= wanted);
      EXPECT_LE(larger, wanted + 2);  // numbers that lie closer than the last step
    }
  }
}

TEST(ReduceTest, ScalesRowsByPowersOfTwo) {
  for (const size_t n : {1, 7, 8, 9, 33}) {
    std::vector<double> x(n);
    for (size_t i = 0; i < n; ++i) x[i] = (1.0 + static_cast<double>(i)) * 0x1p-900;
    std::vector<float> to(n);
    const double squares = ScaleToFloat32(x.data(), n, 0x1p900, to.data());
    double expected = 0.0;
    for (size_t i = 0; i < n; ++i) {
      EXPECT_EQ(to[i], static_cast<float>(i + 1));
      expected += (i + 1.0) * (i + 1.0);
    }
    EXPECT_EQ(squares, expected);
  }
}

// By vectors or one by one, to the bit.
TEST(ReduceTest, ThresholdsAreThoseOfTheBounds) {
  Random random(6);
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  for (const int count : {1, 2, 7, 8, 9, 256}) {
    std::vector<double> columns[6];
    for (auto& column : columns) {
      for (int c = 0; c < count; ++c) column.push_back(std::abs(random.Normal()));
    }
    columns[0][0] = -kInfinity;
    columns[0][count - 1] = kInfinity;
    columns[0][count / 2] = 1e300;
    std::vector<int32_t> thresholds(count);
    Int8Thresholds({columns[0].data(), columns[1].data(), columns[2].data(), columns[3].data(),
                    columns[4].data(), columns[5].data()},
                   count, 3.5, 0.25, 0.01, thresholds.data());
    for (int c = 0; c < count; ++c) {
      const double error = CodeError(columns[1][c], columns[2][c], columns[3][c], 3.5, 0.25, 0.01);
      EXPECT_EQ(thresholds[c],
                Int8Threshold(columns[0][c], error, 1.0 / 0.01 * columns[4][c], columns[5][c]));
    }
  }
}

TEST(ReduceTest, BallBoundsAreThoseOfTheBounds) {
  Random random(7);
  for (const int count : {1, 7, 8, 9, 256}) {
    std::vector<int32_t> scores(count);
    for (int32_t& score : scores) score = static_cast<int32_t>(1e6 * random.Normal());
    std::vector<double> columns[8];
    for (auto& column : columns) {
      for (int q = 0; q < count; ++q) column.push_back(std::abs(random.Normal()));
    }
    std::vector<double> most(count), bounds(count);
    MostOfCentre(
        scores.data(),
        {columns[0].data(), columns[1].data(), columns[2].data(), columns[3].data(), columns[4].data()},
        count, 3.5, 0.25, 0.01, most.data());
    std::vector<float> reaches(columns[5].begin(), columns[5].end());
    // Where the pivot says nothing: it is far away, or there is none.
    reaches[0] = std::numeric_limits<float>::infinity();
    columns[6][count / 2] = 0.0;
    BallBounds(most.data(), {columns[5].data(), columns[6].data(), columns[7].data(), reaches.data()}, count,
               0.7, bounds.data());
    for (int q = 0; q < count; ++q) {
      const double centre = (scores[q] - columns[1][q]) * columns[0][q] * 0.01;
      const double error = CodeError(columns[2][q], columns[3][q], columns[4][q], 3.5, 0.25, 0.01);
      EXPECT_EQ(most[q], BallBound(centre, error, 0.0));
      const double spread = BallSpread(columns[5][q], 0.7, columns[6][q], reaches[q], columns[7][q]);
      EXPECT_EQ(bounds[q], BallBound(most[q], 0.0, spread));
      EXPECT_LE(spread, columns[5][q] * 0.7);
    }
  }
}

TEST(ReduceTest, SelectsWhatReachesInOrder) {
  Random random(8);
  for (const size_t count : {0, 1, 7, 8, 9, 16, 100}) {
    std::vector<double> bounds, least;
    std::vector<uint32_t> expected;
    for (uint32_t i = 0; i < count; ++i) {
      bounds.push_back(random.Normal());
      least.push_back(i % 5 == 0 ? bounds[i] : 0.5);  // equal reaches
      if (i % 7 == 3) bounds[i] = std::numeric_limits<double>::quiet_NaN();
      if (bounds[i] >= least[i]) expected.push_back(i);
    }
    std::vector<uint32_t> reaching(count + kSurvivorPadding);
    reaching.resize(SelectReaching(bounds.data(), least.data(), count, reaching.data()));
    EXPECT_EQ(reaching, expected);
  }
}

}  // namespace
}  // namespace dotmax
