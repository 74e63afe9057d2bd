#include "server/store/file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iterator>
#include <ostream>
#include <string>
#include <thread>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "gtest/gtest.h"
#include "server/base/errors.h"

namespace dotmax {
namespace {

namespace fs = std::filesystem;

// root/data is the data directory; root/secret and root/other/secret lie outside.
class DataDirTest : public ::testing::Test {
 protected:
  DataDirTest() {
    fs::create_directories(root_ / "data/sub");
    fs::create_directories(root_ / "other");
    for (const char* name : {"secret", "other/secret", "data/a", "data/sub/b", "data/..c"}) {
      std::ofstream(root_ / name) << name;
    }
  }
  ~DataDirTest() override { fs::remove_all(root_); }

  std::string Path(const std::string& name) const { return root_ / name; }

  // What the file at `path` says, or why it could not be had.
  std::string Read(const std::string& path) const {
    const absl::StatusOr<DataDir> dir = DataDir::Open(Path("data"));
    const absl::StatusOr<File> file = dir->OpenFile(path);
    if (!file.ok())
      return ErrorReason(file.status()).value_or(absl::StatusCodeToString(file.status().code()));
    std::string text(*file->Size(), '\0');
    EXPECT_TRUE(file->Read(0, text.size(), text.data()).ok());
    return text;
  }

  const fs::path root_ = fs::path(::testing::TempDir()) / absl::StrCat("file_test_", getpid());
};

TEST_F(DataDirTest, FilesWithinAreOpened) {
  EXPECT_EQ(Read("a"), "data/a");
  EXPECT_EQ(Read("sub/b"), "data/sub/b");
  EXPECT_EQ(Read("./sub//b"), "data/sub/b");
  EXPECT_EQ(Read("..c"), "data/..c");
  EXPECT_EQ(Read(Path("data/a")), "data/a");  // as an operator would write it
  EXPECT_EQ(Read(Path("data//a")), "data/a");
  fs::create_symlink("sub/b", root_ / "data/link");
  fs::create_symlink("sub", root_ / "data/dir");
  EXPECT_EQ(Read("link"), "data/sub/b");
  EXPECT_EQ(Read("dir/b"), "data/sub/b");
  EXPECT_EQ(Read("absent"), "NOT_FOUND");
}

TEST_F(DataDirTest, NothingOutsideIs) {
  fs::create_symlink("../secret", root_ / "data/relative");
  fs::create_symlink(root_ / "secret", root_ / "data/absolute");
  fs::create_symlink(root_ / "other", root_ / "data/dir");
  fs::create_symlink("..", root_ / "data/up");
  fs::create_symlink("/proc/self/root", root_ / "data/magic");
  for (const std::string& path :
       {std::string("../secret"), std::string("sub/../../secret"), std::string("sub/../a"), std::string(".."),
        Path("secret"), Path("data/../secret"), Path("database"), std::string("/etc/passwd"),
        std::string("relative"), std::string("absolute"), std::string("dir/secret"), std::string("up/secret"),
        std::string("magic/etc/passwd")}) {
    EXPECT_EQ(Read(path), "PATH_NOT_ALLOWED") << path;
  }
}

// A link that leads now inside, now outside must never be followed outside.
TEST_F(DataDirTest, AChangeBetweenLookAndUseDoesNotHelp) {
  std::atomic<bool> stop{false};
  std::thread changer([&] {
    for (int i = 0; !stop; ++i) {
      const fs::path next = root_ / "data/next";
      fs::create_symlink(i % 2 == 0 ? fs::path("a") : root_ / "secret", next);
      fs::rename(next, root_ / "data/flips");
    }
  });
  int inside = 0, outside = 0;
  // Until both have been seen: on a busy machine one thread may have all the time.
  const absl::Time end = absl::Now() + absl::Seconds(30);
  for (int i = 0; i < 5000 || (std::min(inside, outside) == 0 && absl::Now() < end); ++i) {
    const std::string text = Read("flips");
    EXPECT_NE(text, "secret");
    inside += text == "data/a";
    outside += text == "PATH_NOT_ALLOWED";
  }
  stop = true;
  changer.join();
  EXPECT_GT(inside, 0);
  EXPECT_GT(outside, 0);
}

TEST_F(DataDirTest, WhatIsNoFileIsRefusedWithoutWaiting) {
  ASSERT_EQ(mkfifo(Path("data/pipe").c_str(), 0600), 0);
  EXPECT_EQ(File::Open(Path("data/pipe"))->Size().status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(File::Open(Path("data"))->Size().status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(DataDir::Open(Path("secret")).status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(DataDir::Open(Path("nowhere")).status().code(), absl::StatusCode::kNotFound);
}

TEST_F(DataDirTest, AFileIsReplacedAllOrNothing) {
  const auto replace = [&](const std::string& name, const std::function<absl::Status(std::ostream&)>& write) {
    return ReplaceFile(Path(name), write);
  };
  const auto files = [&] {
    return std::distance(fs::directory_iterator(root_ / "data"), fs::directory_iterator());
  };
  const auto before = files();
  const auto good = [](std::ostream& file) {
    file << "new";
    return absl::OkStatus();
  };
  EXPECT_TRUE(replace("data/a", good).ok());
  EXPECT_EQ(Read("a"), "new");
  const absl::Status failed = replace("data/a", [](std::ostream& file) {
    file << "half";
    return absl::InvalidArgumentError("no more");
  });
  EXPECT_EQ(failed, absl::InvalidArgumentError("no more"));
  const absl::Status broken = replace("data/a", [](std::ostream& file) {
    file.setstate(std::ios::badbit);
    return absl::OkStatus();
  });
  EXPECT_FALSE(broken.ok());
  EXPECT_EQ(Read("a"), "new");
  EXPECT_EQ(replace("absent/a", good).code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(files(), before);
}

}  // namespace
}  // namespace dotmax
