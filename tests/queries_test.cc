#include "client/cli/queries.h"

#include <cmath>
#include <cstring>
#include <vector>

#include "gtest/gtest.h"

namespace dotmax {
namespace {

std::vector<float> Values(const SharedMatrix& matrix) {
  std::vector<float> values(matrix.view.rows * matrix.view.dim);
  std::memcpy(values.data(), matrix.view.data, matrix.view.bytes());
  return values;
}

TEST(StandardNormalRowsTest, AreTheSameForTheSameSeedOnly) {
  const SharedMatrix rows = StandardNormalRows(7, 5, 1);
  EXPECT_EQ(rows.view.rows, 7u);
  EXPECT_EQ(rows.view.dim, 5u);
  EXPECT_EQ(rows.view.dtype, DType::kFloat32);
  EXPECT_EQ(Values(rows), Values(StandardNormalRows(7, 5, 1)));
  EXPECT_NE(Values(rows), Values(StandardNormalRows(7, 5, 2)));
  // mt19937_64's first two numbers for seed 1 are 2469588189546311528 and 2516265689700432462.
  EXPECT_FLOAT_EQ(Values(rows)[0], std::sqrt(-2 * std::log(0.13387664401253269)) *
                                       std::cos(2 * 3.141592653589793 * 0.13640703636619728));
}

TEST(StandardNormalRowsTest, AreStandardNormal) {
  const std::vector<float> values = Values(StandardNormalRows(1000, 100, 3));
  double sum = 0, squares = 0, beyond = 0;
  for (const float value : values) {
    sum += value;
    squares += value * value;
    beyond += value > 1.959964f;
  }
  const double count = static_cast<double>(values.size());
  EXPECT_NEAR(sum / count, 0, 0.02);
  EXPECT_NEAR(squares / count, 1, 0.02);
  EXPECT_NEAR(beyond / count, 0.025, 0.003);
}

}  // namespace
}  // namespace dotmax
