#include "server/engine/topk.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>

#include "absl/algorithm/container.h"
#include "absl/container/inlined_vector.h"

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

// So few are sorted at once.
constexpr size_t kFewestToDeal = 24;

Hit HitOf(const Candidate& resolved) { return {resolved.lower, resolved.query_row, resolved.id}; }

// The k best of resolved candidates, best first. Many are dealt out by score, evenly between the best and the
// worst, so that only neighbours are left to be sorted, and nothing that is not among the best is.
std::vector<Hit> BestInOrder(absl::Span<const Candidate> candidates, size_t k) {
  const auto sort = [](std::vector<Hit>::iterator begin, std::vector<Hit>::iterator end) {
    std::sort(begin, end, [](const Hit& a, const Hit& b) { return Better(a, b); });
  };
  const size_t wanted = std::min(k, candidates.size());
  std::vector<Hit> hits;
  const auto [least, most] =
      std::minmax_element(candidates.begin(), candidates.end(),
                          [](const Candidate& a, const Candidate& b) { return a.lower < b.lower; });
  const size_t places = 2 * candidates.size();
  const double scale = candidates.size() < kFewestToDeal ? 0.0 : places / (most->lower - least->lower);
  if (!(std::isnormal(scale) && std::isfinite(most->lower - least->lower))) {  // few, ties, or infinite ones
    hits.reserve(candidates.size());
    for (const Candidate& c : candidates) hits.push_back(HitOf(c));
    sort(hits.begin(), hits.end());
    hits.resize(wanted);
    return hits;
  }
  // Rounding is monotonic: of two, the better one never comes to a later place.
  const auto place_of = [scale, best = most->lower](const Candidate& c) {
    return static_cast<size_t>((best - c.lower) * scale);
  };
  absl::InlinedVector<uint32_t, 512> counts(places + 2);
  uint32_t* const ends = counts.data();  // of places: [p + 1] counts what is at p, then [p] is where it ends
  for (const Candidate& c : candidates) ++ends[place_of(c) + 1];
  size_t last = 0;  // the k-th best is at places up to here
  for (; ends[last] < wanted; ++last) ends[last + 1] += ends[last];
  hits.resize(ends[last]);
  for (const Candidate& c : candidates) {
    const size_t place = place_of(c);
    if (place < last) hits[ends[place]++] = HitOf(c);
  }
  for (size_t p = 0, begin = 0; p < last; begin = ends[p++]) {
    if (ends[p] > begin + 1) sort(hits.begin() + begin, hits.begin() + ends[p]);
  }
  hits.resize(wanted);
  return hits;
}

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
      KeepBest();
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
  absl::InlinedVector<double, kReserved> lowers;
  lowers.reserve(candidates_.size());
  for (const Candidate& c : candidates_) lowers.push_back(c.lower);
  const auto kth = lowers.begin() + (k_ - 1);
  std::nth_element(lowers.begin(), kth, lowers.end(), std::greater<>());
  RaiseThreshold(*kth);
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
}

void TopK::KeepBest() {
  const auto better = [](const Candidate& a, const Candidate& b) { return Better(HitOf(a), HitOf(b)); };
  if (candidates_.size() <= k_) return;
  std::nth_element(candidates_.begin(), candidates_.begin() + (k_ - 1), candidates_.end(), better);
  candidates_.resize(k_);
  worst_ = HitOf(candidates_.back());
}

std::vector<Hit> TopK::Take(Resolve resolve, Fetch fetch) {
  absl::MutexLock lock(&mutex_);
  DropHopeless();
  ResolveAll(resolve, fetch);
  std::erase_if(candidates_, [this](const Candidate& c) { return c.lower < floor_; });
  return BestInOrder(candidates_, k_);
}

std::vector<Candidate> TopK::TakeRoom() {
  absl::MutexLock lock(&mutex_);
  return std::move(candidates_);
}

std::optional<Hit> TopK::WorstOfBest() const {
  absl::MutexLock lock(&mutex_);
  return worst_;
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
