#include "server/base/merge.h"

#include <algorithm>
#include <limits>
#include <utility>

namespace dotmax {
namespace {

// A bound that every score meets.
double NoBound(Metric metric) { return MeritOf(metric, -std::numeric_limits<double>::infinity()); }

}  // namespace

Merge::Merge(uint64_t query_rows, Selection selection)
    : query_rows_(query_rows), selection_(std::move(selection)) {
  if (selection_.reduction == Reduction::kPerRow) all_.row_splits.assign(query_rows_ + 1, 0);
  if (selection_.tell_truncated) all_.truncated.assign(groups(), false);
  if (selection_.count_only) all_.counts.assign(groups(), 0);
}

const Hit& Merge::Worst(uint64_t group) const {
  return selection_.reduction == Reduction::kGlobal ? all_.hits.back()
                                                    : all_.hits[all_.row_splits[group + 1] - 1];
}

bool Merge::IsFull(uint64_t group) const {
  const uint64_t hits = selection_.reduction == Reduction::kGlobal
                            ? all_.hits.size()
                            : all_.row_splits[group + 1] - all_.row_splits[group];
  // While it is not known whether there are more hits than wanted, worse ones matter, too.
  return hits >= selection_.top_k && (!selection_.tell_truncated || all_.truncated[group]);
}

Selection Merge::ForBlock(uint64_t rows) const {
  Selection block;
  block.top_k = selection_.top_k;
  block.reduction = selection_.reduction;
  block.metric = selection_.metric;
  block.bounds = selection_.bounds;
  block.tell_truncated = selection_.tell_truncated;
  block.count_only = selection_.count_only;
  if (!selection_.excluded.empty()) {
    block.excluded_splits.reserve(query_rows_ + 1);
    block.excluded_splits.push_back(0);
    for (uint64_t i = 0; i < query_rows_; ++i) {
      const auto begin = selection_.excluded.begin();
      const auto end = begin + static_cast<int64_t>(selection_.excluded_splits[i + 1]);
      auto at = std::lower_bound(begin + static_cast<int64_t>(selection_.excluded_splits[i]), end, rows_);
      for (; at != end && *at - rows_ < rows; ++at) block.excluded.push_back(*at - rows_);
      block.excluded_splits.push_back(block.excluded.size());
    }
    if (block.excluded.empty()) block.excluded_splits.clear();
  }
  if (selection_.count_only) return block;

  std::vector<double> raised;
  for (uint64_t group = 0; group < groups(); ++group) {
    if (!IsFull(group)) continue;
    if (raised.empty()) {
      raised = selection_.bounds;
      if (raised.size() != groups()) {
        raised.assign(groups(), raised.empty() ? NoBound(selection_.metric) : raised[0]);
      }
    }
    raised[group] = Worst(group).score;
  }
  if (!raised.empty()) block.bounds = std::move(raised);
  return block;
}

void Merge::MergeHits(const Answer& block) {
  const bool global = selection_.reduction == Reduction::kGlobal;
  std::vector<Hit> merged;
  merged.reserve(std::min<uint64_t>(all_.hits.size() + block.hits.size(),
                                    std::max<uint64_t>(groups() * selection_.top_k, all_.hits.size())));
  std::vector<uint64_t> splits;
  if (!global) splits.assign(1, 0);
  for (uint64_t group = 0; group < groups(); ++group) {
    uint64_t ours = global ? 0 : all_.row_splits[group];
    uint64_t theirs = global ? 0 : block.row_splits[group];
    const uint64_t our_end = global ? all_.hits.size() : all_.row_splits[group + 1];
    const uint64_t their_end = global ? block.hits.size() : block.row_splits[group + 1];
    uint64_t wanted = selection_.top_k;
    for (; wanted > 0 && (ours < our_end || theirs < their_end); --wanted) {
      Hit theirs_here;
      if (theirs < their_end) {
        theirs_here = block.hits[theirs];
        theirs_here.id += rows_;
      }
      const bool take_ours = theirs == their_end ||
                             (ours < our_end && BetterBy(selection_.metric, all_.hits[ours], theirs_here));
      merged.push_back(take_ours ? all_.hits[ours] : theirs_here);
      ++(take_ours ? ours : theirs);
    }
    if (selection_.tell_truncated && (ours < our_end || theirs < their_end)) all_.truncated[group] = true;
    if (!global) splits.push_back(merged.size());
  }
  all_.hits = std::move(merged);
  all_.row_splits = std::move(splits);
}

void Merge::Add(Answer block, uint64_t rows) {
  if (!block.hits.empty()) MergeHits(block);
  if (block.best.has_value()) {
    block.best->id += rows_;
    if (!all_.best.has_value() || BetterBy(selection_.metric, *block.best, *all_.best))
      all_.best = block.best;
  }
  for (size_t i = 0; i < block.truncated.size() && i < all_.truncated.size(); ++i) {
    if (block.truncated[i]) all_.truncated[i] = true;
  }
  for (size_t i = 0; i < block.counts.size() && i < all_.counts.size(); ++i) {
    all_.counts[i] += block.counts[i];
  }
  all_.rows_searched += block.rows_searched;
  all_.rows_held += block.rows_held;
  all_.stats.queue_seconds += block.stats.queue_seconds;
  all_.stats.compute_seconds += block.stats.compute_seconds;
  all_.stats.pairs_screened += block.stats.pairs_screened;
  all_.stats.pairs_survived += block.stats.pairs_survived;
  all_.stats.pairs_checked += block.stats.pairs_checked;
  all_.stats.pairs_rescored += block.stats.pairs_rescored;
  rows_ += rows;
}

}  // namespace dotmax
