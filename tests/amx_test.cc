#include "server/engine/amx.h"

#include <algorithm>
#include <limits>
#include <set>
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
  std::vector<std::pair<int, int>> Collect(const std::vector<int32_t>& thresholds, int some_rows) const {
    std::vector<Survivor> survivors(rows * columns + kSurvivorPadding);
    survivors.resize(
        CollectAmx(tile.data(), some_rows, dim, packed.data(), columns, thresholds.data(), survivors.data()));
    std::vector<std::pair<int, int>> kept;
    for (const Survivor& s : survivors) kept.emplace_back(s.row, s.column);
    std::sort(kept.begin(), kept.end());
    return kept;
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
    for (const int dim : {4, 32, 60, 64, 68, 100, 128, 196, 1024, 1028}) {
      const Codes codes(kRows, columns, dim);
      std::vector<int32_t> scores(kRows * columns), thresholds(columns);
      ScoreAmx(codes.tile.data(), kRows, dim, codes.packed.data(), columns, scores.data());
      for (int c = 0; c < columns; ++c)
        thresholds[c] = codes.Score(static_cast<int>(random.Next() % kRows), c);
      for (const int some_rows : {1, 16, 31, 32, 43}) {
        std::vector<std::pair<int, int>> expected;
        for (int row = 0; row < some_rows; ++row) {
          for (int c = 0; c < columns; ++c) {
            if (scores[row * columns + c] > thresholds[c]) expected.emplace_back(row, c);
          }
        }
        EXPECT_EQ(codes.Collect(thresholds, some_rows), expected)
            << some_rows << " rows, " << columns << " columns, dim " << dim;
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

// The largest and the least scores that there are, against thresholds next to them and as far as they go.
TEST(AmxTest, NothingOverflows) {
  if (!HasAmxKernel()) GTEST_SKIP() << "no AMX here";
  int dim = 66'308;
  while (!AmxServes(16, dim)) dim -= 4;
  Codes codes(/*rows=*/16, /*columns=*/16, dim);
  std::fill_n(codes.tile.data(), 16 * dim, uint8_t{255});
  for (int c = 0; c < 16; ++c) {
    std::fill_n(codes.queries.data() + c * dim, dim, static_cast<int8_t>(c % 2 == 0 ? 127 : -128));
  }
  PackAmx(codes.queries.data(), 16, dim, codes.packed.data());
  std::vector<int32_t> thresholds(16);
  std::set<int> expected;
  for (int c = 0; c < 16; ++c) {
    const int32_t score = codes.Score(0, c);
    const int32_t all[] = {score - 1,
                           score,
                           std::numeric_limits<int32_t>::min(),
                           std::numeric_limits<int32_t>::max(),
                           -(1 << 30) - 1,
                           -(1 << 30),
                           (1 << 30) - 1,
                           1 << 30};
    thresholds[c] = all[c / 2];
    if (score > thresholds[c]) expected.insert(c);
  }
  std::set<int> kept;
  for (const auto& [row, column] : codes.Collect(thresholds, 1)) kept.insert(column);
  EXPECT_EQ(kept, expected);
}

TEST(AmxTest, ServesWholeRegisters) {
  EXPECT_TRUE(AmxServes(16, 100));
  EXPECT_TRUE(AmxServes(256, 32'768));
  EXPECT_FALSE(AmxServes(20, 100));
  EXPECT_FALSE(AmxServes(272, 100));
  EXPECT_FALSE(AmxServes(16, 65'536));
}

TEST(AmxTest, IsOffWhereOlderInstructionsAreAskedFor) {
  hwy::SetSupportedTargetsForTest(HWY_AVX3);
  EXPECT_FALSE(HasAmxKernel());
  hwy::SetSupportedTargetsForTest(0);
}

}  // namespace
}  // namespace dotmax
