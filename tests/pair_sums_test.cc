#include "server/engine/pair_sums.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "gtest/gtest.h"
#include "server/base/dtype.h"
#include "server/engine/bound.h"
#include "tests/data.h"
#include "tests/oracle.h"

namespace dotmax {
namespace {

TEST(PairSumsTest, CheckDotOfEveryDtypeSizeAndAddressIsWithinItsError) {
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

TEST(PairSumsTest, Float32DotsOfEverySizeAreWithinTheirError) {
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

TEST(PairSumsTest, CheckDotThatOverflowsIsNotFinite) {
  const SharedMatrix a = testing::MakeMatrix({1e300, 1e300}, 2, DType::kFloat64);
  const SharedMatrix b = testing::MakeMatrix({1e300, -1e300}, 2, DType::kFloat64);
  std::vector<double> wide = {1e300, 1e300};
  const DotSums dot = CheckDot(wide.data(), b.view.data, DType::kFloat64, 2);
  EXPECT_FALSE(std::isfinite(dot.sum_abs));
}

// Within their errors, and the same as the obvious loop but for the order.
TEST(PairSumsTest, ChecksOfOtherMetricsAreWithinTheirErrors) {
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

TEST(PairSumsTest, ChecksOfOtherMetricsThatOverflowAreNotFinite) {
  const std::vector<double> a = {1e300, 1.0}, b = {1e200, -1e300};
  const std::byte* const row = reinterpret_cast<const std::byte*>(b.data());
  EXPECT_FALSE(std::isfinite(CheckDotAndSquares(a.data(), row, DType::kFloat64, 2).squares));
  EXPECT_FALSE(std::isfinite(CheckSquaredDistance(a.data(), row, DType::kFloat64, 2)));
  EXPECT_FALSE(std::isfinite(Float64DistanceError(2)(std::numeric_limits<double>::infinity())));
}

TEST(PairSumsTest, WidensEveryDtype) {
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

}  // namespace
}  // namespace dotmax
