// How the real server starts, refuses to start, cancels, drains and stops.
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/algorithm/container.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "absl/synchronization/notification.h"
#include "absl/time/clock.h"
#include "dotmax/v1/dotmax.grpc.pb.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/data.h"
#include "tests/oracle.h"
#include "tests/server_process.h"
#include "tests/wire.h"

namespace dotmax {
namespace {

using ::testing::AllOf;
using ::testing::AnyOf;
using testing::Channel;
using testing::ErrorOf;
using testing::ExactTopK;
using ::testing::HasSubstr;
using testing::HealthOf;
using testing::HttpGet;
using ::testing::Not;
using testing::NpyFile;
using testing::RandomNormal;
using testing::SearchRequestOf;
using testing::ServerProcess;
using testing::WireError;

constexpr uint32_t kDim = 16;

// Lines of the output that are not JSON: what people read when it does not start.
std::vector<std::string> PlainLines(const ServerProcess& server) {
  std::vector<std::string> lines = absl::StrSplit(server.output(), '\n', absl::SkipEmpty());
  lines.erase(std::remove_if(lines.begin(), lines.end(),
                             [](const std::string& line) { return absl::StartsWith(line, "{"); }),
              lines.end());
  return lines;
}

// Expects that the server, run with `args`, says one line that holds `words` and exits with `code`.
void ExpectRefusal(const std::vector<std::string>& args, int code, const std::vector<std::string>& words) {
  const ServerProcess server(args);
  ASSERT_EQ(server.AwaitExit(), code) << server.output();
  const std::vector<std::string> lines = PlainLines(server);
  ASSERT_EQ(lines.size(), 1u) << server.output();
  EXPECT_TRUE(absl::StartsWith(lines[0], "dotmax-server: ")) << lines[0];
  for (const std::string& word : words) EXPECT_THAT(lines[0], HasSubstr(word));
}

class LifecycleTest : public ::testing::Test {
 protected:
  std::string Matrix() const { return absl::StrCat("--matrix=", file_.path()); }

  const SharedMatrix base_ = RandomNormal(200, kDim, 1);
  const NpyFile file_{base_.view};
};

TEST_F(LifecycleTest, ATakenPortIsNamed) {
  const ServerProcess first({Matrix()});
  ASSERT_TRUE(first.AwaitListening());
  const std::string grpc = first.grpc_address();
  const std::string http = absl::StrCat("127.0.0.1:", first.http_port());
  ExpectRefusal({Matrix(), absl::StrCat("--listen=", grpc)}, 1, {grpc, "already in use"});
  ExpectRefusal({Matrix(), absl::StrCat("--metrics-listen=", http)}, 1, {http, "already in use"});
}

TEST_F(LifecycleTest, WhatIsNoAddressIsNamed) {
  ExpectRefusal({Matrix(), "--listen=nowhere"}, 1, {"nowhere", "HOST:PORT"});
  ExpectRefusal({Matrix(), "--metrics-listen=192.0.2.1:0"}, 1, {"192.0.2.1:0", "assign"});
}

TEST_F(LifecycleTest, ABadFileIsNamed) {
  ExpectRefusal({"--matrix=/no/such/file.npy"}, 1, {"/no/such/file.npy"});
  const NpyFile broken(base_.view);
  ASSERT_EQ(truncate(broken.path().c_str(), 1000), 0);
  ExpectRefusal({absl::StrCat("--matrix=", broken.path())}, 1, {broken.path()});
}

TEST_F(LifecycleTest, ABadFlagIsNamed) {
  ExpectRefusal({Matrix(), "--thread=1"}, 2, {"--thread", "--threads"});
  ExpectRefusal({}, 2, {"--matrix"});
}

TEST_F(LifecycleTest, HelpAndVersionExitAtOnce) {
  const ServerProcess help({"--help"});
  EXPECT_EQ(help.AwaitExit(), 0);
  EXPECT_THAT(help.output(), AllOf(HasSubstr("--max-message-bytes"), HasSubstr("DOTMAX_MATRIX")));
  const ServerProcess version({"--version"});
  EXPECT_EQ(version.AwaitExit(), 0);
  EXPECT_THAT(version.output(), ::testing::MatchesRegex("dotmax-server [0-9.]+\n"));
}

TEST_F(LifecycleTest, AnEmptyMetricsAddressTurnsHttpOff) {
  const ServerProcess server({Matrix(), "--metrics-listen="});
  ASSERT_TRUE(server.AwaitListening());
  EXPECT_GT(server.grpc_port(), 0);
  EXPECT_EQ(server.http_port(), 0);
  server.Signal(SIGINT);
  EXPECT_EQ(server.AwaitExit(), 0);
}

// gRPC's threads, when nothing came for a second, sleep for a tenth of one; ours are kept from it.
TEST_F(LifecycleTest, WhoAsksAnIdleServerDoesNotWaitForItToWakeUp) {
  const ServerProcess server({Matrix()});
  ASSERT_TRUE(server.AwaitListening());
  const auto channel = Channel(server.grpc_address());
  const v1::SearchRequest request = SearchRequestOf("", RandomNormal(1, kDim, 3), 1, v1::PER_ROW);
  std::vector<absl::Duration> waits;
  for (int i = 0; i < 5; ++i) {
    absl::SleepFor(absl::Milliseconds(1000 + 10 * i));
    v1::SearchResponse response;
    grpc::ClientContext context;
    const absl::Time asked = absl::Now();
    ASSERT_TRUE(v1::Dotmax::NewStub(channel)->Search(&context, request, &response).ok());
    waits.push_back(absl::Now() - asked);
  }
  // All of these would be longer than 50 ms; a busy machine may make some so.
  EXPECT_LE(absl::c_count_if(waits, [](absl::Duration wait) { return wait > absl::Milliseconds(50); }), 2)
      << absl::StrJoin(waits, " ", absl::StreamFormatter());
}

// A server that has a search of minutes to do, and as many waiting as it takes.
class BusyServerTest : public LifecycleTest {
 protected:
  void Start(const std::string& flag) {
    server_ = std::make_unique<ServerProcess>(std::vector<std::string>{
        absl::StrCat("--matrix=big=", big_.path()), "--threads=1", "--max-queue-requests=1", flag});
    ASSERT_TRUE(server_->AwaitListening());
    channel_ = Channel(server_->grpc_address());
  }

  // Returns when at least one search has been accepted.
  void Occupy() {
    // One runs, one waits, so that one of them is refused; then another one has been accepted.
    for (Caller& caller : callers_) caller.thread = std::thread([this, &caller] { Search(&caller); });
    refused_.WaitForNotification();
  }

  ~BusyServerTest() override { CancelAll(); }

  void CancelAll() {
    for (Caller& caller : callers_) {
      caller.context.TryCancel();
      if (caller.thread.joinable()) caller.thread.join();
    }
  }

  struct Caller {
    grpc::ClientContext context;
    WireError error;
    std::thread thread;
  };

  void Search(Caller* caller) {
    v1::SearchResponse response;
    caller->error = ErrorOf(v1::Dotmax::NewStub(channel_)->Search(&caller->context, long_, &response));
    if (caller->error.code == grpc::StatusCode::RESOURCE_EXHAUSTED && !told_.exchange(true))
      refused_.Notify();
  }

  // 800,000 × 100,000 × 64: 5·10^12 multiplications.
  static v1::SearchRequest LongSearch() {
    v1::SearchRequest request =
        SearchRequestOf("big", RandomNormal(800, 64, 2, DType::kInt8), 1, v1::PER_ROW);
    const std::string block = request.queries().data();
    for (int i = 1; i < 1000; ++i) request.mutable_queries()->mutable_data()->append(block);
    request.mutable_queries()->set_rows(800'000);
    return request;
  }

  static v1::SearchRequest Short() { return SearchRequestOf("big", RandomNormal(1, 64, 3), 1, v1::PER_ROW); }

  const v1::SearchRequest long_ = LongSearch();
  const SharedMatrix big_rows_ = RandomNormal(100'000, 64, 1, DType::kInt8);
  const NpyFile big_{big_rows_.view};
  std::unique_ptr<ServerProcess> server_;
  std::shared_ptr<grpc::Channel> channel_;
  Caller callers_[3];
  std::atomic<bool> told_{false};
  absl::Notification refused_;
};

TEST_F(BusyServerTest, AFullQueueRefusesAndCancelledSearchesMakeRoom) {
  ASSERT_NO_FATAL_FAILURE(Start("--log-level=info"));
  Occupy();
  CancelAll();
  int refused = 0;
  for (const Caller& caller : callers_) {
    if (caller.error.code == grpc::StatusCode::CANCELLED) continue;
    ++refused;
    EXPECT_EQ(caller.error.code, grpc::StatusCode::RESOURCE_EXHAUSTED);
    EXPECT_EQ(caller.error.reason, "QUEUE_FULL");
    EXPECT_TRUE(caller.error.retry_info);
  }
  EXPECT_GE(refused, 1);
  EXPECT_LE(refused, 2);

  // Much sooner than the long ones could have been done.
  const absl::Time patience = absl::Now() + absl::Seconds(30);
  WireError error;
  do {
    v1::SearchResponse response;
    grpc::ClientContext context;
    error = ErrorOf(v1::Dotmax::NewStub(channel_)->Search(&context, Short(), &response));
  } while (error.code == grpc::StatusCode::RESOURCE_EXHAUSTED && absl::Now() < patience);
  EXPECT_EQ(error.code, grpc::StatusCode::OK) << error.message;
}

TEST_F(BusyServerTest, ADeadlineEndsTheSearchOnTheServerToo) {
  ASSERT_NO_FATAL_FAILURE(Start("--log-level=debug"));
  v1::SearchResponse response;
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(2));
  EXPECT_EQ(v1::Dotmax::NewStub(channel_)->Search(&context, long_, &response).error_code(),
            grpc::StatusCode::DEADLINE_EXCEEDED);
  // Which of the two the server sees first is up to its clock.
  ASSERT_TRUE(server_->AwaitOutput("\"message\":\"the ")) << server_->output();
  EXPECT_THAT(server_->output(),
              AnyOf(HasSubstr("\"code\":\"DEADLINE_EXCEEDED\""), HasSubstr("\"code\":\"CANCELLED\"")));
}

TEST_F(BusyServerTest, WhileDrainingItIsNotReadyAndRefusesButDoesNotDropWhatItHas) {
  ASSERT_NO_FATAL_FAILURE(Start("--drain-timeout=10m"));
  Occupy();
  server_->Signal(SIGTERM);
  ASSERT_TRUE(server_->AwaitOutput("\"event\":\"draining\""));
  EXPECT_EQ(HealthOf(channel_, ""), "NOT_SERVING");
  EXPECT_EQ(HealthOf(channel_, "dotmax.v1.Dotmax"), "NOT_SERVING");
  EXPECT_EQ(HttpGet(server_->http_port(), "/readyz").status, 503);
  EXPECT_EQ(HttpGet(server_->http_port(), "/healthz").status, 200);
  v1::SearchResponse response;
  grpc::ClientContext context;
  const WireError late = ErrorOf(v1::Dotmax::NewStub(channel_)->Search(&context, Short(), &response));
  EXPECT_EQ(late.code, grpc::StatusCode::UNAVAILABLE);
  EXPECT_EQ(late.reason, "DRAINING");
  EXPECT_THAT(server_->output(), Not(HasSubstr("\"stopped\"")));
  CancelAll();
  EXPECT_EQ(server_->AwaitExit(), 0);
  EXPECT_THAT(server_->output(), HasSubstr("\"stopped\""));
}

TEST_F(BusyServerTest, ADrainThatTakesTooLongIsCutShort) {
  ASSERT_NO_FATAL_FAILURE(Start("--drain-timeout=100ms"));
  Occupy();
  server_->Signal(SIGTERM);
  EXPECT_EQ(server_->AwaitExit(), 0);
}

// A server that is loading for seconds: the same matrix under many names, each of which is measured.
class LoadingTest : public LifecycleTest {
 protected:
  static constexpr int kCopies = 12;

  std::vector<std::string> Matrices() const {
    std::vector<std::string> flags;
    for (int i = 0; i < kCopies; ++i) flags.push_back(absl::StrCat("--matrix=m", i, "=", large_.path()));
    return flags;
  }

  const SharedMatrix rows_ = RandomNormal(30'000, 128, 1);
  const NpyFile large_{rows_.view};
};

TEST_F(LoadingTest, ItListensWhileItLoadsButIsNotReady) {
  const ServerProcess server(Matrices());
  ASSERT_TRUE(server.AwaitOutput("\"event\":\"loaded\""));
  const auto channel = Channel(server.grpc_address());
  for (const char* service : {"", "dotmax.v1.Dotmax", "dotmax.v1.Collections"}) {
    EXPECT_EQ(HealthOf(channel, service), "NOT_SERVING") << service;
  }
  EXPECT_EQ(HttpGet(server.http_port(), "/readyz").status, 503);
  EXPECT_EQ(HttpGet(server.http_port(), "/healthz").status, 200);
  const v1::SearchRequest request = SearchRequestOf("m0", RandomNormal(1, 128, 3), 1, v1::PER_ROW);
  v1::SearchResponse response;
  {
    grpc::ClientContext context;
    const WireError early = ErrorOf(v1::Dotmax::NewStub(channel)->Search(&context, request, &response));
    EXPECT_EQ(early.code, grpc::StatusCode::UNAVAILABLE);
    EXPECT_EQ(early.reason, "LOADING");
  }
  ASSERT_THAT(server.output(), Not(HasSubstr("\"event\":\"ready\""))) << "the matrices are too small";

  ASSERT_TRUE(server.AwaitListening());
  // What the log says comes after what is so.
  EXPECT_EQ(HttpGet(server.http_port(), "/readyz").status, 200);
  for (const char* service : {"", "dotmax.v1.Dotmax", "dotmax.v1.Collections"}) {
    EXPECT_EQ(HealthOf(channel, service), "SERVING") << service;
  }
  grpc::ClientContext context;
  EXPECT_TRUE(v1::Dotmax::NewStub(channel)->Search(&context, request, &response).ok());
  EXPECT_GT(response.version(), 0u);
  // Warming up is nobody's request.
  const std::string metrics = HttpGet(server.http_port(), "/metrics").body;
  EXPECT_THAT(metrics, HasSubstr("\ndotmax_query_rows_total 1\n"));
  EXPECT_THAT(metrics, HasSubstr("\ndotmax_search_compute_seconds_count 1\n"));
}

TEST_F(LoadingTest, AStopSignalThenEndsTheProcessAtOnce) {
  const ServerProcess server(Matrices());
  ASSERT_TRUE(server.AwaitOutput("\"event\":\"loaded\""));
  server.Signal(SIGTERM);
  EXPECT_EQ(server.AwaitExit(), 128 + SIGTERM);
  EXPECT_THAT(server.output(), Not(HasSubstr("\"event\":\"ready\"")));
}

TEST_F(LoadingTest, AHangupThenWaitsForItsTurn) {
  const ServerProcess server(Matrices());
  ASSERT_TRUE(server.AwaitOutput("\"event\":\"loaded\""));
  server.Signal(SIGHUP);
  ASSERT_TRUE(server.AwaitListening());
  ASSERT_TRUE(server.AwaitOutput(absl::StrCat("\"version\":", kCopies + 1, ","))) << server.output();
}

TEST_F(LifecycleTest, InItsGracePeriodAServerServesThoseWhoDoNotLook) {
  const ServerProcess server({Matrix(), "--drain-grace=2s"});
  ASSERT_TRUE(server.AwaitListening());
  const auto channel = Channel(server.grpc_address());
  const v1::SearchRequest request = SearchRequestOf("", RandomNormal(1, kDim, 3), 1, v1::PER_ROW);
  server.Signal(SIGTERM);
  ASSERT_TRUE(server.AwaitOutput("\"event\":\"stopping\""));
  EXPECT_EQ(HealthOf(channel, ""), "NOT_SERVING");
  EXPECT_EQ(HealthOf(channel, "dotmax.v1.Dotmax"), "NOT_SERVING");
  EXPECT_EQ(HealthOf(channel, "dotmax.v1.Collections"), "NOT_SERVING");
  EXPECT_EQ(HttpGet(server.http_port(), "/readyz").status, 503);
  grpc::ClientContext context;
  v1::SearchResponse response;
  EXPECT_TRUE(v1::Dotmax::NewStub(channel)->Search(&context, request, &response).ok());
  EXPECT_THAT(server.output(), Not(HasSubstr("\"event\":\"draining\"")));
  EXPECT_EQ(server.AwaitExit(), 0);
  EXPECT_THAT(server.output(), HasSubstr("\"event\":\"stopped\""));
}

TEST_F(LifecycleTest, ASecondSignalEndsItAtOnce) {
  const ServerProcess server({Matrix(), "--drain-grace=10m"});
  ASSERT_TRUE(server.AwaitListening());
  server.Signal(SIGTERM);
  ASSERT_TRUE(server.AwaitOutput("\"event\":\"stopping\""));
  server.Signal(SIGINT);
  EXPECT_EQ(server.AwaitExit(), 128 + SIGINT);
  EXPECT_THAT(server.output(), Not(HasSubstr("\"event\":\"stopped\"")));
}

TEST_F(BusyServerTest, ASecondSignalAlsoEndsADrain) {
  ASSERT_NO_FATAL_FAILURE(Start("--drain-timeout=10m"));
  Occupy();
  server_->Signal(SIGTERM);
  ASSERT_TRUE(server_->AwaitOutput("\"event\":\"draining\""));
  server_->Signal(SIGTERM);
  EXPECT_EQ(server_->AwaitExit(), 128 + SIGTERM);
}

TEST_F(LifecycleTest, AHangupReloadsFilesAndABadOneChangesNothing) {
  const NpyFile file(base_.view);
  const ServerProcess server(
      {absl::StrCat("--matrix=a=", file.path()), absl::StrCat("--matrix=b=", file_.path())});
  ASSERT_TRUE(server.AwaitListening());
  const auto metrics = [&server] { return HttpGet(server.http_port(), "/metrics").body; };
  EXPECT_THAT(metrics(), HasSubstr("dotmax_collection_version{collection=\"a\"} 1\n"));
  EXPECT_THAT(metrics(), HasSubstr("dotmax_reload_last_success{collection=\"a\"} 1\n"));
  EXPECT_THAT(metrics(), HasSubstr("dotmax_reload_last_success_timestamp_seconds{collection=\"a\"} "));

  // Fewer rows of the same bytes: a's header promises more than there is. The old bytes stay what they were.
  ASSERT_EQ(truncate(file.path().c_str(), 1000), 0);
  server.Signal(SIGHUP);
  ASSERT_TRUE(server.AwaitOutput("\"event\":\"load_failed\""));
  ASSERT_TRUE(server.AwaitOutput("\"version\":3,"));  // b
  EXPECT_THAT(server.output(), HasSubstr("\"collection\":\"a\",\"reason\":\"MALFORMED_FILE\""));
  EXPECT_THAT(metrics(), HasSubstr("dotmax_collection_version{collection=\"a\"} 1\n"));
  EXPECT_THAT(metrics(), HasSubstr("dotmax_reload_last_success{collection=\"a\"} 0\n"));
  EXPECT_THAT(metrics(), HasSubstr("dotmax_reload_last_success{collection=\"b\"} 1\n"));

  const SharedMatrix queries = RandomNormal(2, kDim, 9);
  const auto best = [&] {
    v1::SearchResponse response;
    grpc::ClientContext context;
    const grpc::Status status =
        v1::Dotmax::NewStub(Channel(server.grpc_address()))
            ->Search(&context, SearchRequestOf("a", queries, 1, v1::GLOBAL), &response);
    EXPECT_TRUE(status.ok()) << status.error_message();
    return response;
  };
  EXPECT_EQ(best().scores(0), ExactTopK(queries.view, base_.view, 1, Reduction::kGlobal)[0].score);
  EXPECT_EQ(best().version(), 1u);

  const SharedMatrix other = RandomNormal(300, kDim, 77);
  const NpyFile replacement(other.view);
  ASSERT_EQ(rename(replacement.path().c_str(), file.path().c_str()), 0);
  server.Signal(SIGHUP);
  ASSERT_TRUE(server.AwaitOutput("\"collection\":\"a\",\"version\":4,"));
  EXPECT_EQ(best().scores(0), ExactTopK(queries.view, other.view, 1, Reduction::kGlobal)[0].score);
  EXPECT_EQ(best().version(), 4u);
  EXPECT_THAT(server.output(), Not(HasSubstr("stop")));
}

TEST_F(LifecycleTest, AMatrixThatDoesNotFitIsRefusedWithBothFigures) {
  ExpectRefusal({Matrix(), "--memory-limit=1000000"}, 1,
                {file_.path(), "200 rows of 16", "takes up to", "0 are left of 1000000"});
}

TEST_F(LifecycleTest, ADataDirectoryThatIsNoneIsNamed) {
  ExpectRefusal({Matrix(), "--data-dir=/no/such/dir"}, 1, {"/no/such/dir"});
}

TEST_F(LifecycleTest, AStopUnderLoadLosesNoAcceptedRequest) {
  const ServerProcess server({Matrix(), "--log-level=debug", "--metrics-listen="});
  ASSERT_TRUE(server.AwaitListening());
  const SharedMatrix queries = RandomNormal(3, kDim, 5);
  const v1::SearchRequest request = SearchRequestOf("", queries, 2, v1::GLOBAL);
  const std::vector<Hit> expected = ExactTopK(queries.view, base_.view, 2, Reduction::kGlobal);

  constexpr int kCallers = 8;
  constexpr int kBeforeStop = 50;  // per caller, so that all are in full swing
  std::atomic<int> warm{0};
  std::atomic<int> answered{0};
  absl::Notification all_warm;
  std::vector<std::thread> callers;
  for (int c = 0; c < kCallers; ++c) {
    callers.emplace_back([&] {
      const auto channel = Channel(server.grpc_address());
      const auto stub = v1::Dotmax::NewStub(channel);
      for (int i = 1;; ++i) {
        v1::SearchResponse response;
        grpc::ClientContext context;
        const grpc::Status status = stub->Search(&context, request, &response);
        if (!status.ok()) {
          EXPECT_EQ(status.error_code(), grpc::StatusCode::UNAVAILABLE) << status.error_message();
          // Not an answer of the server any more: it is gone.
          if (status.error_details().empty()) break;
          continue;
        }
        ++answered;
        EXPECT_EQ(response.ids(0), expected[0].id);
        EXPECT_EQ(response.scores(1), expected[1].score);
        if (i == kBeforeStop && ++warm == kCallers) all_warm.Notify();
      }
    });
  }
  all_warm.WaitForNotification();
  server.Signal(SIGTERM);
  for (std::thread& caller : callers) caller.join();
  EXPECT_EQ(server.AwaitExit(), 0);

  int answers_sent = 0;
  const std::string output = server.output();
  for (const absl::string_view line : absl::StrSplit(output, '\n')) {
    if (absl::StrContains(line, "\"method\":\"Search\",\"code\":\"OK\"")) ++answers_sent;
  }
  EXPECT_EQ(answers_sent, answered);
  EXPECT_GE(answered, kCallers * kBeforeStop);
}

}  // namespace
}  // namespace dotmax
