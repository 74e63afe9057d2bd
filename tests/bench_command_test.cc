// dotmax bench against a real server holding the sample: what it measures, and what it says of that.
#include <google/protobuf/struct.pb.h>
#include <google/protobuf/util/json_util.h>
#include <signal.h>

#include <fstream>
#include <future>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "absl/time/clock.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/command.h"
#include "tests/data.h"
#include "tests/server_process.h"

namespace dotmax {
namespace {

using ::testing::ContainsRegex;
using ::testing::HasSubstr;
using testing::NpyFile;
using testing::Ran;
using testing::RunCommand;
using testing::ServerProcess;
using testing::Shell;

const char kSample[] = DOTMAX_SOURCE_DIR "/deploy/sample/glove-10k.npy";
constexpr int kSampleRows = 10'000;
const char kShort[] = " --warmup=100ms --duration=400ms";

// JSON by protobuf's parser, not ours.
class Json {
 public:
  static Json Parse(const std::string& text) {
    Json json;
    const auto status = google::protobuf::util::JsonStringToMessage(text, &json.value_);
    EXPECT_TRUE(status.ok()) << text;
    return json;
  }

  Json operator[](const std::string& name) const {
    const auto& fields = value_.struct_value().fields();
    const auto at = fields.find(name);
    if (at != fields.end()) return Json(at->second);
    ADD_FAILURE() << "there is no \"" << name << "\" in " << value_.ShortDebugString();
    return Json();
  }
  std::vector<Json> list() const {
    std::vector<Json> items;
    for (const google::protobuf::Value& value : value_.list_value().values()) items.push_back(Json(value));
    return items;
  }
  double number() const {
    EXPECT_EQ(value_.kind_case(), google::protobuf::Value::kNumberValue) << value_.ShortDebugString();
    return value_.number_value();
  }
  std::string text() const { return value_.string_value(); }
  bool null() const { return value_.kind_case() == google::protobuf::Value::kNullValue; }

 private:
  Json() = default;
  explicit Json(google::protobuf::Value value) : value_(std::move(value)) {}

  google::protobuf::Value value_;
};

std::string Bench(const ServerProcess& server, const std::string& arguments) {
  return absl::StrCat("bench --json --server=", server.grpc_address(), kShort, " ", arguments);
}

class BenchCommandTest : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    server_ = new ServerProcess({absl::StrCat("--matrix=", kSample)});
    ASSERT_TRUE(server_->AwaitListening()) << server_->output();
  }
  static void TearDownTestSuite() {
    delete server_;
    server_ = nullptr;
  }

  static Ran Run(const std::string& arguments) { return Shell(Bench(*server_, arguments)); }
  static Json Measure(const std::string& arguments) {
    const Ran ran = Run(arguments);
    EXPECT_EQ(ran.exit_code, 0) << ran.output;
    return Json::Parse(ran.output);
  }

  static ServerProcess* server_;
};

ServerProcess* BenchCommandTest::server_ = nullptr;

TEST_F(BenchCommandTest, AClosedLoopAndWhatTheServerSaysOfIt) {
  const Json json =
      Measure(absl::StrCat("--concurrency=8 --rows=3 --top-k=2 --metrics=127.0.0.1:", server_->http_port()));
  EXPECT_EQ(json["loop"].text(), "closed");
  EXPECT_EQ(json["concurrency"].number(), 8);
  EXPECT_EQ(json["collection"]["name"].text(), "glove-10k");
  EXPECT_EQ(json["seconds"].number(), 0.4);
  const double ok = json["requests"]["ok"].number();
  EXPECT_GT(ok, 8);
  EXPECT_EQ(json["requests"]["failed"].number(), 0);
  EXPECT_TRUE(json["errors"].list().empty());

  const Json latency = json["latency_seconds"];
  EXPECT_EQ(latency["count"].number(), ok);
  EXPECT_GT(latency["min"].number(), 0);
  double last = 0;
  for (const char* name : {"min", "p50", "p90", "p99", "p999", "max"}) {
    EXPECT_GE(latency[name].number(), last) << name;
    last = latency[name].number();
  }
  EXPECT_GT(latency["mean"].number(), latency["min"].number());

  // All but those in flight at either end.
  const Json per_second = json["per_second"];
  const double requests = per_second["requests"].number();
  EXPECT_NEAR(requests * 0.4, ok, 8 + 1e-6);
  EXPECT_NEAR(per_second["queries"].number(), 3 * requests, 1e-6);
  EXPECT_NEAR(per_second["pairs"].number(), 3.0 * kSampleRows * requests, 1);
  EXPECT_GT(per_second["request_bytes"].number(), 3 * 400 * requests);
  EXPECT_GT(per_second["reply_bytes"].number(), 3 * 2 * 8 * requests);
  EXPECT_GT(json["client_cpu_seconds_per_answer"].number(), 0);

  // Its window is a little later than ours.
  const Json server = json["server"];
  for (const char* name : {"queue_seconds", "compute_seconds", "total_seconds"}) {
    EXPECT_GT(server[name]["count"].number(), ok / 4) << name;
    EXPECT_LE(server[name]["p50"].number(), server[name]["p99"].number()) << name;
    EXPECT_LT(server[name]["mean"].number(), latency["max"].number()) << name;
  }
  EXPECT_GT(server["pairs_screened"].number(), kSampleRows * ok / 4);
  // All that survive may be rescored; either figure may be read while a pass is counted.
  EXPECT_GE(server["pairs_survived"].number(), 0.9 * server["pairs_rescored"].number());
  EXPECT_GE(server["pairs_rescored"].number(), 3 * ok / 4);
}

// Coordinated omission: all that were due while the server stood still are slow, not just the one that
// waited.
TEST_F(BenchCommandTest, AStallIsFeltByAllThatWereDue) {
  constexpr absl::Duration kStall = absl::Milliseconds(300);
  auto running = std::async(std::launch::async, [] {
    return Shell(absl::StrCat("bench --json --warmup=500ms --duration=3s --rate=200 --server=",
                              server_->grpc_address()));
  });
  absl::SleepFor(absl::Milliseconds(1500));
  server_->Signal(SIGSTOP);
  absl::SleepFor(kStall);
  server_->Signal(SIGCONT);
  const Ran ran = running.get();
  ASSERT_EQ(ran.exit_code, 0) << ran.output;
  const Json json = Json::Parse(ran.output);
  EXPECT_EQ(json["loop"].text(), "open");
  EXPECT_EQ(json["requests"]["ok"].number(), 600);
  EXPECT_EQ(json["requests"]["not_sent"].number(), 0);
  const Json latency = json["latency_seconds"];
  EXPECT_GE(latency["max"].number(), 0.29);
  // 60 of 600 were due during the stall, evenly: 5% waited for 150 ms or more.
  EXPECT_GT(latency["p99"].number(), 0.2);
  EXPECT_LT(latency["p50"].number(), 0.1);
  EXPECT_GT(latency["mean"].number(), 0.01);
  EXPECT_EQ(json["send_delay_seconds"]["count"].number(), 600);
  EXPECT_LT(json["send_delay_seconds"]["p99"].number(), 0.2);  // it was the server who was late
}

TEST_F(BenchCommandTest, ARateBeyondTheServersHasLatenciesThatGrow) {
  const Json alone = Measure("--rows=256");
  // So that the work of half a second takes some, however fast the server is, and nobody is refused.
  const int rate = static_cast<int>(15 * alone["per_second"]["requests"].number()) + 1;
  const Json flooded = Measure(absl::StrCat("--rows=256 --deadline=60s --rate=", rate));
  EXPECT_GT(flooded["latency_seconds"]["p50"].number(), 5 * alone["latency_seconds"]["p50"].number());
  // It answers what it can all the same.
  EXPECT_GT(flooded["per_second"]["requests"].number(), alone["per_second"]["requests"].number() / 5);
}

TEST_F(BenchCommandTest, WhatFindsNoRoomIsNotSent) {
  const Json json = Measure("--rate=50000 --max-outstanding=4 --rows=16");
  const Json requests = json["requests"];
  EXPECT_GT(requests["not_sent"].number(), 1000);
  EXPECT_GT(requests["ok"].number(), 4);
  EXPECT_EQ(requests["ok"].number() + requests["failed"].number() + requests["not_sent"].number(),
            0.4 * 50000);
}

TEST_F(BenchCommandTest, ErrorsAreCountedByCode) {
  const std::string queries = absl::StrCat(" --queries=", kSample);
  const Ran ran = Run("--collection=other" + queries + " 2>/dev/null");
  EXPECT_EQ(ran.exit_code, 3);
  const Json json = Json::Parse(ran.output);
  EXPECT_EQ(json["requests"]["ok"].number(), 0);
  EXPECT_TRUE(json["latency_seconds"]["p50"].null());
  ASSERT_EQ(json["errors"].list().size(), 1u);
  const Json error = json["errors"].list()[0];
  EXPECT_EQ(error["code"].text(), "NOT_FOUND");
  EXPECT_EQ(error["count"].number(), json["requests"]["failed"].number());
  EXPECT_GT(error["count"].number(), 1);
  EXPECT_EQ(error["first_message"].text(), "collection: there is no \"other\"; the server holds glove-10k");
  EXPECT_GT(error["latency_seconds"]["p99"].number(), 0);
  EXPECT_EQ(json["failed_latency_seconds"]["count"].number(), error["count"].number());
  EXPECT_THAT(Run("--collection=other" + queries).output,
              HasSubstr("}\ndotmax: collection: there is no \"other\""));

  const Ran late = Run("--rows=4096 --deadline=1ms 2>/dev/null");
  EXPECT_EQ(late.exit_code, 4);
  EXPECT_EQ(Json::Parse(late.output)["errors"].list()[0]["code"].text(), "DEADLINE_EXCEEDED");
}

TEST_F(BenchCommandTest, RefusalsAreApartFromAnswers) {
  const ServerProcess little({absl::StrCat("--matrix=", kSample), "--max-queue-requests=1"});
  ASSERT_TRUE(little.AwaitListening());
  const Ran ran = Shell(Bench(little, "--concurrency=16 --rows=64"));
  EXPECT_EQ(ran.exit_code, 0) << ran.output;
  const Json json = Json::Parse(ran.output);
  EXPECT_GT(json["requests"]["ok"].number(), 0);
  ASSERT_EQ(json["errors"].list().size(), 1u) << ran.output;
  const Json refused = json["errors"].list()[0];
  EXPECT_EQ(refused["code"].text(), "RESOURCE_EXHAUSTED");
  EXPECT_EQ(refused["count"].number(), json["requests"]["failed"].number());
  EXPECT_LT(refused["latency_seconds"]["p50"].number(), json["latency_seconds"]["p50"].number());
}

TEST_F(BenchCommandTest, AnswersAreVerified) {
  for (const std::string form : {"--rows=5 --top-k=3", "--rows=5 --top-k=3 --global", "--metric=cosine",
                                 "--rows=2 --metric=squared_euclidean --global --top-k=7"}) {
    const Json json = Measure(absl::StrCat(form, " --verify=0.25 --base=", kSample));
    EXPECT_EQ(json["verified"]["wrong"].number(), 0) << form;
    EXPECT_GT(json["verified"]["checked"].number(), json["requests"]["ok"].number() / 5) << form;
  }
  EXPECT_TRUE(Measure("")["verified"].null());
}

TEST_F(BenchCommandTest, AWrongAnswerIsExit1) {
  const NpyFile other(testing::RandomNormal(kSampleRows, 100, 5).view);
  const Ran ran = Run(absl::StrCat("--verify=1 --base=", other.path()));
  EXPECT_EQ(ran.exit_code, 1);
  EXPECT_THAT(ran.output, ContainsRegex("\ndotmax: [0-9]+ of [0-9]+ answers verified are wrong\n"));
  const Json verified = Json::Parse(ran.output.substr(0, ran.output.find('\n')))["verified"];
  EXPECT_GT(verified["wrong"].number(), 0);
  EXPECT_EQ(verified["wrong"].number(), verified["checked"].number());

  const NpyFile narrow(testing::RandomNormal(10, 99, 5).view);
  const Ran dim = Run(absl::StrCat("--verify=1 --base=", narrow.path()));
  EXPECT_EQ(dim.exit_code, 3);
  EXPECT_THAT(dim.output, HasSubstr("has dim 99"));
}

TEST_F(BenchCommandTest, EachConnectionIsOne) {
  auto running =
      std::async(std::launch::async, [] { return Run("--connections=5 --duration=2s --concurrency=5"); });
  absl::SleepFor(absl::Seconds(1));
  // A line of the system's tables: number, local and remote address:port, and state, in hexadecimal; 01 is
  // ESTABLISHED.
  const std::string port = absl::StrFormat(":%04X", server_->grpc_port());
  int established = 0;
  for (const char* table : {"tcp", "tcp6"}) {
    std::ifstream sockets(absl::StrCat("/proc/", server_->pid(), "/net/", table));
    for (std::string line; std::getline(sockets, line);) {
      const std::vector<std::string> fields = absl::StrSplit(line, ' ', absl::SkipEmpty());
      established += fields.size() > 3 && absl::EndsWith(fields[1], port) && fields[3] == "01";
    }
  }
  const Ran ran = running.get();
  EXPECT_EQ(ran.exit_code, 0) << ran.output;
  EXPECT_EQ(established, 5 + 1);  // and the one that asked for the collections
}

TEST_F(BenchCommandTest, TerminalsSeeATableAndHowItGoes) {
  const Ran ran =
      RunCommand(absl::StrCat("script -qec '$DOTMAX_BINARY bench --warmup=200ms --duration=1500ms --rate=100",
                              " --server=", server_->grpc_address(), "' /dev/null </dev/null"));
  EXPECT_EQ(ran.exit_code, 0) << ran.output;
  EXPECT_THAT(ran.output, ContainsRegex("\\[#+ *\\] +[0-9]+% [0-9]+ s  [0-9]+ answers/s, 0 failed"));
  EXPECT_THAT(ran.output, ContainsRegex("open loop: 100 requests due per second"));
  EXPECT_THAT(ran.output, ContainsRegex("milliseconds +count +min +p50 +p90 +p99 +p99.9 +max +mean"));
  EXPECT_THAT(ran.output, ContainsRegex("answered +150 +[0-9.]+ +[0-9.]+"));
  EXPECT_THAT(ran.output, ContainsRegex("sent late by +150 "));
  EXPECT_THAT(ran.output, HasSubstr("not sent: 0"));
}

TEST_F(BenchCommandTest, WrongFlagsAreNamedWithTheirValue) {
  for (const auto& [arguments, message] : std::vector<std::pair<std::string, std::string>>{
           {"--concurrency=0", "--concurrency: \"0\" is not an integer from 1 to 100000"},
           {"--rate=-1", "--rate: \"-1\" is not an integer from 0 to 10000000"},
           {"--rate=5 --concurrency=7", "--concurrency: 7 does not go with --rate=5"},
           {"--rows=0", "--rows: \"0\" is not"},
           {"--top-k=0", "--top-k: \"0\" is not"},
           {"--metric=dot", "--metric: \"dot\" is none of"},
           {"--duration=0s", "--duration: \"0\" is not above 0"},
           {"--deadline=25h", "--deadline: \"25h\" is not above 0 and at most 24h"},
           {"--warmup=25h", "--warmup: \"25h\" is not at most 24h"},
           {"--verify=2", "--verify: \"2\" is not a number from 0 to 1"},
           {"--verify=nan", "--verify: \"nan\" is not a number from 0 to 1"},
           {"--verify=0.5", "--verify: 0.5 needs --base=FILE"},
           {"--concurency=5", "did you mean --concurrency?"},
           {"extra", "unexpected argument extra"}}) {
    const Ran ran = Run(arguments);
    EXPECT_EQ(ran.exit_code, 2) << arguments << ran.output;
    EXPECT_THAT(ran.output, HasSubstr(message));
  }
}

TEST_F(BenchCommandTest, WrongInputIsExit3) {
  const NpyFile few(testing::RandomNormal(3, 100, 1).view);
  const Ran rows = Run(absl::StrCat("--rows=4 --queries=", few.path()));
  EXPECT_EQ(rows.exit_code, 3);
  EXPECT_THAT(rows.output, HasSubstr(absl::StrCat("--rows: 4, but ", few.path(), " has 3")));
  EXPECT_EQ(Run("--queries=absent.npy").exit_code, 3);
  EXPECT_EQ(Run("--verify=1 --base=absent.npy").exit_code, 3);
  EXPECT_THAT(Run("--collection=other").output,
              HasSubstr("--collection: the server has no collection \"other\""));
  EXPECT_EQ(Run("--metrics=nowhere").exit_code, 3);
}

TEST_F(BenchCommandTest, AnAbsentServerIsExit4) {
  EXPECT_EQ(Shell("bench --timeout=5s --server=127.0.0.1:1").exit_code, 4);
  const Ran ran = Run("--metrics=127.0.0.1:1");
  EXPECT_EQ(ran.exit_code, 4);
  EXPECT_EQ(ran.output, "dotmax: 127.0.0.1:1: no connection for /metrics\n");
}

}  // namespace
}  // namespace dotmax
