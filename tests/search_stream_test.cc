// SearchStream of a real server: results as Search gives them, whatever their order, their neighbours, or how
// the stream goes on and ends.
#include "server/rpc/search_stream.h"

#include <signal.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <fstream>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/time/clock.h"
#include "dotmax/v1/dotmax.grpc.pb.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/base/crypto.h"
#include "tests/certificates.h"
#include "tests/data.h"
#include "tests/server_process.h"
#include "tests/wire.h"

namespace dotmax {
namespace {

using testing::Channel;
using testing::ErrorOf;
using ::testing::HasSubstr;
using testing::HttpGet;
using testing::NpyFile;
using testing::RandomNormal;
using testing::SearchRequestOf;
using testing::ServerProcess;
using testing::Slice;
using testing::WireError;

constexpr uint32_t kDim = 16;

// What the result of a request that failed says.
WireError ErrorOf(const v1::SearchResult& result) {
  EXPECT_TRUE(result.has_status());
  const google::rpc::Status& status = result.status();
  return ErrorOf(grpc::Status(static_cast<grpc::StatusCode>(status.code()), status.message(),
                              status.SerializeAsString()));
}

// An answer but for what it cost.
std::string WithoutStats(v1::SearchResponse response) {
  response.clear_stats();
  return response.SerializeAsString();
}

// Resident memory of the server, in bytes.
uint64_t Resident(pid_t pid) {
  std::ifstream file(absl::StrCat("/proc/", pid, "/status"));
  for (std::string line; std::getline(file, line);) {
    uint64_t kib = 0;
    const std::vector<std::string> words = absl::StrSplit(line, absl::ByAnyChar(" \t"), absl::SkipEmpty());
    if (words.size() == 3 && words[0] == "VmRSS:" && absl::SimpleAtoi(words[1], &kib)) return kib << 10;
  }
  return 0;
}

#ifdef __SANITIZE_ADDRESS__
constexpr uint64_t kKeptBytes = uint64_t{400} << 20;  // it keeps what was freed for a while
#else
constexpr uint64_t kKeptBytes = 0;
#endif

class SearchStreamTest : public ::testing::Test {
 protected:
  using Stream = grpc::ClientReaderWriter<v1::SearchRequest, v1::SearchResult>;

  void Serve(std::vector<std::string> flags = {}) {
    flags.push_back(absl::StrCat("--matrix=words=", words_.path()));
    flags.push_back(absl::StrCat("--matrix=images=", images_.path()));
    server_ = std::make_unique<ServerProcess>(flags);
    ASSERT_TRUE(server_->AwaitListening());
    channel_ = Channel(server_->grpc_address());
    stub_ = v1::Dotmax::NewStub(channel_);
  }

  // About `rows` rows, others for each tag.
  static v1::SearchRequest Request(uint64_t tag, uint64_t rows = 1, uint32_t top_k = 3) {
    v1::SearchRequest request =
        SearchRequestOf("words", RandomNormal(rows, kDim, 100 + tag), top_k, v1::PER_ROW);
    request.set_tag(tag);
    return request;
  }

  // One that takes seconds.
  static v1::SearchRequest Slow(uint64_t tag, const std::string& collection = "words") {
    static const auto* const rows = new SharedMatrix(RandomNormal(1'500'000, kDim, 8, DType::kInt8));
    v1::SearchRequest request = SearchRequestOf(collection, *rows, 1, v1::PER_ROW);
    request.set_tag(tag);
    return request;
  }

  grpc::Status Search(const v1::SearchRequest& request, v1::SearchResponse* response) {
    grpc::ClientContext context;
    return stub_->Search(&context, request, response);
  }

  // Expects that `result` has the answer that Search gives.
  void ExpectAsSearch(const v1::SearchResult& result, const v1::SearchRequest& request) {
    ASSERT_TRUE(result.has_response()) << result.status().message();
    v1::SearchResponse response;
    const grpc::Status status = Search(request, &response);
    ASSERT_TRUE(status.ok()) << status.error_message();
    EXPECT_EQ(WithoutStats(result.response()), WithoutStats(response));
  }

  // Writes `requests` and their end while it reads; what came, by tag.
  grpc::Status Ask(const std::vector<v1::SearchRequest>& requests,
                   std::multimap<uint64_t, v1::SearchResult>* results) {
    grpc::ClientContext context;
    const auto stream = stub_->SearchStream(&context);
    std::thread writer([&] {
      for (const v1::SearchRequest& request : requests) {
        if (!stream->Write(request)) return;
      }
      stream->WritesDone();
    });
    for (v1::SearchResult result; stream->Read(&result);) results->emplace(result.tag(), result);
    writer.join();
    return stream->Finish();
  }

  double Sample(const std::string& name) const {
    for (const absl::string_view line : absl::StrSplit(Metrics(), '\n')) {
      absl::string_view rest = line;
      double value = 0;
      if (absl::ConsumePrefix(&rest, name) && absl::SimpleAtod(rest, &value)) return value;
    }
    ADD_FAILURE() << "no " << name;
    return -1;
  }
  std::string Metrics() const { return HttpGet(server_->http_port(), "/metrics").body; }

  void AwaitSample(const std::string& name, double value) const {
    const absl::Time patience = absl::Now() + ServerProcess::kPatience;
    while (Sample(name) != value) {
      ASSERT_LT(absl::Now(), patience) << name << " is " << Sample(name);
      absl::SleepFor(absl::Milliseconds(5));
    }
  }

  const NpyFile words_{RandomNormal(5000, kDim, 1).view};
  const NpyFile images_{RandomNormal(5000, kDim, 2).view};
  std::unique_ptr<ServerProcess> server_;
  std::shared_ptr<grpc::Channel> channel_;
  std::unique_ptr<v1::Dotmax::Stub> stub_;
};

TEST_F(SearchStreamTest, ResultsAreThoseOfSearch) {
  ASSERT_NO_FATAL_FAILURE(Serve());
  std::vector<v1::SearchRequest> requests;
  for (uint64_t tag = 0; tag < 300; ++tag) {
    v1::SearchRequest& request = requests.emplace_back(Request(tag, tag % 7, 1 + tag % 20));
    if (tag % 3 == 0) request.set_collection("images");
    if (tag % 4 == 0) request.set_reduction(v1::GLOBAL);
    if (tag % 5 == 0) request.set_metric(v1::COSINE);
    if (tag % 11 == 0) {
      request.clear_queries();
      request.mutable_resident_queries()->set_rows(1 + tag);
      request.set_self_pairs(v1::NOT_ITSELF);
    }
  }
  std::multimap<uint64_t, v1::SearchResult> results;
  const grpc::Status status = Ask(requests, &results);
  ASSERT_TRUE(status.ok()) << status.error_message();
  ASSERT_EQ(results.size(), requests.size());
  for (const v1::SearchRequest& request : requests) {
    SCOPED_TRACE(request.tag());
    ASSERT_EQ(results.count(request.tag()), 1u);
    ExpectAsSearch(results.find(request.tag())->second, request);
  }
}

TEST_F(SearchStreamTest, TagsAreEchoedWhateverTheyAre) {
  ASSERT_NO_FATAL_FAILURE(Serve());
  v1::SearchRequest first = Request(7), second = Request(7), last = Request(~uint64_t{0});
  second.set_collection("images");
  std::multimap<uint64_t, v1::SearchResult> results;
  ASSERT_TRUE(Ask({first, second, Request(0), last}, &results).ok());
  EXPECT_EQ(results.size(), 4u);
  EXPECT_EQ(results.count(7), 2u);
  EXPECT_EQ(results.count(0), 1u);
  EXPECT_EQ(results.count(~uint64_t{0}), 1u);
}

TEST_F(SearchStreamTest, SmallRequestsOvertakeALargeOne) {
  ASSERT_NO_FATAL_FAILURE(Serve({"--threads=1"}));
  grpc::ClientContext context;
  const auto stream = stub_->SearchStream(&context);
  ASSERT_TRUE(stream->Write(Slow(1000)));
  std::vector<v1::SearchRequest> small;
  for (uint64_t tag = 0; tag < 20; ++tag) {
    small.push_back(Request(tag));
    ASSERT_TRUE(stream->Write(small.back()));
  }
  std::vector<bool> seen(20);
  for (int i = 0; i < 20; ++i) {
    v1::SearchResult result;
    ASSERT_TRUE(stream->Read(&result));
    ASSERT_LT(result.tag(), 20u) << "the large one came before " << 20 - i << " small ones";
    EXPECT_FALSE(seen[result.tag()]);
    seen[result.tag()] = true;
    ExpectAsSearch(result, small[result.tag()]);
  }
  context.TryCancel();
  EXPECT_EQ(stream->Finish().error_code(), grpc::StatusCode::CANCELLED);
  EXPECT_TRUE(server_->AwaitIdle());
}

TEST_F(SearchStreamTest, OneBadRequestHarmsNoOther) {
  ASSERT_NO_FATAL_FAILURE(Serve({"--max-top-k=50"}));
  std::vector<v1::SearchRequest> bad;
  for (uint64_t tag = 0; tag < 6; ++tag) bad.push_back(Request(tag));
  *bad[0].mutable_queries() = testing::MatrixOf(RandomNormal(2, kDim + 1, 3));
  bad[1].set_top_k(51);
  bad[2].set_collection("absent");
  bad[3].set_version(77);
  bad[4].clear_queries();
  bad[5].mutable_queries()->mutable_data()->pop_back();
  std::vector<v1::SearchRequest> requests;
  for (int round = 0; round < 30; ++round) {
    for (const v1::SearchRequest& request : bad) {
      requests.push_back(request);
      requests.push_back(Request(100 + requests.size()));
    }
  }
  std::multimap<uint64_t, v1::SearchResult> results;
  const grpc::Status status = Ask(requests, &results);
  ASSERT_TRUE(status.ok()) << status.error_message();
  EXPECT_EQ(results.size(), requests.size());
  for (const auto& [tag, result] : results) EXPECT_EQ(result.has_status(), tag < 6) << tag;
  const std::string reasons[] = {"DIM_MISMATCH",     "TOP_K_TOO_LARGE", "COLLECTION_NOT_FOUND",
                                 "VERSION_MISMATCH", "NO_QUERIES",      "WRONG_BYTE_COUNT"};
  for (uint64_t tag = 0; tag < 6; ++tag) {
    EXPECT_EQ(results.count(tag), 30u);
    const WireError error = ErrorOf(results.find(tag)->second);
    EXPECT_EQ(error.reason, reasons[tag]);
    // Every word of it is that of Search.
    v1::SearchResponse response;
    const grpc::Status alone = Search(bad[tag], &response);
    EXPECT_EQ(results.find(tag)->second.status().SerializeAsString(), alone.error_details());
    EXPECT_EQ(error.message, alone.error_message());
    EXPECT_EQ(error.code, alone.error_code());
  }
  ExpectAsSearch(results.find(101)->second, requests[1]);
}

TEST_F(SearchStreamTest, BytesThatAreNoRequestEndIt) {
  ASSERT_NO_FATAL_FAILURE(Serve());
  grpc::Status status;
  testing::CallRaw(channel_, "/dotmax.v1.Dotmax/SearchStream", "\xff\xff\xff", &status);
  const WireError error = ErrorOf(status);
  EXPECT_EQ(error.code, grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(error.reason, "MALFORMED_REQUEST");
  EXPECT_THAT(error.message, HasSubstr("message 0: the request is not a dotmax.v1.SearchRequest"));
}

TEST_F(SearchStreamTest, AMessageOverTheLimitEndsIt) {
  ASSERT_NO_FATAL_FAILURE(Serve({"--max-message-bytes=10000"}));
  std::multimap<uint64_t, v1::SearchResult> results;
  const WireError error = ErrorOf(Ask({Request(1, 200)}, &results));
  EXPECT_EQ(error.code, grpc::StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_THAT(error.message, HasSubstr("10000"));
  EXPECT_TRUE(results.empty());
  EXPECT_TRUE(server_->AwaitIdle());
}

// The bound on bytes is what one message may have; requests beyond half of it have to come one by one.
TEST_F(SearchStreamTest, LargeRequestsComeThroughOneByOne) {
  ASSERT_NO_FATAL_FAILURE(Serve({"--max-message-bytes=10000"}));
  std::vector<v1::SearchRequest> requests;
  for (uint64_t tag = 0; tag < 20; ++tag) requests.push_back(Request(tag, 140, 4));
  std::multimap<uint64_t, v1::SearchResult> results;
  const grpc::Status status = Ask(requests, &results);
  ASSERT_TRUE(status.ok()) << status.error_message();
  ASSERT_EQ(results.size(), 20u);
  for (const v1::SearchRequest& request : requests) {
    ExpectAsSearch(results.find(request.tag())->second, request);
  }
}

TEST_F(SearchStreamTest, AStreamOfNothingIsDone) {
  ASSERT_NO_FATAL_FAILURE(Serve());
  std::multimap<uint64_t, v1::SearchResult> results;
  EXPECT_TRUE(Ask({}, &results).ok());
  EXPECT_TRUE(results.empty());
}

TEST_F(SearchStreamTest, WhatIsInFlightWhenTheCallerHasSentAllIsAnswered) {
  ASSERT_NO_FATAL_FAILURE(Serve());
  for (int round = 0; round < 20; ++round) {
    grpc::ClientContext context;
    const auto stream = stub_->SearchStream(&context);
    for (uint64_t tag = 0; tag < 40; ++tag) ASSERT_TRUE(stream->Write(Request(tag)));
    stream->WritesDone();
    std::vector<int> seen(40);
    for (v1::SearchResult result; stream->Read(&result);) ++seen.at(result.tag());
    EXPECT_TRUE(stream->Finish().ok());
    EXPECT_THAT(seen, ::testing::Each(1));
  }
}

TEST_F(SearchStreamTest, AConversationOfAnyLength) {
  ASSERT_NO_FATAL_FAILURE(Serve());
  grpc::ClientContext context;
  const auto stream = stub_->SearchStream(&context);
  for (uint64_t tag = 0; tag < 500; ++tag) {
    v1::SearchResult result;
    ASSERT_TRUE(stream->Write(Request(tag)));
    ASSERT_TRUE(stream->Read(&result));
    ASSERT_EQ(result.tag(), tag);
  }
  stream->WritesDone();
  EXPECT_TRUE(stream->Finish().ok());
}

TEST_F(SearchStreamTest, CallersThatLeaveAreForgottenAndTheirSearchesStop) {
  ASSERT_NO_FATAL_FAILURE(Serve({"--threads=1", "--log-level=debug"}));
  const absl::Time start = absl::Now();
  for (const int slow : {0, 1, 3}) {
    for (const int small : {0, 5, 200}) {
      for (const bool read : {false, true}) {
        grpc::ClientContext context;
        const auto stream = stub_->SearchStream(&context);
        std::thread writer([&] {
          for (int i = 0; i < slow; ++i) stream->Write(Slow(i));
          for (int i = 0; i < small && stream->Write(Request(i)); ++i) {
          }
        });
        v1::SearchResult result;
        if (read && small > 0) {
          EXPECT_TRUE(stream->Read(&result));
        }
        if (slow + small > 0) absl::SleepFor(absl::Milliseconds(20));
        context.TryCancel();
        writer.join();
        while (stream->Read(&result)) {
        }
        EXPECT_EQ(stream->Finish().error_code(), grpc::StatusCode::CANCELLED);
      }
    }
  }
  EXPECT_TRUE(server_->AwaitIdle());
  RecordProperty("seconds", absl::StrCat(absl::ToDoubleSeconds(absl::Now() - start)));
  EXPECT_THAT(server_->output(), HasSubstr("\"method\":\"SearchStream\",\"code\":\"CANCELLED\""));
  // Nobody searches any more: a question is answered at once.
  v1::SearchResponse response;
  const absl::Time asked = absl::Now();
  ASSERT_TRUE(Search(Request(1), &response).ok());
  EXPECT_LT(absl::Now() - asked, absl::Seconds(1));
}

TEST_F(SearchStreamTest, ADeadlineEndsItWithAllThatIsInFlight) {
  ASSERT_NO_FATAL_FAILURE(Serve({"--threads=1"}));
  for (const bool slow : {false, true}) {
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + std::chrono::milliseconds(300));
    const auto stream = stub_->SearchStream(&context);
    ASSERT_TRUE(stream->Write(Request(1)));
    v1::SearchResult result;
    ASSERT_TRUE(stream->Read(&result));
    if (slow) stream->Write(Slow(2));
    while (stream->Read(&result)) {
    }
    EXPECT_EQ(stream->Finish().error_code(), grpc::StatusCode::DEADLINE_EXCEEDED);
    EXPECT_TRUE(server_->AwaitIdle());
  }
}

TEST_F(SearchStreamTest, AFullQueueMakesItWaitForItself) {
  // Passes are of one collection, so of two slow searches, of both, one always waits: the queue is full. But
  // the second one has to come while the first one is in a pass; otherwise once more.
  ASSERT_NO_FATAL_FAILURE(Serve({"--threads=1", "--max-queue-requests=1"}));
  std::unique_ptr<grpc::ClientContext> context;
  std::unique_ptr<Stream> stream;
  WireError error;
  for (int attempt = 0; attempt < 10 && error.code == grpc::StatusCode::OK; ++attempt) {
    if (context != nullptr) context->TryCancel();
    stream = nullptr;
    context = std::make_unique<grpc::ClientContext>();
    stream = stub_->SearchStream(context.get());
    for (const char* collection : {"words", "images"}) {
      ASSERT_TRUE(stream->Write(Slow(collection[0], collection)));
    }
    // Others are refused from now on.
    v1::SearchResponse response;
    const absl::Time patience = absl::Now() + absl::Seconds(1);
    do {
      error = ErrorOf(Search(Request(1), &response));
    } while (error.code == grpc::StatusCode::OK && absl::Now() < patience);
  }
  EXPECT_EQ(error.code, grpc::StatusCode::RESOURCE_EXHAUSTED);
  for (uint64_t tag = 0; tag < 20; ++tag) ASSERT_TRUE(stream->Write(Request(tag)));
  stream->WritesDone();
  std::map<uint64_t, v1::SearchResult> results;
  for (v1::SearchResult result; stream->Read(&result);) results.emplace(result.tag(), result);
  EXPECT_TRUE(stream->Finish().ok());
  EXPECT_EQ(results.size(), 22u);
  for (uint64_t tag = 0; tag < 20; ++tag) {
    SCOPED_TRACE(tag);
    ASSERT_TRUE(results.contains(tag));
    ExpectAsSearch(results[tag], Request(tag));
  }
}

TEST_F(SearchStreamTest, AQueueThatIsFullOfOthersRefusesARequestAndNotTheStream) {
  ASSERT_NO_FATAL_FAILURE(Serve({"--threads=1", "--max-queue-requests=1"}));
  grpc::ClientContext context;
  const auto stream = stub_->SearchStream(&context);
  std::atomic<bool> stop = false;
  std::vector<std::thread> others;
  for (const char* collection : {"words", "images"}) {
    // One that comes between passes of the other one is refused: again, then.
    others.emplace_back([&, collection] {
      const v1::SearchRequest slow = Slow(0, collection);
      while (!stop) {
        v1::SearchResponse response;
        Search(slow, &response);
      }
    });
  }
  // Each by itself: nothing of the stream is in flight that it could wait for.
  v1::SearchResult result;
  const absl::Time patience = absl::Now() + absl::Seconds(10);
  do {
    ASSERT_TRUE(stream->Write(Request(1)));
    ASSERT_TRUE(stream->Read(&result));
  } while (!result.has_status() && absl::Now() < patience);
  const WireError error = ErrorOf(result);
  EXPECT_EQ(error.code, grpc::StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_TRUE(error.retry_info);
  EXPECT_GE(Sample(absl::StrCat("dotmax_refused_total{reason=\"", error.reason, "\"} ")), 1);
  stop = true;
  for (std::thread& other : others) other.join();
  do {
    ASSERT_TRUE(stream->Write(Request(1)));
    ASSERT_TRUE(stream->Read(&result));
  } while (!result.has_response() && absl::Now() < patience + absl::Seconds(10));
  ExpectAsSearch(result, Request(1));
  stream->WritesDone();
  EXPECT_TRUE(stream->Finish().ok());
}

TEST_F(SearchStreamTest, WhoDoesNotReadIsNotReadFrom) {
  ASSERT_NO_FATAL_FAILURE(Serve());
  constexpr int kRequests = 1000;
  // Of 64 kB, of which HTTP/2's window lets some hundred pass unread; the results are larger.
  const v1::SearchRequest request = Request(0, 1000, 10);
  // Warms up.
  for (int i = 0; i < 10; ++i) {
    v1::SearchResponse response;
    ASSERT_TRUE(Search(request, &response).ok());
  }
  const uint64_t before = Resident(server_->pid());
  grpc::ClientContext context;
  const auto stream = stub_->SearchStream(&context);
  std::atomic<int> sent = 0;
  std::thread writer([&] {
    v1::SearchRequest next = request;
    for (; sent < kRequests; ++sent) {
      next.set_tag(sent);
      if (!stream->Write(next)) return;
    }
    stream->WritesDone();
  });
  // Until nothing moves any more.
  for (double last = -1, moved = 0; last != moved || sent == 0;) {
    last = moved;
    absl::SleepFor(absl::Milliseconds(300));
    moved = sent + Sample("dotmax_query_rows_total ");
  }
  RecordProperty("sent_before_it_is_stuck", sent);
  EXPECT_LT(sent, kRequests / 2);
  uint64_t most = Resident(server_->pid());
  std::vector<int> seen(kRequests);
  std::string first;
  for (v1::SearchResult result; stream->Read(&result);) {
    ASSERT_TRUE(result.has_response()) << result.status().message();
    if (first.empty()) first = WithoutStats(result.response());
    EXPECT_EQ(WithoutStats(result.response()), first);
    if (++seen.at(result.tag()); result.tag() % 100 == 0) most = std::max(most, Resident(server_->pid()));
  }
  writer.join();
  EXPECT_TRUE(stream->Finish().ok());
  EXPECT_THAT(seen, ::testing::Each(1));
  RecordProperty("mebibytes_above_start", static_cast<int>((most - before) >> 20));
  EXPECT_LT(most, before + kKeptBytes + (uint64_t{64} << 20));  // of 200 MB
}

TEST_F(SearchStreamTest, AMillionRowsInConstantMemory) {
  ASSERT_NO_FATAL_FAILURE(Serve());
  constexpr int kRequests = 1000, kRowsEach = 1000, kWarmUp = 100;
  const SharedMatrix rows = RandomNormal(kRowsEach, kDim, 3);
  v1::SearchRequest request = SearchRequestOf("words", rows, 1, v1::PER_ROW);
  v1::SearchResponse expected;
  ASSERT_TRUE(Search(request, &expected).ok());
  const std::string answer = WithoutStats(expected);
  grpc::ClientContext context;
  const auto stream = stub_->SearchStream(&context);
  std::thread writer([&] {
    for (int i = 0; i < kRequests; ++i) {
      request.set_tag(i);
      if (!stream->Write(request)) return;
    }
    stream->WritesDone();
  });
  int results = 0;
  uint64_t warm = 0, most = 0;
  std::vector<int> seen(kRequests);
  for (v1::SearchResult result; stream->Read(&result); ++results) {
    ++seen.at(result.tag());
    EXPECT_EQ(WithoutStats(result.response()), answer);
    if (results == kWarmUp) warm = Resident(server_->pid());
    if (results > kWarmUp) most = std::max(most, Resident(server_->pid()));
  }
  writer.join();
  const grpc::Status status = stream->Finish();
  ASSERT_TRUE(status.ok()) << status.error_message();
  EXPECT_THAT(seen, ::testing::Each(1));
  ASSERT_GT(warm, 0u);
  RecordProperty("mebibytes_above_warm", static_cast<int>((std::max(most, warm) - warm) >> 20));
  EXPECT_LT(most, warm + kKeptBytes + (uint64_t{16} << 20));
  EXPECT_EQ(Sample("dotmax_query_rows_total "), 1'001'000);
}

TEST_F(SearchStreamTest, ADrainAnswersWhatHasBeenReadAndEndsIt) {
  for (const bool idle : {true, false}) {
    SCOPED_TRACE(idle);
    ASSERT_NO_FATAL_FAILURE(Serve({"--threads=1", "--drain-timeout=10m"}));
    grpc::ClientContext context;
    const auto stream = stub_->SearchStream(&context);
    v1::SearchResult result;
    ASSERT_TRUE(stream->Write(Request(1)));
    ASSERT_TRUE(stream->Read(&result));
    if (!idle) {
      // Of both the server knows when the small one has been answered.
      ASSERT_TRUE(stream->Write(Slow(2)));
      ASSERT_TRUE(stream->Write(Request(3)));
      ASSERT_TRUE(stream->Read(&result));
      ASSERT_EQ(result.tag(), 3u);
    }
    const absl::Time asked = absl::Now();
    server_->Signal(SIGTERM);
    ASSERT_TRUE(server_->AwaitOutput("\"event\":\"draining\""));
    if (!idle) {
      ASSERT_TRUE(stream->Read(&result));
      EXPECT_EQ(result.tag(), 2u);
      EXPECT_EQ(result.response().ids_size(), 1'500'000);
    }
    EXPECT_FALSE(stream->Read(&result));
    const WireError error = ErrorOf(stream->Finish());
    EXPECT_EQ(error.code, grpc::StatusCode::UNAVAILABLE);
    EXPECT_EQ(error.reason, "DRAINING");
    EXPECT_EQ(server_->AwaitExit(), 0);
    EXPECT_LT(absl::Now() - asked, absl::Minutes(9));  // it waited for no timeout
  }
}

// Streams at every point of their lives meet the drain.
TEST_F(SearchStreamTest, ADrainAmongManyStreams) {
  ASSERT_NO_FATAL_FAILURE(Serve({"--drain-timeout=1m"}));
  std::atomic<int> answered = 0, drained = 0, ended = 0;
  std::vector<std::thread> threads;
  for (int t = 0; t < 8; ++t) {
    threads.emplace_back([&, t] {
      for (;;) {
        grpc::ClientContext context;
        const auto stream = stub_->SearchStream(&context);
        v1::SearchResult result;
        for (int i = 0; i < t * 3; ++i) stream->Write(Request(i));
        if (t % 2 == 0) stream->WritesDone();
        for (int i = 0; i < t * 3 && stream->Read(&result); ++i) {
          EXPECT_TRUE(result.has_response()) << result.status().message();
          ++answered;
        }
        if (t % 2 == 1) stream->WritesDone();
        while (stream->Read(&result)) {
        }
        const grpc::Status status = stream->Finish();
        if (status.ok()) {
          ++ended;
          continue;
        }
        EXPECT_EQ(status.error_code(), grpc::StatusCode::UNAVAILABLE) << status.error_message();
        ++drained;
        return;
      }
    });
  }
  absl::SleepFor(absl::Milliseconds(300));
  server_->Signal(SIGTERM);
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(server_->AwaitExit(), 0);
  EXPECT_GT(answered, 100);
  EXPECT_GT(ended, 8);
  EXPECT_EQ(drained, 8);
}

TEST_F(SearchStreamTest, OneCallOfManyRequestsInMetricsAndInTheLog) {
  ASSERT_NO_FATAL_FAILURE(Serve({"--log-level=debug"}));
  const std::string labels =
      R"(grpc_method="SearchStream",grpc_service="dotmax.v1.Dotmax",grpc_type="bidi_stream"})";
  EXPECT_EQ(Sample(absl::StrCat("grpc_server_started_total{", labels, " ")), 0);
  std::vector<v1::SearchRequest> requests;
  for (uint64_t tag = 0; tag < 10; ++tag) requests.push_back(Request(tag, 3));
  requests[4].set_top_k(1'000'000);
  requests[7].set_collection("absent");
  std::multimap<uint64_t, v1::SearchResult> results;
  ASSERT_TRUE(Ask(requests, &results).ok());
  EXPECT_TRUE(server_->AwaitIdle());
  EXPECT_EQ(Sample(absl::StrCat("grpc_server_started_total{", labels, " ")), 1);
  EXPECT_EQ(Sample(absl::StrCat("grpc_server_handled_total{grpc_code=\"OK\",", labels, " ")), 1);
  EXPECT_EQ(Sample(absl::StrCat("grpc_server_handling_seconds_count{", labels, " ")), 1);
  EXPECT_EQ(Sample("dotmax_query_rows_total "), 24);
  EXPECT_EQ(Sample("dotmax_search_compute_seconds_count "), 8);
  const std::string output = server_->output();
  const size_t at = output.find("\"method\":\"SearchStream\"");
  ASSERT_NE(at, output.npos) << output;
  EXPECT_EQ(output.find("\"method\":\"SearchStream\"", at + 1), output.npos);
  const std::string line = output.substr(at, output.find('\n', at) - at);
  EXPECT_THAT(line, HasSubstr("\"code\":\"OK\""));
  EXPECT_THAT(line, HasSubstr("\"questions\":10,\"failed_questions\":2"));
}

TEST_F(SearchStreamTest, EachRequestMeetsItsTokenAndItsRate) {
  const std::string token = "dotmax_stream-0123456789abcdefghijklmnopqrst";
  const testing::TempDirectory directory;
  const std::string path = directory / "tokens";
  const Sha256Digest digest = Sha256(token);
  const std::string hash = absl::BytesToHexString(std::string(digest.begin(), digest.end()));
  const auto line = [&](const std::string& rest) { return absl::StrCat("web ", rest, "\n"); };
  const std::string other(64, 'a');
  testing::Replace(path, line(absl::StrCat("search ", hash, " 0.02")) + line("search " + other));
  ASSERT_NO_FATAL_FAILURE(Serve({absl::StrCat("--tokens-file=", path)}));

  const auto with_token = [&](grpc::ClientContext& context) {
    context.AddMetadata("authorization", absl::StrCat("Bearer ", token));
    return stub_->SearchStream(&context);
  };
  grpc::ClientContext context;
  const auto stream = with_token(context);
  v1::SearchResult result;
  ASSERT_TRUE(stream->Write(Request(1)));
  ASSERT_TRUE(stream->Read(&result));
  EXPECT_TRUE(result.has_response()) << result.status().message();
  ASSERT_TRUE(stream->Write(Request(2)));
  ASSERT_TRUE(stream->Read(&result));
  const WireError error = ErrorOf(result);
  EXPECT_EQ(result.tag(), 2u);
  EXPECT_EQ(error.code, grpc::StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_EQ(error.reason, "RATE_LIMITED");
  EXPECT_GT(error.retry_delay, absl::Seconds(1));

  // The token is taken back while the stream is open.
  testing::Replace(path, line("search " + other));
  ASSERT_TRUE(server_->AwaitOutput("\"event\":\"reloaded\""));
  ASSERT_TRUE(stream->Write(Request(3)));
  EXPECT_FALSE(stream->Read(&result));
  EXPECT_EQ(ErrorOf(stream->Finish()).reason, "TOKEN_UNKNOWN");

  testing::Replace(path, line(absl::StrCat("admin ", hash)));
  ASSERT_TRUE(server_->AwaitIdle());
  std::string reason;
  const absl::Time patience = absl::Now() + ServerProcess::kPatience;
  do {
    absl::SleepFor(absl::Milliseconds(50));
    grpc::ClientContext refused;
    reason = ErrorOf(with_token(refused)->Finish()).reason;
  } while (reason != "SCOPE_MISSING" && absl::Now() < patience);
  EXPECT_EQ(reason, "SCOPE_MISSING");
}

}  // namespace
}  // namespace dotmax
