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
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/strings/str_cat.h"
#include "absl/types/span.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/data.h"
#include "tests/exact_answer.h"
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

// A question in the client's words and in the server's.
struct Form {
  std::string name;
  SearchOptions options;
  Selection selection;
};

// Of queries that `a` are, with bounds that leave a tenth of all pairs or, with kGlobal, a hundredth.
std::vector<Form> Forms(const MatrixView& a, const MatrixView& b) {
  std::vector<Form> forms;
  for (const auto& [client_metric, metric] : std::vector<std::pair<ScoreMetric, Metric>>{
           {ScoreMetric::kInnerProduct, Metric::kInnerProduct},
           {ScoreMetric::kCosine, Metric::kCosine},
           {ScoreMetric::kSquaredEuclidean, Metric::kSquaredEuclidean}}) {
    std::vector<double> merits;
    for (const Hit& hit :
         testing::ExactTopK(a, b, static_cast<uint32_t>(b.rows), Reduction::kPerRow, metric)) {
      merits.push_back(MeritOf(metric, hit.score));
    }
    std::sort(merits.rbegin(), merits.rend());
    for (const bool global : {false, true}) {
      const double bound = MeritOf(metric, merits[merits.size() / (global ? 100 : 10)]);
      for (const char* kind : {"top 3", "3 of a range", "all of a range", "count"}) {
        Form& form = forms.emplace_back();
        form.name = absl::StrCat(kind, global ? ", global, " : ", ", static_cast<int>(metric));
        form.options.metric = client_metric;
        form.options.global = global;
        form.options.top_k = 3;
        form.selection = {
            .top_k = 3, .reduction = global ? Reduction::kGlobal : Reduction::kPerRow, .metric = metric};
        if (kind != std::string("top 3")) {
          form.selection.bounds = {bound};
          (metric == Metric::kSquaredEuclidean ? form.options.max_score : form.options.min_score) = bound;
        }
        form.options.count_only = form.selection.count_only = kind == std::string("count");
        if (kind == std::string("all of a range")) {
          form.options.top_k = 0;
          form.selection.top_k = 1000;
          form.selection.tell_truncated = true;
        }
        // Some rows exclude more than a small message holds one hundred of.
        std::vector<uint64_t>& splits = form.options.exclude.row_splits;
        std::vector<uint64_t>& ids = form.options.exclude.ids;
        splits = {0};
        for (uint64_t i = 0; i < a.rows; ++i) {
          for (uint64_t n = 0; n < i % 7 * 10; ++n) ids.push_back(n * 13 % b.rows);
          splits.push_back(ids.size());
        }
        form.selection.excluded_splits = splits;
        form.selection.excluded = ids;
      }
    }
  }
  return forms;
}

void ExpectSame(const SearchResult& result, const Answer& expected) {
  ASSERT_EQ(result.ids.size(), expected.hits.size());
  for (size_t i = 0; i < expected.hits.size(); ++i) {
    EXPECT_EQ(result.ids[i], expected.hits[i].id);
    EXPECT_EQ(result.scores[i], expected.hits[i].score);
    if (!result.query_rows.empty()) {
      EXPECT_EQ(result.query_rows[i], expected.hits[i].query_row);
    }
  }
  EXPECT_EQ(result.row_splits, expected.row_splits);
  EXPECT_EQ(result.truncated, expected.truncated);
  EXPECT_EQ(result.counts, expected.counts);
  ASSERT_EQ(result.best.has_value(), expected.best.has_value());
  if (expected.best.has_value()) {
    EXPECT_EQ(result.best->query_row, expected.best->query_row);
    EXPECT_EQ(result.best->id, expected.best->id);
    EXPECT_EQ(result.best->score, expected.best->score);
  }
}

TEST_F(ClientTest, EveryFormInOneMessageAndInMany) {
  const SharedMatrix queries = testing::RandomNormal(24, kDim, 3);
  const Rows a = RowsOf(queries, ElementType::kFloat32);
  const Rows b = RowsOf(base_, ElementType::kFloat32);
  const Client client = Connect();
  const Client small = Connect({.max_message_bytes = 5000});  // for 18 rows, fewer with exclusions
  for (const Form& form : Forms(queries.view, base_.view)) {
    SCOPED_TRACE(form.name);
    const Answer expected = testing::ExactAnswer(queries.view, base_.view, form.selection);
    for (const Client* const with : {&client, &small}) {
      const auto searched = with->Search(a, form.options);
      ASSERT_TRUE(searched.ok()) << searched.status();
      ExpectSame(*searched, expected);
      const auto sent = with->MaxInnerProduct(a, b, form.options);
      ASSERT_TRUE(sent.ok()) << sent.status();
      ExpectSame(*sent, expected);
    }
  }
}

TEST_F(ClientTest, RowsOfTheCollectionAsQueries) {
  const std::pair<SelfPairs, Selection::Self> selves[] = {
      {SelfPairs::kAll, Selection::Self::kAll},
      {SelfPairs::kNotItself, Selection::Self::kNotItself},
      {SelfPairs::kEachOnce, Selection::Self::kOnce}};
  const Client client = Connect();
  const Client small = Connect({.max_message_bytes = 5000});
  constexpr uint64_t kFirst = 488;
  const SharedMatrix queries = testing::Slice(base_, kFirst, 500 - kFirst);
  for (Form& form : Forms(queries.view, base_.view)) {
    if (form.selection.metric == Metric::kCosine) continue;  // slow to check, and the same as others here
    for (const auto& [self, expected_self] : selves) {
      form.selection.self = expected_self;
      form.selection.self_first = kFirst;
      const Answer expected = testing::ExactAnswer(queries.view, base_.view, form.selection);
      for (const uint64_t rows : {uint64_t{0}, 500 - kFirst}) {
        SCOPED_TRACE(absl::StrCat(form.name, ", self ", static_cast<int>(self), ", rows ", rows));
        for (const Client* const with : {&client, &small}) {
          const auto result = with->SearchRows({.first = kFirst, .rows = rows}, self, form.options);
          ASSERT_TRUE(result.ok()) << result.status();
          ExpectSame(*result, expected);
        }
      }
    }
  }
  const auto absent = client.SearchRows({.first = 501}, SelfPairs::kAll, {});
  EXPECT_EQ(absent.status().code(), absl::StatusCode::kOutOfRange);
  EXPECT_EQ(client.SearchRows({.collection = "none"}, SelfPairs::kAll, {}).status().code(),
            absl::StatusCode::kNotFound);
}

// More pairs are within the range than a reply holds: what comes is the best of all, and says so.
TEST_F(ClientTest, ARangeThatIsCutShortKeepsTheBest) {
  const ServerProcess little({"--matrix=" + file_.path(), "--max-top-k=30"});
  ASSERT_TRUE(little.AwaitListening());
  const SharedMatrix queries = testing::RandomNormal(60, kDim, 3);
  const Selection selection = {.top_k = 10'000, .reduction = Reduction::kGlobal, .bounds = {0}};
  const Answer all = testing::ExactAnswer(queries.view, base_.view, selection);
  for (const size_t message_bytes : {5000, 1 << 20}) {
    const Client client =
        *Client::Create({.target = little.grpc_address(), .max_message_bytes = message_bytes});
    const auto result =
        client.Search(RowsOf(queries, ElementType::kFloat32), {.top_k = 0, .global = true, .min_score = 0});
    ASSERT_TRUE(result.ok()) << result.status();
    EXPECT_THAT(result->truncated, ElementsAre(true));
    ASSERT_GE(result->ids.size(), 30u);
    for (size_t i = 0; i < result->ids.size(); ++i) {
      EXPECT_EQ(result->ids[i], all.hits[i].id);
      EXPECT_EQ(result->query_rows[i], all.hits[i].query_row);
    }
  }
}

TEST_F(ClientTest, PairsInOneMessageAndInMany) {
  std::vector<SharedMatrix> matrices;
  std::vector<RowsPair> pairs;
  for (int p = 0; p < 60; ++p) {
    const uint32_t dim = 1 + p % 9;
    // Some of no rows, some larger than a small message.
    matrices.push_back(testing::RandomNormal(p % 4, dim, 2 * p));
    matrices.push_back(testing::RandomNormal(p % 20 == 13 ? 700 : p % 11, dim, 2 * p + 1, DType::kInt8));
    pairs.push_back(
        {RowsOf(matrices[2 * p], ElementType::kFloat32), RowsOf(matrices[2 * p + 1], ElementType::kInt8)});
  }
  for (const size_t message_bytes : {5000, 64 << 20}) {
    const Client client = Connect({.max_message_bytes = message_bytes});
    for (const auto& [client_metric, metric] :
         {std::pair(ScoreMetric::kInnerProduct, Metric::kInnerProduct),
          std::pair(ScoreMetric::kSquaredEuclidean, Metric::kSquaredEuclidean)}) {
      const auto result = client.MaxOfPairs(pairs, {.metric = client_metric});
      ASSERT_TRUE(result.ok()) << result.status();
      size_t at = 0;
      std::optional<std::pair<uint64_t, double>> best;
      for (uint64_t p = 0; p < pairs.size(); ++p) {
        const std::vector<Hit> top =
            testing::ExactTopK(matrices[2 * p].view, matrices[2 * p + 1].view, 1, Reduction::kGlobal, metric);
        if (top.empty()) continue;
        ASSERT_LT(at, result->pairs.size());
        EXPECT_EQ(result->pairs[at], p);
        EXPECT_EQ(result->query_rows[at], top[0].query_row);
        EXPECT_EQ(result->ids[at], top[0].id);
        EXPECT_EQ(result->scores[at], top[0].score);
        if (!best.has_value() || MeritOf(metric, top[0].score) > MeritOf(metric, best->second)) {
          best = {p, top[0].score};
        }
        ++at;
      }
      EXPECT_EQ(result->pairs.size(), at);
      ASSERT_TRUE(result->best.has_value());
      EXPECT_EQ(result->best->pair, best->first);
      EXPECT_EQ(result->best->score, best->second);
    }
  }
  EXPECT_FALSE(Connect().MaxOfPairs({})->best.has_value());
  pairs[3].base.dim = 5;
  EXPECT_EQ(Connect().MaxOfPairs(absl::MakeSpan(pairs)).status().code(), absl::StatusCode::kInvalidArgument);
}

TEST_F(ClientTest, ABaseOfAnySizeIsStreamed) {
  const SharedMatrix a = testing::RandomNormal(2, 1024, 5);
  const SharedMatrix b = testing::RandomNormal(20'000, 1024, 6);  // 80 MB: beyond a message
  uint64_t told = 0, total = 0;
  SearchOptions options;
  options.progress = [&](uint64_t done, uint64_t of) {
    EXPECT_GT(done, told);
    told = done;
    total = of;
  };
  const auto result =
      Connect().MaxInnerProduct(RowsOf(a, ElementType::kFloat32), RowsOf(b, ElementType::kFloat32), options);
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(told, 2 * 20'000u);
  EXPECT_EQ(total, 2 * 20'000u);
  const Answer expected = testing::ExactAnswer(a.view, b.view, {});
  ExpectSame(*result, expected);
}

TEST_F(ClientTest, RefusalsOfAStreamKeepTheirDetails) {
  const SharedMatrix a = testing::RandomNormal(2, kDim + 1, 5);
  const auto result =
      Connect({.max_message_bytes = 5000})
          .MaxInnerProduct(RowsOf(a, ElementType::kFloat32), RowsOf(base_, ElementType::kFloat32));
  EXPECT_EQ(result.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(StatusReason(result.status()), "DIM_MISMATCH");
  EXPECT_THAT(std::string(result.status().message()), HasSubstr("message 1: base.dim: 12"));
}

// Batches of one row each, and one of another dim where `bad` says.
absl::Status Stream(const Client& client, const SharedMatrix& queries, std::optional<size_t> bad,
                    absl::FunctionRef<bool(uint64_t, absl::StatusOr<SearchResult>)> take) {
  const MatrixView& all = queries.view;
  size_t sent = 0;
  const auto next = [&]() -> std::optional<Rows> {
    if (sent == all.rows) return std::nullopt;
    const std::byte* const row = all.data + sent * kDim * sizeof(float);
    const uint32_t dim = sent++ == bad ? kDim / 2 : kDim;
    return Rows(row, dim * sizeof(float), dim, ElementType::kFloat32);
  };
  return client.SearchStream(next, take);
}

TEST_F(ClientTest, AStreamAnswersEveryBatch) {
  const Client client = Connect();
  const SharedMatrix queries = testing::RandomNormal(300, kDim, 8);
  const auto whole = client.Search(RowsOf(queries, ElementType::kFloat32));
  ASSERT_TRUE(whole.ok()) << whole.status();
  constexpr size_t kBad = 7;
  size_t taken = 0;
  const absl::Status status =
      Stream(client, queries, kBad, [&](uint64_t batch, const absl::StatusOr<SearchResult>& result) {
        ++taken;
        if (batch == kBad) {
          EXPECT_EQ(StatusReason(result.status()), "DIM_MISMATCH");
        } else {
          EXPECT_EQ(result->ids, std::vector<uint64_t>({whole->ids[batch]})) << batch;
          EXPECT_EQ(result->scores, std::vector<double>({whole->scores[batch]})) << batch;
        }
        return true;
      });
  EXPECT_TRUE(status.ok()) << status;
  EXPECT_EQ(taken, 300);
}

TEST_F(ClientTest, AStreamEndsWhenItsResultsAreNotWanted) {
  size_t taken = 0;
  const absl::Status status =
      Stream(Connect(), testing::RandomNormal(100000, kDim, 9), std::nullopt,
             [&](uint64_t /*batch*/, const absl::StatusOr<SearchResult>& /*result*/) { return ++taken < 5; });
  EXPECT_TRUE(status.ok()) << status;
  EXPECT_EQ(taken, 5);
}

TEST_F(ClientTest, AStreamFailsWithABatchThatCannotBeSent) {
  const std::vector<float> row(kDim);
  const absl::Status status = Connect().SearchStream(
      [&]() -> std::optional<Rows> {
        return Rows(row.data(), sizeof(float) * kDim - 1, kDim, ElementType::kFloat32);
      },
      [](uint64_t /*batch*/, const absl::StatusOr<SearchResult>& /*result*/) { return true; });
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(status.message(), HasSubstr("batch 0: 47 bytes"));
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
  const Rows row(absl::MakeConstSpan(queries).first(kDim), kDim);
  for (const std::vector<uint64_t>& splits :
       std::vector<std::vector<uint64_t>>{{}, {0}, {0, 1}, {1, 2}, {0, 2, 2}}) {
    EXPECT_EQ(Connect().Search(row, {.exclude = {splits, {3, 4}}}).status().code(),
              absl::StatusCode::kInvalidArgument);
  }
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

TEST_F(ClientTest, ASearchInPartsIsOfOneVersion) {
  const NpyFile file(base_.view);
  const ServerProcess server({absl::StrCat("--matrix=a=", file.path())});
  ASSERT_TRUE(server.AwaitListening());
  const auto client = Client::Create({.target = server.grpc_address(), .max_message_bytes = 5000});
  const std::vector<float> queries(100 * kDim, 1.0f);
  SearchOptions options;
  const auto first = client->Search(Rows(queries, kDim), options);
  ASSERT_TRUE(first.ok()) << first.status();
  EXPECT_EQ(first->version, 1u);

  // Reloaded between the first part and the second.
  int parts = 0;
  options.progress = [&](uint64_t, uint64_t) {
    if (++parts > 1) return;
    EXPECT_EQ(client->ReloadCollection("a")->version, 2u);
  };
  const absl::Status torn = client->Search(Rows(queries, kDim), options).status();
  EXPECT_EQ(torn.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(StatusReason(torn), "VERSION_MISMATCH");
  options = {};
  options.version = 2;
  EXPECT_EQ(client->Search(Rows(queries, kDim), options)->version, 2u);
}

TEST_F(ClientTest, ChangesSayHowFarTheyAreAndWhatIsThereThen) {
  const NpyFile file(base_.view);
  const ServerProcess server(
      {absl::StrCat("--matrix=a=", file.path()), absl::StrCat("--data-dir=", ::testing::TempDir())});
  ASSERT_TRUE(server.AwaitListening());
  const auto client = Client::Create({.target = server.grpc_address()});
  CollectionLoadOptions options;
  std::vector<LoadStage> stages;
  options.progress = [&](LoadStage stage, uint64_t done, uint64_t total) {
    EXPECT_LE(done, total);
    stages.push_back(stage);
  };
  const auto loaded = client->LoadCollection("b", file.path(), options);
  ASSERT_TRUE(loaded.ok()) << loaded.status();
  EXPECT_EQ(loaded->name, "b");
  EXPECT_EQ(loaded->rows, base_.view.rows);
  EXPECT_EQ(loaded->version, 2u);
  EXPECT_FALSE(stages.empty());
  const auto swapped = client->SwapCollections("a", "b");
  ASSERT_TRUE(swapped.ok()) << swapped.status();
  EXPECT_EQ(swapped->second.version, 4u);
  EXPECT_TRUE(client->DropCollection("b").ok());
  EXPECT_EQ(client->Describe()->collections.size(), 1u);
  EXPECT_EQ(StatusReason(client->DropCollection("b")), "COLLECTION_NOT_FOUND");
  EXPECT_EQ(StatusReason(client->LoadCollection("b", "/etc/passwd").status()), "PATH_NOT_ALLOWED");
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
