#include "server/engine/workers.h"

#include <sched.h>

#include <atomic>
#include <thread>
#include <vector>

#include "absl/synchronization/mutex.h"
#include "gtest/gtest.h"

namespace dotmax {
namespace {

TEST(WorkersTest, EveryWorkerRunsEachJobOnceIfItComesInTime) {
  for (const int count : {1, 2, 5}) {
    Workers workers(count);
    EXPECT_EQ(workers.count(), count);
    std::vector<std::atomic<int>> runs(count);
    for (int job = 1; job <= 200; ++job) {
      std::atomic<int> here{0};
      workers.Run([&](int worker) {
        ++runs[worker];
        ++here;
        while (here < count) std::this_thread::yield();
      });
      for (const std::atomic<int>& n : runs) ASSERT_EQ(n, job);
    }
  }
}

TEST(WorkersTest, NobodyComesToAJobThatIsOver) {
  Workers workers(5);
  std::atomic<int> running{0};
  for (int job = 1; job <= 2000; ++job) {
    int jobs_own = 0;  // which only this job's workers may know of
    absl::Mutex mutex;
    workers.Run([&](int) {
      ++running;
      {
        absl::MutexLock lock(&mutex);
        ++jobs_own;
      }
      --running;
    });
    ASSERT_EQ(running, 0);
    ASSERT_GE(jobs_own, 1);
    ASSERT_LE(jobs_own, 5);
  }
}

TEST(WorkersTest, PinnedWorkersHaveOneProcessorEach) {
  std::vector<int> processors(2, -1);
  std::thread([&] {  // which stays pinned
    Workers workers(2, /*pin=*/true);
    std::atomic<int> here{0};
    workers.Run([&](int worker) {
      ++here;
      while (here < 2) std::this_thread::yield();
      cpu_set_t allowed;
      if (sched_getaffinity(0, sizeof(allowed), &allowed) != 0 || CPU_COUNT(&allowed) != 1) return;
      while (!CPU_ISSET(++processors[worker], &allowed)) {
      }
    });
  })
      .join();
  EXPECT_GE(processors[0], 0);
  EXPECT_GE(processors[1], 0);
  EXPECT_EQ(processors[0] == processors[1], std::thread::hardware_concurrency() == 1);
}

TEST(WorkersTest, IdleWorkersJoinAtOnce) { Workers workers(8); }

}  // namespace
}  // namespace dotmax
