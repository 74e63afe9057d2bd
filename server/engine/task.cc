#include "server/engine/task.h"

#include <cmath>
#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "server/base/errors.h"

namespace dotmax {
namespace {

// Turns merits into scores. kOutOfRange if one is beyond float64.
absl::Status MakeScores(Metric metric, std::vector<Hit>& hits) {
  for (Hit& hit : hits) {
    if (!std::isfinite(hit.score)) {
      const char* const what = metric == Metric::kInnerProduct ? "inner product" : "squared distance";
      return Error(absl::StatusCode::kOutOfRange, "SCORE_OVERFLOW",
                   absl::StrCat("the ", what, " of query row ", hit.query_row, " and row ", hit.id,
                                " is beyond float64"));
    }
    hit.score = MeritOf(metric, hit.score);
  }
  return absl::OkStatus();
}

}  // namespace

Task::Task(const MatrixView& base, const MatrixView& queries, Selection selection, Stop stop)
    : base_(base), queries_(queries), selection_(std::move(selection)), stop_(std::move(stop)) {
  answer_.rows_held = answer_.rows_searched = base.rows;
  if (per_row()) {
    answer_.row_splits.reserve(queries.rows + 1);
    answer_.row_splits.push_back(0);
  } else {
    global_.emplace(kept(), Floor(0));
  }
}

uint32_t Task::kept() const {
  if (selection_.count_only) return 0;
  return selection_.top_k + (selection_.tell_truncated ? 1 : 0);
}

double Task::Floor(uint64_t row) const {
  const std::vector<double>& bounds = selection_.bounds;
  if (bounds.empty()) return -std::numeric_limits<double>::infinity();
  return MeritOf(selection_.metric, bounds.size() == 1 ? bounds[0] : bounds[row]);
}

void Task::AddRow(const TopK& best, std::vector<Hit> hits) {
  // The other rows most often have as many.
  if (next_row_ == 0) answer_.hits.reserve(hits.size() * queries_.rows);
  AddHits(best, std::move(hits));
  answer_.row_splits.push_back(answer_.hits.size());
  ++next_row_;
}

void Task::AddHits(const TopK& best, std::vector<Hit> hits) {
  answer_.stats.pairs_rescored += best.resolved();
  if (selection_.count_only) {
    answer_.counts.push_back(best.counted());
    return;
  }
  if (selection_.tell_truncated) {
    answer_.truncated.push_back(hits.size() > selection_.top_k);
    if (answer_.truncated.back()) hits.pop_back();
  }
  Fail(MakeScores(selection_.metric, hits));
  if (!hits.empty() && (!answer_.best.has_value() || BetterBy(selection_.metric, hits[0], *answer_.best))) {
    answer_.best = hits[0];
  }
  answer_.hits.insert(answer_.hits.end(), hits.begin(), hits.end());
}

absl::StatusOr<Answer> Task::Finish(TopK::Resolve resolve, TopK::Fetch fetch) {
  if (status_.ok() && !per_row()) AddHits(*global_, global_->Take(resolve, fetch));
  if (!status_.ok()) return status_;
  return std::move(answer_);
}

}  // namespace dotmax
