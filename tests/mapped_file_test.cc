#include "server/store/mapped_file.h"

#include <fcntl.h>
#include <signal.h>
#include <unistd.h>

#include <cstdint>
#include <fstream>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "gtest/gtest.h"

namespace dotmax {
namespace {

class MappedFileTest : public ::testing::Test {
 protected:
  static constexpr size_t kBytes = (size_t{1} << 20) + 100;

  MappedFileTest() { Write('x'); }
  ~MappedFileTest() override { unlink(path_.c_str()); }

  void Write(char c) const { std::ofstream(path_, std::ios::binary) << std::string(kBytes, c); }

  std::shared_ptr<const MappedFile> Map() const {
    const auto mapped = MappedFile::Map(*File::Open(path_), kBytes);
    EXPECT_TRUE(mapped.ok()) << mapped.status();
    return *mapped;
  }

  // How many of the bytes are what was written.
  static size_t Read(const MappedFile& file) {
    size_t count = 0;
    for (size_t i = 0; i < kBytes; ++i) count += file.data()[i] == std::byte{'x'};
    return count;
  }

  const std::string path_ = absl::StrCat(::testing::TempDir(), "/mapped_file_test_", getpid());
};

TEST_F(MappedFileTest, AnUnchangedFileIsIntactEvenDeleted) {
  const auto file = Map();
  EXPECT_EQ(Read(*file), kBytes);
  EXPECT_TRUE(file->Intact());
  unlink(path_.c_str());
  EXPECT_EQ(Read(*file), kBytes);
  EXPECT_TRUE(file->Intact());
}

TEST_F(MappedFileTest, AFileThatIsCutReadsAsZerosAndSaysSo) {
  const auto file = Map();
  constexpr size_t kLeft = 8192;
  ASSERT_EQ(truncate(path_.c_str(), kLeft), 0);
  EXPECT_EQ(Read(*file), kLeft);  // and the process is alive
  EXPECT_FALSE(file->Intact());
  // What has been lost stays lost, whatever is written.
  Write('x');
  EXPECT_EQ(Read(*file), kLeft);
  EXPECT_FALSE(file->Intact());
}

TEST_F(MappedFileTest, AFileThatLosesPartOfItsLastPageSaysSo) {
  const auto file = Map();
  ASSERT_EQ(truncate(path_.c_str(), kBytes - 1), 0);
  EXPECT_EQ(Read(*file), kBytes - 1);  // without a signal
  EXPECT_FALSE(file->Intact());
}

TEST_F(MappedFileTest, AFileThatIsWrittenSaysSo) {
  const auto file = Map();
  absl::SleepFor(absl::Milliseconds(20));  // the coarsest clock that file systems use
  const int fd = open(path_.c_str(), O_WRONLY);
  ASSERT_EQ(pwrite(fd, "y", 1, 5), 1);
  close(fd);
  EXPECT_FALSE(file->Intact());
  EXPECT_TRUE(Map()->Intact());
}

TEST_F(MappedFileTest, ManyThreadsMayMeetTheLossOfManyFiles) {
  std::vector<std::shared_ptr<const MappedFile>> files;
  for (int i = 0; i < 50; ++i) files.push_back(Map());
  ASSERT_EQ(truncate(path_.c_str(), 0), 0);
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&files] {
      for (const auto& file : files) EXPECT_EQ(Read(*file), 0u);
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (const auto& file : files) EXPECT_FALSE(file->Intact());
}

TEST_F(MappedFileTest, PlacesAreGivenBack) {
  for (int i = 0; i < 3 * MappedFile::kMost; ++i) EXPECT_TRUE(Map()->Intact());
  std::vector<std::shared_ptr<const MappedFile>> files;
  // Descriptors may run out first.
  for (int i = 0; i < 200; ++i) files.push_back(Map());
  EXPECT_EQ(Read(*files.back()), kBytes);
}

using MappedFileDeathTest = MappedFileTest;

TEST_F(MappedFileDeathTest, OtherFaultsStillEndTheProcess) {
  const auto file = Map();
  EXPECT_DEATH(raise(SIGBUS), "");  // sanitizers end it in their own way
}

}  // namespace
}  // namespace dotmax
