#include "server/rpc/acceptor.h"

#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include <memory>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/server_process.h"

namespace dotmax {
namespace {

using testing::Becomes;
using testing::ConnectTo;
using ::testing::HasSubstr;

// What an acceptor has taken.
class AcceptorTest : public ::testing::Test {
 protected:
  ~AcceptorTest() override {
    acceptor_ = nullptr;
    for (const int socket : taken_) close(socket);
    for (const int socket : callers_) close(socket);
  }

  void Listen(const std::string& address) {
    absl::StatusOr<std::unique_ptr<Acceptor>> acceptor = Acceptor::Listen(address, absl::Seconds(20), &log_);
    ASSERT_TRUE(acceptor.ok()) << acceptor.status();
    acceptor_ = *std::move(acceptor);
    acceptor_->Start([this](int socket) {
      absl::MutexLock lock(&mutex_);
      taken_.push_back(socket);
    });
  }
  size_t taken() {
    absl::MutexLock lock(&mutex_);
    return taken_.size();
  }
  void Connect() {
    callers_.push_back(ConnectTo(acceptor_->port()));
    ASSERT_GE(callers_.back(), 0);
  }

  Logger log_{LogLevel::kError, STDERR_FILENO};
  absl::Mutex mutex_;
  std::vector<int> taken_;
  std::vector<int> callers_;
  std::unique_ptr<Acceptor> acceptor_;
};

// Lets this process open only about `files` more while it exists.
class FewFiles {
 public:
  explicit FewFiles(int files) {
    getrlimit(RLIMIT_NOFILE, &before_);
    const int next = dup(STDERR_FILENO);
    close(next);
    rlimit tight = before_;
    tight.rlim_cur = next + files;
    EXPECT_EQ(setrlimit(RLIMIT_NOFILE, &tight), 0);
  }
  ~FewFiles() { setrlimit(RLIMIT_NOFILE, &before_); }

 private:
  rlimit before_;
};

TEST_F(AcceptorTest, TakesWhoComesUntilItStops) {
  for (const char* address : {"127.0.0.1:0", "localhost:0", "0.0.0.0:0"}) {
    ASSERT_NO_FATAL_FAILURE(Listen(address));
    const size_t before = taken();
    for (int i = 0; i < 3; ++i) Connect();
    EXPECT_TRUE(Becomes([&] { return taken() == before + 3; })) << address;
    acceptor_->Stop();
    EXPECT_EQ(ConnectTo(acceptor_->port()), -1) << address;
  }
}

TEST_F(AcceptorTest, WhatIsTakenOrNoAddressIsNamed) {
  ASSERT_NO_FATAL_FAILURE(Listen("0.0.0.0:0"));
  for (const std::string& host : {std::string("0.0.0.0"), std::string("127.0.0.1")}) {
    const std::string address = absl::StrCat(host, ":", acceptor_->port());
    const auto second = Acceptor::Listen(address, absl::Seconds(20), &log_);
    EXPECT_EQ(second.status().code(), absl::StatusCode::kUnavailable);
    EXPECT_THAT(second.status().message(), ::testing::AllOf(HasSubstr(address), HasSubstr("in use")));
  }
  EXPECT_THAT(Acceptor::Listen("nowhere", absl::Seconds(20), &log_).status().message(),
              HasSubstr("expected HOST:PORT"));
}

TEST_F(AcceptorTest, TheLastFilesAreLeftToOthers) {
  constexpr int kReserved = Acceptor::kReservedFiles;
  constexpr int kFiles = 10;
  ASSERT_NO_FATAL_FAILURE(Listen("127.0.0.1:0"));
  size_t before = 0;
  {
    const FewFiles few(kReserved + kFiles);
    // Both ends are of this process.
    const auto closed = [this] {
      char byte;
      return recv(callers_.back(), &byte, 1, MSG_DONTWAIT) == 0;
    };
    do {
      before = taken();
      ASSERT_LT(before, kFiles / 2 + 1u);
      ASSERT_NO_FATAL_FAILURE(Connect());
      ASSERT_TRUE(Becomes([&] { return taken() > before || closed(); }));
    } while (taken() > before);
    EXPECT_GT(before, 1u);
    std::vector<int> others;
    for (int i = 0; i < kReserved - 2; ++i) {
      others.push_back(dup(STDERR_FILENO));
      EXPECT_GE(others.back(), 0) << i;
    }
    for (const int other : others) close(other);
  }
  Connect();
  EXPECT_TRUE(Becomes([&] { return taken() == before + 1; }));
}

TEST_F(AcceptorTest, WithoutAnyFileItWaits) {
  ASSERT_NO_FATAL_FAILURE(Listen("127.0.0.1:0"));
  {
    const FewFiles few(1);  // the caller's
    Connect();
    absl::SleepFor(absl::Milliseconds(300));
    EXPECT_EQ(taken(), 0u);
  }
  EXPECT_TRUE(Becomes([&] { return taken() == 1; }));
}

}  // namespace
}  // namespace dotmax
