#include "server/base/process.h"

#include <fcntl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <thread>
#include <vector>

#include "absl/synchronization/notification.h"
#include "absl/time/clock.h"
#include "gtest/gtest.h"

namespace dotmax {
namespace {

int Niceness() { return getpriority(PRIO_PROCESS, static_cast<id_t>(syscall(SYS_gettid))); }

TEST(ProcessTest, AThreadThatGivesWayDoesSoForThoseThatItStarts) {
  const int before = Niceness();
  std::thread([before] {
    GiveWay(3);
    EXPECT_EQ(Niceness(), before + 3);
    std::thread([before] { EXPECT_EQ(Niceness(), before + 3); }).join();
  }).join();
  EXPECT_EQ(Niceness(), before);
}

TEST(ProcessTest, FiguresFollowWhatTheProcessDoes) {
  const ProcessStats before = ReadProcessStats();
  EXPECT_GT(before.resident_bytes, 1u << 20);
  EXPECT_GE(before.virtual_bytes, before.resident_bytes);
  EXPECT_EQ(before.threads, 1u);
  const double now = absl::ToDoubleSeconds(absl::Now() - absl::UnixEpoch());
  EXPECT_LE(before.start_time_seconds, now + 1);
  EXPECT_GT(before.start_time_seconds, now - 600);

  constexpr size_t kBytes = size_t{64} << 20;
  const std::vector<char> memory(kBytes, 1);
  const int fd = open("/dev/null", O_RDONLY);
  absl::Notification done;
  std::thread thread([&done] { done.WaitForNotification(); });
  const absl::Time patience = absl::Now() + absl::Seconds(30);
  ProcessStats after;
  do {  // busy until a tick of its clock has gone to it
    after = ReadProcessStats();
  } while (after.cpu_seconds == before.cpu_seconds && absl::Now() < patience);
  EXPECT_GT(after.cpu_seconds, before.cpu_seconds);
  EXPECT_GE(after.resident_bytes, before.resident_bytes + kBytes / 2);
  EXPECT_EQ(after.open_fds, before.open_fds + 1);
  EXPECT_EQ(after.threads, 2u);
  EXPECT_EQ(after.start_time_seconds, before.start_time_seconds);
  done.Notify();
  thread.join();
  close(fd);
  EXPECT_EQ(memory[kBytes - 1], 1);
}

TEST(ProcessTest, TheFileLimitRisesToWhatTheSystemAllows) {
  rlimit limit = {};
  ASSERT_EQ(getrlimit(RLIMIT_NOFILE, &limit), 0);
  limit.rlim_cur = limit.rlim_max / 2;
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &limit), 0);
  EXPECT_EQ(ReadProcessStats().max_fds, limit.rlim_max / 2);
  RaiseFileLimit();
  EXPECT_EQ(ReadProcessStats().max_fds, limit.rlim_max);
}

}  // namespace
}  // namespace dotmax
