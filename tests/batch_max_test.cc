// BatchMaxInnerProduct and its stream of a real server: the best of each pair as the oracle says it.
#include "server/rpc/batch_max.h"

#include <signal.h>

#include <algorithm>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
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

using Request = v1::BatchMaxInnerProductRequest;
using Response = v1::BatchMaxInnerProductResponse;
using testing::Channel;
using ::testing::ElementsAre;
using testing::ErrorOf;
using ::testing::HasSubstr;
using testing::HttpGet;
using testing::MatrixOf;
using testing::NpyFile;
using testing::RandomNormal;
using testing::ServerProcess;
using testing::WireError;

using Pair = std::pair<SharedMatrix, SharedMatrix>;

// Of all dtypes and many shapes, some without rows, and some of them twice, so that bests tie.
std::vector<Pair> Pairs() {
  const DType dtypes[] = {DType::kFloat32, DType::kFloat16, DType::kBFloat16, DType::kFloat64, DType::kInt8};
  std::vector<Pair> pairs;
  for (int p = 0; p < 40; ++p) {
    const uint32_t dim = 1 + 7 * p % 50;
    const uint64_t rows_a = p % 5, rows_b = p * 3 % 17;
    pairs.emplace_back(RandomNormal(rows_a, dim, 2 * p, dtypes[p % 5]),
                       RandomNormal(rows_b, dim, 2 * p + 1, dtypes[p / 5 % 5]));
  }
  pairs.insert(pairs.end(), pairs.begin(), pairs.begin() + 40);
  return pairs;
}

Request RequestOf(const std::vector<Pair>& pairs, size_t first, size_t count, v1::Metric metric) {
  Request request;
  request.set_metric(metric);
  for (size_t p = first; p < first + count; ++p) {
    v1::MatrixPair* const pair = request.add_pairs();
    *pair->mutable_queries() = MatrixOf(pairs[p].first);
    *pair->mutable_base() = MatrixOf(pairs[p].second);
  }
  return request;
}

// Expects that `response` is the answer for pairs [first, first + count), its best of all before, too.
void ExpectExact(const Response& response, const std::vector<Pair>& pairs, size_t first, size_t count,
                 Metric metric) {
  std::vector<uint64_t> with_hits;
  std::vector<Hit> hits;
  std::optional<std::pair<uint64_t, Hit>> best;
  for (size_t p = 0; p < first + count; ++p) {
    const std::vector<Hit> top =
        testing::ExactTopK(pairs[p].first.view, pairs[p].second.view, 1, Reduction::kGlobal, metric);
    if (top.empty()) continue;
    if (!best.has_value() || MeritOf(metric, top[0].score) > MeritOf(metric, best->second.score)) {
      best = {p, top[0]};
    }
    if (p < first) continue;
    with_hits.push_back(p);
    hits.push_back(top[0]);
  }
  EXPECT_THAT(response.pairs(), ::testing::ElementsAreArray(with_hits));
  ASSERT_EQ(response.ids_size(), hits.size());
  ASSERT_EQ(response.query_rows_size(), hits.size());
  ASSERT_EQ(response.scores_size(), hits.size());
  for (size_t i = 0; i < hits.size(); ++i) {
    EXPECT_EQ(response.query_rows(i), hits[i].query_row);
    EXPECT_EQ(response.ids(i), hits[i].id);
    EXPECT_EQ(response.scores(i), hits[i].score);
  }
  ASSERT_EQ(response.has_best(), best.has_value());
  if (best.has_value()) {
    EXPECT_EQ(response.best().pair(), best->first);
    EXPECT_EQ(response.best().query_row(), best->second.query_row);
    EXPECT_EQ(response.best().id(), best->second.id);
    EXPECT_EQ(response.best().score(), best->second.score);
  }
}

class BatchMaxTest : public ::testing::Test {
 protected:
  void SetUp() override { Serve({}); }

  void Serve(std::vector<std::string> flags) {
    flags.push_back(absl::StrCat("--matrix=", file_.path()));
    server_ = std::make_unique<ServerProcess>(flags);
    ASSERT_TRUE(server_->AwaitListening());
    channel_ = Channel(server_->grpc_address());
    stub_ = v1::Dotmax::NewStub(channel_);
  }

  grpc::Status Ask(const Request& request, Response* response) {
    grpc::ClientContext context;
    return stub_->BatchMaxInnerProduct(&context, request, response);
  }

  const std::vector<Pair> pairs_ = Pairs();
  const NpyFile file_{RandomNormal(10, 4, 1).view};
  std::unique_ptr<ServerProcess> server_;
  std::shared_ptr<grpc::Channel> channel_;
  std::unique_ptr<v1::Dotmax::Stub> stub_;
};

TEST_F(BatchMaxTest, EveryMetricAsTheOracleSays) {
  for (const auto& [wire, metric] :
       std::vector<std::pair<v1::Metric, Metric>>{{v1::METRIC_UNSPECIFIED, Metric::kInnerProduct},
                                                  {v1::COSINE, Metric::kCosine},
                                                  {v1::SQUARED_EUCLIDEAN, Metric::kSquaredEuclidean}}) {
    SCOPED_TRACE(v1::Metric_Name(wire));
    Response response;
    const grpc::Status status = Ask(RequestOf(pairs_, 0, pairs_.size(), wire), &response);
    ASSERT_TRUE(status.ok()) << status.error_message();
    ExpectExact(response, pairs_, 0, pairs_.size(), metric);
  }
}

TEST_F(BatchMaxTest, NoPairsAndNoRowsHaveNoBest) {
  Response response;
  ASSERT_TRUE(Ask(Request(), &response).ok());
  EXPECT_FALSE(response.has_best());
  Request empty;
  empty.add_pairs();
  ASSERT_TRUE(Ask(empty, &response).ok());
  EXPECT_EQ(response.pairs_size(), 0);
  EXPECT_FALSE(response.has_best());
}

TEST_F(BatchMaxTest, WrongPairsAreNamed) {
  Request request = RequestOf(pairs_, 0, 20, v1::COSINE);
  *request.mutable_pairs(7)->mutable_base() = MatrixOf(RandomNormal(3, 3, 1));
  Response response;
  WireError error = ErrorOf(Ask(request, &response));
  EXPECT_EQ(error.code, grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(error.field, "pairs[7].base.dim");
  EXPECT_EQ(error.reason, "DIM_MISMATCH");
  request.mutable_pairs(6)->mutable_queries()->mutable_data()->push_back('x');
  EXPECT_EQ(ErrorOf(Ask(request, &response)).field, "pairs[6].queries.data");
  request.set_metric(static_cast<v1::Metric>(9));
  EXPECT_EQ(ErrorOf(Ask(request, &response)).field, "metric");
  grpc::Status status;
  for (const char* method : {"BatchMaxInnerProduct", "BatchMaxInnerProductStream"}) {
    testing::CallRaw(channel_, absl::StrCat("/dotmax.v1.Dotmax/", method), "\xff\xff\xff", &status);
    EXPECT_EQ(ErrorOf(status).reason, "MALFORMED_REQUEST");
  }
}

TEST_F(BatchMaxTest, AStreamCountsPairsOn) {
  for (const size_t per_message : {size_t{1}, size_t{7}, pairs_.size()}) {
    SCOPED_TRACE(per_message);
    grpc::ClientContext context;
    const auto stream = stub_->BatchMaxInnerProductStream(&context);
    // As fast as they are taken: answers come on the way.
    size_t read = 0;
    const auto expect_next = [&] {
      Response response;
      ASSERT_TRUE(stream->Read(&response)) << server_->output();
      const size_t count = std::min(per_message, pairs_.size() - read);
      ExpectExact(response, pairs_, read, count, Metric::kSquaredEuclidean);
      read += count;
    };
    for (size_t first = 0; first < pairs_.size(); first += per_message) {
      const size_t count = std::min(per_message, pairs_.size() - first);
      ASSERT_TRUE(stream->Write(RequestOf(pairs_, first, count, v1::SQUARED_EUCLIDEAN)));
      if (first / per_message % 3 == 2) {
        ASSERT_NO_FATAL_FAILURE(expect_next());
      }
    }
    stream->WritesDone();
    while (read < pairs_.size()) ASSERT_NO_FATAL_FAILURE(expect_next());
    Response none;
    EXPECT_FALSE(stream->Read(&none));
    const grpc::Status status = stream->Finish();
    EXPECT_TRUE(status.ok()) << status.error_message();
  }
}

TEST_F(BatchMaxTest, AStreamOfNothingIsDone) {
  grpc::ClientContext context;
  const auto stream = stub_->BatchMaxInnerProductStream(&context);
  stream->WritesDone();
  Response response;
  EXPECT_FALSE(stream->Read(&response));
  EXPECT_TRUE(stream->Finish().ok());
}

TEST_F(BatchMaxTest, TheFirstErrorEndsAStreamAfterTheAnswersBeforeIt) {
  Request wrong = RequestOf(pairs_, 0, 5, v1::COSINE);
  *wrong.mutable_pairs(3)->mutable_base() = MatrixOf(RandomNormal(3, 3, 1));
  const Request other_metric = RequestOf(pairs_, 0, 5, v1::INNER_PRODUCT);
  for (const auto& [request, field] : std::vector<std::pair<const Request*, std::string>>{
           {&wrong, "pairs[3].base.dim"}, {&other_metric, "metric"}}) {
    grpc::ClientContext context;
    const auto stream = stub_->BatchMaxInnerProductStream(&context);
    ASSERT_TRUE(stream->Write(RequestOf(pairs_, 0, 10, v1::COSINE)));
    ASSERT_TRUE(stream->Write(RequestOf(pairs_, 10, 10, v1::COSINE)));
    stream->Write(*request);
    stream->Write(RequestOf(pairs_, 20, 10, v1::COSINE));
    stream->WritesDone();
    Response response;
    ASSERT_TRUE(stream->Read(&response));
    ExpectExact(response, pairs_, 0, 10, Metric::kCosine);
    ASSERT_TRUE(stream->Read(&response));
    ExpectExact(response, pairs_, 10, 10, Metric::kCosine);
    EXPECT_FALSE(stream->Read(&response));
    const WireError error = ErrorOf(stream->Finish());
    EXPECT_EQ(error.code, grpc::StatusCode::INVALID_ARGUMENT) << error.message;
    EXPECT_EQ(error.field, field);
    EXPECT_THAT(error.message, ::testing::StartsWith(absl::StrCat("message 2: ", field)));
  }
  EXPECT_TRUE(server_->AwaitIdle());
}

// Who does not read is not read from: a stream holds a few requests, however many are sent.
TEST_F(BatchMaxTest, CallersThatLeaveOrDoNotReadAreForgotten) {
  const Request large = [] {
    Request request;
    for (int p = 0; p < 20'000; ++p) {
      *request.add_pairs()->mutable_queries() = MatrixOf(RandomNormal(1, 2, 1));
      *request.mutable_pairs(p)->mutable_base() = MatrixOf(RandomNormal(1, 2, 2));
    }
    return request;
  }();
  for (const int requests : {0, 1, 2, 3}) {
    for (const bool read : {false, true}) {
      grpc::ClientContext context;
      const auto stream = stub_->BatchMaxInnerProductStream(&context);
      for (int i = 0; i < requests; ++i) ASSERT_TRUE(stream->Write(large));
      Response response;
      if (read && requests > 0) {
        EXPECT_TRUE(stream->Read(&response));
      }
      context.TryCancel();
      EXPECT_EQ(stream->Finish().error_code(), grpc::StatusCode::CANCELLED);
    }
  }
  EXPECT_TRUE(server_->AwaitIdle());
  Response response;
  ASSERT_TRUE(Ask(RequestOf(pairs_, 0, 10, v1::COSINE), &response).ok());
  ExpectExact(response, pairs_, 0, 10, Metric::kCosine);
}

TEST_F(BatchMaxTest, ADrainLetsStreamsSayWhatTheyHaveToSay) {
  grpc::ClientContext context;
  const auto stream = stub_->BatchMaxInnerProductStream(&context);
  Response response;
  ASSERT_TRUE(stream->Write(RequestOf(pairs_, 0, 10, v1::COSINE)));
  ASSERT_TRUE(stream->Read(&response));
  server_->Signal(SIGTERM);
  ASSERT_TRUE(server_->AwaitOutput("\"event\":\"draining\""));
  Response late;
  EXPECT_EQ(ErrorOf(Ask(Request(), &late)).reason, "DRAINING");
  ASSERT_TRUE(stream->Write(RequestOf(pairs_, 10, 10, v1::COSINE)));
  stream->WritesDone();
  ASSERT_TRUE(stream->Read(&response));
  ExpectExact(response, pairs_, 10, 10, Metric::kCosine);
  EXPECT_FALSE(stream->Read(&response));
  EXPECT_TRUE(stream->Finish().ok());
  EXPECT_EQ(server_->AwaitExit(), 0);
}

TEST_F(BatchMaxTest, MetricsCountPairsOfMatrices) {
  Response response;
  ASSERT_TRUE(Ask(RequestOf(pairs_, 0, 10, v1::COSINE), &response).ok());
  grpc::ClientContext context;
  const auto stream = stub_->BatchMaxInnerProductStream(&context);
  ASSERT_TRUE(stream->Write(RequestOf(pairs_, 0, 5, v1::COSINE)));
  stream->WritesDone();
  ASSERT_TRUE(stream->Read(&response));
  EXPECT_FALSE(stream->Read(&response));
  ASSERT_TRUE(stream->Finish().ok());
  EXPECT_TRUE(server_->AwaitIdle());
  const std::string metrics = HttpGet(server_->http_port(), "/metrics").body;
  EXPECT_THAT(metrics, HasSubstr("\ndotmax_matrix_pairs_total 15\n"));
  EXPECT_THAT(metrics, HasSubstr("\ndotmax_query_rows_total 30\n"));
  EXPECT_THAT(metrics, HasSubstr("grpc_server_handled_total{grpc_code=\"OK\",grpc_method="
                                 "\"BatchMaxInnerProductStream\",grpc_service=\"dotmax.v1.Dotmax\","
                                 "grpc_type=\"bidi_stream\"} 1\n"));
  EXPECT_THAT(metrics, HasSubstr("grpc_server_handled_total{grpc_code=\"OK\",grpc_method="
                                 "\"BatchMaxInnerProduct\",grpc_service=\"dotmax.v1.Dotmax\","
                                 "grpc_type=\"unary\"} 1\n"));
}

}  // namespace
}  // namespace dotmax
