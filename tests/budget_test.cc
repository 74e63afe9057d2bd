#include "server/load/budget.h"

#include <malloc.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <limits>
#include <string>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/base/errors.h"
#include "server/engine/matrix.h"
#include "tests/data.h"

namespace dotmax {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;
using testing::RandomClustered;
using testing::RandomNormal;

constexpr uint64_t kMost = std::numeric_limits<uint64_t>::max();

// A machine of files.
class AvailableBytesTest : public ::testing::Test {
 protected:
  ~AvailableBytesTest() override { fs::remove_all(root_); }

  void Write(const std::string& path, const std::string& text) const {
    fs::create_directories(fs::path(root_ + path).parent_path());
    std::ofstream(root_ + path) << text;
  }
  void WriteGroup(const std::string& path, const std::string& limit, int usage, int cached) const {
    Write(path + "/memory.max", limit + "\n");
    Write(path + "/memory.current", absl::StrCat(usage, "\n"));
    Write(path + "/memory.stat", absl::StrCat("anon 5\nfile 7\ninactive_file ", cached / 2, "\nactive_file ",
                                              cached - cached / 2, "\n"));
  }

  const std::string root_ = absl::StrCat(::testing::TempDir(), "/budget_test_", getpid());
};

TEST_F(AvailableBytesTest, WithoutAnythingToReadThereIsNoLimit) { EXPECT_EQ(AvailableBytes(root_), kMost); }

TEST_F(AvailableBytesTest, OfAMachine) {
  Write("/proc/meminfo", "MemTotal:       16000 kB\nMemFree:         10 kB\nMemAvailable:    8000 kB\n");
  EXPECT_EQ(AvailableBytes(root_), 8000u * 1024);
  Write("/proc/self/cgroup", "0::/\n");
  WriteGroup("/sys/fs/cgroup", "max", 100, 50);
  EXPECT_EQ(AvailableBytes(root_), 8000u * 1024);
}

TEST_F(AvailableBytesTest, OfTheTightestCgroupAboutUs) {
  Write("/proc/meminfo", "MemAvailable:    8000 kB\n");
  Write("/proc/self/cgroup", "0::/pod/container\n");
  WriteGroup("/sys/fs/cgroup/pod/container", "max", 100, 0);
  WriteGroup("/sys/fs/cgroup/pod", "1000000", 400000, 300000);
  EXPECT_EQ(AvailableBytes(root_), 900000u);
  WriteGroup("/sys/fs/cgroup/pod/container", "500000", 600000, 0);
  EXPECT_EQ(AvailableBytes(root_), 0u);
}

TEST_F(AvailableBytesTest, OfVersion1SeenFromWithinAContainer) {
  Write("/proc/self/cgroup", "8:cpu,cpuacct:/docker/abc\n7:memory:/docker/abc\n0::/docker/abc\n");
  Write("/sys/fs/cgroup/memory/memory.limit_in_bytes", "9000\n");
  Write("/sys/fs/cgroup/memory/memory.usage_in_bytes", "5000\n");
  Write("/sys/fs/cgroup/memory/memory.stat",
        "active_file 1\ntotal_inactive_file 1000\ntotal_active_file 500\n");
  EXPECT_EQ(AvailableBytes(root_), 5500u);
}

TEST(BudgetTest, ThisMachineHasSomething) {
  EXPECT_GT(AvailableBytes(), 0u);
  EXPECT_LT(AvailableBytes(), kMost);
  EXPECT_GT(OwnBytes(), 0u);
}

TEST(BudgetTest, ALimitIsNamedWithWhatIsNeeded) {
  const MatrixView shape = {nullptr, 1000, 100, DType::kFloat32};
  EXPECT_TRUE(CheckMemory(shape, false, 0).ok());
  EXPECT_TRUE(CheckMemory(shape, false, uint64_t{1} << 40).ok());
  const absl::Status status = CheckMemory(shape, false, 1000);
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(ErrorReason(status), "NOT_ENOUGH_MEMORY");
  EXPECT_THAT(status.message(), HasSubstr(absl::StrCat("up to ", PeakLoadBytes(shape, false),
                                                       " bytes of memory, and 0 are left of 1000")));
  // A header may promise anything that its file's holes hold.
  EXPECT_FALSE(CheckMemory({nullptr, uint64_t{1} << 45, 65536, DType::kFloat64}, false, 0).ok());
}

TEST(BudgetTest, AMappedMatrixTakesItsRowsLess) {
  const MatrixView shape = {nullptr, 1000, 100, DType::kFloat64};
  EXPECT_EQ(PeakLoadBytes(shape, false) - PeakLoadBytes(shape, true), 1000u * 100 * 8);
}

// The largest that this process' memory has been since ForgetPeak.
uint64_t PeakKilobytes() {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    if (line.rfind("VmHWM:", 0) == 0) return std::stoull(line.substr(6));
  }
  return 0;
}
void ForgetPeak() {
  malloc_trim(0);  // what earlier matrices left
  std::ofstream("/proc/self/clear_refs") << "5";
}

// What is promised holds for matrices of all kinds of codes.
TEST(BudgetTest, BuildingAMatrixStaysBelowItsPeak) {
  struct Case {
    const char* name;
    SharedMatrix rows;
    ScreenOptions options;
  };
  for (const Case& c : {Case{"measured", RandomNormal(150'000, 64, 1), {}},
                        Case{"two levels",
                             RandomNormal(60'000, 256, 1),
                             {.kind = ScreenOptions::Kind::kInt8, .axes = 60, .two_levels = true}},
                        Case{"clusters", RandomClustered(120'000, 96, 2000, 0.1, 1), {}},
                        Case{"int8", RandomNormal(150'000, 64, 1, DType::kInt8), {}}}) {
    ForgetPeak();
    const uint64_t before = PeakKilobytes();
    const Matrix matrix(c.rows, c.options);
    const uint64_t taken = (PeakKilobytes() - before) * 1024;
    const uint64_t codes = matrix.resident_bytes() - c.rows.view.bytes();
    EXPECT_GE(taken, codes / 2) << c.name << ": nothing was measured";
    EXPECT_LE(taken, PeakLoadBytes(c.rows.view, /*mapped=*/true)) << c.name << ": " << matrix.screen();
  }
}

}  // namespace
}  // namespace dotmax
