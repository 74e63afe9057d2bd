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
    const auto matmul = TileMatmul::Create(TileKind::kFloat32, rows, dim, columns);
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
    TileRunner(**matmul, packed.data(), scratch.data(), scores.Reserve(rows * columns)).Run(b);
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

TEST(TileTest, Int8ScoresAreExactOrRefused) {
  for (const auto& [rows, dim, columns] :
       {std::array{512, 4, 1}, {512, 64, 16}, {512, 100, 256}, {64, 5000, 32}}) {
    const auto matmul = TileMatmul::Create(TileKind::kInt8, rows, dim, columns);
    if (!matmul.ok()) {
      EXPECT_EQ(matmul.status().code(), absl::StatusCode::kUnimplemented) << matmul.status();
      continue;
    }
    testing::Random random(1);
    AlignedArray<uint8_t> tile;
    AlignedArray<int8_t> queries;
    AlignedArray<int32_t> scores;
    AlignedArray<std::byte> packed, scratch;
    tile.Reserve(rows * dim);
    queries.Reserve(columns * dim);
    for (int i = 0; i < rows * dim; ++i) tile.data()[i] = static_cast<uint8_t>(random.Next());
    for (int i = 0; i < columns * dim; ++i)
      queries.data()[i] = static_cast<int8_t>(random.Next() % 255 - 127);
    (*matmul)->Pack(queries.data(), packed.Reserve((*matmul)->packed_bytes()));
    scratch.Reserve((*matmul)->scratch_bytes());
    TileRunner(**matmul, packed.data(), scratch.data(), scores.Reserve(rows * columns)).Run(tile.data());
    for (int r = 0; r < rows; r += 7) {
      for (int c = 0; c < columns; ++c) {
        int32_t expected = 0;
        for (int i = 0; i < dim; ++i) expected += tile.data()[r * dim + i] * queries.data()[c * dim + i];
        ASSERT_EQ(scores.data()[r * columns + c], expected) << dim << " at " << r << ", " << c;
      }
    }
  }
}

TEST(TileTest, AnImpossibleShapeIsAStatus) {
  EXPECT_EQ(TileMatmul::Create(TileKind::kFloat32, -1, 4, 4).status().code(), absl::StatusCode::kInternal);
}

TEST(TileTest, VersionIsKnown) { EXPECT_NE(OneDnnVersion(), "0.0.0"); }

}  // namespace
}  // namespace dotmax
