#include "server/engine/engine.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <functional>
#include <limits>
#include <memory>
#include <string>
#include <tuple>
#include <vector>

#include "gtest/gtest.h"
#include "server/base/errors.h"
#include "server/engine/code_kernel.h"
#include "tests/data.h"
#include "tests/oracle.h"

namespace dotmax {
namespace {

using testing::ExactTopK;
using testing::MakeMatrix;
using testing::Random;
using testing::RandomNormal;
using testing::RandomOfLengths;
using testing::Slice;

absl::Status Never() { return absl::OkStatus(); }

// Every screen that the data allows: as measured, float32, int8 unrotated, along some axes with and without a
// second level, in clusters, and with a head, which shares codes with the other axes or does not. Whole rows
// as they are, or seen from their mean, or spread, or both.
std::vector<ScreenOptions> Screens(uint32_t dim) {
  std::vector<ScreenOptions> screens = {{},
                                        {.kind = ScreenOptions::Kind::kFloat32},
                                        {.kind = ScreenOptions::Kind::kInt8, .axes = dim},
                                        {.kind = ScreenOptions::Kind::kInt8, .axes = dim, .deflated = true}};
  for (const bool deflated : {false, true}) {
    screens.push_back(
        {.kind = ScreenOptions::Kind::kInt8, .axes = dim, .deflated = deflated, .spread = true});
  }
  for (const uint32_t clusters : {1u, 7u, 1000u}) {
    screens.push_back({.kind = ScreenOptions::Kind::kInt8, .clusters = clusters});
  }
  for (const uint32_t axes : {1u, dim / 2}) {
    if (0 < axes && axes < dim && dim <= 1000) {
      screens.push_back({.kind = ScreenOptions::Kind::kInt8, .axes = axes});
      screens.push_back({.kind = ScreenOptions::Kind::kInt8,
                         .axes = axes,
                         .two_levels = true,
                         .deflated = axes > 1,
                         .spread = axes > 1});
    }
  }
  if (1 < dim && dim <= 300) {
    for (const bool two_levels : {false, true}) {
      screens.push_back({.kind = ScreenOptions::Kind::kInt8,
                         .axes = dim,
                         .two_levels = two_levels,
                         .head = (dim + 1) / 2,
                         .deflated = two_levels,
                         .spread = two_levels});
    }
  }
  return screens;
}

void ExpectAnswer(const Answer& answer, const std::vector<Hit>& expected, const MatrixView& a,
                  const MatrixView& b, const Selection& selection) {
  ASSERT_EQ(answer.hits.size(), expected.size());
  for (size_t i = 0; i < expected.size(); ++i) {
    ASSERT_EQ(answer.hits[i], expected[i])
        << "hit " << i << ": got " << answer.hits[i].score << " at " << answer.hits[i].id << ", expected "
        << expected[i].score << " at " << expected[i].id;
  }
  if (selection.reduction == Reduction::kPerRow) {
    const uint64_t each = std::min<uint64_t>(selection.top_k, b.rows);
    ASSERT_EQ(answer.row_splits.size(), a.rows + 1);
    for (uint64_t i = 0; i <= a.rows; ++i) EXPECT_EQ(answer.row_splits[i], i * each);
  } else {
    EXPECT_TRUE(answer.row_splits.empty());
  }
  EXPECT_EQ(answer.best.has_value(), !expected.empty());
  if (!expected.empty()) {
    EXPECT_EQ(*answer.best,
              *std::min_element(expected.begin(), expected.end(), [&](const Hit& x, const Hit& y) {
                return BetterBy(selection.metric, x, y);
              }));
  }
  EXPECT_LE(answer.stats.pairs_survived, answer.stats.pairs_screened);
  EXPECT_LE(answer.stats.pairs_screened, a.rows * b.rows);
}

// Searches by every screen, with 1 and 3 threads, both reductions, and compares with the oracle at zero
// tolerance. Metrics but the inner product are asked for one top_k, and one number of threads a reduction.
void ExpectExact(const SharedMatrix& a, const SharedMatrix& b, std::vector<uint32_t> top_ks = {1, 7}) {
  std::vector<std::unique_ptr<Matrix>> matrices;
  for (const ScreenOptions& screen : Screens(b.view.dim))
    matrices.push_back(std::make_unique<Matrix>(b, screen));
  Engine one(1), three(3);
  for (const uint32_t top_k : top_ks) {
    for (const Reduction reduction : {Reduction::kPerRow, Reduction::kGlobal}) {
      for (const Metric metric : {Metric::kInnerProduct, Metric::kCosine, Metric::kSquaredEuclidean}) {
        const bool inner = metric == Metric::kInnerProduct;
        if (!inner && top_k != top_ks.back()) continue;
        const Selection selection = {.top_k = top_k, .reduction = reduction, .metric = metric};
        const std::vector<Hit> expected = ExactTopK(a.view, b.view, top_k, reduction, metric);
        const bool overflows = std::any_of(expected.begin(), expected.end(),
                                           [](const Hit& hit) { return !std::isfinite(hit.score); });
        for (const auto& matrix : matrices) {
          for (Engine* engine : {&one, &three}) {
            if (!inner && (engine == &one) == (reduction == Reduction::kPerRow)) continue;
            SCOPED_TRACE(::testing::Message()
                         << a.view.rows << " x " << b.view.rows << " x " << b.view.dim << ", top_k " << top_k
                         << ", threads " << engine->threads() << ", reduction " << static_cast<int>(reduction)
                         << ", metric " << static_cast<int>(metric) << ", screen " << matrix->screen());
            const absl::StatusOr<Answer> answer = engine->Search(*matrix, a.view, selection, Never);
            if (!inner && overflows) {
              EXPECT_EQ(answer.status().code(), absl::StatusCode::kOutOfRange);
              continue;
            }
            ASSERT_TRUE(answer.ok()) << answer.status();
            ExpectAnswer(*answer, expected, a.view, b.view, selection);
          }
        }
      }
    }
  }
}

std::vector<double> Constant(size_t n, double value) { return std::vector<double>(n, value); }

TEST(EngineTest, NoQueriesGivesAnEmptyAnswer) { ExpectExact(RandomNormal(0, 8, 1), RandomNormal(10, 8, 2)); }

TEST(EngineTest, EmptyMatrixGivesNoHits) { ExpectExact(RandomNormal(5, 8, 1), RandomNormal(0, 8, 2)); }

TEST(EngineTest, FewerRowsThanTopK) {
  ExpectExact(RandomNormal(3, 8, 1), RandomNormal(4, 8, 2), {4, 5, 100});
}

TEST(EngineTest, SizesAroundTileAndVectorWidths) {
  for (const uint64_t rows : {1, 15, 16, 17, 255, 256, 257}) {
    for (const uint64_t queries : {1, 2, 15, 16, 17}) {
      ExpectExact(RandomNormal(queries, 5, rows), RandomNormal(rows, 5, queries + 100));
    }
  }
  for (const uint64_t rows : {1023, 1024, 1025}) ExpectExact(RandomNormal(3, 9, 1), RandomNormal(rows, 9, 2));
}

TEST(EngineTest, BlocksOfQueries) {
  for (const uint64_t queries : {33, 255, 256, 257, 300}) {
    ExpectExact(RandomNormal(queries, 4, 3), RandomNormal(70, 4, 4), {2});
  }
}

TEST(EngineTest, DimsAroundVectorWidths) {
  for (const uint32_t dim : {1, 2, 7, 8, 15, 16, 17, 31, 33, 64, 100}) {
    ExpectExact(RandomNormal(5, dim, dim), RandomNormal(40, dim, dim + 1));
  }
}

TEST(EngineTest, LargeDims) {
  ExpectExact(RandomNormal(2, 5000, 1), RandomNormal(300, 5000, 2));
  ExpectExact(RandomNormal(2, kMaxDim, 1), RandomNormal(40, kMaxDim, 2));
}

TEST(EngineTest, EveryPairOfDtypes) {
  const DType all[] = {DType::kFloat32, DType::kFloat16, DType::kBFloat16, DType::kFloat64, DType::kInt8};
  for (const DType a : all) {
    for (const DType b : all) ExpectExact(RandomNormal(4, 19, 1, a), RandomNormal(300, 19, 2, b));
  }
}

TEST(EngineTest, AllRowsEqualGivesTheLowestIds) {
  ExpectExact(RandomNormal(3, 6, 1), MakeMatrix(Constant(600 * 6, 0.1), 6), {1, 5, 300});
}

TEST(EngineTest, AllZeros) {
  ExpectExact(MakeMatrix(Constant(3 * 6, 0.0), 6), RandomNormal(300, 6, 1));
  ExpectExact(RandomNormal(3, 6, 1), MakeMatrix(Constant(300 * 6, 0.0), 6));
}

TEST(EngineTest, SparseRowsThatMostlyScoreZero) {
  Random random(4);
  const auto sparse = [&](uint64_t rows) {
    std::vector<double> values(rows * 24);
    for (double& x : values) x = random.Uniform() < 0.08 ? random.Normal() : 0.0;
    return MakeMatrix(values, 24);
  };
  ExpectExact(sparse(40), sparse(900), {3, 500});
}

// Rows with so few marks that most pairs have none in common: the k-th best score is often 0, as nearly all
// others are, which no bound tells from a little more; so are distances, where float64 holds them. Some rows
// are equal.
TEST(EngineTest, RowsWithNothingInCommon) {
  constexpr uint32_t kDim = 260, kQueries = 12, kRows = 900, kTopK = 200;
  Engine engine(1);
  for (const bool with_others : {false, true}) {
    Random random(4);
    std::vector<double> values((kQueries + kRows) * kDim);
    for (uint32_t r = 0; r < kQueries + kRows; ++r) {
      const uint32_t marks = r % 4;
      for (uint32_t i = 0; i < marks; ++i) {
        const double other = random.Normal();
        values[r * kDim + random.Next() % kDim] = with_others && i == 0 ? other : 1.0;
      }
    }
    const SharedMatrix all = MakeMatrix(values, kDim);
    const SharedMatrix rows = Slice(all, kQueries, kRows), queries = Slice(all, 0, kQueries);
    ExpectExact(queries, rows, {60, 600});
    const Matrix matrix(rows, {.kind = ScreenOptions::Kind::kInt8});
    if (matrix.codes() == nullptr) continue;
    for (const Metric metric : {Metric::kInnerProduct, Metric::kCosine, Metric::kSquaredEuclidean}) {
      const absl::StatusOr<Answer> answer =
          engine.Search(matrix, queries.view, {.top_k = kTopK, .metric = metric}, Never);
      ASSERT_TRUE(answer.ok()) << answer.status();
      EXPECT_EQ(answer->hits, ExactTopK(queries.view, rows.view, kTopK, Reduction::kPerRow, metric));
      if (with_others && metric == Metric::kSquaredEuclidean) continue;
      EXPECT_LT(answer->stats.pairs_checked, 0.1 * kQueries * kRows) << static_cast<int>(metric);
    }
  }
}

// All of whose scores are kept; of equal lengths, of lengths that differ within a tile, of lengths that are
// 0.
TEST(EngineTest, FewRowsAndManyHits) {
  constexpr uint32_t kDim = 17;
  for (const double spread : {0.0, 1.5}) {
    ExpectExact(RandomNormal(9, kDim, 32), RandomOfLengths(900, kDim, spread, 31), {60});
  }
  ExpectExact(RandomNormal(5, 300, 35), RandomNormal(600, 300, 36), {30});
}

// Of which some scores are kept, by one worker for all queries, or by two for some of these each; and of all
// queries together none, but the nearest rows are looked for among those of all lengths.
TEST(EngineTest, ManyRowsOfEqualAndOtherLengths) {
  constexpr uint32_t kDim = 20;
  constexpr int kQueries = 32, kRows = 4900;
  Engine one(1), two(2);
  for (const double spread : {0.0, 1.0}) {
    const SharedMatrix queries = RandomOfLengths(kQueries, kDim, spread, 33);
    const SharedMatrix rows = RandomOfLengths(kRows, kDim, spread, 34);
    const Matrix matrix(rows, {.kind = ScreenOptions::Kind::kInt8, .axes = kDim});
    for (const Metric metric : {Metric::kInnerProduct, Metric::kCosine, Metric::kSquaredEuclidean}) {
      if (metric == Metric::kCosine && spread == 0.0) continue;  // which takes the oracle long
      // More would have all scores kept, or thresholds guessed, fewer none.
      const uint32_t kept_top_k = metric == Metric::kInnerProduct && spread == 0.0 ? 30 : 9;
      for (const Reduction reduction : {Reduction::kPerRow, Reduction::kGlobal}) {
        if (reduction == Reduction::kGlobal && metric != Metric::kSquaredEuclidean) continue;
        const uint32_t top_k = reduction == Reduction::kGlobal ? 1 : kept_top_k;
        const Selection selection = {.top_k = top_k, .reduction = reduction, .metric = metric};
        const std::vector<Hit> expected = ExactTopK(queries.view, rows.view, top_k, reduction, metric);
        for (Engine* engine : {&one, &two}) {
          SCOPED_TRACE(::testing::Message()
                       << "spread " << spread << ", metric " << static_cast<int>(metric) << ", reduction "
                       << static_cast<int>(reduction) << ", threads " << engine->threads());
          const absl::StatusOr<Answer> answer = engine->Search(matrix, queries.view, selection, Never);
          ASSERT_TRUE(answer.ok()) << answer.status();
          ExpectAnswer(*answer, expected, queries.view, rows.view, selection);
        }
      }
    }
  }
}

// Sums of products that round to zero, or to one of the few numbers next to it, and so to what others do.
TEST(EngineTest, ScoresThatUnderflow) {
  Random random(4);
  const auto rows = [&](uint64_t count, double share, double scale, DType dtype) {
    std::vector<double> values(count * 24);
    for (double& x : values) x = random.Uniform() < share ? scale * random.Normal() : 0.0;
    return MakeMatrix(values, 24, dtype);
  };
  for (const double share : {0.08, 1.0}) {
    ExpectExact(rows(12, share, 0x1p-540, DType::kFloat64), rows(400, share, 0x1p-537, DType::kFloat64),
                {3, 250});
    ExpectExact(rows(12, share, 0x1p-1070, DType::kFloat64), rows(400, share, 1.0, DType::kFloat32),
                {3, 250});
    ExpectExact(rows(12, share, 0x1p-950, DType::kFloat64), rows(400, share, 0x1p-130, DType::kFloat32),
                {3, 250});
  }
}

TEST(EngineTest, DuplicatedRowsTieByIdAcrossTiles) {
  const SharedMatrix few = RandomNormal(20, 6, 1);
  std::vector<double> values;
  for (int copy = 0; copy < 40; ++copy) {
    for (int row = 0; row < 20; ++row) {
      for (int i = 0; i < 6; ++i) values.push_back(reinterpret_cast<const float*>(few.view.row(row))[i]);
    }
  }
  ExpectExact(RandomNormal(5, 6, 2), MakeMatrix(values, 6), {1, 3, 41, 100});
}

TEST(EngineTest, RowsThatDifferInTheLastBit) {
  Random random(5);
  std::vector<double> base(12);
  for (double& x : base) x = static_cast<float>(random.Normal());
  for (const DType dtype : {DType::kFloat32, DType::kFloat64}) {
    std::vector<double> values;
    for (int row = 0; row < 700; ++row) {
      for (int i = 0; i < 12; ++i) {
        const bool nudge = i == row % 12;
        values.push_back(dtype == DType::kFloat32
                             ? (nudge ? std::nextafterf(static_cast<float>(base[i]), 9.0f) : base[i])
                             : (nudge ? std::nextafter(base[i], 9.0) : base[i]));
      }
    }
    ExpectExact(MakeMatrix(base, 12, dtype), MakeMatrix(values, 12, dtype));
  }
}

TEST(EngineTest, ScoresThatCancel) {
  // Large opposite parts, and a difference far below float32's resolution.
  Random random(6);
  std::vector<double> queries, rows;
  for (int q = 0; q < 4; ++q) {
    for (const double x : {1e6, 1e6, random.Normal(), random.Normal()}) queries.push_back(x);
  }
  for (int r = 0; r < 500; ++r) {
    const double big = random.Normal() * 1e6;
    for (const double x : {big, -big, random.Normal(), random.Normal()}) rows.push_back(x);
  }
  ExpectExact(MakeMatrix(queries, 4), MakeMatrix(rows, 4));
}

TEST(EngineTest, OneDominatingAxis) {
  Random random(8);
  std::vector<double> rows(600 * 10);
  for (size_t i = 0; i < rows.size(); ++i) rows[i] = i % 10 == 3 ? 1e6 : random.Normal();
  ExpectExact(RandomNormal(4, 10, 9), MakeMatrix(rows, 10));
}

// Elements of `spread` decimal magnitudes around 1, every row another one.
SharedMatrix MixedScales(uint64_t rows, uint32_t dim, double low, double high, uint64_t seed, DType dtype) {
  Random random(seed);
  std::vector<double> values;
  for (uint64_t r = 0; r < rows; ++r) {
    const double scale = std::pow(10.0, low + (high - low) * random.Uniform());
    for (uint32_t i = 0; i < dim; ++i) values.push_back(random.Normal() * scale);
  }
  return MakeMatrix(values, dim, dtype);
}

TEST(EngineTest, ScalesFromDenormalToHuge) {
  ExpectExact(MixedScales(6, 11, -38, 30, 1, DType::kFloat32),
              MixedScales(700, 11, -38, 30, 2, DType::kFloat32));
}

TEST(EngineTest, Float32ThatWouldOverflowTheScreen) {
  ExpectExact(MixedScales(6, 11, 37, 38, 1, DType::kFloat32),
              MixedScales(700, 11, 37, 38, 2, DType::kFloat32));
}

TEST(EngineTest, Denormals) {
  ExpectExact(MixedScales(6, 11, -44, -38, 1, DType::kFloat32),
              MixedScales(700, 11, -44, -38, 2, DType::kFloat32));
  ExpectExact(MixedScales(6, 11, -320, -308, 1, DType::kFloat64), RandomNormal(700, 11, 2, DType::kFloat64));
  ExpectExact(MixedScales(6, 11, -160, -140, 1, DType::kFloat64),
              MixedScales(700, 11, -180, -160, 2, DType::kFloat64));
}

TEST(EngineTest, Float64BeyondFloat32) {
  ExpectExact(MixedScales(6, 11, -150, 150, 1, DType::kFloat64),
              MixedScales(700, 11, -150, 150, 2, DType::kFloat64));
  ExpectExact(MixedScales(6, 11, 290, 300, 1, DType::kFloat64),
              MixedScales(700, 11, -300, -290, 2, DType::kFloat64));
}

TEST(EngineTest, Float64IntermediateOverflowIsAnOrdinaryScore) {
  std::vector<double> rows;
  for (int r = 0; r < 300; ++r) {
    for (const double x : {1e300, -1e300, static_cast<double>(r * 37 % 101)}) rows.push_back(x);
  }
  ExpectExact(MakeMatrix({1e300, 1e300, 1.0}, 3, DType::kFloat64), MakeMatrix(rows, 3, DType::kFloat64));
}

TEST(EngineTest, AScoreBeyondFloat64IsAnError) {
  const SharedMatrix a = MakeMatrix({1.0, 1e200}, 1, DType::kFloat64);
  const Matrix matrix(MakeMatrix({1.0, 2.0, 1e200}, 1, DType::kFloat64));
  Engine engine(1);
  const absl::StatusOr<Answer> answer = engine.Search(matrix, a.view, {}, Never);
  EXPECT_EQ(answer.status().code(), absl::StatusCode::kOutOfRange);
  EXPECT_EQ(ErrorReason(answer.status()), "SCORE_OVERFLOW");
  EXPECT_EQ(answer.status().message(), "the inner product of query row 1 and row 2 is beyond float64");
}

TEST(EngineTest, ALoserBeyondFloat64IsNoError) {
  const SharedMatrix a = MakeMatrix({-1e200}, 1, DType::kFloat64);
  ExpectExact(a, MakeMatrix({1.0, 2.0, 1e200}, 1, DType::kFloat64), {1, 2});
}

// Of the float32 screen, and of one worker that keeps all scores of its queries.
TEST(EngineTest, StopEndsTheSearchWithItsStatus) {
  for (const bool keeps_scores : {false, true}) {
    const uint32_t dim = keeps_scores ? 40 : 8;
    const Matrix matrix(RandomNormal(5000, dim, 1),
                        {.kind = keeps_scores ? ScreenOptions::Kind::kInt8 : ScreenOptions::Kind::kFloat32,
                         .axes = keeps_scores ? dim : 0});
    const SharedMatrix queries = RandomNormal(4, dim, 2);
    Engine engine(keeps_scores ? 1 : 2);
    std::atomic<int> asked{0};
    const absl::StatusOr<Answer> answer =
        engine.Search(matrix, queries.view, {.top_k = keeps_scores ? 30u : 1u}, [&asked]() -> absl::Status {
          return ++asked < 3 ? absl::OkStatus() : absl::CancelledError("withdrawn");
        });
    EXPECT_EQ(answer.status(), absl::CancelledError("withdrawn"));
    EXPECT_LE(asked, 4);
    // And the engine is as good as new.
    EXPECT_TRUE(engine.Search(matrix, queries.view, {}, Never).ok());
  }
}

TEST(EngineTest, TheScreensRuleOutNearlyAllOfOrdinaryData) {
  const SharedMatrix rows = RandomNormal(20000, 32, 1);
  const SharedMatrix queries = RandomNormal(64, 32, 2);
  for (const ScreenOptions& screen : {ScreenOptions{.kind = ScreenOptions::Kind::kFloat32},
                                      ScreenOptions{.kind = ScreenOptions::Kind::kInt8, .axes = 32}}) {
    const Matrix matrix(rows, screen);
    Engine engine(2);
    const absl::StatusOr<Answer> answer = engine.Search(matrix, queries.view, {}, Never);
    ASSERT_TRUE(answer.ok());
    EXPECT_LT(answer->stats.pairs_survived, answer->stats.pairs_screened / 500) << matrix.screen();
    EXPECT_LE(answer->stats.pairs_rescored, 8 * queries.view.rows);  // of this dtype all that are left are
  }
}

// The nearest rows may be the shortest, of which a scan by descending lengths comes last.
TEST(EngineTest, TheScreensRuleOutRowsOfOtherLengths) {
  const SharedMatrix rows = RandomOfLengths(20000, 32, 1.0, 1);
  const SharedMatrix queries = RandomOfLengths(64, 32, 1.0, 2);
  const Matrix matrix(rows, {.kind = ScreenOptions::Kind::kInt8, .axes = 32});
  Engine engine(1);
  const absl::StatusOr<Answer> answer =
      engine.Search(matrix, queries.view, {.top_k = 3, .metric = Metric::kSquaredEuclidean}, Never);
  ASSERT_TRUE(answer.ok());
  EXPECT_LT(answer->stats.pairs_checked, answer->stats.pairs_screened / 50) << matrix.screen();
}

// Rows of lengths that differ by about `spread` (in logarithms) along `rank` directions, but for a little
// noise.
SharedMatrix LowRank(int rows, uint32_t dim, uint32_t rank, double spread) {
  Random random(12);
  std::vector<double> directions(rank * dim), values;
  for (double& x : directions) x = random.Normal();
  for (int row = 0; row < rows; ++row) {
    const double length = std::exp(random.Normal() * spread);
    std::vector<double> x(dim);
    for (uint32_t r = 0; r < rank; ++r) {
      const double weight = random.Normal() * length;
      for (uint32_t i = 0; i < dim; ++i) x[i] += weight * directions[r * dim + i];
    }
    for (double& v : x) values.push_back(v + 0.01 * random.Normal());
  }
  return MakeMatrix(values, dim);
}

// Few axes must do, and norms must end searches early.
TEST(EngineTest, StructureIsFoundAndUsed) {
  const SharedMatrix rows = LowRank(20000, 64, 8, 0.5);
  const SharedMatrix queries = Slice(rows, 500, 20);
  for (const bool two_levels : {false, true}) {
    const Matrix matrix(
        rows, {.kind = ScreenOptions::Kind::kInt8, .axes = two_levels ? 6u : 12u, .two_levels = two_levels});
    Engine engine(1);
    const absl::StatusOr<Answer> answer = engine.Search(matrix, queries.view, {}, Never);
    ASSERT_TRUE(answer.ok());
    if (matrix.codes() != nullptr) {  // null where there is no kernel for codes
      const uint64_t pairs = queries.view.rows * rows.view.rows;
      EXPECT_LT(answer->stats.pairs_screened, pairs / 2);
      EXPECT_LT(answer->stats.pairs_checked, pairs / 200);
      if (two_levels) {  // two directions are missing, which only the second look sees
        EXPECT_LT(answer->stats.pairs_checked, answer->stats.pairs_survived / 2) << matrix.screen();
      }
    }
    EXPECT_EQ(answer->hits, ExactTopK(queries.view, rows.view, 1, Reduction::kPerRow));
  }
}

TEST(EngineTest, ThePlannerTakesFewAxesWhereTheyServe) {
  // Of the longer rows axes take most of the planner's time to find.
  for (const auto& [count, dim, asked] : {std::tuple{20000, 256u, 20u}, std::tuple{9000, 1536u, 4u}}) {
    const SharedMatrix rows = LowRank(count, dim, 32, 0.0);
    const SharedMatrix queries = Slice(rows, 500, asked);
    const Matrix matrix(rows);
    if (matrix.codes() != nullptr) {  // null where there is no kernel for codes
      EXPECT_LT(matrix.codes()->axes().count, 128) << matrix.screen();
    }
    EXPECT_LE(matrix.resident_bytes(), 5.3 * rows.view.rows * rows.view.dim);
    Engine engine(2);
    const absl::StatusOr<Answer> answer = engine.Search(matrix, queries.view, {.top_k = 3}, Never);
    ASSERT_TRUE(answer.ok());
    EXPECT_EQ(answer->hits, ExactTopK(queries.view, rows.view, 3, Reduction::kPerRow));
  }
}

// A head rules nothing out there, and then all codes have to be read, too: not the planner's few, but many,
// from memory.
TEST(EngineTest, ThePlannerTakesNoHeadOfWhiteNoise) {
  const Matrix matrix(RandomNormal(40000, 768, 1));
  EXPECT_TRUE(matrix.codes() == nullptr || matrix.codes()->head() == nullptr) << matrix.screen();
}

// A few strong dims ask for coarse steps of all: codes of rows that were spread leave fewer pairs.
TEST(EngineTest, ThePlannerSpreadsWhatHasStrongDims) {
  constexpr uint32_t kDim = 384;
  Random random(3);
  const auto with_strong_dims = [&](uint64_t rows) {
    std::vector<double> values(rows * kDim);
    for (size_t i = 0; i < values.size(); ++i)
      values[i] = random.Normal() * (i % kDim % 100 == 5 ? 12.0 : 1.0);
    return MakeMatrix(values, kDim);
  };
  const SharedMatrix queries = with_strong_dims(20);
  Engine engine(1);
  for (const uint64_t count : {900, 2000}) {  // not measured, and measured
    const SharedMatrix rows = with_strong_dims(count);
    const Matrix spread(rows), plain(rows, {.kind = ScreenOptions::Kind::kInt8, .axes = kDim});
    const Selection selection = {.top_k = 3};
    uint64_t survived[2];
    for (const Matrix* const matrix : {&plain, &spread}) {
      const absl::StatusOr<Answer> answer = engine.Search(*matrix, queries.view, selection, Never);
      ASSERT_TRUE(answer.ok()) << answer.status();
      EXPECT_EQ(answer->hits, ExactTopK(queries.view, rows.view, 3, Reduction::kPerRow)) << matrix->screen();
      survived[matrix == &spread] = answer->stats.pairs_survived;
    }
    if (spread.codes() != nullptr) {
      EXPECT_NE(spread.screen().find("spread"), std::string::npos) << spread.screen();
      EXPECT_LT(survived[true], 0.85 * survived[false]) << count;
    }
  }
}

// Few queries are ruled out by a head's codes first, what is left by all axes', and the answer is the
// oracle's.
TEST(EngineTest, HeadsComeFirst) {
  const SharedMatrix rows = RandomNormal(3000, 90, 1), queries = RandomNormal(4, 90, 2);
  Engine engine(1);
  for (const bool two_levels : {false, true}) {
    const Matrix matrix(
        rows, {.kind = ScreenOptions::Kind::kInt8, .axes = 90, .two_levels = two_levels, .head = 60});
    if (matrix.codes() == nullptr || matrix.codes()->head() == nullptr) GTEST_SKIP() << matrix.screen();
    EXPECT_EQ(matrix.screen(), "int8, 90 of 90 axes, 60 first");
    for (const Metric metric : {Metric::kInnerProduct, Metric::kCosine, Metric::kSquaredEuclidean}) {
      for (const auto& [count, top_k] :
           {std::pair(1u, 1u), {1u, 4u}, {1u, 5u}, {2u, 1u}, {2u, 2u}, {3u, 1u}}) {
        const SharedMatrix some = Slice(queries, 1, count);
        for (const Reduction reduction : {Reduction::kPerRow, Reduction::kGlobal}) {
          const Selection selection = {.top_k = top_k, .reduction = reduction, .metric = metric};
          const absl::StatusOr<Answer> answer = engine.Search(matrix, some.view, selection, Never);
          ASSERT_TRUE(answer.ok()) << answer.status();
          ExpectAnswer(*answer, ExactTopK(some.view, rows.view, top_k, reduction, metric), some.view,
                       rows.view, selection);
          // White noise: what a head leaves, all axes rule out.
          const bool by_head = count * count * top_k <= 4;
          EXPECT_EQ(answer->stats.pairs_survived > 2 * answer->stats.pairs_checked, by_head)
              << count << " queries, top_k " << top_k << ": " << answer->stats.pairs_survived << " survived, "
              << answer->stats.pairs_checked << " checked";
        }
      }
    }
  }
}

// Of long rows, unless they are in cache, more of a query's bits leave fewer to be checked.
TEST(EngineTest, LongRowsAreLookedAtAgain) {
  const SharedMatrix rows = RandomNormal(3000, 700, 1), queries = RandomNormal(8, 700, 2);
  const Matrix matrix(rows, {.kind = ScreenOptions::Kind::kInt8, .axes = 700});
  if (!CodeKernel().exists()) GTEST_SKIP() << "the kernels here score whole tiles alone";
  Engine engine(1);
  for (const Metric metric : {Metric::kInnerProduct, Metric::kCosine, Metric::kSquaredEuclidean}) {
    const Selection selection = {.top_k = 10, .metric = metric};
    const absl::StatusOr<Answer> answer = engine.Search(matrix, queries.view, selection, Never);
    ASSERT_TRUE(answer.ok()) << answer.status();
    EXPECT_EQ(answer->hits, ExactTopK(queries.view, rows.view, 10, Reduction::kPerRow, metric));
    EXPECT_LT(answer->stats.pairs_checked, 0.9 * answer->stats.pairs_survived) << static_cast<int>(metric);
  }
}

// Rows about one direction, at every level that whole rows are codes of.
TEST(EngineTest, RowsAboutTheirMeanLeaveFewer) {
  constexpr uint32_t kDim = 200, kQueries = 4, kTopK = 10;
  Random random(1);
  std::vector<double> values(9004 * kDim);
  for (size_t i = 0; i < values.size(); ++i) values[i] = 4.0 + 0.1 * (i % kDim % 7) + random.Normal();
  const SharedMatrix all = MakeMatrix(values, kDim);
  const SharedMatrix rows = Slice(all, kQueries, 9000), queries = Slice(all, 0, kQueries);
  const Matrix measured(rows);
  if (measured.codes() == nullptr) GTEST_SKIP() << "8-bit sums are not exact here";
  EXPECT_NE(measured.screen().find("deflated"), std::string::npos) << measured.screen();
  Engine engine(1);
  for (const Metric metric : {Metric::kInnerProduct, Metric::kCosine, Metric::kSquaredEuclidean}) {
    const Selection selection = {.top_k = kTopK, .metric = metric};
    const std::vector<Hit> expected = ExactTopK(queries.view, rows.view, kTopK, Reduction::kPerRow, metric);
    using Kind = ScreenOptions::Kind;
    for (ScreenOptions screen :
         {ScreenOptions{.kind = Kind::kInt8, .axes = kDim},
          ScreenOptions{.kind = Kind::kInt8, .axes = 90, .two_levels = true},
          ScreenOptions{.kind = Kind::kInt8, .axes = kDim, .two_levels = true, .head = 60}}) {
      // By the last look at codes: what comes after that may rule out the more, the less these do.
      const auto left_by = [](bool second_look, const SearchStats& stats) {
        return second_look ? stats.pairs_checked : stats.pairs_survived;
      };
      uint64_t left[2];
      for (const bool deflated : {false, true}) {
        screen.deflated = deflated;
        const Matrix matrix(rows, screen);
        const absl::StatusOr<Answer> together = engine.Search(matrix, queries.view, selection, Never);
        ASSERT_TRUE(together.ok()) << together.status();
        EXPECT_EQ(together->hits, expected) << matrix.screen();
        left[deflated] = left_by(screen.axes < kDim, together->stats);
        const absl::StatusOr<Answer> alone =
            engine.Search(matrix, Slice(queries, 0, 1).view, selection, Never);
        ASSERT_TRUE(alone.ok()) << alone.status();
        EXPECT_TRUE(std::equal(alone->hits.begin(), alone->hits.end(), expected.begin())) << matrix.screen();
        left[deflated] += left_by(screen.two_levels, alone->stats);
      }
      EXPECT_LT(left[true], 0.9 * left[false]) << static_cast<int>(metric) << ", " << screen.axes;
    }
  }
}

// Short rows about one direction, as prices are, of any length: 8-bit codes tell none from another by cosine,
// and by distance each from the longest on is nearer than those before.
TEST(EngineTest, ShortRowsAboutOneDirectionLeaveFewer) {
  constexpr uint32_t kDim = 6, kQueries = 16, kRows = 6000;
  Random random(1);
  std::vector<double> values;
  for (uint32_t r = 0; r < kQueries + kRows; ++r) {
    double price = std::exp(r < kQueries ? -1.0 : random.Normal());
    for (uint32_t i = 0; i < kDim; ++i) values.push_back(price *= 1.0 + 0.003 * random.Normal());
  }
  Engine engine(1);
  for (const auto& [dtype, metric] :
       {std::pair(DType::kFloat32, Metric::kCosine), std::pair(DType::kFloat32, Metric::kSquaredEuclidean),
        std::pair(DType::kFloat64, Metric::kSquaredEuclidean)}) {
    const SharedMatrix all = MakeMatrix(values, kDim, dtype);
    const SharedMatrix rows = Slice(all, kQueries, kRows), queries = Slice(all, 0, kQueries);
    const std::vector<Hit> expected = ExactTopK(queries.view, rows.view, 3, Reduction::kPerRow, metric);
    for (const uint32_t clusters : {0u, 20u}) {
      const Matrix matrix(rows, {.kind = ScreenOptions::Kind::kInt8, .axes = kDim, .clusters = clusters});
      const absl::StatusOr<Answer> answer =
          engine.Search(matrix, queries.view, {.top_k = 3, .metric = metric}, Never);
      ASSERT_TRUE(answer.ok()) << answer.status();
      EXPECT_EQ(answer->hits, expected) << matrix.screen();
      if (matrix.codes() == nullptr || clusters > 0) continue;
      EXPECT_LT(answer->stats.pairs_checked, 0.05 * kQueries * kRows) << static_cast<int>(metric);
    }
  }
}

// Distances are small beside what is far away from everything: rows' lengths say nothing of them.
TEST(EngineTest, RowsFarFromTheOrigin) {
  for (const uint32_t dim : {2u, 37u, 260u}) {
    for (const double spread : {1.0, 1e-3}) {
      for (const DType dtype : {DType::kFloat32, DType::kFloat64}) {
        Random random(dim);
        std::vector<double> values;
        for (uint32_t i = 0; i < 1000 * dim; ++i)
          values.push_back(30.0 + i % dim % 3 + spread * random.Normal());
        const SharedMatrix all = MakeMatrix(values, dim, dtype);
        ExpectExact(Slice(all, 0, 3), Slice(all, 3, 600), {dim < 200 ? 9u : 1u});
        if (spread < 1.0) continue;
        // One that is as far on another side, one that is nothing, and others whose scale is far from theirs.
        std::vector<double> others(4 * dim);
        for (uint32_t i = 0; i < dim; ++i) {
          others[i] = -30.0;
          others[2 * dim + i] = 1e-6 * random.Normal();
          others[3 * dim + i] = 1e6 * random.Normal();
        }
        ExpectExact(MakeMatrix(others, dim, dtype), Slice(all, 3, 600), {2});
      }
    }
  }
}

// Cosines and distances of rows that differ little from a point far away, or from it and its opposite, or
// from multiples of it, are told apart by codes.
TEST(EngineTest, RowsAboutADirectionAreSeenWithoutIt) {
  constexpr uint32_t kDim = 48, kRows = 9064;
  const auto opposite = [](Random& random) { return random.Next() % 2 == 0 ? 1000.0 : -1000.0; };
  const auto multiple = [](Random& random) { return 1000.0 * std::exp(random.Normal()); };
  for (const auto& [far, metrics] :
       {std::pair<std::function<double(Random&)>, std::vector<Metric>>(
            [](Random&) { return 1000.0; }, {Metric::kCosine, Metric::kSquaredEuclidean}),
        {opposite, {Metric::kCosine, Metric::kSquaredEuclidean}},
        {multiple, {Metric::kCosine}}}) {
    Random random(3);
    std::vector<double> values;
    for (uint32_t r = 0; r < kRows; ++r) {
      const double along = far(random);
      for (uint32_t i = 0; i < kDim; ++i) values.push_back(along * (1.0 + 0.03 * random.Normal()));
    }
    const SharedMatrix all = MakeMatrix(values, kDim);
    const Matrix matrix(Slice(all, 64, kRows - 64));
    if (matrix.codes() == nullptr) continue;  // there is no kernel for codes
    EXPECT_NE(matrix.screen().find("deflated"), std::string::npos) << matrix.screen();
    Engine engine(1);
    for (const Metric metric : metrics) {
      for (const uint64_t queries : {1, 3, 20, 64}) {
        const absl::StatusOr<Answer> answer =
            engine.Search(matrix, Slice(all, 0, queries).view, {.top_k = 5, .metric = metric}, Never);
        ASSERT_TRUE(answer.ok());
        EXPECT_LT(answer->stats.pairs_checked, queries * kRows / 50)
            << queries << " queries, metric " << static_cast<int>(metric);
      }
    }
  }
}

// Rows in many more clusters than there are axes: a search looks at a few of them.
TEST(EngineTest, ThePlannerFindsClustersAndTheyAreUsed) {
  const SharedMatrix rows = testing::RandomClustered(30000, 128, 200, 0.2, 3);
  const SharedMatrix queries = Slice(rows, 500, 12);
  const Matrix matrix(rows);
  Engine engine(2);
  for (const uint32_t top_k : {1u, 10u, 300u}) {
    const auto answer = engine.Search(matrix, queries.view, {.top_k = top_k}, Never);
    ASSERT_TRUE(answer.ok());
    if (matrix.codes() != nullptr && top_k <= 10) {  // null where there is no kernel for codes
      EXPECT_NE(matrix.codes()->centre_codes(), nullptr) << matrix.screen();
      EXPECT_LT(answer->stats.pairs_screened, queries.view.rows * rows.view.rows / 50);
    }
    EXPECT_EQ(answer->hits, ExactTopK(queries.view, rows.view, top_k, Reduction::kPerRow));
  }
}

// Random shapes, dtypes, scales and depths; the seed in the trace replays one.
TEST(EngineTest, RandomCases) {
  const DType all[] = {DType::kFloat32, DType::kFloat16, DType::kBFloat16, DType::kFloat64, DType::kInt8};
  for (uint64_t seed = 0; seed < 60; ++seed) {
    SCOPED_TRACE(seed);
    Random random(seed);
    const uint32_t dim = 1 + random.Next() % 50;
    const DType a = all[random.Next() % 5], b = all[random.Next() % 5];
    const double range = random.Uniform() * 8.0;
    const SharedMatrix queries = MixedScales(1 + random.Next() % 20, dim, -range / 2, range / 2, seed, a);
    const SharedMatrix rows = MixedScales(random.Next() % 600, dim, -range / 2, range / 2, seed + 1, b);
    ExpectExact(queries, rows, {1 + static_cast<uint32_t>(random.Next() % 50)});
  }
}

}  // namespace
}  // namespace dotmax
