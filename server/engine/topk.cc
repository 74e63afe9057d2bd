#include "server/engine/topk.h"

#include <algorithm>
#include <limits>

#include "absl/algorithm/container.h"

namespace dotmax {
namespace {

// Beyond 2k a clean-up halves the list or resolves it, so its cost per offer is constant.
size_t Capacity(uint64_t k) { return 2 * k + 16; }

// After so many more candidates their lower ends are looked at again: the sooner, the higher the threshold;
// the later, the less this costs per candidate, a look being a selection among k.
size_t Slack(uint64_t k) { return k / 2 + 1; }

constexpr size_t kFetchedAhead = 16;

// Room to begin with.
constexpr size_t kReserved = 256;

void RaiseTo(double bound, std::atomic<double>& value) {
  double seen = value.load(std::memory_order_relaxed);
  while (seen < bound && !value.compare_exchange_weak(seen, bound, std::memory_order_relaxed)) {
  }
}

}  // namespace

TopK::TopK(uint64_t k, double floor, std::vector<Candidate> room)
    : k_(k), floor_(floor), threshold_(floor), proved_(floor), candidates_(std::move(room)), next_look_(k) {
  candidates_.clear();
}

void TopK::RaiseThreshold(double bound) {
  // Infinite scores are an error that every later one must live to take part in.
  bound = std::min(bound, std::numeric_limits<double>::max());
  RaiseTo(bound, proved_);
  RaiseTo(bound, threshold_);
}

void TopK::Guess(double bound) { RaiseTo(std::min(bound, std::numeric_limits<double>::max()), threshold_); }

void TopK::Withdraw() {
  proved_.store(std::numeric_limits<double>::infinity(), std::memory_order_relaxed);
  threshold_.store(std::numeric_limits<double>::infinity(), std::memory_order_relaxed);
}

bool TopK::GuessHolds() {
  if (proved_.load(std::memory_order_relaxed) == threshold()) return true;
  absl::MutexLock lock(&mutex_);
  RaiseByLowers();
  return proved_.load(std::memory_order_relaxed) == threshold();
}

void TopK::Restart() {
  absl::MutexLock lock(&mutex_);
  candidates_.clear();
  worst_.reset();
  next_look_ = k_;
  threshold_.store(proved_.load(std::memory_order_relaxed), std::memory_order_relaxed);
}

void TopK::Offer(absl::Span<const Candidate> candidates, Resolve resolve) {
  const auto is_hopeless = [this](const Candidate& c) { return c.upper < threshold(); };
  if (absl::c_all_of(candidates, is_hopeless)) return;
  absl::MutexLock lock(&mutex_);
  for (const Candidate& candidate : candidates) {
    if (is_hopeless(candidate)) continue;
    if (k_ == 0) {
      Count(candidate, resolve);
      continue;
    }
    if (IsBeaten(candidate)) continue;
    if (candidates_.capacity() == 0) candidates_.reserve(std::min(Capacity(k_), kReserved));
    candidates_.push_back(candidate);
    if (candidates_.size() < next_look_) continue;
    RaiseByLowers();
    if (candidates_.size() >= k_ + (Capacity(k_) - k_) / 2) {
      ResolveAll(resolve, [](uint64_t) {});
      RaiseByLowers();
    }
    next_look_ = std::max(k_, candidates_.size() + Slack(k_));
  }
}

void TopK::Count(const Candidate& candidate, Resolve resolve) {
  const bool known = candidate.lower >= floor_;
  resolved_ += known ? 0 : 1;
  counted_ += known || resolve(candidate.query_row, candidate.id) >= floor_ ? 1 : 0;
}

void TopK::RaiseByLowers() {
  if (k_ == 0 || candidates_.size() < k_) return;
  const auto kth = candidates_.begin() + (k_ - 1);
  std::nth_element(candidates_.begin(), kth, candidates_.end(),
                   [](const Candidate& a, const Candidate& b) { return a.lower > b.lower; });
  RaiseThreshold(kth->lower);
  DropHopeless();
}

void TopK::DropHopeless() {
  std::erase_if(candidates_, [bound = threshold()](const Candidate& c) { return c.upper < bound; });
}

void TopK::ResolveAll(Resolve resolve, Fetch fetch) {
  for (size_t i = 0; i < candidates_.size(); ++i) {
    if (i + kFetchedAhead < candidates_.size()) {
      const Candidate& next = candidates_[i + kFetchedAhead];
      if (next.lower != next.upper) fetch(next.id);
    }
    Candidate& c = candidates_[i];
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
  worst_ = Hit{candidates_.back().lower, candidates_.back().query_row, candidates_.back().id};
}

std::vector<Hit> TopK::Take(Resolve resolve, Fetch fetch) {
  absl::MutexLock lock(&mutex_);
  DropHopeless();
  ResolveAll(resolve, fetch);
  std::erase_if(candidates_, [this](const Candidate& c) { return c.lower < floor_; });
  std::vector<Hit> hits;
  hits.reserve(candidates_.size());
  for (const Candidate& c : candidates_) hits.push_back({c.lower, c.query_row, c.id});
  std::sort(hits.begin(), hits.end(), [](const Hit& a, const Hit& b) { return Better(a, b); });
  return hits;
}

std::vector<Candidate> TopK::TakeRoom() {
  absl::MutexLock lock(&mutex_);
  return std::move(candidates_);
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
