#include "server/engine/rotate.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "gtest/gtest.h"
#include "server/engine/bound.h"
#include "tests/data.h"

namespace dotmax {
namespace {

using testing::Random;
using testing::RandomNormal;

double Length(const std::vector<double>& x) {
  double squares = 0.0;
  for (const double v : x) squares += v * v;
  return std::sqrt(squares);
}

std::vector<double> Apply(const Axes& axes, const std::vector<double>& x) {
  std::vector<double> y(axes.count);
  for (uint32_t i = 0; i < axes.count; ++i) {
    for (uint32_t c = 0; c < axes.dim; ++c) y[i] += double{axes.directions[i * axes.dim + c]} * x[c];
  }
  return y;
}

// Rows with standard deviation 1 / (c + 1) along a rotated axis c.
SharedMatrix Decaying(uint64_t rows, uint32_t dim, uint64_t seed) {
  Random random(seed);
  std::vector<double> values(rows * dim);
  for (uint64_t r = 0; r < rows; ++r) {
    double* const x = values.data() + r * dim;
    for (uint32_t c = 0; c < dim; ++c) x[c] = random.Normal() / (c + 1);
    for (uint32_t c = 0; c + 1 < dim; ++c) {  // Givens rotations
      const double a = x[c], b = x[c + 1];
      x[c] = 0.6 * a - 0.8 * b;
      x[c + 1] = 0.8 * a + 0.6 * b;
    }
  }
  return testing::MakeMatrix(values, dim);
}

TEST(RotateTest, AxesAreAContraction) {
  Random random(1);
  for (const uint64_t rows : {1, 5, 3000}) {  // fewer rows than axes, too
    const SharedMatrix matrix = Decaying(rows, 40, rows);
    const auto axes = PrincipalAxes(matrix.view, 16);
    ASSERT_TRUE(axes.ok()) << axes.status();
    for (int round = 0; round < 200; ++round) {
      std::vector<double> x(40);
      for (double& v : x) v = random.Normal();
      EXPECT_LE(Length(Apply(*axes, x)), Length(x));
      // The worst case: a vector within their span.
      std::vector<double> inside(40);
      const std::vector<double> y = Apply(*axes, x);
      for (uint32_t i = 0; i < 16; ++i) {
        for (uint32_t c = 0; c < 40; ++c) inside[c] += y[i] * axes->directions[i * 40 + c];
      }
      EXPECT_LE(Length(Apply(*axes, inside)), Length(inside));
    }
  }
}

TEST(RotateTest, AxesHoldMostOfTheLength) {
  const SharedMatrix matrix = Decaying(5000, 40, 3);
  const auto axes = PrincipalAxes(matrix.view, 8);
  ASSERT_TRUE(axes.ok());
  double kept = 0.0, all = 0.0;
  for (uint64_t r = 0; r < 1000; ++r) {
    const float* const row = reinterpret_cast<const float*>(matrix.view.row(r));
    const std::vector<double> x(row, row + 40);
    const double before = Length(x), after = Length(Apply(*axes, x));
    all += before * before;
    kept += after * after;
  }
  double best = 0.0, total = 0.0;  // of the true axes
  for (int c = 0; c < 40; ++c) {
    total += 1.0 / ((c + 1) * (c + 1));
    if (c < 8) best += 1.0 / ((c + 1) * (c + 1));
  }
  EXPECT_GT(kept / all, best / total - 0.01);
}

TEST(RotateTest, ZerosHaveAxesToo) {
  const auto axes = PrincipalAxes(testing::MakeMatrix(std::vector<double>(100 * 8, 0.0), 8).view, 4);
  ASSERT_TRUE(axes.ok()) << axes.status();
  for (const float x : axes->directions) EXPECT_TRUE(std::isfinite(x));
}

TEST(RotateTest, ProjectionsAreWithinTheirError) {
  const SharedMatrix matrix = Decaying(64, 40, 5);
  const auto axes = PrincipalAxes(matrix.view, 12);
  ASSERT_TRUE(axes.ok());
  auto projector = Projector::Create(*axes, 64);
  ASSERT_TRUE(projector.ok());
  const float* const y = projector->Project(reinterpret_cast<const float*>(matrix.view.data));
  for (uint64_t r = 0; r < 64; ++r) {
    const float* const row = reinterpret_cast<const float*>(matrix.view.row(r));
    const std::vector<double> x(row, row + 40);
    std::vector<double> difference = Apply(*axes, x);
    for (int i = 0; i < 12; ++i) difference[i] -= y[r * 12 + i];
    EXPECT_LE(Length(difference), ProjectionError(40, 12, Length(x) * kOutward));
  }
}

// The same space, so the same lengths, but no coordinate above the rest.
TEST(RotateTest, MixedAxesHoldTheSameLengthEvenly) {
  const SharedMatrix matrix = Decaying(3000, 40, 4);
  const auto axes = PrincipalAxes(matrix.view, 16);
  ASSERT_TRUE(axes.ok()) << axes.status();
  for (const uint32_t count : {1u, 5u, 16u}) {
    const auto mixed = MixedAxes(*axes, count);
    ASSERT_TRUE(mixed.ok()) << mixed.status();
    ASSERT_EQ(mixed->count, count);
    double largest = 0.0, largest_mixed = 0.0;
    for (uint64_t r = 0; r < 200; ++r) {
      const float* const row = reinterpret_cast<const float*>(matrix.view.row(r));
      const std::vector<double> x(row, row + 40);
      std::vector<double> y = Apply(*axes, x);
      y.resize(count);
      const std::vector<double> z = Apply(*mixed, x);
      EXPECT_LE(Length(z), Length(x));
      EXPECT_NEAR(Length(z), Length(y), 1e-4 * Length(x));
      for (const double v : y) largest = std::max(largest, std::abs(v));
      for (const double v : z) largest_mixed = std::max(largest_mixed, std::abs(v));
    }
    if (count == 16) {
      EXPECT_LT(largest_mixed, 0.8 * largest);
    }
  }
}

// The first of them hold what the first of the others do.
TEST(RotateTest, MixedHeadsHoldTheSameLengthToo) {
  const SharedMatrix matrix = Decaying(3000, 40, 4);
  const auto axes = PrincipalAxes(matrix.view, 40);
  ASSERT_TRUE(axes.ok()) << axes.status();
  const auto mixed = MixedAxes(*axes, 40, 12);
  ASSERT_TRUE(mixed.ok()) << mixed.status();
  EXPECT_EQ(mixed->head, 12);
  for (uint64_t r = 0; r < 200; ++r) {
    const float* const row = reinterpret_cast<const float*>(matrix.view.row(r));
    const std::vector<double> x(row, row + 40);
    for (const size_t count : {12, 40}) {
      std::vector<double> y = Apply(*axes, x), z = Apply(*mixed, x);
      y.resize(count);
      z.resize(count);
      EXPECT_NEAR(Length(z), Length(y), 1e-4 * Length(x));
    }
  }
}

TEST(RotateTest, TheIdentityChangesNothing) {
  const SharedMatrix matrix = RandomNormal(8, 5, 1);
  auto projector = Projector::Create(IdentityAxes(5), 8);
  ASSERT_TRUE(projector.ok());
  const float* const rows = reinterpret_cast<const float*>(matrix.view.data);
  EXPECT_EQ(projector->Project(rows), rows);
}

}  // namespace
}  // namespace dotmax
