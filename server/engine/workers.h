// A fixed crew of threads that runs one job at a time, each worker at most once.
#ifndef DOTMAX_SERVER_ENGINE_WORKERS_H_
#define DOTMAX_SERVER_ENGINE_WORKERS_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/functional/function_ref.h"
#include "absl/synchronization/mutex.h"

namespace dotmax {

// Run is not thread-safe: one caller at a time. The destructor joins.
class Workers {
 public:
  // count ≥ 1; the caller of Run is worker 0, so count − 1 threads start. With `pin`, worker i stays on the
  // i-th processor (round and round) of those that the constructing thread may use, worker 0 from its first
  // Run on.
  explicit Workers(int count, bool pin = false);
  ~Workers();

  Workers(const Workers&) = delete;
  Workers& operator=(const Workers&) = delete;

  int count() const { return static_cast<int>(threads_.size()) + 1; }

  // Calls job(worker) for worker 0 and, at once, for all others in [0, count()) that come before it has
  // returned, and returns when all have: the job must leave nothing to those who are late. On a busy machine
  // a thread may take longer to get a processor than the job does.
  void Run(absl::FunctionRef<void(int worker)> job);

  // Calls job(worker, i) for every i in [0, count), shared out one by one. The caller alone does a single
  // one.
  void Share(size_t count, absl::FunctionRef<void(int worker, size_t i)> job);

 private:
  void Loop(int worker);

  void Pin(int worker) const;

  std::vector<int> processors_;  // to pin workers to; empty: none
  bool caller_is_pinned_ = false;

  absl::Mutex mutex_;
  const absl::FunctionRef<void(int)>* job_ ABSL_GUARDED_BY(mutex_) = nullptr;
  // These change under the mutex; without it, threads look whether they are about to get it.
  std::atomic<uint64_t> generation_{0};  // one per Run
  std::atomic<int> running_{0};          // but worker 0
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  std::vector<std::thread> threads_;  // last: they use the rest
};

}  // namespace dotmax

#endif  // DOTMAX_SERVER_ENGINE_WORKERS_H_
