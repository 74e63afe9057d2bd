#include "server/engine/workers.h"

namespace dotmax {

Workers::Workers(int count) {
  for (int worker = 1; worker < count; ++worker) threads_.emplace_back([this, worker] { Loop(worker); });
}

Workers::~Workers() {
  {
    absl::MutexLock lock(&mutex_);
    stopping_ = true;
  }
  for (std::thread& thread : threads_) thread.join();
}

void Workers::Run(absl::FunctionRef<void(int)> job) {
  {
    absl::MutexLock lock(&mutex_);
    job_ = &job;
    running_ = static_cast<int>(threads_.size());
    ++generation_;
  }
  job(0);
  absl::MutexLock lock(&mutex_);
  mutex_.Await(absl::Condition(
      +[](int* running) { return *running == 0; }, &running_));
}

void Workers::Loop(int worker) {
  uint64_t done = 0;  // generations this thread has run
  const auto wake = [this, &done]()
                        ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return stopping_ || generation_ != done; };
  while (true) {
    const absl::FunctionRef<void(int)>* job;
    {
      absl::MutexLock lock(&mutex_);
      mutex_.Await(absl::Condition(&wake));
      if (stopping_) return;
      done = generation_;
      job = job_;
    }
    (*job)(worker);
    absl::MutexLock lock(&mutex_);
    --running_;
  }
}

}  // namespace dotmax
