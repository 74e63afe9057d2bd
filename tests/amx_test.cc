#include "server/engine/amx.h"

#include <algorithm>
#include <limits>
#include <utility>
#include <vector>

#include "gtest/gtest.h"
#include "hwy/targets.h"
#include "server/engine/aligned.h"
#include "tests/data.h"

namespace dotmax {
namespace {

struct Codes {
  Codes(int its_rows, int its_columns, int its_dim) : rows(its_rows), columns(its_columns), dim(its_dim) {
    testing::Random random(static_cast<uint64_t>(columns) << 32 | static_cast<uint32_t>(dim));
    std::generate_n(tile.Reserve(rows * dim + 64), rows * dim + 64, [&] { return random.Next(); });
    std::generate_n(queries.Reserve(columns * dim), columns * dim, [&] { return random.Next(); });
    PackAmx(queries.data(), columns, dim, packed.Reserve(PackedAmxBytes(columns, dim)));
  }

  int32_t Score(int row, int column) const {
    int32_t score = 0;
    for (int i = 0; i < dim; ++i) {
      score += int32_t{tile.data()[row * dim + i]} * queries.data()[column * dim + i];
    }
    return score;
  }

  // In order, once each.
  std::vector<std::pair<int, int>> Collect(const CodeRows& code_rows, const std::vector<int32_t>& thresholds,
                                           int some_rows) const {
    std::vector<Survivor> survivors(rows * columns + kSurvivorPadding);
    survivors.resize(
        CollectAmx(code_rows, some_rows, packed.data(), columns, thresholds.data(), survivors.data()));
    std::vector<std::pair<int, int>> kept;
    for (const Survivor& s : survivors) kept.emplace_back(s.row, s.column);
    std::sort(kept.begin(), kept.end());
    return kept;
  }

  CodeRows SideBySide() const { return {{tile.data(), static_cast<size_t>(dim)}}; }
  // With the first `head` codes of each row apart, in `planes`.
  CodeRows Apart(size_t head, AlignedArray<uint8_t>& planes) const {
    const size_t rest = dim - head;
    uint8_t* const to = planes.Reserve(rows * dim + 64);
    for (int r = 0; r < rows; ++r) {
      std::copy_n(tile.data() + r * dim, head, to + r * head);
      std::copy_n(tile.data() + r * dim + head, rest, to + rows * head + r * rest);
    }
    return {{to, head}, {to + rows * head, rest}};
  }

  const int rows, columns, dim;
  AlignedArray<uint8_t> tile;
  AlignedArray<int8_t> queries, packed;
};

// Every number of registers, dims around their 64 bytes, rows that are copied and rows that are not, all of
// the codes' range: equal to the obvious loop.
TEST(AmxTest, ScoresAreThoseOfTheObviousLoop) {
  if (!HasAmxKernel()) GTEST_SKIP() << "no AMX here";
  testing::Random random(1);
  constexpr int kRows = 48;
  for (const int columns : {16, 32, 48, 64, 112, 256}) {
    for (const int dim : {4, 32, 60, 64, 68, 100, 128, 132, 192, 196, 784, 1024, 1028}) {
      const Codes codes(kRows, columns, dim);
      std::vector<int32_t> scores(kRows * columns), thresholds(columns);
      ScoreAmx(codes.SideBySide(), kRows, codes.packed.data(), columns, scores.data());
      for (int c = 0; c < columns; ++c)
        thresholds[c] = codes.Score(static_cast<int>(random.Next() % kRows), c);
      for (const int some_rows : {1, 16, 31, 32, 43}) {
        std::vector<std::pair<int, int>> expected;
        for (int row = 0; row < some_rows; ++row) {
          for (int c = 0; c < columns; ++c) {
            if (scores[row * columns + c] > thresholds[c]) expected.emplace_back(row, c);
          }
        }
        EXPECT_EQ(codes.Collect(codes.SideBySide(), thresholds, some_rows), expected)
            << some_rows << " rows, " << columns << " columns, dim " << dim;
        for (const int head : {64, 128}) {
          if (head >= dim) continue;
          AlignedArray<uint8_t> planes;
          EXPECT_EQ(codes.Collect(codes.Apart(head, planes), thresholds, some_rows), expected)
              << some_rows << " rows, " << columns << " columns, " << head << " of " << dim;
        }
      }
      for (int row = 0; row < kRows; ++row) {
        for (int c = 0; c < columns; ++c) {
          ASSERT_EQ(scores[row * columns + c], codes.Score(row, c))
              << columns << " columns, dim " << dim << ", row " << row << ", column " << c;
        }
      }
    }
  }
}

TEST(AmxTest, TheLargestScoresAreExact) {
  if (!HasAmxKernel()) GTEST_SKIP() << "no AMX here";
  constexpr int kDim = 65'536, kRows = 16, kColumns = 16;
  Codes codes(kRows, kColumns, kDim);
  std::fill_n(codes.tile.data(), kRows * kDim, uint8_t{255});
  std::fill_n(codes.queries.data(), kDim, int8_t{127});
  std::fill_n(codes.queries.data() + kDim, kDim, int8_t{-127});
  PackAmx(codes.queries.data(), kColumns, kDim, codes.packed.data());
  std::vector<int32_t> scores(kRows * kColumns), thresholds(kColumns, std::numeric_limits<int32_t>::max());
  ScoreAmx(codes.SideBySide(), kRows, codes.packed.data(), kColumns, scores.data());
  EXPECT_EQ(scores[0], 255 * 127 * kDim);
  EXPECT_EQ(scores[1], -255 * 127 * kDim);
  EXPECT_TRUE(codes.Collect(codes.SideBySide(), thresholds, kRows).empty());
  thresholds[0] = scores[0] - 1;
  thresholds[1] = scores[1];
  EXPECT_EQ(codes.Collect(codes.SideBySide(), thresholds, 1), (std::vector<std::pair<int, int>>{{0, 0}}));
}

TEST(AmxTest, IsOffWhereOlderInstructionsAreAskedFor) {
  hwy::SetSupportedTargetsForTest(HWY_AVX3);
  EXPECT_FALSE(HasAmxKernel());
  hwy::SetSupportedTargetsForTest(0);
}

}  // namespace
}  // namespace dotmax
