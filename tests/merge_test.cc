// Answers of blocks, as an engine would give them, against the answer of the whole.
#include "server/base/merge.h"

#include <algorithm>
#include <limits>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/data.h"

namespace dotmax {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

// Scores of all pairs, by query row and id; small integers, so that ties abound.
using Scores = std::vector<std::vector<double>>;

Scores RandomScores(uint64_t query_rows, uint64_t rows, uint64_t seed) {
  testing::Random random(seed);
  Scores scores(query_rows, std::vector<double>(rows));
  for (std::vector<double>& row : scores) {
    for (double& score : row) score = std::floor(random.Uniform() * 12);
  }
  return scores;
}

bool Meets(const Selection& selection, uint64_t query_row, double score) {
  if (selection.bounds.empty()) return true;
  const double bound = selection.bounds[selection.bounds.size() == 1 ? 0 : query_row];
  return MeritOf(selection.metric, score) >= MeritOf(selection.metric, bound);
}

// What a searcher answers of the columns [first, first + rows) of `scores`; at most what `selection` allows.
Answer Ask(const Scores& scores, uint64_t first, uint64_t rows, const Selection& selection) {
  const bool global = selection.reduction == Reduction::kGlobal;
  const auto better = [&](const Hit& a, const Hit& b) { return BetterBy(selection.metric, a, b); };
  Answer answer;
  answer.rows_held = answer.rows_searched = rows;
  answer.stats.pairs_screened = scores.size() * rows;
  if (!global) answer.row_splits.push_back(0);
  std::vector<Hit> pool;
  const auto take = [&] {
    std::sort(pool.begin(), pool.end(), better);
    if (selection.tell_truncated) answer.truncated.push_back(pool.size() > selection.top_k);
    if (selection.count_only) answer.counts.push_back(pool.size());
    pool.resize(selection.count_only ? 0 : std::min<size_t>(pool.size(), selection.top_k));
    answer.hits.insert(answer.hits.end(), pool.begin(), pool.end());
    pool.clear();
  };
  for (uint64_t i = 0; i < scores.size(); ++i) {
    for (uint64_t j = 0; j < rows; ++j) {
      const auto excluded = [&] {
        if (selection.excluded_splits.empty()) return false;
        const auto begin = selection.excluded.begin();
        return std::binary_search(begin + static_cast<int64_t>(selection.excluded_splits[i]),
                                  begin + static_cast<int64_t>(selection.excluded_splits[i + 1]), j);
      };
      const double score = scores[i][first + j];
      if (Meets(selection, i, score) && !excluded()) pool.push_back({score, i, j});
    }
    if (global) continue;
    take();
    answer.row_splits.push_back(answer.hits.size());
  }
  if (global) take();
  if (!answer.hits.empty()) answer.best = *std::min_element(answer.hits.begin(), answer.hits.end(), better);
  return answer;
}

Answer AskByBlocks(const Scores& scores, const std::vector<uint64_t>& blocks, const Selection& selection) {
  Merge merge(scores.size(), selection);
  for (const uint64_t rows : blocks) {
    merge.Add(Ask(scores, merge.rows(), rows, merge.ForBlock(rows)), rows);
  }
  return merge.Take();
}

void ExpectSame(const Answer& actual, const Answer& expected) {
  EXPECT_EQ(actual.hits, expected.hits);
  EXPECT_EQ(actual.row_splits, expected.row_splits);
  EXPECT_EQ(actual.best, expected.best);
  EXPECT_EQ(actual.truncated, expected.truncated);
  EXPECT_EQ(actual.counts, expected.counts);
  EXPECT_EQ(actual.rows_held, expected.rows_held);
  EXPECT_EQ(actual.rows_searched, expected.rows_searched);
  EXPECT_EQ(actual.stats.pairs_screened, expected.stats.pairs_screened);
}

// In each of these, some rows see fewer hits than wanted, some exactly as many, and some more.
TEST(MergeTest, BlocksOfAnySizeChangeNothing) {
  constexpr uint64_t kRows = 40;
  const Scores scores = RandomScores(7, kRows, 1);
  for (const Metric metric : {Metric::kInnerProduct, Metric::kSquaredEuclidean}) {
    for (const Reduction reduction : {Reduction::kPerRow, Reduction::kGlobal}) {
      for (const char* form : {"top", "range", "all of range", "count"}) {
        for (const uint32_t top_k : {1, 3, 39, 40, 300}) {
          for (const bool exclude : {false, true}) {
            SCOPED_TRACE(absl::StrCat(form, " ", top_k, " exclude ", exclude, " reduction ",
                                      static_cast<int>(reduction), " metric ", static_cast<int>(metric)));
            Selection selection = {.top_k = top_k, .reduction = reduction, .metric = metric};
            if (form != std::string("top")) selection.bounds = {6};
            selection.tell_truncated = form == std::string("all of range");
            selection.count_only = form == std::string("count");
            if (exclude) {
              selection.excluded_splits = {0, 3, 3, 4, 4, 44, 45, 45};
              selection.excluded = {0, 19, 20, 5};
              for (uint64_t id = 0; id < kRows; ++id) selection.excluded.push_back(id);
              selection.excluded.push_back(1'000'000);
            }
            const Answer whole = Ask(scores, 0, kRows, selection);
            ExpectSame(AskByBlocks(scores, {40}, selection), whole);
            ExpectSame(AskByBlocks(scores, {20, 20}, selection), whole);
            ExpectSame(AskByBlocks(scores, {1, 0, 38, 1}, selection), whole);
            ExpectSame(AskByBlocks(scores, std::vector<uint64_t>(kRows, 1), selection), whole);
          }
        }
      }
    }
  }
}

TEST(MergeTest, LaterBlocksNeedToBeatTheWorstOfTheBest) {
  Merge merge(2, {.top_k = 2});
  EXPECT_THAT(merge.ForBlock(3).bounds, IsEmpty());
  merge.Add(Ask({{5, 9, 7}, {1, 2, 3}}, 0, 3, merge.ForBlock(3)), 3);
  EXPECT_THAT(merge.ForBlock(3).bounds, ElementsAre(7, 2));

  Merge distances(1, {.top_k = 1, .reduction = Reduction::kGlobal, .metric = Metric::kSquaredEuclidean});
  distances.Add(Ask({{5, 9, 7}}, 0, 3, distances.ForBlock(3)), 3);
  EXPECT_THAT(distances.ForBlock(3).bounds, ElementsAre(5));
}

TEST(MergeTest, RowsWithoutEnoughHitsKeepTheirBound) {
  Merge merge(2, {.top_k = 2, .metric = Metric::kSquaredEuclidean, .bounds = {4}});
  merge.Add(Ask({{1, 2, 3}, {1, 5, 6}}, 0, 3, merge.ForBlock(3)), 3);
  EXPECT_THAT(merge.ForBlock(3).bounds, ElementsAre(2, 4));
  Merge unbounded(2, {.top_k = 2});
  unbounded.Add(Ask({{1}, {1}}, 0, 1, {.top_k = 2}), 1);
  EXPECT_THAT(unbounded.ForBlock(3).bounds, IsEmpty());
  Answer one;
  one.row_splits = {0, 1, 1};
  one.hits = {{3, 0, 0}};
  unbounded.Add(one, 1);
  EXPECT_THAT(unbounded.ForBlock(3).bounds, ElementsAre(1, -std::numeric_limits<double>::infinity()));
}

// A worse hit still says that there are more than were asked for.
TEST(MergeTest, BoundsRiseOnlyOnceItIsKnownThatThereAreMore) {
  Merge merge(1, {.top_k = 1, .bounds = {0}, .tell_truncated = true});
  merge.Add(Ask({{5}}, 0, 1, merge.ForBlock(1)), 1);
  EXPECT_THAT(merge.ForBlock(1).bounds, ElementsAre(0));
  merge.Add(Ask({{5, 3}}, 1, 1, merge.ForBlock(1)), 1);
  EXPECT_THAT(merge.ForBlock(1).bounds, ElementsAre(5));
  EXPECT_THAT(merge.Take().truncated, ElementsAre(true));
}

TEST(MergeTest, NoBlocksAreAnEmptyBase) {
  const Answer per_row = Merge(2, {.bounds = {0}, .tell_truncated = true}).Take();
  EXPECT_THAT(per_row.row_splits, ElementsAre(0, 0, 0));
  EXPECT_THAT(per_row.truncated, ElementsAre(false, false));
  EXPECT_FALSE(per_row.best.has_value());
  const Answer count = Merge(2, {.reduction = Reduction::kGlobal, .bounds = {0}, .count_only = true}).Take();
  EXPECT_THAT(count.row_splits, IsEmpty());
  EXPECT_THAT(count.counts, ElementsAre(0));
}

TEST(MergeTest, NoQueryRows) {
  Merge merge(0, {.top_k = 3});
  merge.Add(Ask({}, 0, 5, merge.ForBlock(5)), 5);
  const Answer answer = merge.Take();
  EXPECT_THAT(answer.row_splits, ElementsAre(0));
  EXPECT_EQ(answer.rows_held, 5u);
}

}  // namespace
}  // namespace dotmax
