#include "server/engine/supports.h"

#include <algorithm>
#include <cstdint>
#include <numeric>
#include <vector>

#include "gtest/gtest.h"
#include "server/base/dtype.h"
#include "tests/data.h"

namespace dotmax {
namespace {

using testing::MakeMatrix;
using testing::Random;

// `marks` elements of each row that are not 0, some -0.0, and the rest 0.
std::vector<double> Marked(Random& random, uint64_t rows, uint32_t dim, int marks) {
  std::vector<double> values(rows * dim);
  for (uint64_t r = 0; r < rows; ++r) {
    double* const row = values.data() + r * dim;
    for (int i = 0; i < marks; ++i) {
      row[random.Next() % dim] = -0.0;
      row[random.Next() % dim] = 1.0 + random.Next() % 3;
    }
  }
  return values;
}

TEST(SupportsTest, TellWhichRowsHaveNothingInCommon) {
  constexpr uint64_t kRows = 50;
  Random random(1);
  for (const uint32_t dim : {256u, 300u, 1024u}) {
    const std::vector<double> values = Marked(random, kRows, dim, 8);
    for (const DType dtype :
         {DType::kFloat32, DType::kFloat16, DType::kBFloat16, DType::kFloat64, DType::kInt8}) {
      const Supports supports = Supports::Of(MakeMatrix(values, dim, dtype).view);
      ASSERT_EQ(supports.bytes(), kRows * (supports.words() + 1) * 8);
      std::vector<uint64_t> bits(supports.words());
      int apart = 0;
      for (uint64_t a = 0; a < kRows; ++a) {
        const double* const row = values.data() + a * dim;
        EXPECT_EQ(supports.squares(a), std::inner_product(row, row + dim, row, 0.0));
        Supports::Find({row, dim}, bits.data());
        for (uint64_t b = 0; b < kRows; ++b) {
          double most = 0.0;
          for (uint32_t i = 0; i < dim; ++i) most = std::max(most, row[i] * values[b * dim + i]);
          EXPECT_EQ(supports.IsApart(b, bits.data()), most == 0.0) << a << ", " << b;
          apart += most == 0.0 ? 1 : 0;
        }
      }
      EXPECT_GT(apart, 100);
    }
  }
}

// What float32 would take for 0 is not.
TEST(SupportsTest, TheSmallestNumbersAreNotZero) {
  std::vector<double> values(2 * 256);
  values[255] = values[256 + 255] = 0x1p-1074;
  const Supports supports = Supports::Of(MakeMatrix(values, 256, DType::kFloat64).view);
  std::vector<uint64_t> bits(supports.words());
  Supports::Find({values.data(), 256}, bits.data());
  EXPECT_FALSE(supports.IsApart(1, bits.data()));
}

TEST(SupportsTest, NoneOfFullOrShortRows) {
  Random random(1);
  EXPECT_TRUE(Supports::Of(testing::RandomNormal(100, 300, 1).view).empty());
  EXPECT_TRUE(Supports::Of(MakeMatrix(Marked(random, 100, 300, 100), 300).view).empty());
  EXPECT_TRUE(Supports::Of(MakeMatrix(Marked(random, 100, 100, 2), 100).view).empty());
  EXPECT_TRUE(Supports::Of(MakeMatrix({}, 300).view).empty());
  EXPECT_FALSE(Supports::Of(MakeMatrix(Marked(random, 100, 300, 2), 300).view).empty());
}

}  // namespace
}  // namespace dotmax
