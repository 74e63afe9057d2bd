#include "server/engine/float32_look.h"

#include <algorithm>
#include <cmath>
#include <deque>
#include <limits>
#include <vector>

#include "gtest/gtest.h"
#include "tests/data.h"
#include "tests/oracle.h"

namespace dotmax {
namespace {

using testing::Random;
using testing::RandomNormal;

constexpr uint32_t kDim = 301;
constexpr uint32_t kQueries = 40;
constexpr int kFirst = 100, kRows = 700;  // rows of the tiles, and the first one's place

bool Before(const Survivor& a, const Survivor& b) {
  return a.row != b.row ? a.row < b.row : a.column < b.column;
}

// What stays are the pairs that reach their query's score, equal included, and hardly any others.
TEST(Float32LookTest, KeepsWhatReachesTheScore) {
  for (const DType dtype : {DType::kFloat32, DType::kFloat64, DType::kFloat16, DType::kInt8}) {
    const SharedMatrix base = RandomNormal(kFirst + kRows, kDim, 1, dtype);
    const SharedMatrix queries = RandomNormal(kQueries, kDim, 2);
    const Selection selection;
    Question question(queries.view, selection, 1, /*may_guess=*/false,
                      [](absl::Time) { return absl::OkStatus(); });
    std::deque<TopK> best;
    std::vector<BlockQuery> block_queries;
    for (uint64_t q = 0; q < kQueries; ++q) block_queries.push_back({&question, q, &best.emplace_back(1)});
    PassBuffers buffers;
    const QueryBlock block = buffers.Prepare(block_queries);

    // Columns in another order than queries; each asks for as much as its 40th row scores.
    std::vector<uint32_t> columns;
    for (uint32_t c = 0; c < kQueries; ++c) columns.push_back(kQueries - 1 - c);
    const auto exact = [&](uint32_t q, uint64_t id) {
      return testing::ExactScore(queries.view, q, base.view, id);
    };
    std::vector<double> asked;
    for (uint32_t q = 0; q < kQueries; ++q) asked.push_back(exact(q, kFirst + 40));
    asked[3] = std::numeric_limits<double>::infinity();
    asked[5] = -asked[3];

    Random random(3);
    std::vector<Survivor> survivors;
    for (int row = 0; row < kRows; ++row) {
      for (uint16_t c = 0; c < kQueries; ++c) {
        if (row == 40 || random.Next() % 4 == 0) survivors.push_back({c, static_cast<uint16_t>(row)});
      }
    }
    std::vector<Survivor> expected;
    for (const Survivor& s : survivors) {
      const uint32_t q = columns[s.column];
      if (exact(q, kFirst + s.row) >= asked[q]) expected.push_back(s);
    }
    for (size_t i = survivors.size() - 1; i > 0; --i)
      std::swap(survivors[i], survivors[random.Next() % (i + 1)]);

    double squares = 0.0;
    for (uint64_t r = 0; r < base.view.rows; ++r) {
      squares = std::max(squares, testing::ExactScore(base.view, r, base.view, r));
    }
    const double norm = std::sqrt(squares) * 1.001;
    const Float32Look look(base.view, block);
    ASSERT_TRUE(look.Serves(survivors.size()));
    Scratch scratch;
    const auto score = [&](uint32_t q, int) { return asked[q] * block.measured[q].unit; };
    survivors.resize(look.Keep(
        absl::MakeSpan(survivors), columns, norm, [](int row) { return kFirst + row; }, score, scratch));
    EXPECT_TRUE(std::is_sorted(survivors.begin(), survivors.end(),
                               [](const Survivor& a, const Survivor& b) { return a.row < b.row; }));
    std::sort(survivors.begin(), survivors.end(), Before);
    EXPECT_TRUE(std::includes(survivors.begin(), survivors.end(), expected.begin(), expected.end(), Before));
    EXPECT_LT(survivors.size(), expected.size() * 1.01);
    EXPECT_GT(survivors.size(), kQueries);
  }
}

// Of rows of any number, and queries of any magnitude: no more than they score, and hardly less.
TEST(Float32LookTest, LeastScoresAreLowerBounds) {
  const SharedMatrix base = RandomNormal(200, kDim, 1);
  std::vector<double> values;
  Random random(2);
  for (int q = 0; q < 6; ++q) {
    for (uint32_t i = 0; i < kDim; ++i) values.push_back(random.Normal() * std::pow(10.0, 20.0 * q - 50.0));
  }
  const SharedMatrix queries = testing::MakeMatrix(values, kDim, DType::kFloat64);
  const Selection selection;
  Question question(queries.view, selection, 1, /*may_guess=*/false,
                    [](absl::Time) { return absl::OkStatus(); });
  TopK best(1);
  std::vector<BlockQuery> block_queries;
  for (uint64_t q = 0; q < 6; ++q) block_queries.push_back({&question, q, &best});
  PassBuffers buffers;
  const QueryBlock block = buffers.Prepare(block_queries);
  const Float32Look look(base.view, block);
  const double norm = 2.0 * std::sqrt(kDim);
  for (uint32_t q = 0; q < 6; ++q) {
    for (const size_t count : {1u, 16u, 17u, 50u}) {
      double exact = std::numeric_limits<double>::infinity();
      for (size_t i = 0; i < count; ++i) {
        exact = std::min(exact, testing::ExactScore(queries.view, q, base.view, 3 * i));
      }
      const double least = look.LeastScore(
          q, count, [](size_t i) { return 3 * i; }, norm);
      EXPECT_LE(least, exact);
      EXPECT_GE(least, exact - 1e-4 * norm * block.norms[q] / block.measured[q].unit);
    }
  }
  const SharedMatrix halves = RandomNormal(4, kDim, 1, DType::kFloat16);
  EXPECT_EQ(Float32Look(halves.view, block)
                .LeastScore(
                    0, 1, [](size_t) { return 0; }, norm),
            -std::numeric_limits<double>::infinity());
}

TEST(Float32LookTest, ShortRowsAndFewSurvivorsAreLeftToFloat64) {
  const SharedMatrix short_rows = RandomNormal(4, 16, 1), long_rows = RandomNormal(4, kDim, 1);
  const QueryBlock block = {};
  EXPECT_FALSE(Float32Look(short_rows.view, block).Serves(1000));
  EXPECT_FALSE(Float32Look(long_rows.view, block).Serves(1));
  EXPECT_TRUE(Float32Look(long_rows.view, block).Serves(1000));
}

}  // namespace
}  // namespace dotmax
