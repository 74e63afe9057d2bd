// Every form of the question, asked of a real server in every way that takes it: all say what the oracle
// does.
#include "server/rpc/search.h"

#include <algorithm>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/data.h"
#include "tests/exact_answer.h"
#include "tests/oracle.h"
#include "tests/server_process.h"
#include "tests/wire.h"

namespace dotmax {
namespace {

using testing::Channel;
using ::testing::ElementsAre;
using testing::ErrorOf;
using testing::ExactAnswer;
using testing::ExpectAnswer;
using ::testing::HasSubstr;
using testing::MatrixOf;
using testing::NpyFile;
using testing::RandomNormal;
using testing::ServerProcess;
using testing::Slice;
using testing::WireError;

constexpr uint32_t kDim = 6;
constexpr uint64_t kQueries = 5;
constexpr uint64_t kRows = 70;

// A question in words of the wire, and in ours. Both requests have these fields.
struct Form {
  std::string name;
  v1::SearchRequest request;  // without A and B
  Selection selection;
};

// The score that every fourth pair meets.
double Quartile(const MatrixView& a, const MatrixView& b, Metric metric) {
  std::vector<double> merits;
  for (uint64_t i = 0; i < a.rows; ++i) {
    for (uint64_t j = 0; j < b.rows; ++j) {
      merits.push_back(MeritOf(metric, testing::ExactScore(a, i, b, j, metric)));
    }
  }
  std::sort(merits.begin(), merits.end());
  return MeritOf(metric, merits[merits.size() * 3 / 4]);
}

std::vector<Form> Forms(const MatrixView& a, const MatrixView& b, uint32_t max_top_k) {
  const std::pair<v1::Metric, Metric> metrics[] = {{v1::INNER_PRODUCT, Metric::kInnerProduct},
                                                   {v1::COSINE, Metric::kCosine},
                                                   {v1::SQUARED_EUCLIDEAN, Metric::kSquaredEuclidean}};
  const std::pair<v1::Reduction, Reduction> reductions[] = {{v1::PER_ROW, Reduction::kPerRow},
                                                            {v1::GLOBAL, Reduction::kGlobal}};
  std::vector<Form> forms;
  for (const auto& [wire_metric, metric] : metrics) {
    const double bound = Quartile(a, b, metric);
    for (const auto& [wire_reduction, reduction] : reductions) {
      for (const char* kind : {"top 3", "3 of a range", "all of a range", "count"}) {
        for (const bool exclude : {false, true}) {
          Form& form = forms.emplace_back();
          form.name = absl::StrCat(v1::Metric_Name(wire_metric), ", ", v1::Reduction_Name(wire_reduction),
                                   ", ", kind, exclude ? ", with exclusions" : "");
          form.request.set_metric(wire_metric);
          form.request.set_reduction(wire_reduction);
          form.selection.metric = metric;
          form.selection.reduction = reduction;
          if (kind != std::string("top 3")) {
            form.selection.bounds = {bound};
            if (metric == Metric::kSquaredEuclidean) {
              form.request.set_max_score(bound);
            } else {
              form.request.set_min_score(bound);
            }
          }
          form.selection.tell_truncated = kind == std::string("all of a range");
          form.selection.count_only = kind == std::string("count");
          form.request.set_count_only(form.selection.count_only);
          if (form.selection.tell_truncated) form.selection.top_k = max_top_k;
          if (!form.selection.tell_truncated && !form.selection.count_only) {
            form.selection.top_k = 3;
            form.request.set_top_k(3);
          }
          if (!exclude) continue;
          // All but one row, none, some in the wrong order, and some that are not there.
          std::vector<std::vector<uint64_t>> excluded(a.rows);
          for (uint64_t id = 1; id < b.rows; ++id) excluded[0].push_back(id);
          for (uint64_t i = 2; i < a.rows; ++i) excluded[i] = {60 + i, 40, 7 * i, 2, 1'000'000};
          form.selection.excluded_splits.push_back(0);
          form.request.mutable_exclude()->add_row_splits(0);
          for (std::vector<uint64_t>& ids : excluded) {
            for (const uint64_t id : ids) form.request.mutable_exclude()->add_ids(id);
            form.request.mutable_exclude()->add_row_splits(form.request.exclude().ids_size());
            form.selection.excluded.insert(form.selection.excluded.end(), ids.begin(), ids.end());
            form.selection.excluded_splits.push_back(form.selection.excluded.size());
          }
        }
      }
    }
  }
  return forms;
}

// The same question about matrices that are sent.
v1::MaxInnerProductRequest OfTwoMatrices(const v1::SearchRequest& form) {
  v1::MaxInnerProductRequest request;
  request.set_top_k(form.top_k());
  request.set_reduction(form.reduction());
  request.set_metric(form.metric());
  if (form.has_min_score()) request.set_min_score(form.min_score());
  if (form.has_max_score()) request.set_max_score(form.max_score());
  request.set_count_only(form.count_only());
  if (form.has_exclude()) *request.mutable_exclude() = form.exclude();
  return request;
}

class SearchTest : public ::testing::Test {
 protected:
  static constexpr uint32_t kMaxTopK = 20;

  static void SetUpTestSuite() {
    server_ = new ServerProcess({absl::StrCat("--matrix=base=", Files().first.path()),
                                 absl::StrCat("--matrix=queries=", Files().second.path()),
                                 absl::StrCat("--max-top-k=", kMaxTopK)});
    ASSERT_TRUE(server_->AwaitListening());
    channel_ = new std::shared_ptr<grpc::Channel>(Channel(server_->grpc_address()));
  }
  static void TearDownTestSuite() {
    delete channel_;
    delete server_;
  }

  static const SharedMatrix& A() {
    static const auto* const a = new SharedMatrix(RandomNormal(kQueries, kDim, 1));
    return *a;
  }
  // Few values, so that scores tie.
  static const SharedMatrix& B() {
    static const auto* const b = [] {
      testing::Random random(2);
      std::vector<double> values(kRows * kDim);
      for (double& value : values) value = std::floor(random.Uniform() * 3) - 1;
      return new SharedMatrix(testing::MakeMatrix(values, kDim));
    }();
    return *b;
  }
  static const std::pair<NpyFile, NpyFile>& Files() {
    static const auto* const files = new std::pair<NpyFile, NpyFile>(B().view, A().view);
    return *files;
  }

  static std::unique_ptr<v1::Dotmax::Stub> Stub() { return v1::Dotmax::NewStub(*channel_); }

  static v1::SearchResponse Search(const v1::SearchRequest& request) {
    grpc::ClientContext context;
    v1::SearchResponse response;
    const grpc::Status status = Stub()->Search(&context, request, &response);
    EXPECT_TRUE(status.ok()) << status.error_message();
    return response;
  }

  static v1::SearchResponse MaxInnerProduct(const v1::MaxInnerProductRequest& request) {
    grpc::ClientContext context;
    v1::SearchResponse response;
    const grpc::Status status = Stub()->MaxInnerProduct(&context, request, &response);
    EXPECT_TRUE(status.ok()) << status.error_message();
    return response;
  }

  // A and B in parts of these many rows.
  static v1::SearchResponse Stream(v1::MaxInnerProductRequest start, uint64_t query_rows,
                                   uint64_t base_rows) {
    grpc::ClientContext context;
    v1::SearchResponse response;
    const auto stream = Stub()->MaxInnerProductStream(&context, &response);
    v1::MaxInnerProductStreamRequest message;
    *message.mutable_start() = std::move(start);
    stream->Write(message);
    for (uint64_t first = 0; first < kQueries; first += query_rows) {
      *message.mutable_queries() = MatrixOf(Slice(A(), first, std::min(query_rows, kQueries - first)));
      stream->Write(message);
    }
    for (uint64_t first = 0; message.start().collection().empty() && base_rows > 0 && first < kRows;
         first += base_rows) {
      *message.mutable_base() = MatrixOf(Slice(B(), first, std::min(base_rows, kRows - first)));
      stream->Write(message);
    }
    stream->WritesDone();
    const grpc::Status status = stream->Finish();
    EXPECT_TRUE(status.ok()) << status.error_message();
    return response;
  }

  static ServerProcess* server_;
  static std::shared_ptr<grpc::Channel>* channel_;
};

ServerProcess* SearchTest::server_ = nullptr;
std::shared_ptr<grpc::Channel>* SearchTest::channel_ = nullptr;

TEST_F(SearchTest, EveryFormInEveryWay) {
  for (Form& form : Forms(A().view, B().view, kMaxTopK)) {
    SCOPED_TRACE(form.name);
    const Answer expected = ExactAnswer(A().view, B().view, form.selection);
    {
      SCOPED_TRACE("Search");
      v1::SearchRequest request = form.request;
      request.set_collection("base");
      *request.mutable_queries() = MatrixOf(A());
      ExpectAnswer(Search(request), expected, form.selection);
      request.clear_queries();
      request.mutable_resident_queries()->set_collection("queries");
      ExpectAnswer(Search(request), expected, form.selection);
    }
    v1::MaxInnerProductRequest request = OfTwoMatrices(form.request);
    {
      SCOPED_TRACE("MaxInnerProductStream");
      ExpectAnswer(Stream(request, 1, 7), expected, form.selection);
      ExpectAnswer(Stream(request, kQueries, kRows), expected, form.selection);
      request.set_collection("base");
      ExpectAnswer(Stream(request, 2, 0), expected, form.selection);
      request.clear_collection();
    }
    SCOPED_TRACE("MaxInnerProduct");
    *request.mutable_queries() = MatrixOf(A());
    *request.mutable_base() = MatrixOf(B());
    ExpectAnswer(MaxInnerProduct(request), expected, form.selection);
  }
}

TEST_F(SearchTest, ResidentRowsMeetThemselves) {
  for (const v1::SelfPairs self : {v1::SELF_PAIRS_UNSPECIFIED, v1::NOT_ITSELF, v1::EACH_ONCE}) {
    for (Form& form : Forms(Slice(B(), 10, 7).view, B().view, kMaxTopK)) {
      SCOPED_TRACE(absl::StrCat(form.name, ", ", v1::SelfPairs_Name(self)));
      form.request.set_collection("base");
      form.request.mutable_resident_queries()->set_first(10);
      form.request.mutable_resident_queries()->set_rows(7);
      form.request.set_self_pairs(self);
      form.selection.self_first = 10;
      form.selection.self = self == v1::NOT_ITSELF  ? Selection::Self::kNotItself
                            : self == v1::EACH_ONCE ? Selection::Self::kOnce
                                                    : Selection::Self::kAll;
      const Answer expected = ExactAnswer(Slice(B(), 10, 7).view, B().view, form.selection);
      ExpectAnswer(Search(form.request), expected, form.selection);
    }
  }
}

TEST_F(SearchTest, DTypesMayDiffer) {
  const DType dtypes[] = {DType::kFloat32, DType::kFloat16, DType::kBFloat16, DType::kFloat64, DType::kInt8};
  const Selection selection = {.top_k = 2, .reduction = Reduction::kGlobal};
  for (const DType a_dtype : dtypes) {
    for (const DType b_dtype : dtypes) {
      SCOPED_TRACE(absl::StrCat(DTypeName(a_dtype), " × ", DTypeName(b_dtype)));
      const SharedMatrix a = RandomNormal(3, kDim, 3, a_dtype);
      const SharedMatrix b = RandomNormal(50, kDim, 4, b_dtype);
      v1::MaxInnerProductRequest request;
      request.set_top_k(2);
      request.set_reduction(v1::GLOBAL);
      *request.mutable_queries() = MatrixOf(a);
      *request.mutable_base() = MatrixOf(b);
      ExpectAnswer(MaxInnerProduct(request), ExactAnswer(a.view, b.view, selection), selection);
    }
  }
}

TEST_F(SearchTest, MatricesWithoutRows) {
  for (const auto& [rows_a, rows_b] : std::vector<std::pair<int, int>>{{0, 3}, {2, 0}, {0, 0}}) {
    for (const v1::Reduction reduction : {v1::PER_ROW, v1::GLOBAL}) {
      SCOPED_TRACE(absl::StrCat(rows_a, " × ", rows_b, v1::Reduction_Name(reduction)));
      v1::MaxInnerProductRequest request;
      request.set_reduction(reduction);
      *request.mutable_queries() = MatrixOf(Slice(A(), 0, rows_a));
      *request.mutable_base() = MatrixOf(Slice(B(), 0, rows_b));
      const v1::SearchResponse response = MaxInnerProduct(request);
      EXPECT_EQ(response.ids_size(), 0);
      EXPECT_FALSE(response.has_best());
      EXPECT_EQ(response.row_splits_size(), reduction == v1::PER_ROW ? rows_a + 1 : 0);
      v1::MaxInnerProductStreamRequest message;
      *message.mutable_start() = request;
      grpc::ClientContext context;
      v1::SearchResponse streamed;
      const auto stream = Stub()->MaxInnerProductStream(&context, &streamed);
      stream->Write(message);
      stream->WritesDone();
      const grpc::Status status = stream->Finish();
      EXPECT_TRUE(status.ok()) << status.error_message();
      EXPECT_EQ(streamed.row_splits_size(), response.row_splits_size());
      EXPECT_EQ(streamed.ids_size(), 0);
    }
  }
}

TEST_F(SearchTest, WhatCannotBeAskedIsRefused) {
  struct Case {
    std::string field;
    std::string reason;
    void (*spoil)(v1::SearchRequest* request);
  };
  const Case cases[] = {
      {"metric", "UNKNOWN_METRIC", [](auto* r) { r->set_metric(static_cast<v1::Metric>(9)); }},
      {"max_score", "BOUND_OF_ANOTHER_METRIC", [](auto* r) { r->set_max_score(1); }},
      {"count_only", "NO_RANGE", [](auto* r) { r->set_count_only(true); }},
      {"exclude.row_splits", "MALFORMED_SPLITS", [](auto* r) { r->mutable_exclude()->add_row_splits(0); }},
      {"queries", "TWO_QUERIES", [](auto* r) { r->mutable_resident_queries(); }},
      {"queries", "NO_QUERIES", [](auto* r) { r->clear_queries(); }},
      {"self_pairs", "NO_RESIDENT_QUERIES", [](auto* r) { r->set_self_pairs(v1::NOT_ITSELF); }},
  };
  for (const Case& wrong : cases) {
    SCOPED_TRACE(wrong.reason);
    v1::SearchRequest request;
    request.set_collection("base");
    *request.mutable_queries() = MatrixOf(A());
    wrong.spoil(&request);
    grpc::ClientContext context;
    v1::SearchResponse response;
    const WireError error = ErrorOf(Stub()->Search(&context, request, &response));
    EXPECT_EQ(error.code, grpc::StatusCode::INVALID_ARGUMENT) << error.message;
    EXPECT_EQ(error.field, wrong.field);
    EXPECT_EQ(error.reason, wrong.reason);
  }
}

TEST_F(SearchTest, ResidentRowsThatAreNotThere) {
  v1::SearchRequest request;
  request.set_collection("base");
  request.mutable_resident_queries()->set_first(kRows);
  request.mutable_resident_queries()->set_rows(1);
  grpc::ClientContext context, other;
  v1::SearchResponse response;
  WireError error = ErrorOf(Stub()->Search(&context, request, &response));
  EXPECT_EQ(error.code, grpc::StatusCode::OUT_OF_RANGE);
  EXPECT_EQ(error.reason, "ROWS_OUT_OF_RANGE");
  EXPECT_THAT(error.message, HasSubstr("70"));
  request.mutable_resident_queries()->set_collection("absent");
  error = ErrorOf(Stub()->Search(&other, request, &response));
  EXPECT_EQ(error.code, grpc::StatusCode::NOT_FOUND) << error.message;
}

TEST_F(SearchTest, TheTwoMatricesOfARequestMustFit) {
  v1::MaxInnerProductRequest request;
  *request.mutable_queries() = MatrixOf(A());
  *request.mutable_base() = MatrixOf(RandomNormal(2, kDim + 1, 1));
  grpc::ClientContext context;
  v1::SearchResponse response;
  const WireError error = ErrorOf(Stub()->MaxInnerProduct(&context, request, &response));
  EXPECT_EQ(error.code, grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(error.field, "base.dim");
  EXPECT_EQ(error.message, "base.dim: 7, but queries.dim is 6");
  grpc::Status status;
  testing::CallRaw(*channel_, "/dotmax.v1.Dotmax/MaxInnerProduct", "\xff\xff\xff", &status);
  EXPECT_EQ(ErrorOf(status).reason, "MALFORMED_REQUEST");
}

}  // namespace
}  // namespace dotmax
