// Turns the engine, which does one search at a time, into a Searcher that anybody may call at any time: a
// bounded first-in-first-out queue in front of one thread.
#ifndef DOTMAX_SERVER_BATCH_DISPATCHER_H_
#define DOTMAX_SERVER_BATCH_DISPATCHER_H_

#include <cstdint>
#include <deque>
#include <memory>
#include <string>
#include <thread>
#include <variant>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "server/base/searcher.h"
#include "server/batch/catalog.h"
#include "server/engine/engine.h"
#include "server/engine/matrix.h"

namespace dotmax {

// Thread-safe. Done is called on the dispatcher's thread, which answers nobody else meanwhile, or within
// Search for what is refused at once. It must not call Shutdown.
class Dispatcher : public Searcher {
 public:
  // What may wait, beside the one search that runs: all limits hold together.
  struct Limits {
    uint64_t requests = 1024;
    uint64_t query_bytes = uint64_t{1} << 30;  // of the matrices that came with them, summed
  };

  Dispatcher(std::unique_ptr<Engine> engine, std::shared_ptr<const Catalog> catalog, Limits limits);
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
  struct SearchJob {
    Query query;
    Done done;
    Catalog::Resident base;  // without a matrix: query.base
  };
  struct PairsJob {
    PairsQuery query;
    PairsDone done;
  };
  struct Pending {
    std::variant<SearchJob, PairsJob> job;
    uint64_t bytes;
    absl::Time accepted;
  };

  // Finds the collections that `job` names, and sees whether all of it fits together. Rows of a resident
  // collection become its query's.
  absl::Status Resolve(SearchJob& job) const;
  void Enqueue(Pending pending) ABSL_LOCKS_EXCLUDED(mutex_);
  absl::Status Admit(Pending& pending) ABSL_LOCKS_EXCLUDED(mutex_);
  absl::StatusOr<Answer> Run(const SearchJob& job);
  absl::StatusOr<PairsAnswer> Run(const PairsJob& job);
  void Loop();
  bool HasWork() const ABSL_SHARED_LOCKS_REQUIRED(mutex_) { return draining_ || !queue_.empty(); }

  const std::unique_ptr<Engine> engine_;  // used by thread_ alone
  const std::shared_ptr<const Catalog> catalog_;
  const Limits limits_;

  mutable absl::Mutex mutex_;
  std::deque<Pending> queue_ ABSL_GUARDED_BY(mutex_);
  uint64_t queued_bytes_ ABSL_GUARDED_BY(mutex_) = 0;
  bool draining_ ABSL_GUARDED_BY(mutex_) = false;

  absl::Mutex join_mutex_;                           // so that Shutdown may be called twice, and at once
  std::thread thread_ ABSL_GUARDED_BY(join_mutex_);  // last: it uses the rest
};

}  // namespace dotmax

#endif  // DOTMAX_SERVER_BATCH_DISPATCHER_H_
