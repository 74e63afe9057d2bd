#include "client/cli/bench_verify.h"

#include <algorithm>

#include "client/cli/local.h"

namespace dotmax {
namespace {

Metric MetricOf(ScoreMetric metric) {
  return metric == ScoreMetric::kCosine             ? Metric::kCosine
         : metric == ScoreMetric::kSquaredEuclidean ? Metric::kSquaredEuclidean
                                                    : Metric::kInnerProduct;
}

}  // namespace

absl::StatusOr<ExpectedAnswers> ExpectedAnswers::Find(const LoadRequests& requests, const SharedMatrix& base,
                                                      const std::string& base_name, int threads) {
  SharedMatrix queries = requests.queries;
  queries.view.rows = requests.count() * requests.rows;
  SearchOptions options = requests.options;
  options.global = false;  // the best of a request are among the best of its rows
  const absl::StatusOr<SearchResult> all = LocalMax(queries, base, base_name, options, threads);
  if (!all.ok()) return all.status();

  ExpectedAnswers expected;
  for (uint64_t first = 0; first < queries.view.rows; first += requests.rows) {
    std::vector<Hit> found;
    Hits& hits = expected.hits_.emplace_back();
    for (uint64_t row = 0; row < requests.rows; ++row) {
      hits.row_splits.push_back(found.size());
      for (size_t i = all->begin(first + row); i < all->end(first + row); ++i) {
        found.push_back({all->scores[i], row, all->ids[i]});
      }
    }
    hits.row_splits.push_back(found.size());
    if (requests.options.global) {
      hits.row_splits.clear();
      const Metric metric = MetricOf(options.metric);
      std::sort(found.begin(), found.end(),
                [metric](const Hit& a, const Hit& b) { return BetterBy(metric, a, b); });
      if (found.size() > options.top_k) found.resize(options.top_k);
      for (const Hit& hit : found) hits.query_rows.push_back(hit.query_row);
    }
    for (const Hit& hit : found) {
      hits.ids.push_back(hit.id);
      hits.scores.push_back(hit.score);
    }
  }
  return expected;
}

bool ExpectedAnswers::Match(uint64_t request, const SearchResult& answer) const {
  const Hits& hits = hits_[request];
  return answer.row_splits == hits.row_splits && answer.ids == hits.ids &&
         answer.query_rows == hits.query_rows && answer.scores == hits.scores;
}

}  // namespace dotmax
