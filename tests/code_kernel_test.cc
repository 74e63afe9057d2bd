#include "server/engine/code_kernel.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstring>
#include <limits>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "gtest/gtest.h"
#include "hwy/targets.h"
#include "server/engine/aligned.h"
#include "server/engine/avx2.h"
#include "server/engine/packing.h"
#include "server/engine/vnni.h"
#include "tests/data.h"

namespace dotmax {
namespace {

struct Kernel {
  std::string name;
  bool is_here;
  bool sums_in_16_bits;
  int (*columns)(int queries, int dim);
  decltype(&PackVnni) pack;
  decltype(&ScoreVnni) score;
  decltype(&CollectAvx2) collect;
  decltype(&ScoreSurvivorsVnni) score_survivors;
  bool collects_by_row;
};

const Kernel kVnni = {"Vnni",      HasVnniKernel(),    false, VnniColumns, PackVnni, ScoreVnni,
                      CollectVnni, ScoreSurvivorsVnni, true};
const Kernel kAvx2 = {
    "Avx2",   HasAvx2Kernel(), true,        [](int queries, int) { return Avx2Columns(queries); },
    PackAvx2, ScoreAvx2,       CollectAvx2, ScoreSurvivorsAvx2,
    false};

// Thresholds that depend on the row, the first of them with none.
struct TestThresholds {
  TestThresholds(testing::Random& random, int rows, const std::vector<int32_t>& by_column)
      : base(by_column.begin(), by_column.end()) {
    for (size_t c = 0; c < base.size(); ++c) {
      by_length.push_back(static_cast<float>(random.Next() % 100));
      by_along.push_back(static_cast<float>(random.Normal()));
    }
    for (int r = 0; r < rows + kScoresPadding; ++r) {
      length.push_back(static_cast<float>(r % 5) * 100.0f);
      along.push_back(static_cast<float>(r % 7) * 1000.0f);
    }
    base.resize(base.size() + kScoresPadding, std::numeric_limits<float>::infinity());
    by_length.resize(base.size());
    by_along.resize(base.size());
  }
  bool Exceeds(int32_t score, int row, int c) const {
    const float of_length = std::fma(by_length[c], length[row], base[c]);
    return static_cast<float>(score) > std::fma(by_along[c], along[row], of_length);
  }
  ThresholdsByRow thresholds() const { return {base.data(), by_length.data(), by_along.data()}; }
  RowTerms terms() const { return {length.data(), along.data()}; }

  std::vector<float> base, by_length, by_along, length, along;
};

// Makes codes small enough for sums in 16 bits, and no smaller: what is too much of a four is taken off its
// last.
void FitInto16Bits(int8_t* query, int dim) {
  for (int octet = 0; octet < dim; octet += kOctet) {
    for (const int first : {octet, octet + 2}) {
      int room[2] = {kMostOfFour, kMostOfFour};
      for (const int i : {first, first + 1, first + kQuad, first + kQuad + 1}) {
        if (i >= dim) continue;
        int& left = room[query[i] < 0];
        query[i] = static_cast<int8_t>(std::clamp<int>(query[i], -left, left));
        left -= std::abs(query[i]);
      }
    }
  }
}

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

// Two lines of 64 bytes at a time, of one block and then of the other, and not all of a large one.
TEST(ReadAheadTest, AsksForTwoBlocksInTurn) {
  const std::vector<std::byte> memory(1 << 20);
  const auto steps = [](ReadAhead ahead) {
    int count = 0;
    for (; !ahead.empty(); ++count) ahead.Step();
    return count;
  };
  EXPECT_EQ(steps({}), 0);
  EXPECT_EQ(steps({{memory.data(), 300}, {}}), 3);
  EXPECT_EQ(steps({{memory.data(), 300}, {memory.data() + 512, 128}}), 4);
  EXPECT_EQ(steps({{memory.data(), memory.size()}, {memory.data(), 1}}), 1025);
}

class CodeKernelTest : public ::testing::TestWithParam<Kernel> {};

INSTANTIATE_TEST_SUITE_P(All, CodeKernelTest, ::testing::Values(kVnni, kAvx2),
                         [](const auto& kernel) { return kernel.param.name; });

// Every width, dims around the vectors' 64 bytes, all of the codes' range: equal to the obvious loop.
TEST_P(CodeKernelTest, ScoresAreThoseOfTheObviousLoop) {
  const Kernel& kernel = GetParam();
  if (!kernel.is_here) GTEST_SKIP() << "not to be had here";
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
      std::fill_n(tile.data() + dim, dim, uint8_t{0});
      std::fill_n(queries.data(), dim, int8_t{-128});
      if (columns > 1) std::fill_n(queries.data() + dim, dim, int8_t{127});
      for (int c = 0; c < columns && kernel.sums_in_16_bits; ++c)
        FitInto16Bits(queries.data() + c * dim, dim);
      scores.Reserve(kRows * columns);
      const CodeRows rows = {{tile.data(), static_cast<size_t>(dim)}};
      kernel.pack(queries.data(), columns, dim, packed.Reserve(PackedBytes(columns, dim)));
      kernel.score(rows, kRows, packed.data(), columns, scores.data());
      // The same scores, compared: of rows that fill no whole block.
      constexpr int kSomeRows = kRows - 5;
      std::vector<int32_t> thresholds(columns);
      for (int c = 0; c < columns; ++c)
        thresholds[c] = scores.data()[static_cast<int>(random.Next() % kRows) * columns + c];
      std::vector<Survivor> survivors(kRows * columns + kSurvivorPadding);
      survivors.resize(
          kernel.collect(rows, kSomeRows, packed.data(), columns, thresholds.data(), survivors.data()));
      // What else is asked for meanwhile changes nothing.
      ReadAhead ahead({reinterpret_cast<const std::byte*>(tile.data()), 300}, {nullptr, 0});
      std::vector<Survivor> others(kRows * columns + kSurvivorPadding);
      others.resize(kernel.collect({rows.head, rows.rest, &ahead}, kSomeRows, packed.data(), columns,
                                   thresholds.data(), others.data()));
      ASSERT_EQ(others.size(), survivors.size());
      EXPECT_EQ(std::memcmp(others.data(), survivors.data(), others.size() * sizeof(Survivor)), 0);
      std::set<std::pair<int, int>> kept, expected_kept;
      for (const Survivor& s : survivors) kept.insert({s.row, s.column});
      EXPECT_EQ(kept.size(), survivors.size());
      for (int row = 0; row < kSomeRows; ++row) {
        for (int c = 0; c < columns; ++c) {
          if (scores.data()[row * columns + c] > thresholds[c]) expected_kept.insert({row, c});
        }
      }
      EXPECT_EQ(kept, expected_kept) << columns << " columns, dim " << dim;
      if (kernel.collects_by_row) {
        const TestThresholds by_row(random, kRows, thresholds);
        survivors.resize(kRows * columns + kSurvivorPadding);
        survivors.resize(CollectVnni(rows, kSomeRows, packed.data(), columns, by_row.thresholds(),
                                     by_row.terms(), survivors.data()));
        kept.clear();
        for (const Survivor& s : survivors) kept.insert({s.row, s.column});
        std::set<std::pair<int, int>> expected_by_row;
        for (int row = 0; row < kSomeRows; ++row) {
          for (int c = 0; c < columns; ++c) {
            if (by_row.Exceeds(scores.data()[row * columns + c], row, c)) expected_by_row.insert({row, c});
          }
        }
        EXPECT_EQ(kept, expected_by_row) << columns << " columns, dim " << dim;
      }
      for (size_t head = kHeadMultiple; head < static_cast<size_t>(dim); head += kHeadMultiple) {
        AlignedArray<uint8_t> planes;
        const CodeRows apart = Apart(tile.data(), kRows, dim, head, planes.Reserve(kRows * dim + 64));
        std::vector<int32_t> same(kRows * columns);
        kernel.score(apart, kRows, packed.data(), columns, same.data());
        EXPECT_TRUE(std::equal(same.begin(), same.end(), scores.data()))
            << columns << ", " << head << " of " << dim;
        survivors.resize(kRows * columns + kSurvivorPadding);
        survivors.resize(
            kernel.collect(apart, kSomeRows, packed.data(), columns, thresholds.data(), survivors.data()));
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

// For a second look, by Highway's kernel, too, on survivors in any order.
TEST_P(CodeKernelTest, SurvivorsScoreAsTheObviousLoopSays) {
  const Kernel& kernel = GetParam();
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
    std::fill_n(codes[1].begin(), dim, int8_t{127});
    if (kernel.sums_in_16_bits) {
      for (std::vector<int8_t>& query : codes) FitInto16Bits(query.data(), dim);
    }
    std::vector<Survivor> survivors;
    for (int i = 0; i < 33; ++i) {
      survivors.push_back(
          {static_cast<uint16_t>(random.Next() % kColumns), static_cast<uint16_t>(random.Next() % kRows)});
    }
    survivors[0] = {0, 0};
    for (const bool own : {false, true}) {
      if (own && !kernel.is_here) continue;
      std::vector<int32_t> scores(survivors.size());
      const CodeRows rows = {{tile.data(), static_cast<size_t>(dim)}};
      if (own) {
        kernel.score_survivors(rows, queries.data(), survivors, scores.data());
      } else {
        ScoreSurvivors(tile.data(), dim, queries.data(), survivors, scores.data());
      }
      if (own && dim > 64) {
        AlignedArray<uint8_t> planes;
        const CodeRows apart = Apart(tile.data(), kRows, dim, 64, planes.Reserve(kRows * dim + 64));
        std::vector<int32_t> same(survivors.size());
        kernel.score_survivors(apart, queries.data(), survivors, same.data());
        EXPECT_EQ(same, scores) << "dim " << dim;
      }
      for (size_t i = 0; i < survivors.size(); ++i) {
        int32_t expected = 0;
        for (int d = 0; d < dim; ++d) {
          expected += int32_t{tile.data()[survivors[i].row * dim + d]} * codes[survivors[i].column][d];
        }
        ASSERT_EQ(scores[i], expected) << "dim " << dim << ", survivor " << i << ", own " << own;
      }
    }
  }
}

TEST_P(CodeKernelTest, WidthsHoldTheirQueries) {
  const Kernel& kernel = GetParam();
  for (const int dim : {32, 100, 768}) {
    for (int queries = 1; queries <= 256; ++queries) {
      const int columns = kernel.columns(queries, dim);
      EXPECT_GE(columns, queries);
      EXPECT_EQ(kernel.columns(columns, dim), columns);
    }
  }
}

TEST(CodeKernelWidthsTest, LanesAreNotWasted) {
  EXPECT_EQ(VnniColumns(5, 100), 8);
  EXPECT_EQ(VnniColumns(9, 100), 16);
  EXPECT_EQ(VnniColumns(9, 768), 9);
  EXPECT_EQ(VnniColumns(19, 100), 20);
  EXPECT_EQ(VnniColumns(21, 100), 32);
  EXPECT_EQ(Avx2Columns(3), 4);
  EXPECT_EQ(Avx2Columns(9), 9);
  EXPECT_EQ(Avx2Columns(21), 24);
}

TEST(Avx2KernelTest, LargestFourIsThatOfTheObviousLoop) {
  if (!HasAvx2Kernel()) GTEST_SKIP() << "not to be had here";
  testing::Random random(3);
  for (int n = 1; n <= 40; ++n) {
    std::vector<float> x(n);
    for (float& value : x) value = static_cast<float>(static_cast<int>(random.Next() % 2001) - 1000);
    float expected = 0.0f;
    for (int octet = 0; octet < n; octet += kOctet) {
      for (const int first : {octet, octet + 2}) {
        float sums[2] = {};
        for (const int i : {first, first + 1, first + kQuad, first + kQuad + 1}) {
          if (i < n) sums[x[i] < 0.0f] += std::abs(x[i]);
        }
        expected = std::max({expected, sums[0], sums[1]});
      }
    }
    EXPECT_EQ(LargestFour(x.data(), x.size()), expected) << n;
  }
}

// The best of those that there are.
TEST(CodeKernelChoiceTest, IsWhatTheMachineHas) {
  const bool has_vnni = HasVnniKernel(), has_avx2 = HasAvx2Kernel();
  EXPECT_EQ(CodeKernel().exists(), has_vnni || has_avx2);
  EXPECT_EQ(CodeKernel().sums_in_16_bits(), !has_vnni && has_avx2);
  hwy::SetSupportedTargetsForTest(HWY_AVX2);
  EXPECT_FALSE(HasVnniKernel());
  EXPECT_EQ(CodeKernel().sums_in_16_bits(), has_avx2);
  hwy::SetSupportedTargetsForTest(HWY_SSE4);
  EXPECT_FALSE(CodeKernel().exists());
  hwy::SetSupportedTargetsForTest(0);
}

}  // namespace
}  // namespace dotmax
