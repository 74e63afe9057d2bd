// Every kind of selection (ranges, counts, exclusions, a matrix against itself), and pairs of matrices,
// against the list of all scores of the oracle.
#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "server/engine/engine.h"
#include "tests/data.h"
#include "tests/oracle.h"

namespace dotmax {
namespace {

using testing::ExactScore;
using testing::ExactTopK;
using testing::MakeMatrix;
using testing::Random;
using testing::RandomClustered;
using testing::RandomNormal;
using testing::Slice;

constexpr Metric kMetrics[] = {Metric::kInnerProduct, Metric::kCosine, Metric::kSquaredEuclidean};
constexpr Reduction kReductions[] = {Reduction::kPerRow, Reduction::kGlobal};

absl::Status Never() { return absl::OkStatus(); }

struct Reference {
  std::vector<Hit> hits;
  std::vector<uint64_t> row_splits, counts;
  std::vector<bool> truncated;
};

bool IsHit(const Selection& s, uint64_t row, uint64_t id) {
  if (s.self == Selection::Self::kNotItself && id == s.self_first + row) return false;
  if (s.self == Selection::Self::kOnce && id <= s.self_first + row) return false;
  if (s.excluded_splits.empty()) return true;
  for (uint64_t i = s.excluded_splits[row]; i < s.excluded_splits[row + 1]; ++i) {
    if (s.excluded[i] == id) return false;
  }
  return true;
}

// By definition: all pairs, best first, filtered and cut.
Reference Select(const std::vector<Hit>& all, uint64_t rows, const Selection& s) {
  Reference reference;
  const bool per_row = s.reduction == Reduction::kPerRow;
  if (per_row) reference.row_splits.push_back(0);
  for (uint64_t group = 0; group < (per_row ? rows : 1); ++group) {
    std::vector<Hit> hits;
    for (const Hit& hit : all) {
      if ((per_row && hit.query_row != group) || !IsHit(s, hit.query_row, hit.id)) continue;
      if (!s.bounds.empty()) {
        const double bound = s.bounds.size() == 1 ? s.bounds[0] : s.bounds[hit.query_row];
        if (MeritOf(s.metric, hit.score) < MeritOf(s.metric, bound)) continue;
      }
      hits.push_back(hit);
    }
    if (s.count_only) {
      reference.counts.push_back(hits.size());
      hits.clear();
    } else {
      if (s.tell_truncated) reference.truncated.push_back(hits.size() > s.top_k);
      hits.resize(std::min<size_t>(hits.size(), s.top_k));
    }
    reference.hits.insert(reference.hits.end(), hits.begin(), hits.end());
    if (per_row) reference.row_splits.push_back(reference.hits.size());
  }
  return reference;
}

// A matrix behind every kind of screen, searched by one and by two threads.
class Searched {
 public:
  explicit Searched(const SharedMatrix& b) : b_(b) {
    const uint32_t dim = b.view.dim;
    for (const ScreenOptions& screen : std::vector<ScreenOptions>{
             {.kind = ScreenOptions::Kind::kFloat32},
             {.kind = ScreenOptions::Kind::kInt8, .axes = dim},
             {.kind = ScreenOptions::Kind::kInt8, .axes = std::max(dim / 3, 1u), .two_levels = true},
             {.kind = ScreenOptions::Kind::kInt8, .clusters = 9}}) {
      matrices_.push_back(std::make_unique<Matrix>(b, screen));
    }
  }

  void Expect(const SharedMatrix& a, const std::vector<Hit>& all, const Selection& selection) {
    const Reference expected = Select(all, a.view.rows, selection);
    for (const auto& matrix : matrices_) {
      for (Engine* engine : {&one_, &two_}) {
        SCOPED_TRACE(::testing::Message()
                     << "screen " << matrix->screen() << ", threads " << engine->threads() << ", metric "
                     << static_cast<int>(selection.metric) << ", reduction "
                     << static_cast<int>(selection.reduction) << ", top_k " << selection.top_k);
        const absl::StatusOr<Answer> answer = engine->Search(*matrix, a.view, selection, Never);
        ASSERT_TRUE(answer.ok()) << answer.status();
        EXPECT_EQ(answer->hits, expected.hits);
        EXPECT_EQ(answer->counts, expected.counts);
        EXPECT_EQ(answer->truncated, expected.truncated);
        if (!selection.count_only) {
          EXPECT_EQ(answer->row_splits, expected.row_splits);
        }
      }
    }
  }

 private:
  const SharedMatrix b_;
  std::vector<std::unique_ptr<Matrix>> matrices_;
  Engine one_{1}, two_{2};
};

std::vector<Hit> AllScores(const SharedMatrix& a, const SharedMatrix& b, Metric metric) {
  return ExactTopK(a.view, b.view, static_cast<uint32_t>(a.view.rows * b.view.rows), Reduction::kGlobal,
                   metric);
}

// The k-th best of all scores.
double ScoreAt(const std::vector<Hit>& all, size_t k) { return all[std::min(k, all.size() - 1)].score; }

class SelectionTest : public ::testing::TestWithParam<Metric> {
 protected:
  const Metric metric_ = GetParam();
};

// Zeros score 0 with every row: ties, of which the first that may be hits are wanted.
TEST_P(SelectionTest, QueriesOfZerosAmongOthers) {
  std::vector<double> values(5 * 12);
  testing::Random random(5);
  for (size_t i = 12; i < values.size(); ++i) values[i] = i / 12 == 3 ? -0.0 : random.Normal();
  const SharedMatrix a = testing::MakeMatrix(values, 12), b = RandomNormal(300, 12, 2);
  const std::vector<Hit> all = AllScores(a, b, metric_);
  Searched searched(b);
  for (const Reduction reduction : {Reduction::kPerRow, Reduction::kGlobal}) {
    for (const uint32_t top_k : {1u, 7u, 300u, 1000u}) {
      Selection selection = {.top_k = top_k, .reduction = reduction, .metric = metric_};
      searched.Expect(a, all, selection);
      selection.excluded = {0, 1, 3, 5};
      selection.excluded_splits = {0, 2, 2, 2, 4, 4};
      searched.Expect(a, all, selection);
      selection.tell_truncated = true;
      for (const double bound : {-0.25, 0.0, 0.25}) {
        selection.bounds = {metric_ == Metric::kSquaredEuclidean ? 8.0 + bound : bound};
        searched.Expect(a, all, selection);
      }
    }
  }
}

// What their list holds is not known exactly yet when zeros, which score 0, are offered to it.
TEST_P(SelectionTest, QueriesOfZerosInAListThatIsFull) {
  for (uint64_t seed = 1; seed <= 20; ++seed) {
    Random random(seed);
    const auto sparse = [&](uint64_t rows) {
      std::vector<double> values(rows * 3);
      for (double& x : values) x = random.Next() % 4 == 0 ? random.Normal() : 0.0;
      return MakeMatrix(values, 3);
    };
    const SharedMatrix a = sparse(22), b = sparse(5);
    Selection selection = {.top_k = 13, .reduction = Reduction::kGlobal, .metric = metric_};
    Searched(b).Expect(a, AllScores(a, b, metric_), selection);
  }
}

TEST_P(SelectionTest, RangesIncludeEqualityAndTellWhatIsMissing) {
  const SharedMatrix a = RandomNormal(6, 24, 1), b = RandomNormal(800, 24, 2);
  const std::vector<Hit> all = AllScores(a, b, metric_);
  Searched searched(b);
  for (const Reduction reduction : kReductions) {
    for (const size_t at : {size_t{0}, size_t{5}, size_t{400}, all.size() - 1}) {
      const double bound = ScoreAt(all, at);
      for (const double within : {bound, std::nextafter(bound, -1e300), std::nextafter(bound, 1e300)}) {
        for (const uint32_t top_k : {1u, 9u, 100u}) {
          Selection selection = {.top_k = top_k, .reduction = reduction, .metric = metric_};
          selection.bounds = {within};
          selection.tell_truncated = top_k != 9;
          searched.Expect(a, all, selection);
        }
      }
    }
  }
}

TEST_P(SelectionTest, CountsWhatIsWithin) {
  const SharedMatrix a = RandomNormal(7, 10, 3), b = RandomNormal(900, 10, 4);
  const std::vector<Hit> all = AllScores(a, b, metric_);
  Searched searched(b);
  for (const Reduction reduction : kReductions) {
    for (const size_t at : {size_t{0}, size_t{17}, all.size() / 2, all.size() - 1}) {
      Selection selection = {.top_k = 1, .reduction = reduction, .metric = metric_};
      selection.bounds = {ScoreAt(all, at)};
      selection.count_only = true;
      searched.Expect(a, all, selection);
    }
  }
}

TEST_P(SelectionTest, CountsTiesExactly) {
  std::vector<double> rows(600 * 6, 0.0);
  Random random(5);
  for (double& x : rows) x = static_cast<double>(random.Next() % 3) - 1.0;
  const SharedMatrix b = MakeMatrix(rows, 6), a = Slice(b, 10, 5);
  const std::vector<Hit> all = AllScores(a, b, metric_);
  Searched searched(b);
  for (const size_t at : {size_t{0}, size_t{100}, size_t{1500}}) {
    Selection selection = {.top_k = 3, .metric = metric_};
    selection.bounds = {ScoreAt(all, at)};
    searched.Expect(a, all, selection);
    selection.count_only = true;
    searched.Expect(a, all, selection);
  }
}

TEST_P(SelectionTest, BoundsOfTheirOwnForEachQuery) {
  const SharedMatrix a = RandomNormal(17, 12, 6), b = RandomNormal(1100, 12, 7);
  const std::vector<Hit> all = AllScores(a, b, metric_);
  Selection selection = {.top_k = 4, .metric = metric_};
  for (uint64_t row = 0; row < a.view.rows; ++row) {
    const auto own = std::find_if(all.begin() + row * 10, all.end(),
                                  [row](const Hit& hit) { return hit.query_row == row; });
    selection.bounds.push_back(own->score);
  }
  Searched(b).Expect(a, all, selection);
}

TEST_P(SelectionTest, ExcludedRowsAreNoHits) {
  const SharedMatrix a = RandomNormal(20, 16, 8), b = RandomNormal(1000, 16, 9);
  const std::vector<Hit> all = AllScores(a, b, metric_);
  Searched searched(b);
  // Each query's best few, and for one of them nearly every row.
  std::vector<std::set<uint64_t>> excluded(a.view.rows);
  for (size_t i = 0; i < 300; ++i) excluded[all[i].query_row].insert(all[i].id);
  for (uint64_t id = 0; id + 3 < b.view.rows; ++id) excluded[4].insert(id);
  excluded[7].insert(1u << 30);  // no such row
  Selection selection = {.metric = metric_};
  selection.excluded_splits.push_back(0);
  for (const auto& ids : excluded) {
    selection.excluded.insert(selection.excluded.end(), ids.begin(), ids.end());
    selection.excluded_splits.push_back(selection.excluded.size());
  }
  for (const Reduction reduction : kReductions) {
    for (const uint32_t top_k : {1u, 6u}) {
      selection.reduction = reduction;
      selection.top_k = top_k;
      searched.Expect(a, all, selection);
    }
  }
}

TEST_P(SelectionTest, AMatrixAgainstItself) {
  const SharedMatrix b = RandomClustered(700, 14, 60, 0.3, 10);
  Searched searched(b);
  for (const uint64_t first : {uint64_t{0}, uint64_t{333}}) {
    const SharedMatrix a = Slice(b, first, 40);
    const std::vector<Hit> all = AllScores(a, b, metric_);
    for (const Selection::Self self : {Selection::Self::kNotItself, Selection::Self::kOnce}) {
      for (const Reduction reduction : kReductions) {
        for (const uint32_t top_k : {1u, 5u}) {
          Selection selection = {.top_k = top_k, .reduction = reduction, .metric = metric_};
          selection.self = self;
          selection.self_first = first;
          searched.Expect(a, all, selection);
        }
      }
    }
  }
}

// Rows that come again and again, with zeros of either sign, are hits of their own, whichever of them may be.
TEST_P(SelectionTest, CopiesOfRows) {
  constexpr uint32_t kDim = 6, kDifferent = 11;
  constexpr uint64_t kRows = 330, kQueries = 8;
  Random random(8);
  std::vector<double> different(kDifferent * kDim), values;
  for (size_t i = kDim; i < different.size(); ++i) different[i] = i % 5 == 0 ? 0.0 : random.Normal();
  for (uint64_t row = 0; row < kRows; ++row) {
    const uint64_t which = row < kDifferent ? row : random.Next() % kDifferent;
    for (uint32_t i = 0; i < kDim; ++i) {
      const double x = different[which * kDim + i];
      values.push_back(x == 0.0 && random.Next() % 2 == 0 ? -0.0 : x);
    }
  }
  const SharedMatrix b = MakeMatrix(values, kDim), a = Slice(b, 3, kQueries);
  const std::vector<Hit> all = AllScores(a, b, metric_);
  Searched searched(b);
  for (const Reduction reduction : kReductions) {
    for (const uint32_t top_k : {1u, 5u, 100u}) {
      const Selection plain = {.top_k = top_k, .reduction = reduction, .metric = metric_};
      searched.Expect(a, all, plain);
      Selection range = plain;
      range.bounds = {ScoreAt(all, kQueries * kRows / 4)};
      range.tell_truncated = true;
      searched.Expect(a, all, range);
      range.tell_truncated = false;
      range.count_only = true;
      searched.Expect(a, all, range);
      for (const auto self : {Selection::Self::kNotItself, Selection::Self::kOnce}) {
        Selection of_itself = plain;
        of_itself.self = self;
        of_itself.self_first = 3;
        searched.Expect(a, all, of_itself);
      }
      // The first of each, and some of the others.
      Selection without = plain;
      without.excluded_splits = {0};
      for (uint64_t q = 0; q < kQueries; ++q) {
        for (uint64_t id = 0; id < kRows; ++id) {
          if (id < kDifferent || random.Next() % 8 < q) without.excluded.push_back(id);
        }
        without.excluded_splits.push_back(without.excluded.size());
      }
      searched.Expect(a, all, without);
    }
  }
}

TEST_P(SelectionTest, BlocksOfTheBaseChangeNothing) {
  const SharedMatrix a = RandomNormal(9, 20, 11), b = RandomNormal(1500, 20, 12);
  const std::vector<Hit> expected = ExactTopK(a.view, b.view, 4, Reduction::kPerRow, metric_);
  Engine engine(2);
  std::vector<std::vector<Hit>> best(a.view.rows);
  uint64_t done = 0;
  for (const uint64_t rows : {1, 299, 700, 500}) {
    Selection selection = {.top_k = 4, .metric = metric_};
    if (done > 0) {
      const double none = MeritOf(metric_, -std::numeric_limits<double>::infinity());
      for (const auto& hits : best) selection.bounds.push_back(hits.size() < 4 ? none : hits[3].score);
    }
    const Matrix block(Slice(b, done, rows), ScreenForOnce(rows % 2 == 0 ? 1 : 100));
    const auto answer = engine.Search(block, a.view, selection, Never);
    ASSERT_TRUE(answer.ok()) << answer.status();
    for (Hit hit : answer->hits) {
      hit.id += done;
      best[hit.query_row].push_back(hit);
    }
    for (auto& hits : best) {
      std::sort(hits.begin(), hits.end(),
                [&](const Hit& x, const Hit& y) { return BetterBy(metric_, x, y); });
      hits.resize(std::min<size_t>(hits.size(), 4));
    }
    done += rows;
  }
  std::vector<Hit> joined;
  for (const auto& hits : best) joined.insert(joined.end(), hits.begin(), hits.end());
  EXPECT_EQ(joined, expected);
}

INSTANTIATE_TEST_SUITE_P(Metrics, SelectionTest, ::testing::ValuesIn(kMetrics));

// The best of each pair and of all, by definition.
void ExpectBest(const std::vector<PairsQuery::Pair>& pairs) {
  Engine one(1), three(3);
  for (const Metric metric : kMetrics) {
    std::vector<std::vector<Hit>> all;
    for (const PairsQuery::Pair& pair : pairs) {
      all.push_back(ExactTopK(pair.queries, pair.base, 1, Reduction::kGlobal, metric));
    }
    for (Engine* engine : {&one, &three}) {
      const auto answer = engine->MaxOfPairs(pairs, metric, Never);
      ASSERT_TRUE(answer.ok()) << answer.status();
      size_t next = 0;
      std::optional<PairsAnswer::PairHit> best;
      for (size_t p = 0; p < pairs.size(); ++p) {
        const std::vector<Hit>& expected = all[p];
        if (expected.empty()) continue;
        ASSERT_LT(next, answer->hits.size());
        EXPECT_EQ(answer->hits[next].pair, p);
        EXPECT_EQ(answer->hits[next].hit, expected[0])
            << "pair " << p << ", metric " << static_cast<int>(metric);
        ++next;
        if (!best.has_value() || MeritOf(metric, expected[0].score) > MeritOf(metric, best->hit.score)) {
          best = {p, expected[0]};
        }
      }
      EXPECT_EQ(next, answer->hits.size());
      ASSERT_EQ(answer->best.has_value(), best.has_value());
      if (best.has_value()) {
        EXPECT_EQ(answer->best->pair, best->pair);
        EXPECT_EQ(answer->best->hit, best->hit);
      }
    }
  }
}

TEST(MaxOfPairsTest, NoPairs) { ExpectBest({}); }

TEST(MaxOfPairsTest, AllShapesAndTypes) {
  std::vector<SharedMatrix> kept;
  std::vector<PairsQuery::Pair> pairs;
  constexpr DType kTypes[] = {DType::kFloat32, DType::kFloat16, DType::kBFloat16, DType::kFloat64,
                              DType::kInt8};
  uint64_t seed = 1;
  for (const uint64_t queries : {0, 1, 17, 260}) {
    for (const uint64_t rows : {0, 1, 60, 513}) {
      if (queries * rows > 20000) continue;  // the oracle takes its time
      for (const uint32_t dim : {1u, 21u}) {
        ++seed;
        kept.push_back(RandomNormal(queries, dim, seed, kTypes[seed % 5]));
        kept.push_back(RandomNormal(rows, dim, seed + 1000, kTypes[seed / 5 % 5]));
        pairs.push_back({kept[kept.size() - 2].view, kept.back().view});
      }
    }
  }
  ExpectBest(pairs);
}

TEST(MaxOfPairsTest, ExtremeMagnitudesAndZeros) {
  std::vector<SharedMatrix> kept;
  std::vector<PairsQuery::Pair> pairs;
  uint64_t seed = 100;
  for (const double scale : {0.0, 1e-44, 1e-30, 1.0, 1e30}) {
    for (const double other : {0.0, 1e-30, 1e19, 1e38}) {
      const auto make = [&](double factor, uint64_t rows) {
        Random random(++seed);
        std::vector<double> values(rows * 9);
        for (double& x : values) x = (random.Uniform() - 0.5) * factor;
        kept.push_back(MakeMatrix(values, 9));
        return kept.back().view;
      };
      const MatrixView queries = make(scale, 12);
      pairs.push_back({queries, make(other, 40)});
    }
  }
  ExpectBest(pairs);
}

TEST(MaxOfPairsTest, AllRowsAreBestForAZero) {
  const SharedMatrix zero = MakeMatrix(std::vector<double>(2 * 16, 0.0), 16);
  for (const uint64_t rows : {3, 300, 3000}) {
    const SharedMatrix base = RandomNormal(rows, 16, rows);
    ExpectBest({{zero.view, base.view}, {base.view, zero.view}});
  }
}

// Zeros that make matrices equally large do not hide what is to be beaten.
TEST(MaxOfPairsTest, PaddedWithZeros) {
  constexpr uint32_t kDim = 32;
  Random random(2);
  const auto padded = [&](uint64_t rows, uint64_t of) {
    std::vector<double> values(of * kDim);
    for (uint64_t i = 0; i < rows * kDim; ++i) values[i] = random.Normal();
    return MakeMatrix(values, kDim);
  };
  const SharedMatrix queries = padded(30, 60), base = padded(40, 200);
  const std::vector<PairsQuery::Pair> pairs = {{queries.view, base.view}};
  ExpectBest(pairs);
  Engine engine(1);
  const auto of_pairs = engine.MaxOfPairs(pairs, Metric::kInnerProduct, Never);
  ASSERT_TRUE(of_pairs.ok());
  EXPECT_LT(of_pairs->stats.pairs_rescored, 200u);
  const auto together =
      engine.Search(Matrix(base), queries.view, {.top_k = 1, .reduction = Reduction::kGlobal}, Never);
  ASSERT_TRUE(together.ok());
  EXPECT_LT(together->stats.pairs_rescored, 200u);
}

TEST(MaxOfPairsTest, TiesGoToTheLowestPair) {
  const SharedMatrix a = RandomNormal(6, 8, 1), b = RandomNormal(50, 8, 2), c = RandomNormal(2, 8, 3);
  ExpectBest({{c.view, c.view}, {a.view, b.view}, {a.view, b.view}, {a.view, a.view}});
}

TEST(MaxOfPairsTest, AStopEndsIt) {
  const SharedMatrix a = RandomNormal(50, 8, 1);
  const std::vector<PairsQuery::Pair> pairs(100, {a.view, a.view});
  const auto stopped = [] { return absl::CancelledError("enough"); };
  EXPECT_EQ(Engine(2).MaxOfPairs(pairs, Metric::kInnerProduct, stopped).status().code(),
            absl::StatusCode::kCancelled);
}

}  // namespace
}  // namespace dotmax
