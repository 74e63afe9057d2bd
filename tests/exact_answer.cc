#include "tests/exact_answer.h"

#include <algorithm>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/oracle.h"

namespace dotmax::testing {
namespace {

bool IsHit(const Selection& selection, uint64_t i, uint64_t j, double score) {
  if (!selection.bounds.empty()) {
    const double bound = selection.bounds[selection.bounds.size() == 1 ? 0 : i];
    if (MeritOf(selection.metric, score) < MeritOf(selection.metric, bound)) return false;
  }
  if (!selection.excluded_splits.empty()) {
    const auto begin = selection.excluded.begin();
    const auto end = begin + static_cast<int64_t>(selection.excluded_splits[i + 1]);
    if (std::find(begin + static_cast<int64_t>(selection.excluded_splits[i]), end, j) != end) return false;
  }
  const uint64_t self = selection.self_first + i;
  if (selection.self == Selection::Self::kNotItself) return j != self;
  if (selection.self == Selection::Self::kOnce) return j > self;
  return true;
}

}  // namespace

Answer ExactAnswer(const MatrixView& a, const MatrixView& b, const Selection& selection) {
  const bool global = selection.reduction == Reduction::kGlobal;
  const auto better = [&](const Hit& x, const Hit& y) { return BetterBy(selection.metric, x, y); };
  Answer answer;
  answer.rows_searched = answer.rows_held = b.rows;
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
  for (uint64_t i = 0; i < a.rows; ++i) {
    for (uint64_t j = 0; j < b.rows; ++j) {
      const double score = ExactScore(a, i, b, j, selection.metric);
      if (IsHit(selection, i, j, score)) pool.push_back({score, i, j});
    }
    if (global) continue;
    take();
    answer.row_splits.push_back(answer.hits.size());
  }
  if (global) take();
  if (!answer.hits.empty()) answer.best = *std::min_element(answer.hits.begin(), answer.hits.end(), better);
  return answer;
}

void ExpectAnswer(const v1::SearchResponse& response, const Answer& expected, const Selection& selection) {
  const bool global = selection.reduction == Reduction::kGlobal;
  ASSERT_EQ(response.ids_size(), expected.hits.size());
  ASSERT_EQ(response.scores_size(), expected.hits.size());
  ASSERT_EQ(response.query_rows_size(), global ? expected.hits.size() : 0);
  for (size_t i = 0; i < expected.hits.size(); ++i) {
    EXPECT_EQ(response.ids(i), expected.hits[i].id);
    EXPECT_EQ(response.scores(i), expected.hits[i].score);
    if (global) {
      EXPECT_EQ(response.query_rows(i), expected.hits[i].query_row);
    }
  }
  EXPECT_THAT(response.row_splits(), ::testing::ElementsAreArray(expected.row_splits));
  EXPECT_THAT(response.truncated(), ::testing::ElementsAreArray(expected.truncated));
  EXPECT_THAT(response.counts(), ::testing::ElementsAreArray(expected.counts));
  ASSERT_EQ(response.has_best(), expected.best.has_value());
  if (expected.best.has_value()) {
    EXPECT_EQ(response.best().query_row(), expected.best->query_row);
    EXPECT_EQ(response.best().id(), expected.best->id);
    EXPECT_EQ(response.best().score(), expected.best->score);
  }
  EXPECT_EQ(response.coverage(), 1.0);
}

}  // namespace dotmax::testing
