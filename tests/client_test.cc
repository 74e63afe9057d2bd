// The C++ client against a real server.
#include "dotmax/client.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/data.h"
#include "tests/oracle.h"
#include "tests/server_process.h"

namespace dotmax {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using testing::NpyFile;
using testing::ServerProcess;

constexpr uint32_t kDim = 12;

// A way to a server on 127.0.0.1 that is cut once: the first connection ends after kCutBytes from the client,
// in the middle of a request that is longer; the next ones stay.
class RelayCutOnce {
 public:
  // More than what opens an HTTP/2 connection, less than its first window of 64 KiB.
  static constexpr size_t kCutBytes = 16384;

  explicit RelayCutOnce(int server_port) : server_(Address(server_port)) {
    EXPECT_EQ(pipe2(stop_, O_CLOEXEC), 0);
    const sockaddr_in any = Address(0);
    EXPECT_EQ(bind(listener_, reinterpret_cast<const sockaddr*>(&any), sizeof(any)), 0);
    EXPECT_EQ(listen(listener_, 8), 0);
    sockaddr_in bound = {};
    socklen_t size = sizeof(bound);
    EXPECT_EQ(getsockname(listener_, reinterpret_cast<sockaddr*>(&bound), &size), 0);
    target_ = absl::StrCat("127.0.0.1:", ntohs(bound.sin_port));
    thread_ = std::thread([this] { Run(); });
  }
  ~RelayCutOnce() { Stop(); }

  RelayCutOnce(const RelayCutOnce&) = delete;
  RelayCutOnce& operator=(const RelayCutOnce&) = delete;

  const std::string& target() const { return target_; }

  // Ends every connection. How many there were.
  int Stop() {
    if (thread_.joinable()) {
      close(stop_[1]);
      thread_.join();
      close(stop_[0]);
      close(listener_);
    }
    return connections_;
  }

 private:
  static sockaddr_in Address(int port) {
    sockaddr_in address = {};
    address.sin_family = AF_INET;
    address.sin_port = htons(static_cast<uint16_t>(port));
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    return address;
  }

  // Waits until `fd` has something; false when the relay is to stop.
  bool Await(int fd, int other_fd = -1) const {
    pollfd fds[] = {{stop_[0], POLLIN, 0}, {fd, POLLIN, 0}, {other_fd, POLLIN, 0}};
    return poll(fds, 3, -1) > 0 && fds[0].revents == 0;
  }

  void Run() {
    while (Await(listener_)) {
      const int client = accept4(listener_, nullptr, nullptr, SOCK_CLOEXEC);
      const int server = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
      EXPECT_EQ(connect(server, reinterpret_cast<const sockaddr*>(&server_), sizeof(server_)), 0);
      ++connections_;
      size_t sent = 0;
      size_t received = 0;
      while (Await(client, server) && (connections_ > 1 || sent < kCutBytes) && Pass(client, server, &sent) &&
             Pass(server, client, &received)) {
      }
      close(client);
      close(server);
    }
  }

  // Passes on what has arrived, if anything; false at the end of the stream.
  static bool Pass(int from, int to, size_t* bytes) {
    char buffer[4096];
    const ssize_t got = recv(from, buffer, sizeof(buffer), MSG_DONTWAIT);
    if (got < 0) return errno == EAGAIN;
    *bytes += got;
    return got > 0 && send(to, buffer, got, MSG_NOSIGNAL) == got;
  }

  const sockaddr_in server_;
  const int listener_ = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  int stop_[2] = {-1, -1};  // a pipe, closed to stop
  std::string target_;
  int connections_ = 0;  // the thread's, until it has been joined
  std::thread thread_;   // last: it uses the rest
};

class ClientTest : public ::testing::Test {
 protected:
  ClientTest()
      : base_(testing::RandomNormal(500, kDim, 1)),
        file_(base_.view),
        server_({"--matrix=words=" + file_.path()}) {
    EXPECT_TRUE(server_.AwaitListening()) << server_.output();
  }

  Client Connect(ClientOptions options = {}) const {
    options.target = server_.grpc_address();
    return *Client::Create(options);
  }

  static Rows RowsOf(const SharedMatrix& matrix, ElementType type) {
    return Rows(matrix.view.data, matrix.view.bytes(), matrix.view.dim, type);
  }

  void ExpectExact(const SearchResult& result, const SharedMatrix& queries, uint32_t top_k,
                   bool global) const {
    const std::vector<Hit> expected =
        testing::ExactTopK(queries.view, base_.view, top_k, global ? Reduction::kGlobal : Reduction::kPerRow);
    ASSERT_EQ(result.ids.size(), expected.size());
    ASSERT_EQ(result.scores.size(), expected.size());
    for (size_t i = 0; i < expected.size(); ++i) {
      EXPECT_EQ(result.ids[i], expected[i].id);
      EXPECT_EQ(result.scores[i], expected[i].score);
      if (global) {
        EXPECT_EQ(result.query_rows[i], expected[i].query_row);
      }
    }
    if (!global) {
      ASSERT_EQ(result.query_count(), queries.view.rows);
      for (size_t i = 0; i < result.query_count(); ++i) EXPECT_EQ(result.end(i) - result.begin(i), top_k);
    }
    const Hit best = *std::min_element(expected.begin(), expected.end(), Better);
    ASSERT_TRUE(result.best.has_value());
    EXPECT_EQ(result.best->query_row, best.query_row);
    EXPECT_EQ(result.best->id, best.id);
    EXPECT_EQ(result.best->score, best.score);
    EXPECT_EQ(result.coverage, 1.0);
    EXPECT_GT(result.pairs_screened, 0);
    EXPECT_LE(result.pairs_screened, queries.view.rows * base_.view.rows);
  }

  const SharedMatrix base_;
  const NpyFile file_;
  const ServerProcess server_;
};

TEST_F(ClientTest, SearchOfEveryElementTypeIsExact) {
  const std::pair<DType, ElementType> types[] = {{DType::kFloat32, ElementType::kFloat32},
                                                 {DType::kFloat16, ElementType::kFloat16},
                                                 {DType::kBFloat16, ElementType::kBFloat16},
                                                 {DType::kFloat64, ElementType::kFloat64},
                                                 {DType::kInt8, ElementType::kInt8}};
  const Client client = Connect();
  for (const auto& [dtype, type] : types) {
    const SharedMatrix queries = testing::RandomNormal(7, kDim, 2, dtype);
    for (const bool global : {false, true}) {
      const auto result = client.Search(RowsOf(queries, type), {.top_k = 3, .global = global});
      ASSERT_TRUE(result.ok()) << result.status();
      ExpectExact(*result, queries, 3, global);
    }
  }
}

TEST_F(ClientTest, SpansOfFloats) {
  std::vector<float> queries(2 * kDim, 0.5f);
  const auto result = Connect().Search(Rows(absl::MakeConstSpan(queries), kDim));
  ASSERT_TRUE(result.ok()) << result.status();
  ExpectExact(*result, testing::MakeMatrix(std::vector<double>(2 * kDim, 0.5), kDim), 1, false);
}

TEST_F(ClientTest, QueriesBeyondOneMessageAreSplitAndJoined) {
  // 8 KiB messages: some 80 rows of queries each, or fewer where the replies are larger.
  const Client client = Connect({.max_message_bytes = 8192});
  const SharedMatrix queries = testing::RandomNormal(400, kDim, 3);
  for (const bool global : {false, true}) {
    const auto result = client.Search(RowsOf(queries, ElementType::kFloat32), {.top_k = 5, .global = global});
    ASSERT_TRUE(result.ok()) << result.status();
    ExpectExact(*result, queries, 5, global);
  }
}

TEST_F(ClientTest, QueriesAreSplitByTheLimitOfTheSearchToo) {
  const ServerProcess small({"--matrix=" + file_.path(), "--max-message-bytes=8192"});
  ASSERT_TRUE(small.AwaitListening());
  const Client client = *Client::Create({.target = small.grpc_address()});
  const SharedMatrix queries = testing::RandomNormal(400, kDim, 3);
  const Rows rows = RowsOf(queries, ElementType::kFloat32);
  EXPECT_EQ(client.Search(rows).status().code(), absl::StatusCode::kResourceExhausted);
  const auto server = client.Describe();
  ASSERT_TRUE(server.ok()) << server.status();
  EXPECT_EQ(server->max_message_bytes, 8192);
  const auto result = client.Search(rows, {.top_k = 5, .max_message_bytes = server->max_message_bytes});
  ASSERT_TRUE(result.ok()) << result.status();
  ExpectExact(*result, queries, 5, false);
}

TEST_F(ClientTest, ALargeRequestIsSentAgainWhenItsConnectionBreaks) {
  RelayCutOnce relay(server_.grpc_port());
  const Client client = *Client::Create({.target = relay.target()});
  // 480 KB: more than the 256 KiB that gRPC would keep on its own.
  const SharedMatrix queries = testing::RandomNormal(10000, kDim, 4);
  const auto result = client.Search(RowsOf(queries, ElementType::kFloat32));
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(relay.Stop(), 2);
  const auto direct = Connect().Search(RowsOf(queries, ElementType::kFloat32));
  ASSERT_TRUE(direct.ok()) << direct.status();
  EXPECT_EQ(result->ids, direct->ids);
  EXPECT_EQ(result->scores, direct->scores);
}

TEST_F(ClientTest, NoQueriesGiveAnEmptyResult) {
  const auto result = Connect().Search(Rows(absl::Span<const float>(), kDim), {.collection = "words"});
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_THAT(result->row_splits, ElementsAre(0));
  EXPECT_THAT(result->ids, IsEmpty());
  EXPECT_FALSE(result->best.has_value());
}

TEST_F(ClientTest, ServersErrorsKeepTheirDetails) {
  std::vector<float> queries(2 * kDim + 2, 0.5f);
  const auto result = Connect().Search(Rows(absl::MakeConstSpan(queries), kDim + 1));
  EXPECT_EQ(result.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(StatusReason(result.status()), "DIM_MISMATCH");
  const std::vector<FieldViolation> violations = StatusFieldViolations(result.status());
  ASSERT_EQ(violations.size(), 1);
  EXPECT_EQ(violations[0].field, "queries.dim");
  EXPECT_THAT(violations[0].description, HasSubstr("13"));
  EXPECT_THAT(violations[0].description, HasSubstr("12"));
}

TEST_F(ClientTest, WhatCannotBeSentIsRefusedHere) {
  std::vector<float> queries(kDim + 1);
  EXPECT_EQ(Connect().Search(Rows(absl::MakeConstSpan(queries), kDim)).status().code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(Client::Create({.target = ""}).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(Client::Create({.max_message_bytes = 10}).status().code(), absl::StatusCode::kInvalidArgument);
}

TEST_F(ClientTest, DescribeAndHealth) {
  const Client client = Connect();
  const auto server = client.Describe();
  ASSERT_TRUE(server.ok()) << server.status();
  ASSERT_EQ(server->collections.size(), 1);
  EXPECT_EQ(server->collections[0].name, "words");
  EXPECT_EQ(server->collections[0].rows, 500);
  EXPECT_EQ(server->collections[0].dim, kDim);
  EXPECT_EQ(server->collections[0].type, ElementType::kFloat32);
  EXPECT_GE(server->collections[0].resident_bytes, base_.view.bytes());
  EXPECT_FALSE(server->collections[0].screen.empty());
  EXPECT_EQ(server->max_top_k, 10000);
  EXPECT_TRUE(client.CheckHealth().ok());
}

TEST_F(ClientTest, ADeadlineThatHasPassedIsSaid) {
  std::vector<float> queries(kDim, 1.0f);
  EXPECT_EQ(Connect()
                .Search(Rows(absl::MakeConstSpan(queries), kDim), {.timeout = absl::ZeroDuration()})
                .status()
                .code(),
            absl::StatusCode::kDeadlineExceeded);
}

TEST(ClientWithoutServerTest, AnAbsentServerIsUnavailable) {
  // Port 1 is reserved and closed.
  const auto client = Client::Create({.target = "127.0.0.1:1"});
  ASSERT_TRUE(client.ok());
  EXPECT_EQ(client->CheckHealth().code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(client->Describe().status().code(), absl::StatusCode::kUnavailable);
}

}  // namespace
}  // namespace dotmax
