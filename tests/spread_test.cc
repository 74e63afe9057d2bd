#include "server/engine/spread.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <memory>
#include <numeric>
#include <vector>

#include "absl/types/span.h"
#include "gtest/gtest.h"
#include "tests/data.h"

namespace dotmax {
namespace {

using testing::Random;

// Of every kind of block, alone and with others.
constexpr uint32_t kDims[] = {1, 3, 4, 5, 15, 16, 21, 64, 100, 256, 300, 768, 1024, 1365, 1536, 2500};

// The columns of S, from unit vectors: powers of two, so that nothing is rounded.
std::vector<std::vector<float>> Columns(const Spread& spread) {
  std::vector<std::vector<float>> columns(spread.dim(), std::vector<float>(spread.dim()));
  for (uint32_t i = 0; i < spread.dim(); ++i) {
    columns[i][i] = 1.0f;
    spread.Apply(columns[i].data());
  }
  return columns;
}

double Dot(const std::vector<float>& a, const std::vector<float>& b) {
  double sum = 0.0;
  for (size_t i = 0; i < a.size(); ++i) sum += static_cast<double>(a[i]) * b[i];
  return sum;
}

TEST(SpreadTest, IsOrthogonal) {
  for (const uint32_t dim : kDims) {
    const std::vector<std::vector<float>> columns = Columns(Spread(dim));
    for (uint32_t i = 0; i < dim; ++i) {
      for (uint32_t j = i; j < dim; j += 1 + dim / 50) {  // sums of powers of two
        ASSERT_EQ(Dot(columns[i], columns[j]), i == j ? 1.0 : 0.0) << dim << ": " << i << ", " << j;
      }
    }
  }
}

TEST(SpreadTest, RoundingStaysWithinItsError) {
  Random random(2);
  for (const uint32_t dim : {4, 21, 300, 1024}) {
    const Spread spread(dim);
    const std::vector<std::vector<float>> columns = Columns(spread);
    for (int round = 0; round < 20; ++round) {
      const double spans = round % 4 == 0 ? 30.0 : 0.0;  // of magnitudes
      std::vector<float> row(dim);
      for (float& x : row) x = static_cast<float>(random.Normal() * std::exp2(-spans * random.Uniform()));
      std::vector<double> expected(dim);
      for (uint32_t i = 0; i < dim; ++i) {
        for (uint32_t j = 0; j < dim; ++j) expected[j] += static_cast<double>(columns[i][j]) * row[i];
      }
      const double length = std::sqrt(Dot(row, row));
      spread.Apply(row.data());
      double squares = 0.0;
      for (uint32_t j = 0; j < dim; ++j) squares += (row[j] - expected[j]) * (row[j] - expected[j]);
      EXPECT_LE(std::sqrt(squares), spread.Error(length)) << dim;
      EXPECT_GE(std::sqrt(squares), 0.005 * spread.Error(length)) << dim;
    }
  }
}

TEST(SpreadTest, NothingIsLargeAfterwards) {
  Spread spread(768);
  for (uint32_t at : {0, 5, 767}) {
    std::vector<float> row(768);
    row[at] = 16.0f;
    spread.Apply(row.data());
    for (const float x : row) EXPECT_LE(std::abs(x), 1.0f);
  }
  std::vector<float> even(768, 1.0f);
  spread.Apply(even.data());
  for (const float x : even) EXPECT_LE(std::abs(x), 5.0f);
}

TEST(SpreadTest, ServesWhereSomeElementsAreLarge) {
  std::vector<uint32_t> ids(500);
  std::iota(ids.begin(), ids.end(), 0);
  SharedMatrix rows = testing::RandomNormal(500, 96, 3);
  EXPECT_EQ(Spread::IfCloser(rows.view, ids, nullptr), nullptr);
  std::vector<double> elements(500 * 96);
  Random random(4);
  for (size_t i = 0; i < elements.size(); ++i) elements[i] = random.Normal() * (i % 96 == 17 ? 20.0 : 1.0);
  rows = testing::MakeMatrix(elements, 96);
  const std::shared_ptr<const Spread> spread = Spread::IfCloser(rows.view, ids, nullptr);
  ASSERT_NE(spread, nullptr);
  EXPECT_EQ(spread->dim(), 96);
  // One row is a sample, too.
  EXPECT_NE(Spread::IfCloser(rows.view, absl::MakeConstSpan(ids).first(1), nullptr), nullptr);
}

}  // namespace
}  // namespace dotmax
