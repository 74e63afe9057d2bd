#include "server/engine/workers.h"

#include <sched.h>

#include <atomic>
#include <thread>
#include <vector>

#include "gtest/gtest.h"

namespace dotmax {
namespace {

TEST(WorkersTest, EveryWorkerRunsEachJobOnce) {
  for (const int count : {1, 2, 5}) {
    Workers workers(count);
    EXPECT_EQ(workers.count(), count);
    std::vector<std::atomic<int>> runs(count);
    for (int job = 1; job <= 200; ++job) {
      workers.Run([&runs](int worker) { ++runs[worker]; });
      for (const std::atomic<int>& n : runs) ASSERT_EQ(n, job);
    }
  }
}

TEST(WorkersTest, PinnedWorkersHaveOneProcessorEach) {
  std::vector<int> processors(2, -1);
  std::thread([&] {  // which stays pinned
    Workers workers(2, /*pin=*/true);
    workers.Run([&](int worker) {
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
