#include "server/engine/vnni.h"

#include <algorithm>
#include <set>
#include <utility>
#include <vector>

#include "gtest/gtest.h"
#include "hwy/targets.h"
#include "server/engine/aligned.h"
#include "server/engine/packing.h"
#include "tests/data.h"

namespace dotmax {
namespace {

// The rows of `tile`, `dim` codes each, with the first `head` apart; `planes` has room for all and 64 bytes
// more.
CodeRows Apart(const uint8_t* tile, int rows, size_t dim, size_t head, uint8_t* planes) {
  const CodeRows apart = {{planes, head}, {planes + rows * head, dim - head}};
  for (int r = 0; r < rows; ++r) {
    std::copy_n(tile + r * dim, head, planes + r * head);
    std::copy_n(tile + r * dim + head, dim - head, planes + rows * head + r * (dim - head));
  }
  return apart;
}

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
      const CodeRows rows = {{tile.data(), static_cast<size_t>(dim)}};
      PackVnni(queries.data(), columns, dim, packed.Reserve(PackedBytes(columns, dim)));
      ScoreVnni(rows, kRows, packed.data(), columns, scores.data());
      // The same scores, compared: of rows that fill no whole block.
      constexpr int kSomeRows = kRows - 5;
      std::vector<int32_t> thresholds(columns);
      for (int c = 0; c < columns; ++c)
        thresholds[c] = scores.data()[static_cast<int>(random.Next() % kRows) * columns + c];
      std::vector<Survivor> survivors(kRows * columns + kSurvivorPadding);
      survivors.resize(
          CollectVnni(rows, kSomeRows, packed.data(), columns, thresholds.data(), survivors.data()));
      std::set<std::pair<int, int>> kept, expected_kept;
      for (const Survivor& s : survivors) kept.insert({s.row, s.column});
      EXPECT_EQ(kept.size(), survivors.size());
      for (int row = 0; row < kSomeRows; ++row) {
        for (int c = 0; c < columns; ++c) {
          if (scores.data()[row * columns + c] > thresholds[c]) expected_kept.insert({row, c});
        }
      }
      EXPECT_EQ(kept, expected_kept) << columns << " columns, dim " << dim;
      for (size_t head = kHeadMultiple; head < static_cast<size_t>(dim); head += kHeadMultiple) {
        AlignedArray<uint8_t> planes;
        const CodeRows apart = Apart(tile.data(), kRows, dim, head, planes.Reserve(kRows * dim + 64));
        std::vector<int32_t> same(kRows * columns);
        ScoreVnni(apart, kRows, packed.data(), columns, same.data());
        EXPECT_TRUE(std::equal(same.begin(), same.end(), scores.data()))
            << columns << ", " << head << " of " << dim;
        survivors.resize(kRows * columns + kSurvivorPadding);
        survivors.resize(
            CollectVnni(apart, kSomeRows, packed.data(), columns, thresholds.data(), survivors.data()));
        kept.clear();
        for (const Survivor& s : survivors) kept.insert({s.row, s.column});
        EXPECT_EQ(kept, expected_kept) << columns << " columns, " << head << " of " << dim;
      }
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

// For a second look, by both kernels, on survivors in any order.
TEST(VnniTest, SurvivorsScoreAsTheObviousLoopSays) {
  testing::Random random(2);
  constexpr int kRows = 20, kColumns = 5;
  for (const int dim : {4, 16, 60, 64, 68, 100, 128, 132, 192, 784, 65536}) {
    AlignedArray<uint8_t> tile;
    std::generate_n(tile.Reserve(kRows * dim + 64), kRows * dim + 64, [&] { return random.Next(); });
    std::fill_n(tile.data(), dim, uint8_t{255});
    std::vector<std::vector<int8_t>> codes(kColumns, std::vector<int8_t>(RoundUpToLine(dim)));
    std::vector<const int8_t*> queries;
    for (std::vector<int8_t>& query : codes) {
      std::generate_n(query.begin(), dim, [&] { return random.Next(); });
      queries.push_back(query.data());
    }
    std::fill_n(codes[0].begin(), dim, int8_t{-127});
    std::vector<Survivor> survivors;
    for (int i = 0; i < 33; ++i) {
      survivors.push_back(
          {static_cast<uint16_t>(random.Next() % kColumns), static_cast<uint16_t>(random.Next() % kRows)});
    }
    survivors[0] = {0, 0};
    for (const bool vnni : {false, true}) {
      if (vnni && !HasVnniKernel()) continue;
      std::vector<int32_t> scores(survivors.size());
      const CodeRows rows = {{tile.data(), static_cast<size_t>(dim)}};
      if (vnni) {
        ScoreSurvivorsVnni(rows, queries.data(), survivors, scores.data());
      } else {
        ScoreSurvivors(tile.data(), dim, queries.data(), survivors, scores.data());
      }
      if (vnni && dim > 64) {
        AlignedArray<uint8_t> planes;
        const CodeRows apart = Apart(tile.data(), kRows, dim, 64, planes.Reserve(kRows * dim + 64));
        std::vector<int32_t> same(survivors.size());
        ScoreSurvivorsVnni(apart, queries.data(), survivors, same.data());
        EXPECT_EQ(same, scores) << "dim " << dim;
      }
      for (size_t i = 0; i < survivors.size(); ++i) {
        int32_t expected = 0;
        for (int d = 0; d < dim; ++d) {
          expected += int32_t{tile.data()[survivors[i].row * dim + d]} * codes[survivors[i].column][d];
        }
        ASSERT_EQ(scores[i], expected) << "dim " << dim << ", survivor " << i << ", vnni " << vnni;
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
