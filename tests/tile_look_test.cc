#include "server/engine/tile_look.h"

#include <algorithm>
#include <cmath>
#include <deque>
#include <limits>
#include <numeric>
#include <optional>
#include <utility>
#include <vector>

#include "absl/types/span.h"
#include "gtest/gtest.h"
#include "server/engine/measure.h"
#include "tests/data.h"
#include "tests/oracle.h"

namespace dotmax {
namespace {

using testing::Random;
using testing::RandomNormal;

constexpr uint32_t kDim = 37;
constexpr int kFirst = 50, kRows = 150;  // rows of the tile, and the first one's place

class TileLookTest : public ::testing::Test {
 protected:
  // A block of queries, and whose columns they are: in another order.
  void Ask(const SharedMatrix& queries, Metric metric) {
    selection_.metric = metric;
    question_.emplace(queries.view, selection_, 1, /*may_guess=*/false,
                      [](absl::Time) { return absl::OkStatus(); });
    for (uint64_t q = 0; q < queries.view.rows; ++q) {
      block_queries_.push_back({&*question_, q, &best_.emplace_back(1)});
      columns_.push_back(static_cast<uint32_t>(queries.view.rows - 1 - q));
    }
    block_ = buffers_.Prepare(block_queries_);
  }

  Selection selection_;
  std::optional<Question> question_;
  std::deque<TopK> best_;
  std::vector<BlockQuery> block_queries_;
  std::vector<uint32_t> columns_;
  PassBuffers buffers_;
  QueryBlock block_;
  Scratch scratch_;
};

class EveryMetricTest : public TileLookTest, public ::testing::WithParamInterface<Metric> {};

// What is left are the pairs that reach what their query asks for, equal included, and no others, to
// float64's precision: whatever rows' lengths are.
TEST_P(EveryMetricTest, CollectsWhatReachesTheMerit) {
  const Metric metric = GetParam();
  for (const DType dtype : {DType::kFloat32, DType::kFloat64, DType::kFloat16}) {
    for (const uint32_t query_count : {3u, 70u}) {
      best_.clear();
      block_queries_.clear();
      columns_.clear();
      Random random(query_count);
      std::vector<double> values;
      for (int r = 0; r < kFirst + kRows; ++r) {
        const double length = 1.0 + 3.0 * random.Uniform();
        for (uint32_t i = 0; i < kDim; ++i) values.push_back(length * (1.0 + 0.05 * random.Normal()));
      }
      const SharedMatrix base = testing::MakeMatrix(values, kDim, dtype);
      std::vector<double> query_values(query_count * kDim);
      for (double& x : query_values) x = 2.0 + random.Normal();
      const SharedMatrix queries = testing::MakeMatrix(query_values, kDim, DType::kFloat64);
      Ask(queries, metric);
      double least = std::numeric_limits<double>::infinity(), most = 0.0;
      for (int r = kFirst; r < kFirst + kRows; ++r) {
        const double length = std::sqrt(testing::ExactScore(base.view, r, base.view, r));
        least = std::min(least, length * (1.0 - 1e-9));
        most = std::max(most, length * (1.0 + 1e-9));
      }
      const LengthRange lengths = {least, most};
      std::vector<uint32_t> ids(kRows);
      std::iota(ids.begin(), ids.end(), kFirst);

      const auto merit = [&](uint32_t q, uint64_t id) {
        return MeritOf(metric, testing::ExactScore(queries.view, q, base.view, id, metric));
      };
      // Each asks for as much as one of the rows has; two for anything and nothing.
      std::vector<double> asked(query_count), scores(query_count), slopes(query_count);
      for (uint32_t c = 0; c < query_count; ++c) {
        const uint32_t q = columns_[c];
        asked[c] = merit(q, kFirst + c % kRows);
        if (c == 1) asked[c] = std::numeric_limits<double>::infinity();
        if (c == 2) asked[c] = -asked[1];
        const double scaled = ScaledMerit(metric, asked[c], block_.measured[q].unit);
        scores[c] = c == 1 ? asked[c] : LeastDot(metric, scaled, block_.measured[q], lengths);
        slopes[c] = std::isfinite(scaled) ? LeastDotSlope(metric, scaled, block_.measured[q]) : 0.0;
      }
      std::vector<std::pair<int, int>> expected, found;
      for (int row = 0; row < kRows; ++row) {
        for (uint32_t c = 0; c < query_count; ++c) {
          if (merit(columns_[c], kFirst + row) >= asked[c]) expected.emplace_back(row, c);
        }
      }
      std::vector<Survivor> pairs(kRows * query_count);
      TileLook look(base.view, block_, scratch_);
      const std::optional<size_t> count = look.Collect(
          columns_, {ids, lengths}, {metric, scores.data(), slopes.data()}, pairs.size(), pairs.data());
      ASSERT_TRUE(count.has_value());
      for (const Survivor& s : absl::MakeSpan(pairs).first(*count)) found.emplace_back(s.row, s.column);
      std::sort(found.begin(), found.end());
      EXPECT_EQ(found, expected);
    }
  }
}
INSTANTIATE_TEST_SUITE_P(, EveryMetricTest,
                         ::testing::Values(Metric::kInnerProduct, Metric::kCosine,
                                           Metric::kSquaredEuclidean));

// Of many survivors of a tile for many queries, while it rules some out.
TEST_F(TileLookTest, ServesWhereItSparesMoreThanItTakes) {
  const SharedMatrix base = RandomNormal(512, kDim, 1), queries = RandomNormal(64, kDim, 2);
  Ask(queries, Metric::kInnerProduct);
  TileLook look(base.view, block_, scratch_);
  EXPECT_TRUE(look.Serves(512 * 64, 512, 64));
  EXPECT_FALSE(look.Serves(512, 512, 64));
  EXPECT_TRUE(look.Serves(512, 512, 1));
  EXPECT_FALSE(look.Serves(256, 512, 1));
  const SharedMatrix long_rows = RandomNormal(512, 256, 1);
  EXPECT_FALSE(TileLook(long_rows.view, block_, scratch_).Serves(512 * 64, 512, 64));

  std::vector<uint32_t> ids(512);
  std::iota(ids.begin(), ids.end(), 0);
  const std::vector<double> slopes(64, 0.0), nothing(64, 1e6), anything(64, -1e6);
  std::vector<Survivor> found(512 * 64);
  const auto collect = [&](const std::vector<double>& scores, size_t survivors) {
    return look.Collect(columns_, {ids, {0.0, 100.0}}, {Metric::kInnerProduct, scores.data(), slopes.data()},
                        survivors, found.data());
  };
  EXPECT_EQ(collect(nothing, 512 * 16), 0u);
  EXPECT_FALSE(look.ServesAtOnce());
  // Where codes rule out nothing, the next tiles' need not be asked.
  EXPECT_EQ(collect(nothing, 512 * 64), 0u);
  for (int i = 0; i < 8; ++i) {
    EXPECT_TRUE(look.ServesAtOnce());
    EXPECT_EQ(collect(nothing, 512 * 64), 0u);
  }
  EXPECT_FALSE(look.ServesAtOnce());
  EXPECT_TRUE(look.Serves(512 * 64, 512, 64));
  for (int i = 0; i < 100; ++i) EXPECT_EQ(collect(anything, 512 * 64), std::nullopt);
  EXPECT_FALSE(look.ServesAtOnce());
  EXPECT_FALSE(look.Serves(512 * 64, 512, 64));
}

}  // namespace
}  // namespace dotmax
