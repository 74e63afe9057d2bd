#include "server/engine/topk.h"

#include <algorithm>
#include <functional>

namespace dotmax {
namespace {

// Beyond 2k a clean-up halves the list or resolves it, so its cost per offer is constant.
size_t Capacity(uint64_t k) { return 2 * k + 16; }

}  // namespace

TopK::TopK(uint64_t k, double floor) : k_(k), floor_(floor), threshold_(floor) {}

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
  if (k_ == 0) {
    const bool known = candidate.lower >= floor_;
    resolved_ += known ? 0 : 1;
    counted_ += known || resolve(candidate.query_row, candidate.id) >= floor_ ? 1 : 0;
    return;
  }
  candidates_.push_back(candidate);
  NoteLower(candidate.lower);
  if (candidates_.size() < Capacity(k_)) return;
  DropHopeless();
  if (candidates_.size() < k_ + (Capacity(k_) - k_) / 2) return;
  ResolveAll(resolve);
  lowers_.clear();
  for (const Candidate& c : candidates_) NoteLower(c.lower);
}

void TopK::NoteLower(double lower) {
  if (lowers_.size() == k_) {
    if (lower <= lowers_.front()) return;
    std::pop_heap(lowers_.begin(), lowers_.end(), std::greater<>());
    lowers_.back() = lower;
  } else {
    lowers_.push_back(lower);
  }
  std::push_heap(lowers_.begin(), lowers_.end(), std::greater<>());
  if (lowers_.size() == k_) RaiseThreshold(lowers_.front());
}

void TopK::DropHopeless() {
  std::erase_if(candidates_, [bound = threshold()](const Candidate& c) { return c.upper < bound; });
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
}

std::vector<Hit> TopK::Take(Resolve resolve) {
  absl::MutexLock lock(&mutex_);
  DropHopeless();
  ResolveAll(resolve);
  std::erase_if(candidates_, [this](const Candidate& c) { return c.lower < floor_; });
  std::vector<Hit> hits;
  hits.reserve(candidates_.size());
  for (const Candidate& c : candidates_) hits.push_back({c.lower, c.query_row, c.id});
  std::sort(hits.begin(), hits.end(), Better);
  candidates_ = {};
  return hits;
}

uint64_t TopK::counted() const {
  absl::MutexLock lock(&mutex_);
  return counted_;
}

uint64_t TopK::resolved() const {
  absl::MutexLock lock(&mutex_);
  return resolved_;
}

}  // namespace dotmax
