#include "server/load/loader.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <filesystem>
#include <fstream>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/notification.h"
#include "absl/time/clock.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/base/errors.h"
#include "tests/data.h"
#include "tests/server_process.h"

namespace dotmax {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;
using testing::NpyFile;
using testing::RandomNormal;

std::string ReasonOf(const absl::Status& status) { return ErrorReason(status).value_or(""); }

// One load, and all that is said of it.
class Watched {
 public:
  CollectionAdmin::Progress progress() {
    return [this](const LoadProgress& progress) {
      EXPECT_FALSE(done_.HasBeenNotified());
      if (stages_.empty() || stages_.back() != progress.stage) stages_.push_back(progress.stage);
      last_ = progress;
      if (at_progress) at_progress(progress);
    };
  }
  CollectionAdmin::Done done() {
    return [this](absl::StatusOr<CollectionInfo> info) {
      info_ = std::move(info);
      done_.Notify();  // a second call would fail here
    };
  }
  const absl::StatusOr<CollectionInfo>& Wait() {
    done_.WaitForNotification();
    return info_;
  }
  const std::vector<LoadProgress::Stage>& stages() const { return stages_; }
  const LoadProgress& last() const { return last_; }

  std::function<void(const LoadProgress&)> at_progress;
  const std::shared_ptr<std::atomic<bool>> cancelled = std::make_shared<std::atomic<bool>>(false);

 private:
  std::vector<LoadProgress::Stage> stages_;
  LoadProgress last_;
  absl::StatusOr<CollectionInfo> info_;
  absl::Notification done_;
};

class LoaderTest : public ::testing::Test {
 protected:
  LoaderTest() { Start({}); }

  // In the data directory that files of these tests are in, unless `options` name another one.
  void Start(Loader::Options options) {
    if (!options.data_dir.has_value()) options.data_dir.emplace(*DataDir::Open(::testing::TempDir()));
    loader_ = std::make_unique<Loader>(catalog_, std::move(options), &log_, &metrics_);
  }

  absl::StatusOr<CollectionInfo> Load(const std::string& name, const std::string& path) {
    Watched load;
    loader_->Load(name, path, nullptr, load.progress(), load.done());
    return load.Wait();
  }
  absl::StatusOr<CollectionInfo> Reload(const std::string& name) {
    Watched load;
    loader_->Reload(name, nullptr, load.progress(), load.done());
    return load.Wait();
  }
  uint64_t Rows(const std::string& name) const { return catalog_->Find(name)->matrix->view().rows; }

  const NpyFile ten_{RandomNormal(10, 4, 1).view};
  const NpyFile twenty_{RandomNormal(20, 4, 2).view};

  // 25 MiB, in many blocks.
  const NpyFile& large() {
    if (!large_.has_value()) large_.emplace(RandomNormal(200'000, 32, 3).view);
    return *large_;
  }
  std::optional<NpyFile> large_;

  const int null_ = open("/dev/null", O_WRONLY | O_CLOEXEC);
  Logger log_{LogLevel::kDebug, null_};
  Metrics metrics_{"1", "2"};
  const std::shared_ptr<Catalog> catalog_ = std::make_shared<Catalog>();
  std::unique_ptr<Loader> loader_;
};

TEST_F(LoaderTest, ALoadSaysHowFarItIsAndPublishes) {
  Watched load;
  loader_->Load("a", large().path(), nullptr, load.progress(), load.done());
  const auto& info = load.Wait();
  ASSERT_TRUE(info.ok()) << info.status();
  EXPECT_EQ(info->name, "a");
  EXPECT_EQ(info->version, 1u);
  EXPECT_EQ(info->rows, 200'000u);
  EXPECT_THAT(load.stages(), ElementsAre(LoadProgress::Stage::kWaiting, LoadProgress::Stage::kReading,
                                         LoadProgress::Stage::kPreparing));
  EXPECT_EQ(load.last().bytes_done, 200'000u * 32 * 4);
  EXPECT_EQ(load.last().bytes_total, load.last().bytes_done);
  EXPECT_EQ(catalog_->Find("a")->version, 1u);
  EXPECT_THAT(metrics_.Text(), HasSubstr("dotmax_reload_last_success{collection=\"a\"} 1\n"));
}

TEST_F(LoaderTest, ANameCanGetAnotherFileAndBeLoadedAgainFromIt) {
  EXPECT_EQ(Load("a", ten_.path())->version, 1u);
  EXPECT_EQ(Load("a", twenty_.path())->version, 2u);
  EXPECT_EQ(Rows("a"), 20u);
  EXPECT_EQ(Reload("a")->version, 3u);
  EXPECT_EQ(Rows("a"), 20u);
  ASSERT_TRUE(Load("b", ten_.path()).ok());
  ASSERT_TRUE(loader_->Swap("a", "b").ok());
  EXPECT_EQ(Reload("a")->rows, 10u);  // the file goes with what it was loaded into
  ASSERT_TRUE(loader_->Drop("b").ok());
  EXPECT_EQ(ReasonOf(Reload("b").status()), "COLLECTION_NOT_FOUND");
  EXPECT_THAT(metrics_.Text(), Not(HasSubstr("collection=\"b\"")));
}

TEST_F(LoaderTest, AFailedLoadChangesNothingAndSaysWhy) {
  const std::string broken = absl::StrCat(::testing::TempDir(), "/broken-", getpid(), ".npy");
  std::ofstream(broken) << "no matrix";
  ASSERT_TRUE(Load("a", ten_.path()).ok());
  const auto expect = [&](const std::string& path, absl::StatusCode code, const std::string& reason) {
    const absl::Status status = Load("a", path).status();
    EXPECT_EQ(status.code(), code) << status;
    EXPECT_EQ(ReasonOf(status), reason) << status;
    EXPECT_THAT(status.message(), HasSubstr(path));
    EXPECT_EQ(catalog_->Find("a")->version, 1u);
    EXPECT_THAT(metrics_.Text(), HasSubstr("dotmax_reload_last_success{collection=\"a\"} 0\n"));
  };
  expect(absl::StrCat(::testing::TempDir(), "/none.npy"), absl::StatusCode::kNotFound, "FILE_NOT_FOUND");
  expect(broken, absl::StatusCode::kFailedPrecondition, "MALFORMED_FILE");
  expect("../none.npy", absl::StatusCode::kPermissionDenied, "PATH_NOT_ALLOWED");
  expect("/etc/passwd", absl::StatusCode::kPermissionDenied, "PATH_NOT_ALLOWED");
  expect(".", absl::StatusCode::kFailedPrecondition, "MALFORMED_FILE");  // a directory
  unlink(broken.c_str());
  EXPECT_EQ(ReasonOf(Load("", ten_.path()).status()), "BAD_NAME");
  EXPECT_EQ(ReasonOf(Load("a\nb", ten_.path()).status()), "BAD_NAME");
  EXPECT_EQ(ReasonOf(Load(std::string(201, 'a'), ten_.path()).status()), "BAD_NAME");
  EXPECT_EQ(ReasonOf(loader_->Swap("a", "a").status()), "SAME_COLLECTION");
}

TEST_F(LoaderTest, WithoutADataDirectoryOnlyTheOperatorNamesFiles) {
  loader_ = std::make_unique<Loader>(catalog_, Loader::Options{}, &log_, &metrics_);
  EXPECT_EQ(ReasonOf(Load("b", ten_.path()).status()), "PATH_NOT_ALLOWED");
  EXPECT_TRUE(loader_->LoadTrusted("a", ten_.path()).ok());
  EXPECT_TRUE(Reload("a").ok());
  EXPECT_FALSE(loader_->LoadTrusted("a", "/no/such/file.npy").ok());
}

TEST_F(LoaderTest, WhatDoesNotFitIntoMemoryIsRefusedBeforeItIsRead) {
  Start({.memory_limit = 1});
  Watched load;
  load.at_progress = [](const LoadProgress& progress) { EXPECT_EQ(progress.bytes_total, 0u); };
  loader_->Load("a", large().path(), nullptr, load.progress(), load.done());
  EXPECT_EQ(ReasonOf(load.Wait().status()), "NOT_ENOUGH_MEMORY");
  EXPECT_TRUE(catalog_->Infos()->empty());
}

TEST_F(LoaderTest, ACancelledLoadStopsAndPublishesNothing) {
  Watched load;
  load.at_progress = [&load](const LoadProgress& progress) {
    if (progress.stage == LoadProgress::Stage::kReading) load.cancelled->store(true);
    EXPECT_NE(progress.stage, LoadProgress::Stage::kPreparing);
  };
  loader_->Load("a", large().path(), load.cancelled, load.progress(), load.done());
  EXPECT_EQ(load.Wait().status().code(), absl::StatusCode::kCancelled);
  EXPECT_TRUE(catalog_->Infos()->empty());

  // Also when there is nothing left to stop.
  Watched late;
  late.at_progress = [&late](const LoadProgress& progress) {
    if (progress.stage == LoadProgress::Stage::kPreparing) late.cancelled->store(true);
  };
  loader_->Load("a", ten_.path(), late.cancelled, late.progress(), late.done());
  EXPECT_EQ(late.Wait().status().code(), absl::StatusCode::kCancelled);
  EXPECT_TRUE(catalog_->Infos()->empty());
}

// Holds the loader's thread within a load until Release.
class HeldLoaderTest : public LoaderTest {
 protected:
  void Hold(const std::string& name) {
    held_.at_progress = [this](const LoadProgress& progress) {
      if (progress.stage != LoadProgress::Stage::kPreparing) return;
      holding_.Notify();
      release_.WaitForNotification();
    };
    loader_->Load(name, ten_.path(), nullptr, held_.progress(), held_.done());
    holding_.WaitForNotification();
  }
  void Release() { release_.Notify(); }

  Watched held_;
  absl::Notification holding_, release_;
};

TEST_F(HeldLoaderTest, LoadsRunInTurnAndOnlySoManyWait) {
  Hold("held");
  std::vector<std::unique_ptr<Watched>> waiting;
  absl::Status refused;
  while (refused.ok()) {
    auto& load = *waiting.emplace_back(std::make_unique<Watched>());
    ASSERT_LT(waiting.size(), 100u);
    absl::Notification now;
    loader_->Load(absl::StrCat("x", waiting.size()), twenty_.path(), nullptr, load.progress(),
                  [&, done = load.done()](absl::StatusOr<CollectionInfo> info) mutable {
                    if (!info.ok()) refused = info.status();
                    done(std::move(info));
                  });
  }
  EXPECT_EQ(refused.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(ReasonOf(refused), "LOAD_QUEUE_FULL");
  EXPECT_TRUE(catalog_->Infos()->empty());
  waiting[0]->cancelled->store(true);  // which this load was not told of
  Release();
  EXPECT_EQ(held_.Wait()->version, 1u);
  for (size_t i = 0; i + 1 < waiting.size(); ++i) EXPECT_EQ(waiting[i]->Wait()->version, 2 + i);
}

TEST_F(HeldLoaderTest, WhatANameMeansMayChangeDuringALoad) {
  ASSERT_TRUE(Load("a", twenty_.path()).ok());
  Hold("a");
  ASSERT_TRUE(loader_->Drop("a").ok());
  Release();
  EXPECT_TRUE(held_.Wait().ok());  // by its path, it means something again
  EXPECT_EQ(Rows("a"), 10u);
}

TEST_F(LoaderTest, AReloadDoesNotUndoWhatHappenedMeanwhile) {
  ASSERT_TRUE(Load("a", ten_.path()).ok());
  ASSERT_TRUE(Load("b", twenty_.path()).ok());
  Watched load;
  load.at_progress = [this](const LoadProgress& progress) {
    if (progress.stage != LoadProgress::Stage::kPreparing) return;
    EXPECT_TRUE(loader_->Swap("a", "b").ok());
  };
  loader_->Reload("a", nullptr, load.progress(), load.done());
  EXPECT_EQ(ReasonOf(load.Wait().status()), "COLLECTION_CHANGED");
  EXPECT_EQ(Rows("a"), 20u);
}

TEST_F(LoaderTest, ADrainWithdrawsWhatRunsAndWhatWaits) {
  // While codes are made, which nothing stops.
  Watched running, waiting, late;
  absl::Notification preparing;
  running.at_progress = [&preparing](const LoadProgress& progress) {
    if (progress.stage == LoadProgress::Stage::kPreparing) preparing.Notify();
  };
  loader_->Load("a", large().path(), nullptr, running.progress(), running.done());
  loader_->Load("b", ten_.path(), nullptr, waiting.progress(), waiting.done());
  preparing.WaitForNotification();
  loader_->Drain();
  EXPECT_EQ(ReasonOf(running.Wait().status()), "DRAINING");
  EXPECT_EQ(ReasonOf(waiting.Wait().status()), "DRAINING");
  EXPECT_FALSE(loader_->AwaitEnd(absl::Now()));
  loader_->Load("c", ten_.path(), nullptr, late.progress(), late.done());
  EXPECT_EQ(ReasonOf(late.Wait().status()), "DRAINING");
  EXPECT_TRUE(loader_->AwaitEnd(absl::InfiniteFuture()));
  loader_->Shutdown();
  EXPECT_TRUE(catalog_->Infos()->empty());
}

TEST_F(HeldLoaderTest, ReloadsOfAllAreAskedForOnce) {
  ASSERT_TRUE(Load("a", ten_.path()).ok());
  catalog_->Publish("no file", std::make_shared<const Matrix>(RandomNormal(3, 4, 1)));
  Hold("b");
  for (int i = 0; i < 10; ++i) loader_->ReloadAll();
  Release();
  EXPECT_EQ(held_.Wait()->version, 3u);
  EXPECT_EQ(Reload("a")->version, 5u);  // after the one of ReloadAll
}

TEST_F(LoaderTest, AMappedFileThatChangesIsNoticedAndLoadedAgain) {
  Start({.map = true});
  const NpyFile file(RandomNormal(10'000, 4, 5).view);
  ASSERT_TRUE(Load("a", file.path()).ok());
  EXPECT_TRUE(catalog_->Find("a")->Intact().ok());
  ASSERT_EQ(truncate(file.path().c_str(), 4096), 0);
  EXPECT_EQ(ReasonOf(catalog_->Find("a")->Intact()), "FILE_CHANGED");
  const absl::Time patience = absl::Now() + absl::Seconds(30);
  while (metrics_.Text().find("dotmax_collection_intact{collection=\"a\"} 0\n") == std::string::npos) {
    ASSERT_LT(absl::Now(), patience);
    absl::SleepFor(absl::Milliseconds(50));
  }
  EXPECT_EQ(ReasonOf(Reload("a").status()), "MALFORMED_FILE");
  std::filesystem::copy_file(ten_.path(), file.path(), std::filesystem::copy_options::overwrite_existing);
  ASSERT_TRUE(Reload("a").ok());
  EXPECT_TRUE(catalog_->Find("a")->Intact().ok());
}

}  // namespace
}  // namespace dotmax
