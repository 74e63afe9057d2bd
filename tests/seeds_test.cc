#include "server/engine/seeds.h"

#include <algorithm>
#include <cmath>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"
#include "server/engine/engine.h"
#include "server/engine/matrix.h"
#include "server/engine/pass.h"
#include "tests/data.h"
#include "tests/oracle.h"

namespace dotmax {
namespace {

using testing::ExactTopK;
using testing::MakeMatrix;
using testing::RandomNormal;

constexpr uint32_t kDim = 8;
constexpr int kRunRows = 32;  // as the int8 screen's

ScreenOptions Plain() { return {.kind = ScreenOptions::Kind::kInt8, .axes = kDim}; }

absl::Status Never() { return absl::OkStatus(); }

TEST(SeedsTest, SamplesAreRunsFromAllOverTheOrder) {
  for (const int rows : {3000, 5119, 5121, 40000}) {
    const Matrix matrix(RandomNormal(rows, kDim, 1), Plain());
    const Int8Codes& codes = *matrix.codes();
    for (const uint64_t top_k : {10, 1000, 1 << 20}) {
      const std::vector<RowRun> runs = SampleRuns(codes, kRunRows, top_k);
      ASSERT_GE(runs.size(), 8);
      EXPECT_LE(runs.size() * kRunRows, rows / 4);
      const uint64_t apart = rows / runs.size();
      uint64_t next = 0;
      for (const RowRun& run : runs) {
        EXPECT_EQ(run.rows, kRunRows);
        EXPECT_LE(run.first + run.rows, codes.tile(run.tile).rows);
        const uint64_t place = codes.tile(run.tile).first + run.first;
        EXPECT_GE(place, next) << "overlaps";
        EXPECT_LE(place, next + apart + kRunRows);
        next = place + run.rows;
      }
      EXPECT_GE(next + apart, rows);
    }
  }
}

TEST(SeedsTest, FewRowsAreNotSampled) {
  const Matrix matrix(RandomNormal(500, kDim, 1), Plain());
  EXPECT_TRUE(SampleRuns(*matrix.codes(), kRunRows, 10).empty());
}

// Of random samples, hardly any holds as many of the top_k best as the rank says.
TEST(SeedsTest, GuessesHardlyEverFail) {
  testing::Random random(3);
  for (const uint64_t top_k : {8, 10, 100, 1000}) {
    constexpr uint64_t kAll = 20000, kSampled = 2000;
    const uint64_t rank = RankToGuessBy(top_k, kSampled, kAll);
    EXPECT_LT(rank, top_k);
    int failures = 0;
    for (int round = 0; round < 2000; ++round) {
      uint64_t held = 0;
      for (uint64_t i = 0; i < top_k; ++i) held += random.Next() % kAll < kSampled ? 1 : 0;
      failures += held >= rank ? 1 : 0;
    }
    EXPECT_LE(failures, 10) << top_k;
  }
}

TEST(SeedsTest, NoGuessWhereItGainsNothing) {
  EXPECT_EQ(RankToGuessBy(1, 1000, 100000), 1);
  EXPECT_EQ(RankToGuessBy(2, 1000, 100000), 2);
  EXPECT_EQ(RankToGuessBy(100000, 1000, 100000), 100000);
  EXPECT_EQ(RankToGuessBy(200000, 1000, 100000), 200000);
}

// k of them prove a threshold, so none may be there twice.
TEST(SeedsTest, SeedsForDistancesAreDifferentRowsOfAllLengths) {
  constexpr int kRows = 20000;
  const Matrix matrix(testing::RandomOfLengths(kRows, kDim, 1.0, 1), Plain());
  const SharedMatrix queries = RandomNormal(1, kDim, 2);
  const Selection selection = {.top_k = 5, .metric = Metric::kSquaredEuclidean};
  const auto never = [](absl::Time) { return absl::OkStatus(); };
  Question question(queries.view, selection, selection.top_k, /*may_guess=*/false, never);
  TopK best(selection.top_k);
  const BlockQuery query = {&question, 0, &best};
  PassBuffers buffers;
  const QueryBlock block = buffers.Prepare({&query, 1});

  const Int8Codes& codes = *matrix.codes();
  std::vector<std::pair<uint64_t, uint64_t>> ranges;  // of places
  for (const RowRun& run : RunsToSeedFrom(codes, kRunRows, block, {0}, 1)) {
    EXPECT_LE(run.first + run.rows, codes.tile(run.tile).rows);
    const uint64_t first = codes.tile(run.tile).first + run.first;
    ranges.emplace_back(first, first + run.rows);
  }
  std::sort(ranges.begin(), ranges.end());
  for (size_t i = 1; i < ranges.size(); ++i) EXPECT_LE(ranges[i - 1].second, ranges[i].first);
  EXPECT_LT(ranges.front().first, kRows / 16);
  EXPECT_GT(ranges.back().second, kRows - kRows / 16);
}

TEST(SeedsTest, BestOfRunsHoldsTheBestOfThem) {
  const Matrix matrix(RandomNormal(4000, kDim, 1), Plain());
  const Int8Codes& codes = *matrix.codes();
  const SharedMatrix queries = RandomNormal(3, kDim, 2);
  std::vector<int8_t> query_codes(3 * codes.code_dim());
  std::vector<double> inverse_scale, offset;
  for (int q = 0; q < 3; ++q) {
    const auto* const row = reinterpret_cast<const float*>(queries.view.row(q));
    const QueryCode code = codes.EncodeQuery(0, 100.0, row, query_codes.data() + q * codes.code_dim());
    inverse_scale.push_back(code.inverse_scale);
    offset.push_back(code.offset);
  }
  constexpr int kColumns = 16;
  CodeScorer scorer;
  const auto kernel = TileMatmul::Create(TileKind::kInt8, Int8Codes::kTileRows, codes.code_dim(), kColumns);
  if (!kernel.ok()) GTEST_SKIP() << kernel.status();
  scorer.Pack(kernel->get(), kColumns, query_codes.data(), 3, codes.code_dim());
  AlignedArray<int32_t> thresholds;
  thresholds.Reserve(kColumns);
  std::vector<Survivor> survivors(Int8Codes::kTileRows * kColumns + kSurvivorPadding);
  const std::vector<RowRun> runs = RunsOfTiles(codes, 1, 4);
  const MeasuredQuery any;  // inner products ask for no lengths
  const std::vector<const MeasuredQuery*> measured(3, &any);
  const std::vector<Metric> metrics(3, Metric::kInnerProduct);
  const std::vector<double> centre(3);
  for (const uint64_t step : {1, 2}) {  // of places whose rows may be hits
    std::vector<std::vector<uint64_t>> keys(3);
    std::vector<float> least = {-INFINITY, kNoSeeds, -INFINITY};
    BestOfRuns(
        codes, runs, 5,
        {inverse_scale.data(), offset.data(), centre.data(), measured.data(), metrics.data(), least.data(), 3,
         step == 1},
        [&](size_t, uint64_t place) { return place % step == 0; }, scorer, thresholds.data(),
        survivors.data(), keys);
    EXPECT_TRUE(keys[1].empty());
    for (const int q : {0, 2}) {
      EXPECT_LT(keys[q].size(), 100);
      KeepLargest(keys[q], 5);
      ASSERT_EQ(keys[q].size(), 5);
      std::vector<std::pair<double, uint64_t>> expected;
      for (uint64_t place = codes.tile(1).first; place < codes.tile(4).first; place += step) {
        const auto* const a = reinterpret_cast<const float*>(queries.view.row(q));
        const auto* const b = reinterpret_cast<const float*>(matrix.view().row(codes.id_at(place)));
        double sum = 0.0;
        for (uint32_t i = 0; i < kDim; ++i) sum += 1.0 * a[i] * b[i];
        expected.emplace_back(-sum, place);
      }
      std::sort(expected.begin(), expected.end());
      // But for the error of codes.
      for (const uint64_t key : keys[q]) {
        const auto found = std::find_if(expected.begin(), expected.end(), [key](const auto& e) {
          return e.second == static_cast<uint32_t>(key);
        });
        EXPECT_LT(found - expected.begin(), 30);
      }
    }
  }
}

class DeepSearch : public ::testing::TestWithParam<int> {};

// Every top_k from a few to more than there are rows, as the oracle has it, and with few pairs checked.
TEST_P(DeepSearch, IsExactForEveryTopK) {
  const SharedMatrix rows = RandomNormal(6000, kDim, 4);
  const SharedMatrix queries = RandomNormal(GetParam(), kDim, 5);
  const std::vector<Hit> all =
      ExactTopK(queries.view, rows.view, static_cast<uint32_t>(rows.view.rows), Reduction::kPerRow);
  for (const ScreenOptions& screen : {Plain(), ScreenOptions{.kind = ScreenOptions::Kind::kInt8, .axes = 6},
                                      ScreenOptions{.kind = ScreenOptions::Kind::kInt8, .clusters = 20},
                                      ScreenOptions{.kind = ScreenOptions::Kind::kFloat32}}) {
    const Matrix matrix(rows, screen);
    for (const int threads : {1, 2}) {
      Engine engine(threads);
      for (const uint32_t top_k : {5u, 50u, 500u, 3000u, 5999u, 6000u, 10000u}) {
        SCOPED_TRACE(::testing::Message()
                     << matrix.screen() << ", top_k " << top_k << ", threads " << threads);
        const absl::StatusOr<Answer> answer = engine.Search(matrix, queries.view, {.top_k = top_k}, Never);
        ASSERT_TRUE(answer.ok());
        const uint64_t each = std::min<uint64_t>(top_k, rows.view.rows);
        std::vector<Hit> expected;
        for (uint64_t q = 0; q < queries.view.rows; ++q) {
          const auto first = all.begin() + q * rows.view.rows;
          expected.insert(expected.end(), first, first + each);
        }
        ASSERT_TRUE(answer->hits == expected);
      }
    }
  }
}
INSTANTIATE_TEST_SUITE_P(OneAndManyQueries, DeepSearch, ::testing::Values(1, 40));

// The rows that the sample consists of, and no others, are near to the queries: a guess by them is too high.
TEST(SeedsTest, ASampleThatMisleadsOnlyCostsTime) {
  constexpr int kRows = 20000, kQueries = 20;
  constexpr uint32_t kTopK = 50;
  std::vector<double> values(static_cast<size_t>(kRows) * kDim);
  const auto length = [](int row) { return 2.0 - row / (2.0 * kRows); };  // ids are in order of norm
  for (int row = 0; row < kRows; ++row) values[static_cast<size_t>(row) * kDim + 1 + row % 3] = length(row);
  const Matrix before(MakeMatrix(values, kDim), Plain());
  const std::vector<RowRun> runs = SampleRuns(*before.codes(), kRunRows, kTopK);
  const uint64_t rank = RankToGuessBy(kTopK, runs.size() * kRunRows, kRows);
  ASSERT_LT(rank, kTopK);
  for (uint64_t i = 0; i < rank; ++i) {
    const uint64_t row = before.codes()->id(runs[i].tile, runs[i].first + static_cast<int>(i) % kRunRows);
    std::fill_n(values.begin() + row * kDim, kDim, 0.0);
    values[row * kDim] = length(static_cast<int>(row));
  }
  const SharedMatrix rows = MakeMatrix(values, kDim);
  // Every other query: the first and the last of them, and those between, are searched again.
  std::vector<double> query_values(kQueries * kDim, 0.1);
  for (int q = 1; q < kQueries; q += 2) query_values[q * kDim] = 3.0;
  const SharedMatrix queries = MakeMatrix(query_values, kDim);
  const Matrix matrix(rows, Plain());
  const std::vector<Hit> expected = ExactTopK(queries.view, rows.view, kTopK, Reduction::kPerRow);
  for (const int threads : {1, 2}) {
    Engine engine(threads);
    const absl::StatusOr<Answer> answer = engine.Search(matrix, queries.view, {.top_k = kTopK}, Never);
    ASSERT_TRUE(answer.ok());
    EXPECT_EQ(answer->hits, expected);
    EXPECT_GT(answer->stats.pairs_screened, kQueries * kRows * 3 / 2) << "no guess was wrong";
  }
}

// About as many pairs are checked as there are hits.
TEST(SeedsTest, GuessesLetFewPairsThrough) {
  const SharedMatrix queries = RandomNormal(32, kDim, 5);
  const Matrix matrix(RandomNormal(50000, kDim, 4), Plain());
  Engine engine(1);
  const absl::StatusOr<Answer> answer = engine.Search(matrix, queries.view, {.top_k = 1000}, Never);
  ASSERT_TRUE(answer.ok());
  EXPECT_LT(answer->stats.pairs_checked, 2.5 * answer->hits.size());
}

// Where a range holds fewer rows than are wanted, nothing below it is checked to prove a threshold by, and
// where it holds many more, the best are.
TEST(SeedsTest, RangesCostWhatTheyHold) {
  constexpr uint64_t kQueries = 64;
  const SharedMatrix queries = RandomNormal(kQueries, kDim, 5);
  Engine engine(1);
  for (const uint64_t rows : {1500, 20000}) {
    const Matrix matrix(RandomNormal(rows, kDim, 4), Plain());
    for (const Metric metric : {Metric::kInnerProduct, Metric::kCosine, Metric::kSquaredEuclidean}) {
      SCOPED_TRACE(absl::StrCat(rows, " rows, metric ", static_cast<int>(metric)));
      constexpr uint32_t kDeep = 1000;
      const absl::StatusOr<Answer> deep =
          engine.Search(matrix, queries.view, {.top_k = kDeep, .metric = metric}, Never);
      ASSERT_TRUE(deep.ok());
      // The scores that queries' n-th hits have on average hold about n of each.
      for (const auto& [rank, top_k] : {std::pair<int, uint32_t>{1, 1000}, {1, 20}, {500, 5}}) {
        double bound = 0.0;
        for (uint64_t q = 0; q < kQueries; ++q) bound += deep->hits[q * kDeep + rank - 1].score / kQueries;
        std::vector<Hit> expected;
        for (uint64_t q = 0; q < kQueries; ++q) {
          for (uint32_t i = 0; i < std::min(top_k, kDeep); ++i) {
            const Hit& hit = deep->hits[q * kDeep + i];
            if (MeritOf(metric, hit.score) >= MeritOf(metric, bound)) expected.push_back(hit);
          }
        }
        const absl::StatusOr<Answer> answer =
            engine.Search(matrix, queries.view, {.top_k = top_k, .metric = metric, .bounds = {bound}}, Never);
        ASSERT_TRUE(answer.ok());
        EXPECT_EQ(answer->hits, expected);
        EXPECT_LT(answer->stats.pairs_checked, 8 * expected.size() + kQueries) << rank << ", " << top_k;
      }
    }
  }
}

}  // namespace
}  // namespace dotmax
