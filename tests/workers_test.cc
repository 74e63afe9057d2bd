#include "server/engine/workers.h"

#include <atomic>
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

TEST(WorkersTest, IdleWorkersJoinAtOnce) { Workers workers(8); }

}  // namespace
}  // namespace dotmax
