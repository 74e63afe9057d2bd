// The real server over real sockets: answers against the oracle, every wire error, health, reflection,
// metrics. How it starts and stops is in lifecycle_test.cc.
#include <grpcpp/create_channel.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <fstream>
#include <limits>
#include <map>
#include <memory>
#include <optional>
#include <regex>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "dotmax/v1/collections.grpc.pb.h"
#include "dotmax/v1/dotmax.grpc.pb.h"
#include "gmock/gmock.h"
#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"
#include "gtest/gtest.h"
#include "tests/data.h"
#include "tests/oracle.h"
#include "tests/server_process.h"
#include "tests/wire.h"

namespace dotmax {
namespace {

using testing::CallRaw;
using testing::Channel;
using ::testing::ElementsAre;
using testing::ErrorOf;
using testing::ExactTopK;
using ::testing::HasSubstr;
using testing::HttpGet;
using testing::HttpReply;
using testing::NpyFile;
using testing::RandomNormal;
using testing::SearchRequestOf;
using testing::ServerProcess;
using ::testing::UnorderedElementsAreArray;
using testing::WireError;

constexpr uint32_t kDim = 24;
constexpr uint64_t kRows = 300;
constexpr int kMaxTopK = 50;
constexpr int kMaxMessageBytes = 100'000;

constexpr DType kFileDTypes[] = {DType::kFloat32, DType::kFloat16, DType::kFloat64, DType::kInt8};
constexpr DType kAllDTypes[] = {DType::kFloat32, DType::kFloat16, DType::kBFloat16, DType::kFloat64,
                                DType::kInt8};

// One server for all tests, which are independent of each other.
class ServerTest : public ::testing::Test {
 protected:
  struct Shared {
    std::vector<SharedMatrix> bases;  // as kFileDTypes
    std::vector<std::unique_ptr<NpyFile>> files;
    std::unique_ptr<ServerProcess> server;
    std::shared_ptr<grpc::Channel> channel;
  };

  static void SetUpTestSuite() {
    shared_ = new Shared;
    std::vector<std::string> args = {absl::StrCat("--max-top-k=", kMaxTopK),
                                     absl::StrCat("--max-message-bytes=", kMaxMessageBytes)};
    for (const DType dtype : kFileDTypes) {
      shared_->bases.push_back(RandomNormal(kRows, kDim, 1 + static_cast<int>(dtype), dtype));
      shared_->files.push_back(std::make_unique<NpyFile>(shared_->bases.back().view));
      args.push_back(absl::StrCat("--matrix=", DTypeName(dtype), "=", shared_->files.back()->path()));
    }
    MatrixView empty;
    empty.dim = kDim;
    shared_->files.push_back(std::make_unique<NpyFile>(empty));
    args.push_back(absl::StrCat("--matrix=empty=", shared_->files.back()->path()));
    shared_->server = std::make_unique<ServerProcess>(args);
    ASSERT_TRUE(shared_->server->AwaitListening());
    shared_->channel = Channel(shared_->server->grpc_address());
  }
  static void TearDownTestSuite() {
    delete shared_;
    shared_ = nullptr;
  }

  ServerTest() : stub_(v1::Dotmax::NewStub(shared_->channel)) {}

  grpc::Status Search(const v1::SearchRequest& request, v1::SearchResponse* response) {
    grpc::ClientContext context;
    return stub_->Search(&context, request, response);
  }

  // What is wrong with `request`, in the server's eyes.
  WireError Refused(const v1::SearchRequest& request) {
    v1::SearchResponse response;
    return ErrorOf(Search(request, &response));
  }

  // A request that is right: 2 float32 rows for "float32".
  static v1::SearchRequest Good() {
    return SearchRequestOf("float32", RandomNormal(2, kDim, 99), /*top_k=*/3, v1::PER_ROW);
  }

  static std::string Metrics() { return HttpGet(shared_->server->http_port(), "/metrics").body; }

  static double Sample(const std::string& name) { return shared_->server->Sample(name); }

  static Shared* shared_;
  const std::unique_ptr<v1::Dotmax::Stub> stub_;
};

ServerTest::Shared* ServerTest::shared_ = nullptr;

TEST_F(ServerTest, EveryDTypeIsAnsweredAsTheOracleSays) {
  for (size_t b = 0; b < shared_->bases.size(); ++b) {
    for (const DType dtype : kAllDTypes) {
      for (const v1::Reduction reduction : {v1::PER_ROW, v1::GLOBAL}) {
        SCOPED_TRACE(absl::StrCat(DTypeName(dtype), " queries, ", DTypeName(kFileDTypes[b]), " rows, ",
                                  v1::Reduction_Name(reduction)));
        const SharedMatrix queries = RandomNormal(5, kDim, 17, dtype);
        v1::SearchResponse response;
        const grpc::Status status =
            Search(SearchRequestOf(DTypeName(kFileDTypes[b]), queries, 7, reduction), &response);
        ASSERT_TRUE(status.ok()) << status.error_message();

        const bool global = reduction == v1::GLOBAL;
        const std::vector<Hit> expected = ExactTopK(queries.view, shared_->bases[b].view, 7,
                                                    global ? Reduction::kGlobal : Reduction::kPerRow);
        ASSERT_EQ(response.ids_size(), expected.size());
        ASSERT_EQ(response.scores_size(), expected.size());
        ASSERT_EQ(response.query_rows_size(), global ? expected.size() : 0);
        for (size_t i = 0; i < expected.size(); ++i) {
          EXPECT_EQ(response.ids(i), expected[i].id);
          EXPECT_EQ(response.scores(i), expected[i].score);
          EXPECT_EQ(global ? response.query_rows(i) : expected[i].query_row, expected[i].query_row);
        }
        if (global) {
          EXPECT_EQ(response.row_splits_size(), 0);
        } else {
          EXPECT_THAT(response.row_splits(), ElementsAre(0, 7, 14, 21, 28, 35));
        }
        const Hit best = *std::min_element(expected.begin(), expected.end(), Better);
        EXPECT_EQ(response.best().query_row(), best.query_row);
        EXPECT_EQ(response.best().id(), best.id);
        EXPECT_EQ(response.best().score(), best.score);
        EXPECT_EQ(response.coverage(), 1.0);
        EXPECT_LE(response.stats().pairs_screened(), 5 * kRows);
        EXPECT_GT(response.stats().compute_seconds(), 0.0);
      }
    }
  }
}

TEST_F(ServerTest, ValuesAreAnsweredLikeTheSameBytes) {
  v1::SearchRequest request = Good();
  v1::SearchResponse by_bytes, by_values;
  ASSERT_TRUE(Search(request, &by_bytes).ok());
  const std::string data = request.queries().data();
  for (size_t i = 0; i < data.size(); i += sizeof(float)) {
    float value;
    std::memcpy(&value, data.data() + i, sizeof(value));
    request.mutable_queries()->add_values(value);
  }
  request.mutable_queries()->clear_data();
  request.mutable_queries()->clear_dtype();
  ASSERT_TRUE(Search(request, &by_values).ok());
  by_bytes.clear_stats();
  by_values.clear_stats();
  EXPECT_EQ(by_bytes.SerializeAsString(), by_values.SerializeAsString());
}

TEST_F(ServerTest, NoTopKMeansOneAndMoreThanThereAreMeansAll) {
  v1::SearchRequest request = Good();
  v1::SearchResponse response;
  request.clear_top_k();
  request.clear_reduction();
  ASSERT_TRUE(Search(request, &response).ok());
  EXPECT_THAT(response.row_splits(), ElementsAre(0, 1, 2));
}

TEST_F(ServerTest, NoQueryRowsGiveAnEmptyReply) {
  for (const v1::Reduction reduction : {v1::PER_ROW, v1::GLOBAL}) {
    v1::SearchRequest request;
    request.set_collection("float32");
    request.mutable_queries();
    request.set_reduction(reduction);
    v1::SearchResponse response;
    const grpc::Status status = Search(request, &response);
    ASSERT_TRUE(status.ok()) << status.error_message();
    EXPECT_EQ(response.ids_size(), 0);
    EXPECT_EQ(response.row_splits_size(), reduction == v1::PER_ROW ? 1 : 0);
    EXPECT_FALSE(response.has_best());
  }
}

TEST_F(ServerTest, AnEmptyCollectionGivesNoHits) {
  v1::SearchRequest request = Good();
  request.set_collection("empty");
  v1::SearchResponse response;
  const grpc::Status status = Search(request, &response);
  ASSERT_TRUE(status.ok()) << status.error_message();
  EXPECT_THAT(response.row_splits(), ElementsAre(0, 0, 0));
  EXPECT_FALSE(response.has_best());
  EXPECT_EQ(response.coverage(), 1.0);
}

TEST_F(ServerTest, EveryWrongFieldIsRefusedWithItsNameAndReason) {
  struct Case {
    const char* field;
    const char* reason;
    std::vector<std::string> words;  // in the message
    void (*spoil)(v1::SearchRequest* request);
  };
  const Case cases[] = {
      {"queries.dim",
       "DIM_MISMATCH",
       {"23", "24"},
       [](auto* r) { *r = SearchRequestOf("float32", RandomNormal(2, kDim - 1, 1), 1, v1::PER_ROW); }},
      {"queries.dim", "DIM_ZERO", {"2 rows"}, [](auto* r) { r->mutable_queries()->set_dim(0); }},
      {"queries.dim",
       "DIM_TOO_LARGE",
       {"65537", "65536"},
       [](auto* r) { r->mutable_queries()->set_dim(65537); }},
      {"queries.data",
       "WRONG_BYTE_COUNT",
       {"191", "192"},
       [](auto* r) { r->mutable_queries()->mutable_data()->pop_back(); }},
      {"queries.data", "MISSING_DATA", {"192"}, [](auto* r) { r->mutable_queries()->clear_data(); }},
      {"queries.values",
       "DATA_AND_VALUES",
       {"192", "1 number"},
       [](auto* r) { r->mutable_queries()->add_values(1); }},
      {"queries.values",
       "WRONG_VALUE_COUNT",
       {"1 value", "48"},
       [](auto* r) {
         r->mutable_queries()->clear_data();
         r->mutable_queries()->add_values(1);
       }},
      {"queries.dtype",
       "VALUES_ARE_FLOAT32",
       {"int8"},
       [](auto* r) {
         r->mutable_queries()->clear_data();
         r->mutable_queries()->set_dtype(v1::INT8);
         r->mutable_queries()->add_values(1);
       }},
      {"queries.dtype",
       "UNKNOWN_DTYPE",
       {"99"},
       [](auto* r) { r->mutable_queries()->set_dtype(static_cast<v1::DType>(99)); }},
      {"queries.data",
       "NOT_FINITE",
       {"row 1, column 2", "nan"},
       [](auto* r) {
         const float nan = std::nanf("");
         std::memcpy(r->mutable_queries()->mutable_data()->data() + (kDim + 2) * sizeof(nan), &nan,
                     sizeof(nan));
       }},
      {"queries.data",
       "NOT_FINITE",
       {"row 0, column 23", "-inf"},
       [](auto* r) {
         const float infinity = -std::numeric_limits<float>::infinity();
         std::memcpy(r->mutable_queries()->mutable_data()->data() + 23 * sizeof(infinity), &infinity,
                     sizeof(infinity));
       }},
      {"top_k", "TOP_K_TOO_LARGE", {"51", "50"}, [](auto* r) { r->set_top_k(kMaxTopK + 1); }},
      {"top_k",
       "REPLY_TOO_LARGE",
       {"100000"},
       [](auto* r) { *r = SearchRequestOf("float32", RandomNormal(900, kDim, 1), kMaxTopK, v1::PER_ROW); }},
      {"reduction",
       "UNKNOWN_REDUCTION",
       {"7"},
       [](auto* r) { r->set_reduction(static_cast<v1::Reduction>(7)); }},
  };
  for (const Case& wrong : cases) {
    SCOPED_TRACE(wrong.reason);
    v1::SearchRequest request = Good();
    wrong.spoil(&request);
    const WireError error = Refused(request);
    EXPECT_EQ(error.code, grpc::StatusCode::INVALID_ARGUMENT) << error.message;
    EXPECT_EQ(error.reason, wrong.reason);
    EXPECT_EQ(error.field, wrong.field);
    EXPECT_THAT(error.message, HasSubstr(wrong.field));
    for (const std::string& word : wrong.words) EXPECT_THAT(error.message, HasSubstr(word));
  }
}

TEST_F(ServerTest, AnUnknownCollectionIsNotFoundAndAnEmptyNameIsAmbiguous) {
  for (const char* name : {"nope", ""}) {
    v1::SearchRequest request = Good();
    request.set_collection(name);
    const WireError error = Refused(request);
    EXPECT_EQ(error.code, grpc::StatusCode::NOT_FOUND);
    EXPECT_EQ(error.reason, "COLLECTION_NOT_FOUND");
    EXPECT_THAT(error.message, HasSubstr("float16"));
  }
}

TEST_F(ServerTest, AScoreBeyondFloat64IsOutOfRange) {
  const SharedMatrix queries = testing::MakeMatrix(std::vector<double>(kDim, 1e308), kDim, DType::kFloat64);
  const WireError error = Refused(SearchRequestOf("int8", queries, 1, v1::PER_ROW));
  EXPECT_EQ(error.code, grpc::StatusCode::OUT_OF_RANGE) << error.message;
}

TEST_F(ServerTest, BytesThatAreNoRequestAreRefused) {
  for (const std::string& bytes : {std::string("\xff\xff\xff"), std::string("\x0a\x02\xff\xfe")}) {
    grpc::Status status;
    CallRaw(shared_->channel, "/dotmax.v1.Dotmax/Search", bytes, &status);
    const WireError error = ErrorOf(status);
    EXPECT_EQ(error.code, grpc::StatusCode::INVALID_ARGUMENT) << error.message;
    EXPECT_EQ(error.reason, "MALFORMED_REQUEST");
  }
  grpc::Status status;  // no bytes are a request: one without queries
  CallRaw(shared_->channel, "/dotmax.v1.Dotmax/Search", "", &status);
  EXPECT_EQ(ErrorOf(status).reason, "NO_QUERIES");
}

TEST_F(ServerTest, AMessageOverTheLimitIsRefusedWithTheLimit) {
  const WireError error = Refused(SearchRequestOf("float32", RandomNormal(2000, kDim, 1), 1, v1::GLOBAL));
  EXPECT_EQ(error.code, grpc::StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_THAT(error.message, HasSubstr(absl::StrCat(kMaxMessageBytes)));
}

TEST_F(ServerTest, AReplyJustUnderTheLimitArrives) {
  // The bound on replies of 50 hits per row is 501 bytes per row and 256 more.
  v1::SearchResponse response;
  const grpc::Status status =
      Search(SearchRequestOf("float32", RandomNormal(190, kDim, 1), kMaxTopK, v1::PER_ROW), &response);
  ASSERT_TRUE(status.ok()) << status.error_message();
  EXPECT_EQ(response.ids_size(), 190 * kMaxTopK);
  EXPECT_GT(response.ByteSizeLong(), 9 * kMaxMessageBytes / 10);
}

TEST_F(ServerTest, CollectionsAreListedWithTheirLimits) {
  const auto stub = v1::Collections::NewStub(shared_->channel);
  grpc::ClientContext context;
  v1::ListCollectionsResponse response;
  const grpc::Status status = stub->ListCollections(&context, {}, &response);
  ASSERT_TRUE(status.ok()) << status.error_message();
  std::vector<std::string> names;
  for (const v1::Collection& collection : response.collections()) names.push_back(collection.name());
  EXPECT_THAT(names, ElementsAre("empty", "float16", "float32", "float64", "int8"));
  const v1::Collection& float64 = response.collections(3);
  EXPECT_EQ(float64.rows(), kRows);
  EXPECT_EQ(float64.dim(), kDim);
  EXPECT_EQ(float64.dtype(), v1::FLOAT64);
  EXPECT_GE(float64.resident_bytes(), kRows * kDim * sizeof(double));
  EXPECT_FALSE(float64.screen().empty());
  EXPECT_EQ(response.limits().max_top_k(), kMaxTopK);
  EXPECT_EQ(response.limits().max_message_bytes(), kMaxMessageBytes);
}

TEST_F(ServerTest, EachServiceIsHealthy) {
  for (const char* service : {"", "dotmax.v1.Dotmax", "dotmax.v1.Collections"}) {
    EXPECT_EQ(testing::HealthOf(shared_->channel, service), "SERVING") << service;
  }
  EXPECT_EQ(testing::HealthOf(shared_->channel, "nobody"), "NOT_FOUND");
}

TEST_F(ServerTest, ReflectionListsTheServices) {
  grpc::Status status;
  const std::string list_services("\x3a\x01*", 3);  // ServerReflectionRequest{list_services: "*"}
  const std::string reply =
      CallRaw(shared_->channel, "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
              list_services, &status);
  EXPECT_TRUE(status.ok()) << status.error_message();
  EXPECT_THAT(reply, HasSubstr("dotmax.v1.Dotmax"));
  EXPECT_THAT(reply, HasSubstr("dotmax.v1.Collections"));
  EXPECT_THAT(reply, HasSubstr("grpc.health.v1.Health"));
  EXPECT_THAT(reply, HasSubstr("grpc.channelz.v1.Channelz"));
}

TEST_F(ServerTest, ChannelzKnowsTheServer) {
  grpc::Status status;  // GetServersRequest{}
  EXPECT_NE(CallRaw(shared_->channel, "/grpc.channelz.v1.Channelz/GetServers", "", &status), "");
  EXPECT_TRUE(status.ok()) << status.error_message();
}

TEST_F(ServerTest, MetricsCountRequestsByCodeAndWhatTheyCost) {
  const std::string labels = R"(grpc_method="Search",grpc_service="dotmax.v1.Dotmax",grpc_type="unary")";
  const std::string ok = absl::StrCat("grpc_server_handled_total{grpc_code=\"OK\",", labels, "}");
  const std::string not_found =
      absl::StrCat("grpc_server_handled_total{grpc_code=\"NOT_FOUND\",", labels, "}");
  const std::string count = absl::StrCat("grpc_server_handling_seconds_count{", labels, "}");
  const std::string started = absl::StrCat("grpc_server_started_total{", labels, "}");
  const std::vector<std::string> names = {ok,
                                          not_found,
                                          count,
                                          started,
                                          "dotmax_query_rows_total",
                                          "dotmax_pairs_screened_total",
                                          "dotmax_search_compute_seconds_count",
                                          "dotmax_search_queue_seconds_count"};
  std::vector<double> before;
  for (const std::string& name : names) before.push_back(Sample(name));
  const double survived = Sample("dotmax_pairs_survived_total");
  const double rescored = Sample("dotmax_pairs_rescored_total");

  v1::SearchResponse response;
  ASSERT_TRUE(Search(Good(), &response).ok());
  v1::SearchRequest unknown = Good();
  unknown.set_collection("nope");
  Refused(unknown);

  const double added[] = {1, 1, 2, 2, 2, 2.0 * kRows, 1, 1};
  for (size_t i = 0; i < names.size(); ++i) EXPECT_EQ(Sample(names[i]), before[i] + added[i]) << names[i];
  EXPECT_EQ(Sample("dotmax_pairs_survived_total"), survived + response.stats().pairs_survived());
  EXPECT_EQ(Sample("dotmax_pairs_rescored_total"), rescored + response.stats().pairs_rescored());
  EXPECT_EQ(Sample("dotmax_rpcs_in_flight"), 0);
  EXPECT_EQ(Sample("dotmax_resident_rows{collection=\"int8\"}"), kRows);
  EXPECT_GE(Sample("dotmax_resident_bytes{collection=\"int8\"}"), kRows * kDim);
  EXPECT_THAT(Metrics(), HasSubstr("dotmax_build_info{onednn=\""));
}

// The table of ARCHITECTURE.md, a line "NAME TYPE HELP" for each metric.
std::vector<std::string> DocumentedMetrics() {
  std::ifstream file(absl::StrCat(DOTMAX_SOURCE_DIR, "/ARCHITECTURE.md"));
  std::vector<std::string> metrics;
  bool within = false;
  for (std::string line; std::getline(file, line);) {
    if (absl::StartsWith(line, "## ")) within = line == "## Metrics";
    if (!within || !absl::StartsWith(line, "| `")) continue;
    const std::vector<std::string> cells = absl::StrSplit(line, " | ");
    EXPECT_EQ(cells.size(), 4u) << line;
    std::string help(absl::StripSuffix(cells[3], " |"));
    if (!cells[2].empty()) absl::StrAppend(&help, " {", cells[2], "}");
    metrics.push_back(absl::StrCat(cells[0].substr(3, cells[0].size() - 4), " ", cells[1], " ", help));
  }
  return metrics;
}

// The same of what the server shows.
std::vector<std::string> ShownMetrics(const std::string& text) {
  std::map<std::string, std::string> types, helps;
  for (const absl::string_view line : absl::StrSplit(text, '\n')) {
    const std::vector<std::string> words = absl::StrSplit(line, absl::MaxSplits(' ', 3));
    if (words.size() < 4 || words[0] != "#") continue;
    (words[1] == "TYPE" ? types : helps)[words[2]] = words[3];
  }
  EXPECT_EQ(types.size(), helps.size());
  std::vector<std::string> metrics;
  for (const auto& [name, type] : types) metrics.push_back(absl::StrCat(name, " ", type, " ", helps[name]));
  return metrics;
}

TEST_F(ServerTest, MetricsAreThoseOfTheirTable) {
  const std::vector<std::string> documented = DocumentedMetrics();
  EXPECT_GT(documented.size(), 20u);
  EXPECT_THAT(ShownMetrics(Metrics()), UnorderedElementsAreArray(documented));
}

TEST_F(ServerTest, SamplesHaveTheLabelsThatTheirHelpNames) {
  const std::regex help("# HELP (\\w+) .*?(?: \\{([^{}]*)\\})?"),
      sample("(\\w+?)(?:_bucket|_sum|_count)?(\\{.*\\})? .*");
  const std::regex label("[{,](\\w+)=\"");
  std::map<std::string, std::vector<std::string>> expected;  // by name
  const std::vector<std::string> lines = absl::StrSplit(Metrics(), '\n', absl::SkipEmpty());
  for (const std::string& line : lines) {
    std::smatch match;
    if (std::regex_match(line, match, help)) {
      expected[match[1]] = absl::StrSplit(match[2].str(), ", ", absl::SkipEmpty());
    } else if (line[0] != '#') {
      ASSERT_TRUE(std::regex_match(line, match, sample)) << line;
      ASSERT_TRUE(expected.contains(match[1])) << line;
      const std::string labels = match[2];
      std::vector<std::string> found;
      for (std::sregex_iterator at(labels.begin(), labels.end(), label), end; at != end; ++at) {
        if ((*at)[1] != "le") found.push_back((*at)[1]);
      }
      EXPECT_THAT(found, UnorderedElementsAreArray(expected[match[1]])) << line;
    }
  }
}

TEST_F(ServerTest, HttpAnswersWithTheRightTypes) {
  const int port = shared_->server->http_port();
  const HttpReply metrics = HttpGet(port, "/metrics");
  EXPECT_EQ(metrics.status, 200);
  EXPECT_THAT(metrics.headers, HasSubstr("Content-Type: text/plain; version=0.0.4; charset=utf-8"));
  EXPECT_EQ(HttpGet(port, "/healthz").status, 200);
  EXPECT_EQ(HttpGet(port, "/readyz").status, 200);
  EXPECT_THAT(HttpGet(port, "/readyz").headers, HasSubstr("Content-Type: text/plain; charset=utf-8"));
  EXPECT_EQ(HttpGet(port, "/none").status, 404);
  EXPECT_EQ(HttpGet(port, "/healthz", "POST").status, 405);
  const HttpReply head = HttpGet(port, "/metrics", "HEAD");
  EXPECT_EQ(head.status, 200);
  EXPECT_EQ(head.body, "");
}

}  // namespace
}  // namespace dotmax
