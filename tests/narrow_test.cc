#include "server/engine/narrow.h"

#include <algorithm>

#include "gtest/gtest.h"
#include "hwy/targets.h"
#include "server/engine/aligned.h"
#include "tests/data.h"

namespace dotmax {
namespace {

// Every width, dims around the vectors' 64 bytes, all of the codes' range: equal to the obvious loop.
TEST(NarrowTest, ScoresAreThoseOfTheObviousLoop) {
  if (!HasNarrowKernel()) GTEST_SKIP() << "no AVX-512 VNNI here";
  testing::Random random(1);
  constexpr int kRows = 48;
  for (const int columns : kNarrowColumns) {
    for (const int dim : {4, 32, 60, 64, 68, 100, 128, 196, 1024}) {
      AlignedArray<uint8_t> tile;
      AlignedArray<int8_t> queries, packed;
      AlignedArray<int32_t> scores;
      std::generate_n(tile.Reserve(kRows * dim + 64), kRows * dim + 64, [&] { return random.Next(); });
      std::generate_n(queries.Reserve(columns * dim), columns * dim, [&] { return random.Next(); });
      std::fill_n(tile.data(), dim, uint8_t{255});
      std::fill_n(queries.data(), dim, int8_t{-128});
      scores.Reserve(kRows * columns);
      PackNarrow(queries.data(), columns, dim, packed.Reserve(PackedNarrowBytes(columns, dim)));
      ScoreNarrow(tile.data(), kRows, dim, packed.data(), columns, scores.data());
      for (int row = 0; row < kRows; ++row) {
        for (int c = 0; c < columns; ++c) {
          int32_t expected = 0;
          for (int i = 0; i < dim; ++i) {
            expected += int32_t{tile.data()[row * dim + i]} * queries.data()[c * dim + i];
          }
          ASSERT_EQ(scores.data()[row * columns + c], expected)
              << columns << " columns, dim " << dim << ", row " << row << ", column " << c;
        }
      }
    }
  }
}

TEST(NarrowTest, IsOffWithoutAvx512) {
  hwy::SetSupportedTargetsForTest(HWY_AVX2);
  EXPECT_FALSE(HasNarrowKernel());
  hwy::SetSupportedTargetsForTest(0);
}

}  // namespace
}  // namespace dotmax
