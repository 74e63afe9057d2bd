// What goes wrong around a server: callers that die, lie, stall or swarm, files and limits that change under
// it. After each fault it answers as before, exactly, and holds no more memory, files or threads than before.
#include <grpcpp/client_context.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/notification.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "dotmax/v1/collections.grpc.pb.h"
#include "dotmax/v1/dotmax.grpc.pb.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/base/process.h"
#include "server/rpc/acceptor.h"
#include "tests/certificates.h"
#include "tests/command.h"
#include "tests/data.h"
#include "tests/oracle.h"
#include "tests/server_process.h"
#include "tests/wire.h"

namespace dotmax {
namespace {

using testing::Becomes;
using testing::Channel;
using testing::CommandProcess;
using testing::ErrorOf;
using ::testing::HasSubstr;
using testing::HealthOf;
using testing::HttpGet;
using testing::HttpReply;
using testing::MatrixOf;
using testing::NpyFile;
using testing::ProcessUse;
using testing::RandomNormal;
using testing::SearchRequestOf;
using testing::ServerProcess;
using testing::Slice;
using testing::WireError;

constexpr uint64_t kRows = 200'000;
constexpr uint32_t kDim = 64;
constexpr uint32_t kTopK = 10;

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr double kSlowness = 10.0;
constexpr uint64_t kSlackBytes = uint64_t{1} << 40;  // they keep what was freed: nothing to be seen
#else
constexpr double kSlowness = 1.0;
constexpr uint64_t kSlackBytes = uint64_t{64}
                                 << 20;  // malloc's, a little for each thread, and the engine's scratch
#endif
constexpr uint64_t kSlackFds = 8;  // connections of those who look
constexpr uint64_t kSlackThreads = 8;

// The best of all pairs: float64 finds them, the oracle says what they are.
std::vector<Hit> BestPairs(const SharedMatrix& queries, const SharedMatrix& rows) {
  constexpr size_t kCandidates = 16;  // more than could be misplaced by float64
  std::vector<Hit> pairs;
  for (uint64_t i = 0; i < queries.view.rows; ++i) {
    const auto* const a = reinterpret_cast<const float*>(queries.view.row(i));
    for (uint64_t j = 0; j < rows.view.rows; ++j) {
      const auto* const b = reinterpret_cast<const float*>(rows.view.row(j));
      double score = 0.0;
      for (uint32_t d = 0; d < queries.view.dim; ++d) score += double{a[d]} * double{b[d]};
      pairs.push_back({score, i, j});
    }
    std::partial_sort(pairs.begin(), pairs.begin() + kCandidates, pairs.end(), Better);
    pairs.resize(kCandidates);
  }
  for (Hit& hit : pairs) hit.score = testing::ExactScore(queries.view, hit.query_row, rows.view, hit.id);
  std::sort(pairs.begin(), pairs.end(), Better);
  pairs.resize(kTopK);
  return pairs;
}

bool IsExact(const v1::SearchResponse& response, const std::vector<Hit>& expected) {
  if (response.ids_size() != static_cast<int>(expected.size())) return false;
  for (size_t i = 0; i < expected.size(); ++i) {
    if (response.ids(i) != expected[i].id || response.scores(i) != expected[i].score ||
        response.query_rows(i) != expected[i].query_row) {
      return false;
    }
  }
  return true;
}

// Whether each line of `text` is one of Prometheus' exposition format.
bool IsExposition(const std::string& text) {
  if (!absl::EndsWith(text, "\n") || !absl::StrContains(text, "\ndotmax_rpcs_in_flight ")) return false;
  for (const absl::string_view line : absl::StrSplit(text, '\n', absl::SkipEmpty())) {
    if (absl::StartsWith(line, "# HELP ") || absl::StartsWith(line, "# TYPE ")) continue;
    double value;
    if (line[0] == '#' || !absl::SimpleAtod(line.substr(line.rfind(' ') + 1), &value)) return false;
  }
  return true;
}

// Reads /metrics again and again while it exists, and expects that it can.
class Scraper {
 public:
  explicit Scraper(const ServerProcess& server) : thread_([this, &server] { Loop(server); }) {}
  ~Scraper() {
    stop_ = true;
    thread_.join();
    EXPECT_GT(scrapes(), 0);
  }

  int scrapes() const { return scrapes_; }

 private:
  void Loop(const ServerProcess& server) {
    while (!stop_) {
      const HttpReply reply = HttpGet(server.http_port(), "/metrics");
      ASSERT_EQ(reply.status, 200);
      EXPECT_THAT(reply.headers, HasSubstr(absl::StrCat("Content-Length: ", reply.body.size(), "\r\n")));
      EXPECT_TRUE(IsExposition(reply.body)) << reply.body;
      ++scrapes_;
      absl::SleepFor(absl::Milliseconds(20));
    }
  }

  std::atomic<bool> stop_{false};
  std::atomic<int> scrapes_{0};
  std::thread thread_;  // last: it uses the rest
};

// A server, what it holds, and what it should say.
struct Served {
  explicit Served(std::vector<std::string> flags) {
    std::filesystem::copy_file(file.path(), path);
    flags.push_back(absl::StrCat("--matrix=big=", path));
    flags.push_back(absl::StrCat("--matrix=small=", small_file.path()));
    server = std::make_unique<ServerProcess>(flags);
  }

  const testing::TempDirectory directory;
  const SharedMatrix rows = RandomNormal(kRows, kDim, 1);
  const SharedMatrix small_rows = RandomNormal(500, kDim, 2);
  const SharedMatrix queries = RandomNormal(3, kDim, 3);
  const std::vector<Hit> big_best = BestPairs(queries, rows);
  const std::vector<Hit> small_best = BestPairs(queries, small_rows);
  const NpyFile file{rows.view};
  const NpyFile small_file{small_rows.view};
  const std::string path = directory / "big.npy";
  std::unique_ptr<ServerProcess> server;
  std::shared_ptr<grpc::Channel> channel;
  ProcessUse level;
};

// One server takes all faults but those of mapped files, one after the other.
class FaultTest : public ::testing::Test {
 protected:
  static void SetUpTestSuite() { Start({}); }
  static void TearDownTestSuite() {
    delete served_;
    served_ = nullptr;
  }

  static void Start(const std::vector<std::string>& flags) {
    RaiseFileLimit();  // of this process, for the connections of which there are many
    served_ = new Served(flags);
    ASSERT_TRUE(server().AwaitListening());
    served_->channel = Channel(server().grpc_address());
    ExpectExact(served_->channel);
    served_->level = server().Use();
    ASSERT_GT(served_->level.anonymous_bytes, 0u);
  }

  void SetUp() override { scraper_.emplace(server()); }
  void TearDown() override {
    EXPECT_TRUE(server().AwaitIdle());
    ExpectExact(served_->channel);
    ExpectExact(Channel(server().grpc_address()));
    const int seen = scraper_->scrapes();
    EXPECT_TRUE(Becomes([&] { return scraper_->scrapes() > seen; }));
    scraper_.reset();
    const ProcessUse& level = served_->level;
    ProcessUse now;
    EXPECT_TRUE(Becomes([&] {
      now = server().Use();
      return now.anonymous_bytes <= level.anonymous_bytes + kSlackBytes &&
             now.open_fds <= level.open_fds + kSlackFds && now.threads <= level.threads + kSlackThreads;
    })) << now.anonymous_bytes
        << " bytes, " << now.open_fds << " files and " << now.threads << " threads, before "
        << level.anonymous_bytes << ", " << level.open_fds << " and " << level.threads;
    RecordProperty("bytes_above_level", static_cast<int64_t>(now.anonymous_bytes - level.anonymous_bytes));
  }

  static ServerProcess& server() { return *served_->server; }

  static WireError Search(const std::shared_ptr<grpc::Channel>& channel, const v1::SearchRequest& request,
                          v1::SearchResponse* response, absl::Duration timeout = absl::Minutes(1)) {
    grpc::ClientContext context;
    context.set_deadline(absl::ToChronoTime(absl::Now() + timeout));
    return ErrorOf(v1::Dotmax::NewStub(channel)->Search(&context, request, response));
  }
  static v1::SearchRequest Ask(const std::string& collection) {
    return SearchRequestOf(collection, served_->queries, kTopK, v1::GLOBAL);
  }
  static void ExpectExact(const std::shared_ptr<grpc::Channel>& channel) {
    for (const auto& [collection, expected] :
         {std::pair("big", &served_->big_best), std::pair("small", &served_->small_best)}) {
      v1::SearchResponse response;
      const WireError error = Search(channel, Ask(collection), &response);
      EXPECT_EQ(error.code, grpc::StatusCode::OK) << error.message;
      EXPECT_TRUE(IsExact(response, *expected)) << collection << "\n" << response.DebugString();
    }
  }

  static WireError Reload(const std::string& name, uint64_t* version) {
    grpc::ClientContext context;
    v1::ReloadCollectionRequest request;
    request.set_name(name);
    const auto stream = v1::Collections::NewStub(served_->channel)->ReloadCollection(&context, request);
    for (v1::LoadProgress message; stream->Read(&message);) *version = message.collection().version();
    return ErrorOf(stream->Finish());
  }

  static uint64_t Handled(const std::string& method, const std::string& type, const std::string& code) {
    return static_cast<uint64_t>(server().Sample(
        absl::StrCat("grpc_server_handled_total{grpc_code=\"", code, "\",grpc_method=\"", method,
                     "\",grpc_service=\"dotmax.v1.Dotmax\",grpc_type=\"", type, "\"}")));
  }
  static uint64_t Unreachable() {
    return static_cast<uint64_t>(server().Sample("dotmax_refused_total{reason=\"DEADLINE_UNREACHABLE\"}"));
  }

  // Processor seconds that the server takes for `work`, and half a second more.
  static double Cost(const std::function<void()>& work) {
    const double before = server().Use().cpu_seconds;
    work();
    absl::SleepFor(absl::Milliseconds(500));
    return server().Use().cpu_seconds - before;
  }

  // Waits until the server has worked for `seconds` since `start`.
  static void AwaitWork(double start, double seconds) {
    ASSERT_TRUE(Becomes([&] { return server().Use().cpu_seconds > start + seconds; }));
  }

  static Served* served_;
  std::optional<Scraper> scraper_;
};

Served* FaultTest::served_ = nullptr;

// Work that nobody waits for any more. What it would have cost is known from a part of it.
class UnwantedWorkTest : public FaultTest {
 protected:
  static constexpr uint64_t kPart = 2000;
  static constexpr double kLargeSeconds = 5.0;             // at least, of all
  static constexpr double kStopSeconds = 0.5 * kSlowness;  // at most, from the moment when nobody waits
  static constexpr double kBegun = 0.3;                    // more than to take a request

  // The collection's own rows against all of them, as far as `rows`: a question of a few bytes.
  static v1::SearchRequest Large(uint64_t rows) {
    v1::SearchRequest request;
    request.set_collection("big");
    request.mutable_resident_queries()->set_rows(rows);
    request.set_top_k(kTopK);
    return request;
  }

  static void ExpectLarge() {
    v1::SearchResponse response;
    const double cost = Cost(
        [&] { EXPECT_EQ(Search(served_->channel, Large(kPart), &response).code, grpc::StatusCode::OK); });
    EXPECT_GT(cost * kRows / kPart, kLargeSeconds);
  }
};

TEST_F(UnwantedWorkTest, StopsWhenTheCallerIsKilled) {
  ExpectLarge();
  const uint64_t cancelled = Handled("Search", "unary", "CANCELLED");
  const std::vector<std::string> search = {"search", absl::StrCat("--server=", server().grpc_address()),
                                           absl::StrCat("--queries=", served_->file.path()),
                                           "--collection=big", absl::StrCat("--top-k=", kTopK)};
  // While it starts, connects, sends, ...
  for (const int milliseconds : {20, 60, 100, 150}) {
    CommandProcess early(search);
    absl::SleepFor(absl::Milliseconds(milliseconds));
  }
  absl::SleepFor(absl::Milliseconds(500) * kSlowness);  // what they sent is still on its way
  EXPECT_TRUE(server().AwaitIdle());
  // ... and waits.
  const double start = server().Use().cpu_seconds;
  CommandProcess client(search);
  ASSERT_NO_FATAL_FAILURE(AwaitWork(start, 2 * kBegun));
  EXPECT_EQ(server().Sample("dotmax_rpcs_in_flight"), 1);
  EXPECT_LT(Cost([&] {
              client.Kill();
              EXPECT_TRUE(server().AwaitIdle());
            }),
            kStopSeconds);
  EXPECT_GT(Handled("Search", "unary", "CANCELLED"), cancelled);
}

TEST_F(UnwantedWorkTest, StopsWhenItIsCancelled) {
  ExpectLarge();
  const uint64_t cancelled = Handled("Search", "unary", "CANCELLED");
  const uint64_t expired = Handled("Search", "unary", "DEADLINE_EXCEEDED");
  const uint64_t refused = Unreachable();
  grpc::ClientContext context;
  v1::SearchResponse response;
  const double start = server().Use().cpu_seconds;
  std::thread caller([&] {
    EXPECT_EQ(v1::Dotmax::NewStub(served_->channel)->Search(&context, Large(kRows), &response).error_code(),
              grpc::StatusCode::CANCELLED);
  });
  AwaitWork(start, kBegun);
  EXPECT_LT(Cost([&] {
              context.TryCancel();
              caller.join();
              EXPECT_TRUE(server().AwaitIdle());
            }),
            kStopSeconds);
  EXPECT_EQ(Handled("Search", "unary", "CANCELLED"), cancelled + 1);
  EXPECT_EQ(Handled("Search", "unary", "DEADLINE_EXCEEDED"), expired);
  EXPECT_EQ(Unreachable(), refused);
}

// Nobody knows what a matrix costs that comes with the question. That the caller is stopped leaves the
// deadline to the server alone: otherwise the two would race.
TEST_F(UnwantedWorkTest, StopsWhenItsTimeIsUp) {
  const auto handled = [](const std::string& code) {
    return Handled("MaxInnerProductStream", "client_stream", code);
  };
  const uint64_t expired = handled("DEADLINE_EXCEEDED"), cancelled = handled("CANCELLED");
  const uint64_t refused = Unreachable();
  const double start = server().Use().cpu_seconds;
  const CommandProcess client({"max", served_->file.path(), served_->file.path(), "--per-row",
                               absl::StrCat("--top-k=", kTopK), "--timeout=3s",
                               absl::StrCat("--server=", server().grpc_address())});
  ASSERT_NO_FATAL_FAILURE(AwaitWork(start, 2 * kBegun));
  client.Signal(SIGSTOP);
  EXPECT_EQ(handled("DEADLINE_EXCEEDED"), expired);
  EXPECT_TRUE(Becomes([&] { return handled("DEADLINE_EXCEEDED") == expired + 1; }));
  EXPECT_LT(Cost([] {}), kStopSeconds);
  EXPECT_EQ(handled("CANCELLED"), cancelled);
  EXPECT_EQ(Unreachable(), refused);
}

TEST_F(UnwantedWorkTest, IsNotBegunWhenItsTimeIsTooShort) {
  ExpectLarge();  // and what it costs is known
  const uint64_t expired = Handled("Search", "unary", "DEADLINE_EXCEEDED");
  const uint64_t refused = Unreachable();
  EXPECT_LT(Cost([] {
              v1::SearchResponse response;
              EXPECT_EQ(Search(served_->channel, Large(kRows), &response, absl::Seconds(1)).reason,
                        "DEADLINE_UNREACHABLE");
            }),
            kStopSeconds);
  EXPECT_EQ(Handled("Search", "unary", "DEADLINE_EXCEEDED"), expired + 1);
  EXPECT_EQ(Unreachable(), refused + 1);
}

// A TCP connection that speaks as much HTTP/2 as it likes.
class RawConnection {
 public:
  explicit RawConnection(int port) : fd_(testing::ConnectTo(port)) {
    EXPECT_GE(fd_, 0);
    const timeval patience = {.tv_sec = 20, .tv_usec = 0};
    setsockopt(fd_, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
  }
  ~RawConnection() { close(fd_); }

  RawConnection(const RawConnection&) = delete;
  RawConnection& operator=(const RawConnection&) = delete;

  void Send(const std::string& bytes) {
    EXPECT_EQ(send(fd_, bytes.data(), bytes.size(), MSG_NOSIGNAL), static_cast<ssize_t>(bytes.size()));
  }

  // To be closed by RST instead of FIN.
  void ResetWhenClosed() {
    const linger at_once = {.l_onoff = 1, .l_linger = 0};
    setsockopt(fd_, SOL_SOCKET, SO_LINGER, &at_once, sizeof(at_once));
  }

  // Begins a call, with a deadline in milliseconds unless 0.
  void SendHeaders(const std::string& path, int timeout_ms = 0) {
    // POST, http, path, authority, content-type, te, grpc-timeout; as HPACK's static table counts, literally.
    const auto literal = [](const std::string& text) {
      return absl::StrCat(std::string(1, static_cast<char>(text.size())), text);
    };
    std::string block =
        absl::StrCat("\x83\x86\x04", literal(path), "\x01", literal("localhost"), "\x0f\x10",
                     literal("application/grpc"), std::string(1, '\0'), literal("te"), literal("trailers"));
    if (timeout_ms > 0) {
      absl::StrAppend(&block, std::string(1, '\0'), literal("grpc-timeout"),
                      literal(absl::StrCat(timeout_ms, "m")));
    }
    Send(absl::StrCat("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", Frame(kSettings, 0, 0, ""),
                      Frame(kHeaders, kEndHeaders, 1, block)));
  }

  // The first `sent` bytes of a message that is said to have `promised`. No more than a window: 65,535 with
  // the prefix.
  void SendPart(uint32_t promised, size_t sent) {
    std::string message(1, '\0');  // not compressed
    for (int shift = 24; shift >= 0; shift -= 8) message.push_back(static_cast<char>(promised >> shift));
    message.append(sent, '\n');
    for (size_t at = 0; at < message.size(); at += kMaxFrame) {
      Send(Frame(kData, 0, 1, message.substr(at, kMaxFrame)));
    }
  }

  // Whether the server closes it, and says nothing before.
  bool AwaitClosed() { return Receive(1).empty(); }

  // What comes until the server ends the call, or what came when it does not in time.
  std::string AwaitEndOfCall() {
    std::string payloads;
    for (;;) {
      const std::string header = Receive(9);
      if (header.size() < 9) return absl::StrCat(payloads, "[nothing more]");
      const auto byte = [&](int i) { return static_cast<uint8_t>(header[i]); };
      payloads += Receive(byte(0) << 16 | byte(1) << 8 | byte(2));
      if (byte(8) == 1 && (byte(3) == kRstStream || (byte(3) == kHeaders && (byte(4) & kEndStream)))) {
        return payloads;
      }
    }
  }

 private:
  enum Type : char { kData = 0, kHeaders = 1, kRstStream = 3, kSettings = 4 };
  static constexpr char kEndStream = 1, kEndHeaders = 4;
  static constexpr size_t kMaxFrame = 16'384;

  static std::string Frame(Type type, char flags, char stream, const std::string& payload) {
    const size_t size = payload.size();
    const char header[] = {static_cast<char>(size >> 16),
                           static_cast<char>(size >> 8),
                           static_cast<char>(size),
                           type,
                           flags,
                           0,
                           0,
                           0,
                           stream};
    return absl::StrCat(absl::string_view(header, sizeof(header)), payload);
  }

  std::string Receive(size_t bytes) {
    std::string text(bytes, '\0');
    const ssize_t got = recv(fd_, text.data(), bytes, MSG_WAITALL);
    text.resize(std::max<ssize_t>(got, 0));
    return text;
  }

  const int fd_;
};

using RawConnections = std::vector<std::unique_ptr<RawConnection>>;

TEST_F(FaultTest, AThousandConnectionsThatComeToNothing) {
  RawConnections open;
  for (int i = 0; i < 1000; ++i) {
    auto connection = std::make_unique<RawConnection>(server().grpc_port());
    if (i % 2 == 1) connection->Send("PRI * HTTP/2.0\r\n");  // half of what begins
    if (i % 4 < 2) continue;                                 // closed at once
    if (i % 8 < 4) connection->ResetWhenClosed();
    open.push_back(std::move(connection));
  }
  const uint64_t held = served_->level.open_fds + open.size();
  EXPECT_TRUE(Becomes([&] { return server().Use().open_fds >= held; }));
  ExpectExact(Channel(server().grpc_address()));
}

TEST_F(FaultTest, MessagesThatAreNeverWhole) {
  constexpr uint32_t kPromised = 40 << 20;
  constexpr size_t kSent = 65'000;
  RawConnections open;
  for (int i = 0; i < 200; ++i) {
    open.push_back(std::make_unique<RawConnection>(server().grpc_port()));
    open.back()->SendHeaders(i % 2 == 0 ? "/dotmax.v1.Dotmax/Search"
                                        : "/dotmax.v1.Dotmax/MaxInnerProductStream");
    open.back()->SendPart(kPromised, kSent);
    if (i % 3 == 1) open.back() = nullptr;
    if (i % 3 == 2) open.back()->ResetWhenClosed();
  }
  // Nothing is set aside for what was promised, and the others do not notice.
  ExpectExact(Channel(server().grpc_address()));
  EXPECT_LT(server().Use().anonymous_bytes, served_->level.anonymous_bytes + kSlackBytes);
}

// Also one that would be refused: gRPC looks at a message when it has all of it.
TEST_F(FaultTest, AMessageThatIsNeverWholeEndsWithItsDeadline) {
  const uint64_t before = Handled("Search", "unary", "INVALID_ARGUMENT");
  for (const char* path : {"/dotmax.v1.Dotmax/Search", "/dotmax.v1.Dotmax/BatchMaxInnerProductStream"}) {
    for (const uint32_t promised : {uint32_t{1} << 20, uint32_t{65} << 20, uint32_t{0xffffffff}}) {
      RawConnection connection(server().grpc_port());
      connection.SendHeaders(path, /*timeout_ms=*/200);
      connection.SendPart(promised, 1000);
      EXPECT_THAT(connection.AwaitEndOfCall(), ::testing::Not(HasSubstr("[nothing more]"))) << path;
    }
  }
  // Nobody has seen enough of it to say anything else.
  EXPECT_EQ(Handled("Search", "unary", "INVALID_ARGUMENT"), before);
}

// Until then it takes memory, as far as --max-grpc-bytes goes.
TEST_F(FaultTest, MessagesFarBeyondTheLimitAreRefused) {
  v1::SearchRequest request = Ask("big");
  request.mutable_queries()->mutable_data()->resize(uint64_t{400} << 20);
  v1::SearchResponse response;
  EXPECT_EQ(Search(Channel(server().grpc_address()), request, &response).code,
            grpc::StatusCode::RESOURCE_EXHAUSTED);
}

// Streams whose callers write as much as they can.
class GreedyStreamTest : public FaultTest {
 protected:
  static constexpr int kCallers = 4;
  static constexpr uint64_t kMostBytes = uint64_t{512} << 20;  // of each caller

  // Lets each caller write until `write` fails or it has written kMostBytes; once nothing has gone out for a
  // second, or `watched` has passed, all are cancelled. Expects that the server held `most_held` for each.
  // `begin` opens a stream and returns a function that writes a message and says how many bytes it has, 0 if
  // it fails.
  using Write = std::function<uint64_t()>;
  void Flood(const std::function<Write(grpc::ClientContext*)>& begin, absl::Duration watched,
             uint64_t most_held) {
    std::vector<std::unique_ptr<grpc::ClientContext>> contexts;
    std::vector<std::thread> callers;
    std::atomic<uint64_t> written{0};
    for (int c = 0; c < kCallers; ++c) {
      contexts.push_back(std::make_unique<grpc::ClientContext>());
      callers.emplace_back([&, context = contexts.back().get()] {
        const Write write = begin(context);
        uint64_t mine = 0;
        for (uint64_t bytes; mine < kMostBytes && (bytes = write()) > 0;) {
          mine += bytes;
          written += bytes;
        }
        EXPECT_LT(mine, kMostBytes);
      });
    }
    const absl::Time end = absl::Now() + watched;
    absl::Time last_progress = absl::Now();
    uint64_t seen = 0, most = 0;
    while (absl::Now() < end && absl::Now() < last_progress + absl::Seconds(1)) {
      most = std::max(most, server().Use().anonymous_bytes);
      if (written > seen) last_progress = absl::Now();
      seen = written;
      absl::SleepFor(absl::Milliseconds(10));
    }
    EXPECT_GT(seen, 0u);
    ExpectExact(Channel(server().grpc_address()));
    EXPECT_LT(most, served_->level.anonymous_bytes + kSlackBytes + kCallers * most_held);
    for (const auto& context : contexts) context->TryCancel();
    for (std::thread& caller : callers) caller.join();
  }
};

// The server's answers stay with it, so it takes no more questions.
TEST_F(GreedyStreamTest, CallersThatDoNotRead) {
  v1::BatchMaxInnerProductRequest request;
  for (int p = 0; p < 20'000; ++p) {
    v1::MatrixPair* const pair = request.add_pairs();
    *pair->mutable_queries() = MatrixOf(RandomNormal(1, 2, 1));
    *pair->mutable_base() = MatrixOf(RandomNormal(1, 2, 2));
  }
  const uint64_t bytes = request.ByteSizeLong();
  Flood(
      [&](grpc::ClientContext* context) -> Write {
        const std::shared_ptr stub = v1::Dotmax::NewStub(Channel(server().grpc_address()));
        const std::shared_ptr stream = stub->BatchMaxInnerProductStream(context);
        return [=, &request] { return stream->Write(request) ? bytes : 0; };
      },
      absl::Seconds(10), uint64_t{64} << 20);
}

// The engine is slower than the callers.
TEST_F(GreedyStreamTest, CallersThatWriteMoreThanIsSearched) {
  v1::MaxInnerProductStreamRequest start, block;
  start.mutable_start()->set_top_k(kTopK);
  *start.mutable_start()->mutable_queries() = MatrixOf(Slice(served_->rows, 0, 20'000));
  *block.mutable_base() = MatrixOf(Slice(served_->rows, 0, 20'000));
  const uint64_t bytes = block.ByteSizeLong();
  Flood(
      [&](grpc::ClientContext* context) -> Write {
        const std::shared_ptr stub = v1::Dotmax::NewStub(Channel(server().grpc_address()));
        const auto response = std::make_shared<v1::SearchResponse>();
        const std::shared_ptr stream = stub->MaxInnerProductStream(context, response.get());
        EXPECT_TRUE(stream->Write(start));
        return [=, &block] { return stream->Write(block) ? bytes : 0; };
      },
      absl::Seconds(3), uint64_t{128} << 20);
}

// Threads that ask all the time until they are stopped.
class Load {
 public:
  // `ask` is called again and again with the caller's number.
  Load(int callers, const std::function<void(int)>& ask) : ask_(ask) {
    for (int c = 0; c < callers; ++c) {
      threads_.emplace_back([this, c] {
        for (; !stop_; ++asked_) ask_(c);
      });
    }
  }
  ~Load() { Stop(); }

  Load(const Load&) = delete;
  Load& operator=(const Load&) = delete;

  void Stop() {
    stop_ = true;
    for (std::thread& thread : threads_) thread.join();
    threads_.clear();
  }
  // Returns when `more` questions more have been asked.
  void AwaitMore(int more) const {
    const int before = asked_;
    EXPECT_TRUE(Becomes([&] { return asked_ >= before + more; }));
  }

 private:
  const std::function<void(int)> ask_;
  std::atomic<bool> stop_{false};
  std::atomic<int> asked_{0};
  std::vector<std::thread> threads_;  // last: they use the rest
};

TEST_F(FaultTest, ReloadsAsFastAsTheyComeGiveAnswersOfTheVersionsTheyName) {
  const SharedMatrix contents[] = {served_->small_rows, RandomNormal(700, kDim, 7)};
  const std::vector<Hit> best[] = {served_->small_best, BestPairs(served_->queries, contents[1])};
  const NpyFile files[] = {NpyFile(contents[0].view), NpyFile(contents[1].view)};
  absl::Mutex mutex;
  std::set<std::pair<uint64_t, int>> answered;  // versions, and which content it was
  std::set<std::pair<uint64_t, int>> loaded;
  Load load(4, [&](int) {
    v1::SearchResponse response;
    const WireError error = Search(served_->channel, Ask("small"), &response);
    EXPECT_EQ(error.code, grpc::StatusCode::OK) << error.message;
    const bool first = IsExact(response, best[0]);
    EXPECT_TRUE(first || IsExact(response, best[1])) << response.DebugString();
    absl::MutexLock lock(&mutex);
    answered.emplace(response.version(), first ? 0 : 1);
  });
  const absl::Time end = absl::Now() + absl::Seconds(3);
  for (int content = 1; absl::Now() < end || content != 0; content = 1 - content) {
    const std::string next = served_->directory / "next";
    std::filesystem::copy_file(files[content].path(), next);
    std::filesystem::rename(next, served_->small_file.path());
    uint64_t version = 0;
    const WireError error = Reload("small", &version);
    ASSERT_EQ(error.code, grpc::StatusCode::OK) << error.message;
    loaded.emplace(version, content);
  }
  uint64_t version = 0;
  std::filesystem::copy_file(files[0].path(), served_->small_file.path(),
                             std::filesystem::copy_options::overwrite_existing);
  ASSERT_EQ(Reload("small", &version).code, grpc::StatusCode::OK);
  loaded.emplace(version, 0);
  load.Stop();
  loaded.emplace(answered.begin()->first, 0);  // what was there before
  EXPECT_GT(loaded.size(), 10u);
  EXPECT_GT(answered.size(), 5u) << "the storm passed unnoticed";
  EXPECT_TRUE(std::includes(loaded.begin(), loaded.end(), answered.begin(), answered.end()));
}

TEST_F(FaultTest, APauseOfTheProcessEndsCallsByTheirOwnDeadlinesOnly) {
  constexpr absl::Duration kShort = absl::Milliseconds(500), kPause = absl::Milliseconds(1500);
  std::atomic<int> expired{0};
  Load load(4, [&](int caller) {
    const bool patient = caller % 2 == 0;
    v1::SearchResponse response;
    const absl::Time start = absl::Now();
    const WireError error =
        Search(served_->channel, Ask("big"), &response, patient ? absl::Minutes(1) : kShort);
    if (error.code == grpc::StatusCode::OK) {
      EXPECT_TRUE(IsExact(response, served_->big_best));
      return;
    }
    EXPECT_FALSE(patient) << error.message;
    if (error.reason != "QUEUE_TOO_LONG") {
      EXPECT_EQ(error.code, grpc::StatusCode::DEADLINE_EXCEEDED) << error.message;
    }
    EXPECT_LT(absl::Now() - start, kShort + absl::Seconds(1) * kSlowness);
    ++expired;
  });
  load.AwaitMore(20);
  server().Signal(SIGSTOP);
  absl::SleepFor(kPause);
  server().Signal(SIGCONT);
  load.AwaitMore(20);
  load.Stop();
  EXPECT_GE(expired, 2);
}

TEST_F(FaultTest, WithoutFileHandlesItServesThoseWhoAreInAndRecovers) {
  constexpr int kRoom = 20;
  rlimit before;
  ASSERT_EQ(prlimit(server().pid(), RLIMIT_NOFILE, nullptr, &before), 0);
  rlimit tight = before;
  tight.rlim_cur = served_->level.open_fds + Acceptor::kReservedFiles + kRoom;
  ASSERT_EQ(prlimit(server().pid(), RLIMIT_NOFILE, &tight, nullptr), 0);
  const int seen = scraper_->scrapes();
  {
    RawConnections open;
    for (int i = 0; i < 5 * kRoom; ++i) {
      open.push_back(std::make_unique<RawConnection>(server().grpc_port()));
    }
    EXPECT_TRUE(server().AwaitOutput("\"event\":\"connection_refused\""));
    // A scrape that ended, or whoever was before, may have left a number free: until none is.
    EXPECT_TRUE(Becomes([&] {
      v1::SearchResponse response;
      open.push_back(std::make_unique<RawConnection>(server().grpc_port()));
      return open.back()->AwaitClosed() &&
             Search(Channel(server().grpc_address()), Ask("big"), &response).code ==
                 grpc::StatusCode::UNAVAILABLE;
    }));
    EXPECT_EQ(HealthOf(served_->channel, ""), "SERVING");
    ExpectExact(served_->channel);
    EXPECT_LT(Cost([] {}), 0.2 * kSlowness);
    EXPECT_TRUE(Becomes([&] { return scraper_->scrapes() > seen + 5; }));
  }
  EXPECT_TRUE(Becomes([&] { return HealthOf(Channel(server().grpc_address()), "") == "SERVING"; }));
  EXPECT_EQ(prlimit(server().pid(), RLIMIT_NOFILE, &before, nullptr), 0);
}

// The same with --mmap: the file's bytes are the server's memory.
class MappedFaultTest : public FaultTest {
 protected:
  static void SetUpTestSuite() { Start({"--mmap"}); }
};

TEST_F(MappedFaultTest, AFileThatIsRemovedOrCutUnderLoadGivesItsAnswersOrNone) {
  std::atomic<int> lost{0};
  Load load(4, [&](int caller) {
    v1::SearchResponse response;
    const WireError error = Search(served_->channel, Ask(caller == 0 ? "small" : "big"), &response);
    if (error.code == grpc::StatusCode::OK) {
      EXPECT_TRUE(IsExact(response, caller == 0 ? served_->small_best : served_->big_best));
      return;
    }
    EXPECT_NE(caller, 0) << "of another file: " << error.message;
    EXPECT_EQ(error.reason, "FILE_CHANGED") << error.message;
    ++lost;
  });
  uint64_t version = 0;
  for (int round = 0; round < 3; ++round) {
    load.AwaitMore(20);
    std::filesystem::remove(served_->path);  // a file without a name is still there
    load.AwaitMore(20);
    EXPECT_EQ(lost, 0);
    EXPECT_EQ(Reload("big", &version).reason, "FILE_NOT_FOUND");
    std::filesystem::copy_file(served_->file.path(), served_->path);
    ASSERT_EQ(Reload("big", &version).code, grpc::StatusCode::OK);
    load.AwaitMore(20);
    EXPECT_EQ(lost, 0);
    ASSERT_EQ(truncate(served_->path.c_str(), 100'000 << round), 0);
    EXPECT_TRUE(Becomes([&] { return lost > 0; }));
    std::filesystem::remove(served_->path);
    std::filesystem::copy_file(served_->file.path(), served_->path);
    ASSERT_EQ(Reload("big", &version).code, grpc::StatusCode::OK);
    load.AwaitMore(8);  // those that were under way
    lost = 0;
  }
}

}  // namespace
}  // namespace dotmax
