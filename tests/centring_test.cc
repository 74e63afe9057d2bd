#include "server/engine/centring.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "gtest/gtest.h"
#include "tests/data.h"

namespace dotmax {
namespace {

using testing::MakeMatrix;
using testing::Random;

constexpr uint32_t kDim = 16;

std::vector<double> Lifted(const Centring& centring, const std::vector<float>& x, bool is_query) {
  std::vector<float> to(centring.lifted_dim());
  is_query ? centring.LiftQuery(x.data(), to.data()) : centring.LiftRow(x.data(), to.data());
  return {to.begin(), to.end()};
}

double Dot(const std::vector<double>& a, const std::vector<double>& b) {
  double sum = 0.0;
  for (size_t i = 0; i < a.size(); ++i) sum += a[i] * b[i];
  return sum;
}

double Largest(const std::vector<double>& x, size_t first, size_t end) {
  double largest = 0.0;
  for (size_t i = first; i < end; ++i) largest = std::max(largest, std::abs(x[i]));
  return largest;
}

// Rows about one direction; dim is not a multiple of what kernels take at once.
std::vector<float> AboutMean(Random& random, uint32_t dim) {
  std::vector<float> row(dim);
  for (uint32_t i = 0; i < dim; ++i) row[i] = static_cast<float>(1.0 + 0.1 * (i % 3) + 0.6 * random.Normal());
  return row;
}

TEST(CentringTest, LiftsKeepInnerProductsAndNoCoordinateStandsOut) {
  for (const uint32_t dim : {1u, 6u, 31u, 400u}) {
    Random random(dim);
    std::vector<double> values;
    for (int i = 0; i < 500; ++i) {
      const std::vector<float> row = AboutMean(random, dim);
      values.insert(values.end(), row.begin(), row.end());
    }
    const Centring centring = Centring::Of(MakeMatrix(values, dim).view);
    EXPECT_EQ(centring.dim(), dim);
    EXPECT_EQ(centring.lifted_dim() % 4, 0);
    EXPECT_LE(centring.lifted_dim(), dim + std::max(dim / 8, 1u) + 3);
    EXPECT_NEAR(centring.share(), 1.22 / (1.22 + 0.36), 0.1);
    for (int i = 0; i < 20; ++i) {
      std::vector<float> query = AboutMean(random, dim);
      const std::vector<float> row = AboutMean(random, dim);
      if (i % 2 == 0) {
        for (float& x : query) x = static_cast<float>(random.Normal());  // anywhere
      }
      double exact = 0.0, centre = 0.0, query_squares = 0.0, row_squares = 0.0;
      for (uint32_t j = 0; j < dim; ++j) {
        exact += static_cast<double>(query[j]) * row[j];
        centre += static_cast<double>(query[j]) * centring.centre()[j];
        query_squares += static_cast<double>(query[j]) * query[j];
        row_squares += static_cast<double>(row[j]) * row[j];
      }
      const std::vector<double> x = Lifted(centring, query, true), y = Lifted(centring, row, false);
      const double error = std::sqrt(Dot(x, x)) * centring.RowError(std::sqrt(row_squares)) +
                           std::sqrt(Dot(y, y)) * centring.QueryError(std::sqrt(query_squares));
      EXPECT_NEAR(Dot(x, y) + centre, exact, error + 1e-12 * std::abs(exact));
      EXPECT_LT(error, 1e-5 * std::sqrt(query_squares * row_squares) + 1e-6);
      if (dim < 31) continue;
      EXPECT_LE(Largest(y, dim, y.size()), 3.0 * Largest(y, 0, dim));
      EXPECT_LE(Largest(x, dim, x.size()), 3.0 * Largest(x, 0, dim));
    }
  }
}

TEST(CentringTest, ShareIsThatOfTheMean) {
  EXPECT_LT(Centring::Of(testing::RandomNormal(2000, 50, 1).view).share(), 0.01);
  EXPECT_NEAR(Centring::Of(MakeMatrix(std::vector<double>(60, 0.25), 6).view).share(), 1.0, 1e-6);
  EXPECT_EQ(Centring::Of(MakeMatrix(std::vector<double>(60, 0.0), 6).view).share(), 0.0);
}

// Rows of 64 in all coordinates, one of them more: their mean is 64 to float32, their direction 1/4.
Centring AboutEqual(double more) {
  std::vector<double> values(4096 * kDim, 64.0);
  for (size_t i = 0; i < values.size(); ++i)
    values[i] += (i + i / kDim) % 2 == 0 ? 0.25 : -0.25;  // across it
  for (uint32_t i = 0; i < kDim; ++i) values[i] += more;
  Centring centring = Centring::Of(MakeMatrix(values, kDim).view);
  EXPECT_NEAR(centring.centre()[0], 64.0, 1e-3);
  return centring;
}

// What float32 rounds away of a row or query, of which all coordinates are off by as much, is in the errors.
TEST(CentringTest, RoundingIsCounted) {
  const Centring centring = AboutEqual(0x1p-12);
  const double norm = 4.0 * 64.3;
  const double rounded = 0x1.fp-19;  // of 64 and up
  EXPECT_GE(centring.RowError(norm), 4.0 * rounded);
  EXPECT_GE(centring.QueryError(norm), 4.0 * rounded);
  // A row that is as much as that off in all coordinates is k times its length off in each of the copies.
  std::vector<float> row(centring.centre());
  const float at = static_cast<float>(Lifted(centring, row, false).back());
  for (float& x : row) x += 0x1p-10f;
  const double scale = (Lifted(centring, row, false).back() - at) / (4.0 * 0x1p-10);
  EXPECT_GT(scale, 100.0);
  EXPECT_GE(centring.RowError(norm), std::sqrt(centring.lifted_dim() - kDim) * scale * 4.0 * rounded);
}

TEST(CentringTest, UnderflowIsCounted) {
  const Centring centring = Centring::Of(MakeMatrix(std::vector<double>(2 * kDim, 0.0), kDim).view);
  const double x = 0x1.7p-149;  // float32: 2^-149
  EXPECT_GE(centring.RowError(4.0 * x), 4.0 * (x - 0x1p-149));
  EXPECT_GE(centring.QueryError(4.0 * x), 4.0 * (x - 0x1p-149));
}

}  // namespace
}  // namespace dotmax
