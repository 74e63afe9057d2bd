// The k best pairs seen so far, known as precisely as was needed.
#ifndef DOTMAX_SERVER_ENGINE_TOPK_H_
#define DOTMAX_SERVER_ENGINE_TOPK_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <optional>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/functional/function_ref.h"
#include "absl/synchronization/mutex.h"
#include "absl/types/span.h"
#include "server/base/types.h"

namespace dotmax {

// A pair whose score is known to lie in [lower, upper]; a resolved one has lower == upper == score.
struct Candidate {
  double lower;
  double upper;
  uint64_t query_row;
  uint64_t id;
};

// Thread-safe. Scores are resolved only for candidates that the intervals cannot tell apart: a handful more
// than k on most data. Memory is O(k): when too many candidates cannot be told apart, they are resolved.
class TopK {
 public:
  // The correctly rounded score of a pair. Must be pure; called under this object's lock.
  using Resolve = absl::FunctionRef<double(uint64_t query_row, uint64_t id)>;
  // Hears of a row some time before it is resolved: rows come from memory.
  using Fetch = absl::FunctionRef<void(uint64_t id)>;

  // Of pairs that score at least `floor`. With k = 0 they are only counted, and nothing is kept. `room` is
  // memory for them, as far as it goes.
  explicit TopK(uint64_t k, double floor = -std::numeric_limits<double>::infinity(),
                std::vector<Candidate> room = {});

  // A lower bound of the k-th best score over all pairs of the search, or what was guessed of it; `floor` at
  // first; only rises. Whatever is below it can be dropped unseen; what equals it cannot (ties).
  double threshold() const { return threshold_.load(std::memory_order_relaxed); }

  // Whether nothing is known yet that some pairs, scored for a start, could raise the threshold by.
  bool WantsSeeds() const { return k_ > 0 && threshold() == floor_; }

  // The caller has proved that k pairs score at least `bound`.
  void RaiseThreshold(double bound);

  // Has threshold() at least `bound` though nothing proves it. When all pairs that reach it have been
  // offered, the caller asks whether the guess holds; if not, what was dropped by it has to be searched
  // again.
  void Guess(double bound);

  // Whether the pairs that were offered prove what was guessed.
  bool GuessHolds();

  // Nothing is wanted any more: no pair reaches the threshold. What Take returns then means nothing.
  void Withdraw();

  // Forgets all pairs, and what was guessed and not proved.
  void Restart();

  // Considers pairs; each pair of a search at most once. The more at once, the less each costs.
  void Offer(absl::Span<const Candidate> candidates, Resolve resolve);
  void Offer(const Candidate& candidate, Resolve resolve) { Offer({&candidate, 1}, resolve); }

  // The min(k, pairs offered or dropped) best hits, in the order of Better. Ends this object's use, but for
  // TakeRoom.
  std::vector<Hit> Take(Resolve resolve, Fetch fetch);
  std::vector<Hit> Take(Resolve resolve) {
    return Take(resolve, [](uint64_t) {});
  }

  // Memory for another one.
  std::vector<Candidate> TakeRoom();

  // The last of the k best when they were last put in order; of others, only those that are better count.
  std::optional<Hit> WorstOfBest() const;

  uint64_t counted() const;   // with k = 0
  uint64_t resolved() const;  // how many scores were resolved

 private:
  void Count(const Candidate& candidate, Resolve resolve) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Raises the threshold to the k-th largest lower end, if there are k, and drops what is below it.
  void RaiseByLowers() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void DropHopeless() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Whether k others are known to be better, as those are that score the same and come first.
  bool IsBeaten(const Candidate& candidate) const ABSL_SHARED_LOCKS_REQUIRED(mutex_) {
    return worst_.has_value() && !Better(Hit{candidate.upper, candidate.query_row, candidate.id}, *worst_);
  }
  void ResolveAll(Resolve resolve, Fetch fetch) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Of resolved ones.
  void KeepBest() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const uint64_t k_;
  const double floor_;
  std::atomic<double> threshold_, proved_;

  mutable absl::Mutex mutex_;
  uint64_t resolved_ ABSL_GUARDED_BY(mutex_) = 0;
  uint64_t counted_ ABSL_GUARDED_BY(mutex_) = 0;
  std::vector<Candidate> candidates_ ABSL_GUARDED_BY(mutex_);
  std::optional<Hit> worst_ ABSL_GUARDED_BY(mutex_);  // of the k best when all were last resolved
  size_t next_look_ ABSL_GUARDED_BY(mutex_);  // so many candidates, and their lower ends are looked at
};

}  // namespace dotmax

#endif  // DOTMAX_SERVER_ENGINE_TOPK_H_
