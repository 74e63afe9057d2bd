#include "client/cli/local.h"

#include <algorithm>
#include <memory>
#include <utility>

#include "server/base/searcher.h"
#include "server/batch/catalog.h"
#include "server/batch/dispatcher.h"
#include "server/engine/engine.h"
#include "server/engine/matrix.h"
#include "server/engine/planner.h"

namespace dotmax {
namespace {

Selection SelectionOf(const SearchOptions& options) {
  Selection selection;
  selection.reduction = options.global ? Reduction::kGlobal : Reduction::kPerRow;
  selection.metric = options.metric == ScoreMetric::kCosine             ? Metric::kCosine
                     : options.metric == ScoreMetric::kSquaredEuclidean ? Metric::kSquaredEuclidean
                                                                        : Metric::kInnerProduct;
  if (options.min_score.has_value()) selection.bounds = {*options.min_score};
  if (options.max_score.has_value()) selection.bounds = {*options.max_score};
  selection.count_only = options.count_only;
  selection.tell_truncated = !selection.bounds.empty() && options.top_k == 0 && !options.count_only;
  selection.top_k = selection.tell_truncated ? kMaxLocalHits : std::max<uint32_t>(options.top_k, 1);
  return selection;
}

// Gathers the answers for successive query rows.
class Gathered {
 public:
  explicit Gathered(const Selection& selection) : selection_(selection) {
    if (global()) return;
    result_.row_splits.push_back(0);
  }

  // The selection for the next rows: of all pairs only the best are wanted, so that what is known rules out
  // more and more.
  Selection Next() const {
    Selection next = selection_;
    const bool matters = selection_.tell_truncated && !truncated_;
    if (global() && !selection_.count_only && hits_.size() == selection_.top_k && !matters) {
      next.bounds = {hits_.back().score};
    }
    return next;
  }

  // Of rows from `first` on.
  void Add(const Answer& answer, uint64_t first) {
    result_.compute_seconds += answer.stats.compute_seconds;
    result_.queue_seconds += answer.stats.queue_seconds;
    result_.pairs_screened += answer.stats.pairs_screened;
    result_.pairs_survived += answer.stats.pairs_survived;
    result_.pairs_checked += answer.stats.pairs_checked;
    result_.pairs_rescored += answer.stats.pairs_rescored;
    const size_t before = hits_.size();
    for (Hit hit : answer.hits) {
      hit.query_row += first;
      hits_.push_back(hit);
    }
    if (!global()) {
      for (size_t i = 1; i < answer.row_splits.size(); ++i) {
        result_.row_splits.push_back(before + answer.row_splits[i]);
      }
      result_.truncated.insert(result_.truncated.end(), answer.truncated.begin(), answer.truncated.end());
      result_.counts.insert(result_.counts.end(), answer.counts.begin(), answer.counts.end());
      return;
    }
    std::inplace_merge(hits_.begin(), hits_.begin() + static_cast<int64_t>(before), hits_.end(),
                       [&](const Hit& a, const Hit& b) { return BetterBy(selection_.metric, a, b); });
    truncated_ |= hits_.size() > selection_.top_k || (!answer.truncated.empty() && answer.truncated[0]);
    if (hits_.size() > selection_.top_k) hits_.resize(selection_.top_k);
    if (!answer.counts.empty()) count_ += answer.counts[0];
  }

  SearchResult Take() {
    for (const Hit& hit : hits_) {
      result_.ids.push_back(hit.id);
      result_.scores.push_back(hit.score);
      if (global()) result_.query_rows.push_back(hit.query_row);
    }
    const auto best = std::min_element(hits_.begin(), hits_.end(), [&](const Hit& a, const Hit& b) {
      return BetterBy(selection_.metric, a, b);
    });
    if (best != hits_.end()) result_.best = BestHit{best->query_row, best->id, best->score};
    if (global() && selection_.tell_truncated) result_.truncated = {truncated_};
    if (global() && selection_.count_only) result_.counts = {count_};
    result_.coverage = 1;
    return std::move(result_);
  }

 private:
  bool global() const { return selection_.reduction == Reduction::kGlobal; }

  const Selection selection_;
  SearchResult result_;
  std::vector<Hit> hits_;
  bool truncated_ = false;
  uint64_t count_ = 0;
};

// Asks `query_of(first, rows)` for blocks of the `total` query rows, so that there is something to tell on
// the way.
template <typename QueryOf>
absl::StatusOr<SearchResult> InBlocks(Searcher& searcher, const Selection& selection,
                                      const SearchOptions& options, uint64_t total, QueryOf query_of) {
  // The engine takes 256 rows at a time; few blocks, as each begins anew.
  constexpr uint64_t kLeastRows = 256;
  constexpr uint64_t kBlocks = 100;
  const uint64_t block = std::max(kLeastRows, (total + kBlocks - 1) / kBlocks);
  Gathered gathered(selection);
  for (uint64_t first = 0; first == 0 || first < total; first += block) {
    const uint64_t rows = std::min(block, total - first);
    Query query = query_of(first, rows);
    query.selection = gathered.Next();
    const absl::StatusOr<Answer> answer = SearchAndWait(searcher, std::move(query));
    if (!answer.ok()) return answer.status();
    gathered.Add(*answer, first);
    if (options.progress) options.progress(first + rows, total);
  }
  return gathered.Take();
}

// An engine over `matrix` alone.
std::unique_ptr<Searcher> Serve(const SharedMatrix& matrix, const std::string& name,
                                const ScreenOptions& screen, int threads) {
  const auto catalog = std::make_shared<Catalog>();
  catalog->Publish(name, std::make_shared<const Matrix>(matrix, screen));
  return std::make_unique<Dispatcher>(std::make_unique<Engine>(threads), catalog, Dispatcher::Limits());
}

absl::StatusOr<SearchResult> SearchIn(Searcher& searcher, const SharedMatrix& queries,
                                      const SearchOptions& options) {
  return InBlocks(searcher, SelectionOf(options), options, queries.view.rows,
                  [&](uint64_t first, uint64_t rows) {
                    Query query;
                    query.rows = {queries.view.slice(first, rows), queries.owner};
                    return query;
                  });
}

}  // namespace

LocalCollection::LocalCollection(const SharedMatrix& rows, const std::string& name, int threads)
    : searcher_(Serve(rows, name, ScreenOptions(), threads)) {}

absl::StatusOr<SearchResult> LocalCollection::Search(const SharedMatrix& queries,
                                                     const SearchOptions& options) const {
  return SearchIn(*searcher_, queries, options);
}

std::string LocalCollection::screen() const { return searcher_->Collections()->front().screen; }

absl::StatusOr<SearchResult> LocalMax(const SharedMatrix& queries, const SharedMatrix& base,
                                      const std::string& base_name, const SearchOptions& options,
                                      int threads) {
  const auto searcher = Serve(base, base_name, ScreenForOnce(queries.view.rows), threads);
  return SearchIn(*searcher, queries, options);
}

absl::StatusOr<SearchResult> LocalPairs(const SharedMatrix& rows, const std::string& name,
                                        const SearchOptions& options, int threads) {
  const auto searcher = Serve(rows, name, ScreenForOnce(rows.view.rows), threads);
  Selection selection = SelectionOf(options);
  selection.self = options.global ? Selection::Self::kOnce : Selection::Self::kNotItself;
  return InBlocks(*searcher, selection, options, rows.view.rows, [](uint64_t first, uint64_t count) {
    Query query;
    query.resident = ResidentRows{"", first, count};
    return query;
  });
}

}  // namespace dotmax
