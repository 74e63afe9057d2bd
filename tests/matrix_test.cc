#include "server/engine/matrix.h"

#include <cmath>
#include <vector>

#include "gtest/gtest.h"
#include "server/base/dtype.h"
#include "tests/data.h"

namespace dotmax {
namespace {

using testing::MakeMatrix;
using testing::RandomNormal;

// The tile's rows, scaled, with nothing but float32 rounding; padded with zeros; norms above the true ones.
void ExpectTilesOf(const SharedMatrix& rows) {
  const Matrix matrix(rows);
  const MatrixView& view = rows.view;
  std::vector<float> scratch(static_cast<size_t>(matrix.tile_rows()) * view.dim);
  std::vector<double> row(view.dim);
  for (uint64_t t = 0; t < matrix.tiles(); ++t) {
    const float* tile = matrix.Float32Tile(t, scratch.data());
    const TileStats& stats = matrix.tile(t);
    for (int i = 0; i < matrix.tile_rows(); ++i) {
      const uint64_t id = t * matrix.tile_rows() + i;
      double squares = 0.0;
      if (id < view.rows) ToFloat64(view.row(id), view.dtype, view.dim, row.data());
      for (uint32_t j = 0; j < view.dim; ++j) {
        const double expected = id < view.rows ? ScaleByPowerOfTwo(row[j], -stats.exponent) : 0.0;
        ASSERT_NEAR(tile[i * view.dim + j], expected, std::abs(expected) * 0x1p-24 + 0x1p-149);
        squares += expected * expected;
      }
      EXPECT_GE(stats.norm, std::sqrt(squares) * (1 - 1e-15));
    }
  }
}

TEST(MatrixTest, TilesOfEveryDtype) {
  for (const DType dtype :
       {DType::kFloat32, DType::kFloat16, DType::kBFloat16, DType::kFloat64, DType::kInt8}) {
    ExpectTilesOf(RandomNormal(300, 7, 1, dtype));
  }
}

TEST(MatrixTest, ExtremeScalesAreBroughtIntoRange) {
  ExpectTilesOf(MakeMatrix({1e38, -3e38, 1e30, 0.0}, 2));
  ExpectTilesOf(MakeMatrix({1e-38, -1e-44, 1e-40, 0.0}, 2));
  ExpectTilesOf(MakeMatrix({1e300, -1e308, 1e290, 0.0}, 2, DType::kFloat64));
  ExpectTilesOf(MakeMatrix({1e-300, 5e-324, 0.0, 0.0}, 2, DType::kFloat64));
}

TEST(MatrixTest, OrdinaryFloat32IsScreenedWhereItLies) {
  const SharedMatrix rows = RandomNormal(512, 8, 1);
  const Matrix matrix(rows, {.kind = ScreenOptions::Kind::kFloat32});
  ASSERT_EQ(matrix.tiles(), 2);
  EXPECT_EQ(matrix.screen(), "float32");
  EXPECT_EQ(reinterpret_cast<const std::byte*>(matrix.Float32Tile(1, nullptr)), rows.view.row(256));
  EXPECT_LT(matrix.resident_bytes(), rows.view.bytes() + 1024);
}

TEST(MatrixTest, NoRowsGiveNoTiles) { EXPECT_EQ(Matrix(RandomNormal(0, 8, 1)).tiles(), 0); }

TEST(MatrixTest, WideRowsMakeShortTiles) {
  const Matrix matrix(RandomNormal(40, kMaxDim, 1, DType::kInt8));
  EXPECT_EQ(matrix.tile_rows(), 16);
  EXPECT_EQ(matrix.tiles(), 3);
}

TEST(MatrixTest, PowersOfTwoScaleExactly) {
  EXPECT_EQ(ScaleByPowerOfTwo(3.0, 1023), 3.0 * 0x1p1023);
  EXPECT_EQ(ScaleByPowerOfTwo(0x1p1000, -2000), 0x1p-1000);
  EXPECT_EQ(ScaleByPowerOfTwo(0x1p-1074, 2000), 0x1p926);
  EXPECT_EQ(ScreenExponent(0.0), 0);
  EXPECT_EQ(ScreenExponent(1.5), 0);
  EXPECT_EQ(ScreenExponent(0x1p-1074), -1000);
}

}  // namespace
}  // namespace dotmax
