#include "server/engine/vnni.h"

#include <algorithm>
#include <set>
#include <utility>
#include <vector>

#include "gtest/gtest.h"
#include "hwy/targets.h"
#include "server/engine/aligned.h"
#include "tests/data.h"

namespace dotmax {
namespace {

// Every width, dims around the vectors' 64 bytes, all of the codes' range: equal to the obvious loop.
TEST(VnniTest, ScoresAreThoseOfTheObviousLoop) {
  if (!HasVnniKernel()) GTEST_SKIP() << "no AVX-512 VNNI here";
  testing::Random random(1);
  constexpr int kRows = 48;
  for (const int columns :
       {1, 2, 4, 8, 9, 10, 12, 16, 17, 18, 20, 32, 33, 48, 50, 64, 65, 84, 128, 241, 252, 256}) {
    for (const int dim : {4, 32, 60, 64, 68, 100, 128, 196, 1024}) {
      AlignedArray<uint8_t> tile;
      AlignedArray<int8_t> queries, packed;
      AlignedArray<int32_t> scores;
      std::generate_n(tile.Reserve(kRows * dim + 64), kRows * dim + 64, [&] { return random.Next(); });
      std::generate_n(queries.Reserve(columns * dim), columns * dim, [&] { return random.Next(); });
      std::fill_n(tile.data(), dim, uint8_t{255});
      std::fill_n(queries.data(), dim, int8_t{-128});
      scores.Reserve(kRows * columns);
      PackVnni(queries.data(), columns, dim, packed.Reserve(PackedVnniBytes(columns, dim)));
      ScoreVnni(tile.data(), kRows, dim, packed.data(), columns, scores.data());
      // The same scores, compared: of rows that fill no whole block.
      constexpr int kSomeRows = kRows - 5;
      std::vector<int32_t> thresholds(columns);
      for (int c = 0; c < columns; ++c)
        thresholds[c] = scores.data()[static_cast<int>(random.Next() % kRows) * columns + c];
      std::vector<Survivor> survivors(kRows * columns + kSurvivorPadding);
      survivors.resize(CollectVnni(tile.data(), kSomeRows, dim, packed.data(), columns, thresholds.data(),
                                   survivors.data()));
      std::set<std::pair<int, int>> kept, expected_kept;
      for (const Survivor& s : survivors) kept.insert({s.row, s.column});
      EXPECT_EQ(kept.size(), survivors.size());
      for (int row = 0; row < kSomeRows; ++row) {
        for (int c = 0; c < columns; ++c) {
          if (scores.data()[row * columns + c] > thresholds[c]) expected_kept.insert({row, c});
        }
      }
      EXPECT_EQ(kept, expected_kept) << columns << " columns, dim " << dim;
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

TEST(VnniTest, WidthsHoldTheirQueries) {
  for (const int dim : {32, 100, 768}) {
    for (int queries = 1; queries <= 256; ++queries) {
      const int columns = VnniColumns(queries, dim);
      EXPECT_GE(columns, queries);
      EXPECT_EQ(VnniColumns(columns, dim), columns);
    }
  }
  EXPECT_EQ(VnniColumns(5, 100), 8);
  EXPECT_EQ(VnniColumns(9, 100), 16);
  EXPECT_EQ(VnniColumns(9, 768), 9);
  EXPECT_EQ(VnniColumns(19, 100), 20);
  EXPECT_EQ(VnniColumns(21, 100), 32);
}

TEST(VnniTest, IsOffWithoutAvx512) {
  hwy::SetSupportedTargetsForTest(HWY_AVX2);
  EXPECT_FALSE(HasVnniKernel());
  hwy::SetSupportedTargetsForTest(0);
}

}  // namespace
}  // namespace dotmax
