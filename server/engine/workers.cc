#include "server/engine/workers.h"

#include <pthread.h>
#include <sched.h>

#include <atomic>
#include <utility>

#include "absl/time/clock.h"
#include "absl/time/time.h"

namespace dotmax {
namespace {

// The jobs of one search follow each other within microseconds, where falling asleep and being woken takes
// tens of them.
constexpr absl::Duration kSpin = absl::Microseconds(50);

// Until then at most; others who want the processor get it meanwhile.
template <typename Done>
void SpinUntil(const Done& done) {
  const absl::Time end = absl::Now() + kSpin;
  while (!done() && absl::Now() < end) std::this_thread::yield();
}

}  // namespace

Workers::Workers(int count, bool pin) {
  cpu_set_t allowed;
  if (pin && sched_getaffinity(0, sizeof(allowed), &allowed) == 0) {
    for (int i = 0; i < CPU_SETSIZE; ++i) {
      if (CPU_ISSET(i, &allowed)) processors_.push_back(i);
    }
  }
  for (int worker = 1; worker < count; ++worker) threads_.emplace_back([this, worker] { Loop(worker); });
}

Workers::~Workers() {
  {
    absl::MutexLock lock(&mutex_);
    stopping_ = true;
  }
  for (std::thread& thread : threads_) thread.join();
}

// Where the system refuses, the worker goes where it will, as without pinning.
void Workers::Pin(int worker) const {
  if (processors_.empty()) return;
  cpu_set_t one;
  CPU_ZERO(&one);
  CPU_SET(processors_[worker % processors_.size()], &one);
  pthread_setaffinity_np(pthread_self(), sizeof(one), &one);
}

void Workers::Run(absl::FunctionRef<void(int)> job) {
  if (!std::exchange(caller_is_pinned_, true)) Pin(0);
  {
    absl::MutexLock lock(&mutex_);
    job_ = &job;
    ++generation_;
  }
  job(0);
  {
    absl::MutexLock lock(&mutex_);
    job_ = nullptr;
  }
  const auto done = [this] { return running_.load(std::memory_order_acquire) == 0; };
  SpinUntil(done);
  absl::MutexLock lock(&mutex_);
  mutex_.Await(absl::Condition(&done));
}

void Workers::Share(size_t count, absl::FunctionRef<void(int, size_t)> job) {
  std::atomic<size_t> next{0};
  const auto work = [&](int worker) {
    for (size_t i; (i = next.fetch_add(1, std::memory_order_relaxed)) < count;) job(worker, i);
  };
  if (count > 1 && this->count() > 1) {
    Run(work);
  } else {
    work(0);
  }
}

void Workers::Loop(int worker) {
  Pin(worker);
  uint64_t done = 0;  // generations this thread has run
  const auto wake = [this, &done]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    return stopping_ || (job_ != nullptr && generation_ != done);
  };
  while (true) {
    const absl::FunctionRef<void(int)>* job;
    SpinUntil([&] { return generation_.load(std::memory_order_acquire) != done; });
    {
      absl::MutexLock lock(&mutex_);
      mutex_.Await(absl::Condition(&wake));
      if (stopping_) return;
      done = generation_;
      job = job_;
      ++running_;
    }
    (*job)(worker);
    absl::MutexLock lock(&mutex_);
    --running_;
  }
}

}  // namespace dotmax
