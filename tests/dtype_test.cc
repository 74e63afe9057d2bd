#include "server/base/dtype.h"

#include <vector>

#include "gtest/gtest.h"
#include "tests/data.h"

namespace dotmax {
namespace {

TEST(DTypeTest, OnlyZerosOfEitherSignAreZero) {
  for (const DType dtype :
       {DType::kFloat32, DType::kFloat64, DType::kFloat16, DType::kBFloat16, DType::kInt8}) {
    std::vector<double> values = {0.0, -0.0, 0.0, -0.0, 0.0};
    const auto is_zero = [&](const std::vector<double>& row) {
      const SharedMatrix matrix = testing::MakeMatrix(row, static_cast<uint32_t>(row.size()), dtype);
      return IsZero(matrix.view.row(0), dtype, row.size());
    };
    EXPECT_TRUE(is_zero(values));
    for (const double x : {1.0, -128.0, 0x1p-24}) {
      if (dtype == DType::kInt8 && x == 0x1p-24) continue;
      values[4] = x;
      EXPECT_FALSE(is_zero(values)) << x;
    }
  }
  EXPECT_TRUE(IsZero(nullptr, DType::kFloat32, 0));
}

}  // namespace
}  // namespace dotmax
