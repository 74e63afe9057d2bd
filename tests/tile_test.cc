#include "server/engine/tile.h"

#include <cmath>
#include <vector>

#include "gtest/gtest.h"
#include "server/engine/aligned.h"
#include "server/engine/bound.h"
#include "tests/data.h"

namespace dotmax {
namespace {

TEST(TileTest, ScoresAreDotProductsWithinTheScreenError) {
  for (const auto& [rows, dim, columns] :
       {std::array{16, 1, 1}, {256, 7, 4}, {256, 100, 16}, {256, 100, 96}, {16, 5000, 256}}) {
    const auto matmul = TileMatmul::Create(rows, dim, columns);
    ASSERT_TRUE(matmul.ok()) << matmul.status();
    EXPECT_EQ((*matmul)->rows(), rows);
    EXPECT_EQ((*matmul)->columns(), columns);
    EXPECT_FALSE((*matmul)->implementation().empty());
    const SharedMatrix base = testing::RandomNormal(rows, dim, 1);
    const SharedMatrix queries = testing::RandomNormal(columns, dim, 2);
    const float* b = reinterpret_cast<const float*>(base.view.data);
    const float* q = reinterpret_cast<const float*>(queries.view.data);
    AlignedArray<std::byte> packed, scratch;
    AlignedArray<float> scores;
    (*matmul)->Pack(q, packed.Reserve((*matmul)->packed_bytes()));
    scratch.Reserve((*matmul)->scratch_bytes());
    (*matmul)->Run(b, packed.data(), scratch.data(), scores.Reserve(rows * columns));
    for (int r = 0; r < rows; ++r) {
      for (int c = 0; c < columns; ++c) {
        double dot = 0.0, bb = 0.0, qq = 0.0;
        for (int i = 0; i < dim; ++i) {
          const double x = b[r * dim + i], y = q[c * dim + i];
          dot += x * y;
          bb += x * x;
          qq += y * y;
        }
        const double error = Float32ScreenError(dim)(NormUpperBound(dim, bb), NormUpperBound(dim, qq));
        ASSERT_LE(std::abs(scores.data()[r * columns + c] - dot), error) << dim << " at " << r << ", " << c;
      }
    }
  }
}

TEST(TileTest, AnImpossibleShapeIsAStatus) {
  EXPECT_EQ(TileMatmul::Create(-1, 4, 4).status().code(), absl::StatusCode::kInternal);
}

TEST(TileTest, VersionIsKnown) { EXPECT_NE(OneDnnVersion(), "0.0.0"); }

}  // namespace
}  // namespace dotmax
