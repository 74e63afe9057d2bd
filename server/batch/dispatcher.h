// Turns the engine, which does one pass at a time, into a Searcher that anybody may call at any time: a
// scheduler in front of one thread, which puts what waits into passes.
#ifndef DOTMAX_SERVER_BATCH_DISPATCHER_H_
#define DOTMAX_SERVER_BATCH_DISPATCHER_H_

#include <cstdint>
#include <map>
#include <memory>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/functional/any_invocable.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "server/base/searcher.h"
#include "server/batch/catalog.h"
#include "server/batch/gathering.h"
#include "server/batch/pass_costs.h"
#include "server/batch/scheduler.h"
#include "server/engine/engine.h"
#include "server/engine/matrix.h"

namespace dotmax {

// Thread-safe. Done is called on the dispatcher's thread, which answers nobody else meanwhile, or within
// Search for what is refused at once. It must not call Shutdown.
//
// The next pass forms while one runs, of whatever has come by its end, and of those that ask again at once
// (Gathering): a lone question never waits for others, and many share passes. Between its passes a large
// question waits for its next turn as if it had just come.
class Dispatcher : public Searcher {
 public:
  using Limits = Scheduler::Limits;

  // What waits.
  struct Waiting {
    uint64_t requests, rows, bytes;
  };
  // What a pass did, and what waits after it; none when there was only somebody to turn away. Called on the
  // dispatcher's thread.
  struct PassReport {
    uint64_t requests = 0, rows = 0;
    Waiting waiting;
  };
  using OnPass = absl::AnyInvocable<void(const PassReport&)>;

  Dispatcher(std::unique_ptr<Engine> engine, std::shared_ptr<const Catalog> catalog, Limits limits,
             OnPass on_pass = nullptr);
  ~Dispatcher() override;  // Shutdown

  Dispatcher(const Dispatcher&) = delete;
  Dispatcher& operator=(const Dispatcher&) = delete;

  // Deadline and cancellation are looked at when the query's turn comes and between tiles. The query is
  // destroyed before `done` is called.
  void Search(Query query, Done done) override;
  void MaxOfPairs(PairsQuery query, PairsDone done) override;

  ResidentInfos Collections() const override { return catalog_->Infos(); }

  // Refuses what comes from now on with kUnavailable; what was accepted will still be answered.
  void Drain();

  // Drains, and returns when everything accepted has been answered.
  void Shutdown();

 private:
  struct Job;
  struct SearchJob;
  struct PairsJob;
  using Matrices = std::map<std::weak_ptr<const Matrix>, PassCosts, std::owner_less<>>;

  // Finds the collections that `job` names, and sees whether all of it fits together. Rows of a resident
  // collection become its query's.
  absl::Status Resolve(SearchJob& job) const;
  void Enqueue(std::unique_ptr<Job> job) ABSL_LOCKS_EXCLUDED(mutex_);
  PassCosts& CostsOf(const Job& job) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  Waiting WhatWaits() const ABSL_SHARED_LOCKS_REQUIRED(mutex_) {
    return {scheduler_.requests(), scheduler_.rows(), scheduler_.bytes()};
  }
  // Before a pass, with somebody waiting: lets others come, where that is worth while.
  void AwaitOthers() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Loop();
  bool HasWork() const ABSL_SHARED_LOCKS_REQUIRED(mutex_) {
    return draining_ || !scheduler_.empty() || scheduler_.has_unwanted();
  }
  bool HasEnough() const ABSL_SHARED_LOCKS_REQUIRED(mutex_) {
    return draining_ || urgent_ || scheduler_.requests() >= wanted_requests_ ||
           scheduler_.rows() >= wanted_rows_;
  }

  const std::unique_ptr<Engine> engine_;  // used by thread_ alone
  const std::shared_ptr<const Catalog> catalog_;
  OnPass on_pass_;  // used by thread_ alone

  mutable absl::Mutex mutex_;
  Scheduler scheduler_ ABSL_GUARDED_BY(mutex_);
  Matrices costs_ ABSL_GUARDED_BY(mutex_);  // of those that live
  PassCosts unknown_costs_ ABSL_GUARDED_BY(mutex_);
  absl::Time busy_until_ ABSL_GUARDED_BY(mutex_) = absl::InfinitePast();  // as expected
  Gathering gathering_ ABSL_GUARDED_BY(mutex_);
  uint64_t wanted_requests_ ABSL_GUARDED_BY(mutex_) = 0, wanted_rows_ ABSL_GUARDED_BY(mutex_) = 0;
  bool urgent_ ABSL_GUARDED_BY(mutex_) = false;  // somebody that waits
  bool draining_ ABSL_GUARDED_BY(mutex_) = false;

  absl::Mutex join_mutex_;                           // so that Shutdown may be called twice, and at once
  std::thread thread_ ABSL_GUARDED_BY(join_mutex_);  // last: it uses the rest
};

}  // namespace dotmax

#endif  // DOTMAX_SERVER_BATCH_DISPATCHER_H_
