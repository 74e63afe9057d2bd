#include "server/engine/deflation.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <vector>

#include "gtest/gtest.h"
#include "server/base/dtype.h"
#include "server/engine/bound.h"
#include "tests/data.h"

namespace dotmax {
namespace {

using testing::MakeMatrix;
using testing::Random;

long double DotOf(const std::vector<double>& a, const std::vector<double>& b) {
  long double sum = 0.0;
  for (size_t i = 0; i < a.size(); ++i) sum += static_cast<long double>(a[i]) * b[i];
  return sum;
}

std::vector<double> RowOf(const MatrixView& rows, uint64_t r) {
  std::vector<double> row(rows.dim);
  ToFloat64(rows.row(r), rows.dtype, rows.dim, row.data());
  return row;
}

double NormOf(const std::vector<double>& x) {
  return NormUpperBound(static_cast<uint32_t>(x.size()), static_cast<double>(DotOf(x, x)));
}

struct Split {
  double along;
  std::vector<double> rest;
  double error;
};

Split SplitOf(const Deflation& deflation, const MatrixView& rows, uint64_t r, bool is_query) {
  std::vector<float> rest(rows.dim);
  const std::vector<double> row = RowOf(rows, r);
  const double along = is_query ? deflation.SplitQuery(row.data(), 1.0, rest.data())
                                : deflation.SplitRow(rows.row(r), rows.dtype, rest.data());
  Split split = {along, {rest.begin(), rest.end()}, 0.0};
  split.error = deflation.Error(NormOf(row), std::sqrt(static_cast<double>(DotOf(split.rest, split.rest))));
  return split;
}

// Rows of lengths that differ, about one direction or its opposite.
SharedMatrix AboutDirection(uint64_t rows, uint32_t dim, uint64_t seed, DType dtype = DType::kFloat32) {
  Random random(seed);
  std::vector<double> values;
  for (uint64_t r = 0; r < rows; ++r) {
    const double length = (r % 2 == 0 ? 8.0 : -8.0) * (1.0 + r % 3);
    for (uint32_t i = 0; i < dim; ++i)
      values.push_back(length * (1.0 + 0.1 * (i % 3) + 0.05 * random.Normal()));
  }
  return MakeMatrix(values, dim, dtype);
}

// What is left of a row and a query, and their parts along the direction, make their inner product.
TEST(DeflationTest, PartsMakeInnerProducts) {
  for (const DType dtype : {DType::kFloat32, DType::kFloat64, DType::kFloat16, DType::kInt8}) {
    for (const uint32_t dim : {1u, 6u, 31u, 400u}) {
      const SharedMatrix rows = AboutDirection(500, dim, 1, dtype);
      const Deflation deflation = Deflation::Of(rows.view);
      EXPECT_EQ(deflation.dim(), dim);
      EXPECT_GT(deflation.share(), 0.98);
      for (const SharedMatrix& queries :
           {AboutDirection(20, dim, 2, dtype), testing::RandomNormal(20, dim, 3, dtype)}) {
        for (uint64_t q = 0; q < queries.view.rows; ++q) {
          const std::vector<double> query = RowOf(queries.view, q), row = RowOf(rows.view, q);
          const Split a = SplitOf(deflation, queries.view, q, true),
                      b = SplitOf(deflation, rows.view, q, false);
          const double error = NormOf(a.rest) * b.error + NormOf(b.rest) * a.error + a.error * b.error +
                               AlongError(dim, NormOf(query), NormOf(row));
          const long double parts = DotOf(a.rest, b.rest) + static_cast<long double>(a.along) * b.along;
          EXPECT_LE(std::abs(parts - DotOf(query, row)), error);
          EXPECT_LT(error, 1e-6 * NormOf(query) * NormOf(row) + 1e-30);
          // All that is left is across the direction.
          EXPECT_LT(NormOf(b.rest), 0.1 * NormOf(row));
        }
      }
    }
  }
}

TEST(DeflationTest, ShareIsThatOfTheDirection) {
  EXPECT_LT(Deflation::Of(testing::RandomNormal(2000, 50, 1).view).share(), 0.1);
  EXPECT_GT(Deflation::Of(testing::RandomNormal(2000, 50, 1).view).remaining_error(), 0.9);
  const Deflation equal = Deflation::Of(MakeMatrix(std::vector<double>(60, 0.25), 6).view);
  EXPECT_NEAR(equal.share(), 1.0, 1e-6);
  EXPECT_LT(equal.remaining_error(), 1e-6);
  const Deflation zeros = Deflation::Of(MakeMatrix(std::vector<double>(60, 0.0), 6).view);
  EXPECT_EQ(zeros.share(), 0.0);
  std::array<float, 6> rest;
  EXPECT_EQ(zeros.SplitQuery(std::array<double, 6>{1, 2, 3, 4, 5, 6}.data(), 0.5, rest.data()), 0.0);
  EXPECT_EQ(rest[5], 3.0f);
}

// What float32 rounds away of what is left, in the worst case of all coordinates by as much, is in the error.
TEST(DeflationTest, RoundingIsCounted) {
  constexpr uint32_t kDim = 16;
  // Along the first axis: nothing is taken from others.
  std::vector<double> values(kDim);
  values[0] = 1.0;
  const Deflation deflation = Deflation::Of(MakeMatrix(values, kDim).view);
  std::vector<double> query(kDim, 1.0 + 0x1.fp-25);
  query[0] = 0.0;
  std::vector<float> rest(kDim);
  deflation.SplitQuery(query.data(), 1.0, rest.data());
  double lost = 0.0, squares = 0.0;
  for (uint32_t i = 0; i < kDim; ++i) {
    lost += std::pow(query[i] - rest[i], 2);
    squares += std::pow(rest[i], 2);
  }
  EXPECT_GT(lost, 0.0);
  EXPECT_GE(deflation.Error(NormOf(query), std::sqrt(squares)), std::sqrt(lost));
  for (double& x : query) x *= 0x1p-149 * 0.49;  // float32: 0
  deflation.SplitQuery(query.data(), 1.0, rest.data());
  EXPECT_EQ(rest[1], 0.0f);
  EXPECT_GE(deflation.Error(NormOf(query), 0.0), NormOf(query));
}

// Sums that err as much as sums of so many terms may, and a row's part that float32 rounds.
TEST(DeflationTest, PartsAlongAreLessThanScores) {
  constexpr uint32_t kDim = 100;
  const double query_norm = 3.0, row_norm = 5.0;
  EXPECT_GE(AlongError(kDim, query_norm, row_norm), 4.0 * kDim * 0x1p-53 * query_norm * row_norm);
  EXPECT_LT(AlongError(kDim, query_norm, row_norm), 10.0 * kDim * 0x1p-53 * query_norm * row_norm);
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  const std::vector<double> along = {2.0, -2.0, 2.0}, norms = {3.0, 3.0, 3.0};
  std::vector<double> scores = {1.0, 1.0, kInfinity};
  LessAlong(along.data(), norms.data(), 3, {4.0, 4.0 + 0x1p10, {}}, kDim, row_norm, scores.data());
  const double rounded = 0x1p10 * 0x1p-24 * 2.0;  // of the largest part that is more than 4
  EXPECT_LE(scores[0], 1.0 - 8.0 - rounded);
  EXPECT_GE(scores[0], 1.0 - 8.0 - 1.01 * rounded);
  EXPECT_LE(scores[1], 1.0 + 8.0 - rounded);
  EXPECT_EQ(scores[2], kInfinity);
}

}  // namespace
}  // namespace dotmax
