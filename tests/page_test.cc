// The page for people, over HTTP, of a real server; what its script makes of it: page_check.mjs.
#include "server/rpc/page.h"

#include <unistd.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "dotmax/client.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/base/errors.h"
#include "server/base/json.h"
#include "server/base/metrics.h"
#include "server/base/row_names.h"
#include "server/base/searcher.h"
#include "tests/command.h"
#include "tests/data.h"
#include "tests/server_process.h"

namespace dotmax {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using testing::Becomes;
using ::testing::HasSubstr;
using testing::HttpGet;
using testing::HttpReply;
using ::testing::IsEmpty;
using ::testing::Not;
using testing::NpyFile;
using testing::RunCommand;
using testing::ServerProcess;

// Rows with names, some of which are not nice.
const std::vector<std::string> kNames = {"king", "queen", "<b>&\"'", "two words", "über", "king", "100%"};

class PageTest : public ::testing::Test {
 protected:
  PageTest() : directory_(fs::path(::testing::TempDir()) / absl::StrCat("page_", getpid())) {
    fs::create_directories(directory_);
    Save("named", kNames);
  }
  ~PageTest() override { fs::remove_all(directory_); }

  // A matrix of seven rows, and names beside it.
  void Save(const std::string& name, const std::vector<std::string>& names) {
    const NpyFile file(testing::RandomNormal(7, 5, 3).view);
    fs::copy_file(file.path(), directory_ / (name + ".npy"), fs::copy_options::overwrite_existing);
    std::ofstream ids(directory_ / (name + ".ids"));
    for (const std::string& each : names) ids << each << "\n";
  }
  std::string Flag(const std::string& name) const {
    return absl::StrCat("--matrix=", (directory_ / (name + ".npy")).string());
  }

  const fs::path directory_;
};

// What /search.json says to a search by row `row`, taken from gRPC.
std::string Expected(const ServerProcess& server, uint64_t row, SearchOptions options) {
  const absl::StatusOr<Client> client = Client::Create({.target = server.grpc_address()});
  EXPECT_TRUE(client.ok());
  options.collection = "named";
  const auto result = client->SearchRows({.first = row, .rows = 1}, SelfPairs::kNotItself, options);
  EXPECT_TRUE(result.ok()) << result.status();
  std::string hits;
  for (size_t i = 0; i < result->ids.size(); ++i) {
    absl::StrAppend(&hits, i == 0 ? "" : ",", "{\"id\":", result->ids[i],
                    ",\"name\":", JsonString(kNames[result->ids[i]]),
                    ",\"score\":", JsonNumber(result->scores[i]), "}");
  }
  return absl::StrCat("\"hits\":[", hits, "]}\n");
}

TEST_F(PageTest, FilesComeWithWhatKeepsThemToThemselves) {
  const ServerProcess server({Flag("named")});
  ASSERT_TRUE(server.AwaitListening());
  for (const auto& [path, type] : {std::pair("/", "text/html"), std::pair("/page.css", "text/css"),
                                   std::pair("/page.js", "text/javascript")}) {
    const HttpReply reply = HttpGet(server.http_port(), path);
    EXPECT_EQ(reply.status, 200) << path;
    EXPECT_GT(reply.body.size(), 1000) << path;
    EXPECT_THAT(
        reply.headers,
        AllOf(HasSubstr(type), HasSubstr("Content-Security-Policy: default-src 'none'; script-src 'self';"),
              HasSubstr("frame-ancestors 'none'"), HasSubstr("X-Content-Type-Options: nosniff"),
              HasSubstr("Referrer-Policy: no-referrer")));
    EXPECT_EQ(HttpGet(server.http_port(), path, "POST").status, 405) << path;
    EXPECT_THAT(HttpGet(server.http_port(), path, "HEAD").body, IsEmpty()) << path;
  }
  // Inline code would be what the policy forbids.
  EXPECT_THAT(
      HttpGet(server.http_port(), "/").body,
      AllOf(HasSubstr("<script src=\"page.js\""), Not(HasSubstr("<style")), Not(HasSubstr(" onclick"))));
  EXPECT_EQ(HttpGet(server.http_port(), "/none").status, 404);
  EXPECT_EQ(HttpGet(server.http_port(), "/../../etc/passwd").status, 404);
  EXPECT_EQ(HttpGet(server.http_port(), "/healthz").body, "ok\n");
}

TEST_F(PageTest, SearchesAnswerAsGrpcDoes) {
  const ServerProcess server({Flag("named")});
  ASSERT_TRUE(server.AwaitListening());
  const auto search = [&](const std::string& query) {
    return HttpGet(server.http_port(), "/search.json?" + query);
  };
  EXPECT_THAT(search("word=king&top_k=3").body, AllOf(HasSubstr(R"({"query":"king","version":1,)"),
                                                      HasSubstr(Expected(server, 0, {.top_k = 3}))));
  EXPECT_THAT(search("collection=named&word=two+words&metric=cosine&top_k=100").body,
              HasSubstr(Expected(server, 3, {.top_k = 100, .metric = ScoreMetric::kCosine})));
  EXPECT_THAT(search("word=%C3%BCber&metric=squared_euclidean").body,
              HasSubstr(Expected(server, 4, {.top_k = 10, .metric = ScoreMetric::kSquaredEuclidean})));
  EXPECT_THAT(search("word=%3Cb%3E%26%22%27").body, HasSubstr(R"({"query":"<b>&\"'",)"));
  EXPECT_THAT(HttpGet(server.http_port(), "/metrics").body, HasSubstr("dotmax_query_rows_total 7"));
}

TEST_F(PageTest, WrongQuestionsAreToldWhatIsWrong) {
  Save("unnamed", {"too", "few"});
  const ServerProcess server({Flag("named"), Flag("unnamed")});
  ASSERT_TRUE(server.AwaitListening());
  EXPECT_THAT(server.output(),
              AllOf(HasSubstr("names_ignored"), HasSubstr("unnamed.ids: 2 names for 7 rows")));
  const auto expect = [&](int status, const std::string& query, const std::string& reason,
                          const std::string& what) {
    const HttpReply reply = HttpGet(server.http_port(), "/search.json?" + query);
    EXPECT_EQ(reply.status, status) << query;
    EXPECT_THAT(reply.headers, HasSubstr("application/json"));
    EXPECT_THAT(reply.body, AllOf(HasSubstr(absl::StrCat("\"reason\":\"", reason, "\"")), HasSubstr(what)));
  };
  expect(404, "collection=named&word=kings", "ROW_NOT_FOUND", "is named \\\"kings\\\"");
  expect(404, "collection=named", "ROW_NOT_FOUND", "is named \\\"\\\"");
  expect(404, "collection=none&word=king", "COLLECTION_NOT_FOUND", "\\\"none\\\"");
  expect(404, "word=king", "COLLECTION_NOT_FOUND", "there is no \\\"\\\"");
  expect(409, "collection=unnamed&word=too", "NO_NAMES", "\\\"unnamed\\\" have no names");
  expect(400, "collection=named&word=king&metric=dot", "UNKNOWN_METRIC", "\\\"dot\\\"");
  for (const char* top_k : {"0", "101", "-1", "x", ""}) {
    expect(400, absl::StrCat("collection=named&word=king&top_k=", top_k), "TOP_K_OUT_OF_RANGE", "1 to 100");
  }
  expect(400, "collection=named&word=king&metric=dot", "UNKNOWN_METRIC", "\"field\":\"metric\"");
  for (const char* name : {"word", "metric", "top_k", "collection"}) {
    const std::string query = absl::StrCat("/search.json?", name, "=", std::string(5000, '1'));
    EXPECT_EQ(HttpGet(server.http_port(), query).status, 400) << name;
  }
  const std::string collections = HttpGet(server.http_port(), "/collections.json").body;
  EXPECT_THAT(collections,
              AllOf(HasSubstr(R"("name":"named","version":1,"rows":7,"dim":5,"dtype":"float32")"),
                    HasSubstr("\"named\":true"), HasSubstr("\"named\":false")));
}

TEST_F(PageTest, FiguresNeedATokenWhenThereAreTokens) {
  const std::string tokens = directory_ / "tokens";
  const auto make = [&](const std::string& scopes) {
    const std::string made =
        RunCommand(absl::StrCat("$DOTMAX_BINARY token web --scopes=", scopes, " 2>>", tokens)).output;
    return made.substr(0, made.find('\n'));
  };
  const std::string search = make("search"), admin = make("admin");
  const ServerProcess server({Flag("named"), absl::StrCat("--tokens-file=", tokens)});
  ASSERT_TRUE(server.AwaitListening());
  const auto status = [&](const std::string& path, const std::string& token) {
    return HttpGet(server.http_port(), path, "GET", token).status;
  };
  for (const char* path : {"/collections.json", "/search.json?word=king"}) {
    EXPECT_EQ(status(path, ""), 401);
    EXPECT_EQ(status(path, "wrong"), 401);
    EXPECT_EQ(status(path, admin), 403);
    EXPECT_EQ(status(path, search), 200);
    EXPECT_THAT(HttpGet(server.http_port(), path).headers, HasSubstr("WWW-Authenticate: Bearer"));
  }
  EXPECT_EQ(status("/", ""), 200);
  EXPECT_EQ(status("/page.js", ""), 200);
  // Figures and searches, each with and without: as gRPC counts them.
  EXPECT_THAT(HttpGet(server.http_port(), "/metrics").body,
              AllOf(HasSubstr("dotmax_refused_total{reason=\"TOKEN_MISSING\"} 4"),
                    HasSubstr("dotmax_refused_total{reason=\"TOKEN_UNKNOWN\"} 2"),
                    HasSubstr("dotmax_refused_total{reason=\"SCOPE_MISSING\"} 2")));
}

TEST_F(PageTest, ItCanBeTurnedOff) {
  const ServerProcess server({Flag("named"), "--no-page"});
  ASSERT_TRUE(server.AwaitListening());
  for (const char* path : {"/", "/page.js", "/collections.json", "/search.json?word=king"}) {
    EXPECT_EQ(HttpGet(server.http_port(), path).status, 404) << path;
  }
  EXPECT_EQ(HttpGet(server.http_port(), "/metrics").status, 200);
}

TEST_F(PageTest, NamesAreThoseOfTheVersionThatIsSearched) {
  const ServerProcess server({Flag("named")});
  ASSERT_TRUE(server.AwaitListening());
  Save("named", {"a", "b", "c", "d", "e", "f", "g"});
  const absl::StatusOr<Client> client = Client::Create({.target = server.grpc_address()});
  ASSERT_TRUE(client->ReloadCollection("named").ok());
  EXPECT_EQ(HttpGet(server.http_port(), "/search.json?word=king").status, 404);
  EXPECT_EQ(HttpGet(server.http_port(), "/search.json?word=c").status, 200);
  ASSERT_TRUE(client->DropCollection("named").ok());
  EXPECT_EQ(HttpGet(server.http_port(), "/search.json?word=c").status, 404);
}

// Answers when it is told to: a search lasts as long as a test wants.
class Patient : public Searcher {
 public:
  void Search(Query query, Done done) override {
    absl::MutexLock lock(&mutex_);
    deadline_ = query.limits.deadline;
    waiting_.push_back(std::move(done));
  }
  void MaxOfPairs(PairsQuery, PairsDone done) override { done(absl::UnimplementedError("no pairs here")); }
  ResidentInfos Collections() const override {
    CollectionInfo info;
    info.name = "named";
    info.version = 1;
    info.rows = kNames.size();
    info.names = std::make_shared<const RowNames>(kNames);
    return std::make_shared<const std::vector<CollectionInfo>>(1, std::move(info));
  }

  void AwaitSearches(size_t count) {
    const auto are_waiting = [this, count]()
                                 ABSL_SHARED_LOCKS_REQUIRED(mutex_) { return waiting_.size() == count; };
    absl::MutexLock lock(&mutex_);
    mutex_.Await(absl::Condition(&are_waiting));
  }
  void AnswerAll(const absl::StatusOr<Answer>& answer) {
    std::vector<Done> waiting;
    {
      absl::MutexLock lock(&mutex_);
      waiting.swap(waiting_);
    }
    for (Done& done : waiting) done(answer);
  }
  absl::Time deadline() {
    absl::MutexLock lock(&mutex_);
    return deadline_;
  }

 private:
  absl::Mutex mutex_;
  std::vector<Done> waiting_ ABSL_GUARDED_BY(mutex_);
  absl::Time deadline_ ABSL_GUARDED_BY(mutex_);
};

// Those that search by the page hold threads of the HTTP server, which has others to serve.
TEST(PageLimitsTest, FewSearchAtOnce) {
  Patient searcher;
  Metrics metrics("test", "test");
  const Page page(&searcher, &metrics, nullptr);
  const Page::Request request = {.path = "/search.json", .parameters = {{"word", "king"}}};
  std::vector<Page::Reply> replies(Page::kMaxSearches);
  std::vector<std::thread> callers;
  for (Page::Reply& reply : replies) callers.emplace_back([&] { reply = page.Answer(request); });
  searcher.AwaitSearches(replies.size());

  const Page::Reply refused = page.Answer(request);
  EXPECT_EQ(refused.status, 429);
  EXPECT_EQ(refused.retry_after, "1");
  EXPECT_THAT(refused.body, AllOf(HasSubstr("RESOURCE_EXHAUSTED"), HasSubstr("QUEUE_FULL")));
  EXPECT_THAT(metrics.Text(), HasSubstr("dotmax_refused_total{reason=\"QUEUE_FULL\"} 1"));
  EXPECT_EQ(page.Answer({.path = "/collections.json"}).status, 200);

  searcher.AnswerAll(Answer());
  for (std::thread& caller : callers) caller.join();
  for (const Page::Reply& reply : replies) EXPECT_EQ(reply.status, 200) << reply.body;
  // There is room again.
  std::thread next([&] { replies[0] = page.Answer(request); });
  searcher.AwaitSearches(1);
  searcher.AnswerAll(Answer());
  next.join();
  EXPECT_EQ(replies[0].status, 200);
}

TEST(PageLimitsTest, ASearchEndsWithItsDeadline) {
  Patient searcher;
  Metrics metrics("test", "test");
  const Page page(&searcher, &metrics, nullptr);
  const absl::Time begin = absl::Now();
  Page::Reply reply;
  std::thread caller([&] {
    reply = page.Answer({.path = "/search.json", .parameters = {{"word", "king"}}});
  });
  searcher.AwaitSearches(1);
  EXPECT_GE(searcher.deadline(), begin + Page::kDeadline);
  EXPECT_LE(searcher.deadline(), absl::Now() + Page::kDeadline);
  searcher.AnswerAll(Error(absl::StatusCode::kDeadlineExceeded, "DEADLINE_UNREACHABLE", "too late"));
  caller.join();
  EXPECT_EQ(reply.status, 504);
  EXPECT_THAT(reply.body,
              AllOf(HasSubstr("DEADLINE_UNREACHABLE"), HasSubstr("too late"), Not(HasSubstr("\"field\""))));
}

}  // namespace
}  // namespace dotmax
