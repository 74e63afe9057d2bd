#include "server/base/file_watch.h"

#include <unistd.h>

#include <atomic>
#include <filesystem>
#include <string>

#include "absl/time/clock.h"
#include "gtest/gtest.h"
#include "tests/certificates.h"

namespace dotmax {
namespace {

constexpr absl::Duration kInterval = absl::Milliseconds(5);

class FileWatchTest : public ::testing::Test {
 protected:
  FileWatchTest() { testing::Replace(path_, "one"); }

  // Whether one more change is noticed than there were.
  bool Noticed() {
    ++expected_;
    const absl::Time patience = absl::Now() + absl::Seconds(30);
    while (changes_.load() < expected_ && absl::Now() < patience) absl::SleepFor(kInterval);
    absl::SleepFor(10 * kInterval);  // and not another one
    return changes_.load() == expected_;
  }

  const testing::TempDirectory directory_;
  const std::string path_ = directory_ / "file", link_ = directory_ / "link";
  std::atomic<int> changes_{0};
  int expected_ = 0;
};

TEST_F(FileWatchTest, AReplacedRemovedAndRestoredFileIsNoticedOnceEach) {
  const FileWatch watch(
      {directory_ / "absent", path_}, [this] { ++changes_; }, kInterval);
  absl::SleepFor(10 * kInterval);
  EXPECT_EQ(changes_.load(), 0);
  testing::Replace(path_, "two");
  EXPECT_TRUE(Noticed());
  std::filesystem::remove(path_);
  EXPECT_TRUE(Noticed());
  testing::Replace(path_, "two");
  EXPECT_TRUE(Noticed());
}

TEST_F(FileWatchTest, WhatALinkLeadsToIsWatched) {
  testing::Replace(directory_ / "other", "other");
  std::filesystem::create_symlink(path_, link_);
  const FileWatch watch(
      {link_}, [this] { ++changes_; }, kInterval);
  testing::Replace(path_, "two");
  EXPECT_TRUE(Noticed());
  std::filesystem::create_symlink(directory_ / "other", directory_ / "new");
  std::filesystem::rename(directory_ / "new", link_);
  EXPECT_TRUE(Noticed());
}

TEST_F(FileWatchTest, EndsAtOnce) {
  const absl::Time started = absl::Now();
  {
    const FileWatch watch(
        {path_}, [] {}, absl::Hours(1));
  }
  EXPECT_LT(absl::Now() - started, absl::Seconds(30));
}

}  // namespace
}  // namespace dotmax
