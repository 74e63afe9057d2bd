#include "server/engine/topk.h"

#include <algorithm>

namespace dotmax {
namespace {

// Beyond 2k a prune halves the list or proves that it cannot, so its cost per offer is constant.
size_t Capacity(uint64_t k) { return 2 * k + 16; }

}  // namespace

TopK::TopK(uint64_t k) : k_(k), prune_at_(std::min<size_t>(k, Capacity(k))) {}

void TopK::RaiseThreshold(double bound) {
  // Infinite scores are an error that every later one must live to take part in.
  bound = std::min(bound, std::numeric_limits<double>::max());
  double seen = threshold();
  while (seen < bound && !threshold_.compare_exchange_weak(seen, bound, std::memory_order_relaxed)) {
  }
}

void TopK::Offer(const Candidate& candidate, Resolve resolve) {
  if (candidate.upper < threshold()) return;
  absl::MutexLock lock(&mutex_);
  candidates_.push_back(candidate);
  if (candidates_.size() < prune_at_) return;
  Prune();
  if (candidates_.size() >= Capacity(k_)) ResolveAll(resolve);
  // Up to about a dozen hits every offer may raise the threshold at no great cost; deeper lists wait.
  prune_at_ = candidates_.size() + 1 + k_ / 8;
}

void TopK::Prune() {
  if (candidates_.size() < k_) return;
  std::nth_element(candidates_.begin(), candidates_.begin() + (k_ - 1), candidates_.end(),
                   [](const Candidate& a, const Candidate& b) { return a.lower > b.lower; });
  const double bound = candidates_[k_ - 1].lower;
  RaiseThreshold(bound);
  std::erase_if(candidates_, [bound](const Candidate& c) { return c.upper < bound; });
}

void TopK::ResolveAll(Resolve resolve) {
  for (Candidate& c : candidates_) {
    if (c.lower == c.upper) continue;
    c.lower = c.upper = resolve(c.query_row, c.id);
    ++resolved_;
  }
  const auto better = [](const Candidate& a, const Candidate& b) {
    return Better(Hit{a.lower, a.query_row, a.id}, Hit{b.lower, b.query_row, b.id});
  };
  if (candidates_.size() <= k_) return;
  std::nth_element(candidates_.begin(), candidates_.begin() + (k_ - 1), candidates_.end(), better);
  candidates_.resize(k_);
  RaiseThreshold(candidates_.back().lower);
}

std::vector<Hit> TopK::Take(Resolve resolve) {
  absl::MutexLock lock(&mutex_);
  Prune();
  ResolveAll(resolve);
  std::vector<Hit> hits;
  hits.reserve(candidates_.size());
  for (const Candidate& c : candidates_) hits.push_back({c.lower, c.query_row, c.id});
  std::sort(hits.begin(), hits.end(), Better);
  candidates_ = {};
  return hits;
}

uint64_t TopK::resolved() const {
  absl::MutexLock lock(&mutex_);
  return resolved_;
}

}  // namespace dotmax
