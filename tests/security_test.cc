// Who gets in: a real server with tokens, TLS and client certificates, and callers with and without the right
// ones, while files change under it.
#include "server/rpc/security.h"

#include <grpcpp/client_context.h>
#include <signal.h>

#include <atomic>
#include <cstdlib>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "dotmax/client.h"
#include "dotmax/v1/collections.grpc.pb.h"
#include "dotmax/v1/dotmax.grpc.pb.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/base/crypto.h"
#include "tests/certificates.h"
#include "tests/command.h"
#include "tests/data.h"
#include "tests/server_process.h"
#include "tests/wire.h"

namespace dotmax {
namespace {

using ::testing::AllOf;
using testing::Becomes;
using testing::CertificateAuthority;
using testing::CertificateFiles;
using testing::Channel;
using testing::ErrorOf;
using ::testing::HasSubstr;
using testing::HealthOf;
using testing::HttpGet;
using ::testing::Not;
using testing::NpyFile;
using testing::RandomNormal;
using testing::SearchRequestOf;
using testing::ServerProcess;
using testing::WireError;

constexpr uint32_t kDim = 8;
constexpr char kWeb[] = "dotmax_web-0123456789abcdefghijklmnopqrstuvw";
constexpr char kOperator[] = "dotmax_operator-0123456789abcdefghijklmnopqr";
constexpr char kSlow[] = "dotmax_slow-0123456789abcdefghijklmnopqrstuv";
constexpr char kNew[] = "dotmax_new-0123456789abcdefghijklmnopqrstuvw";

std::string Line(const std::string& name, const std::string& scopes, const std::string& token,
                 const std::string& rate = "") {
  const Sha256Digest digest = Sha256(token);
  return absl::StrCat(name, " ", scopes, " ",
                      absl::BytesToHexString(std::string(digest.begin(), digest.end())), " ", rate, "\n");
}

class SecurityTest : public ::testing::Test {
 protected:
  void Start(std::vector<std::string> args) {
    args.push_back(absl::StrCat("--matrix=", file_.path()));
    server_ = std::make_unique<ServerProcess>(args);
    ASSERT_TRUE(server_->AwaitListening());
  }

  std::string Metrics() const { return HttpGet(server_->http_port(), "/metrics").body; }

  const SharedMatrix base_ = RandomNormal(50, kDim, 1);
  const NpyFile file_{base_.view};
  const testing::TempDirectory directory_;
  std::unique_ptr<ServerProcess> server_;
};

class TokensTest : public SecurityTest {
 protected:
  void StartWithTokens(std::vector<std::string> args = {}) {
    testing::Replace(path_, Line("web", "search", kWeb) + Line("operator", "admin", kOperator) +
                                Line("slow", "search", kSlow, "0.02"));
    args.push_back(absl::StrCat("--tokens-file=", path_));
    ASSERT_NO_FATAL_FAILURE(Start(std::move(args)));
    channel_ = Channel(server_->grpc_address());
  }

  // What comes of a search with this in its metadata.
  grpc::Status Search(const std::string& token, const std::string& key = "", const std::string& value = "") {
    grpc::ClientContext context;
    if (!token.empty()) context.AddMetadata("authorization", absl::StrCat("Bearer ", token));
    if (!key.empty()) context.AddMetadata(key, value);
    v1::SearchResponse response;
    return v1::Dotmax::NewStub(channel_)->Search(
        &context, SearchRequestOf("", RandomNormal(1, kDim, 2), 1, v1::PER_ROW), &response);
  }
  std::string ReasonOf(const std::string& token) { return ErrorOf(Search(token)).reason; }

  const std::string path_ = directory_ / "tokens";
  std::shared_ptr<grpc::Channel> channel_;
};

TEST_F(TokensTest, OnlyOperatorsChangeWhatIsThere) {
  ASSERT_NO_FATAL_FAILURE(StartWithTokens());
  const auto admin = v1::Collections::NewStub(channel_);
  const std::string name = "none";
  const auto outcomes = [&](const std::string& token) {
    std::vector<std::string> reasons;
    const auto with_token = [&token](grpc::ClientContext& context) -> grpc::ClientContext* {
      context.AddMetadata("authorization", absl::StrCat("Bearer ", token));
      return &context;
    };
    // A stream that still has messages does not finish.
    const auto end_of = [](grpc::ClientReaderInterface<v1::LoadProgress>& stream) {
      for (v1::LoadProgress message; stream.Read(&message);) {
      }
      return ErrorOf(stream.Finish()).reason;
    };
    {
      grpc::ClientContext context;
      v1::LoadCollectionRequest request;
      request.set_name(name);
      reasons.push_back(end_of(*admin->LoadCollection(with_token(context), request)));
    }
    {
      grpc::ClientContext context;
      v1::ReloadCollectionRequest request;
      request.set_name(name);
      reasons.push_back(end_of(*admin->ReloadCollection(with_token(context), request)));
    }
    {
      grpc::ClientContext context;
      v1::SwapCollectionsRequest request;
      request.set_a(name);
      v1::SwapCollectionsResponse response;
      reasons.push_back(ErrorOf(admin->SwapCollections(with_token(context), request, &response)).reason);
    }
    {
      grpc::ClientContext context;
      v1::DropCollectionRequest request;
      request.set_name(name);
      v1::DropCollectionResponse response;
      reasons.push_back(ErrorOf(admin->DropCollection(with_token(context), request, &response)).reason);
    }
    return reasons;
  };
  EXPECT_EQ(outcomes(kWeb), std::vector<std::string>(4, "SCOPE_MISSING"));
  EXPECT_EQ(outcomes(kOperator), (std::vector<std::string>{"PATH_NOT_ALLOWED", "COLLECTION_NOT_FOUND",
                                                           "COLLECTION_NOT_FOUND", "COLLECTION_NOT_FOUND"}));
}

TEST_F(TokensTest, OnlyTheRightTokenGetsIn) {
  ASSERT_NO_FATAL_FAILURE(StartWithTokens());
  EXPECT_TRUE(Search(kWeb).ok());
  const WireError missing = ErrorOf(Search(""));
  EXPECT_EQ(missing.code, grpc::StatusCode::UNAUTHENTICATED);
  EXPECT_EQ(missing.reason, "TOKEN_MISSING");
  const WireError unknown = ErrorOf(Search("dotmax_guess"));
  EXPECT_EQ(unknown.code, grpc::StatusCode::UNAUTHENTICATED);
  EXPECT_EQ(unknown.reason, "TOKEN_UNKNOWN");
  const WireError scope = ErrorOf(Search(kOperator));
  EXPECT_EQ(scope.code, grpc::StatusCode::PERMISSION_DENIED);
  EXPECT_EQ(scope.reason, "SCOPE_MISSING");
  EXPECT_THAT(scope.message, HasSubstr("search"));
  const std::string metrics = Metrics();
  for (const char* reason : {"TOKEN_MISSING", "TOKEN_UNKNOWN", "SCOPE_MISSING"}) {
    EXPECT_THAT(metrics, HasSubstr(absl::StrCat("dotmax_refused_total{reason=\"", reason, "\"} 1\n")));
  }
}

TEST_F(TokensTest, EveryMethodIsGuarded) {
  ASSERT_NO_FATAL_FAILURE(StartWithTokens());
  for (const char* service_name : {"dotmax.v1.Dotmax", "dotmax.v1.Collections"}) {
    const auto* const service =
        google::protobuf::DescriptorPool::generated_pool()->FindServiceByName(service_name);
    ASSERT_NE(service, nullptr);
    for (int i = 0; i < service->method_count(); ++i) {
      grpc::Status status;
      testing::CallRaw(channel_, absl::StrCat("/", service_name, "/", service->method(i)->name()), "",
                       &status);
      EXPECT_EQ(ErrorOf(status).reason, "TOKEN_MISSING") << service->method(i)->full_name();
    }
  }
}

TEST_F(TokensTest, WhatIsResidentIsChangedByAdministratorsOnly) {
  ASSERT_NO_FATAL_FAILURE(StartWithTokens());
  const auto stub = v1::Collections::NewStub(channel_);
  const auto drop = [&](const std::string& token) {
    grpc::ClientContext context;
    context.AddMetadata("authorization", absl::StrCat("Bearer ", token));
    v1::DropCollectionRequest request;
    request.set_name("absent");
    v1::DropCollectionResponse response;
    return ErrorOf(stub->DropCollection(&context, request, &response));
  };
  EXPECT_EQ(drop(kWeb).code, grpc::StatusCode::PERMISSION_DENIED);
  EXPECT_EQ(drop(kWeb).reason, "SCOPE_MISSING");
  EXPECT_EQ(drop(kOperator).reason, "COLLECTION_NOT_FOUND");
}

TEST_F(TokensTest, WhatIsSentIsNotReadBeforeTheTokenIs) {
  ASSERT_NO_FATAL_FAILURE(StartWithTokens());
  const auto* const service =
      google::protobuf::DescriptorPool::generated_pool()->FindServiceByName("dotmax.v1.Dotmax");
  for (int i = 0; i < service->method_count(); ++i) {
    grpc::Status status;
    // This is no message: with a token MALFORMED_REQUEST.
    testing::CallRaw(channel_, absl::StrCat("/dotmax.v1.Dotmax/", service->method(i)->name()), "\xff\xff\xff",
                     &status);
    EXPECT_EQ(ErrorOf(status).reason, "TOKEN_MISSING") << service->method(i)->full_name();
  }
}

TEST_F(TokensTest, HealthIsOpenAndReflectionNeedsAnyToken) {
  ASSERT_NO_FATAL_FAILURE(StartWithTokens());
  EXPECT_EQ(HealthOf(channel_, ""), "SERVING");
  EXPECT_EQ(HealthOf(channel_, "dotmax.v1.Dotmax"), "SERVING");
  const auto list_services = [&](const std::string& token, grpc::Status* status) {
    return testing::CallRaw(channel_, "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
                            std::string("\x3a\x01*", 3), status, token);
  };
  for (const char* token : {"", kNew}) {
    grpc::Status status;
    EXPECT_EQ(list_services(token, &status), "");
    EXPECT_EQ(status.error_code(), grpc::StatusCode::CANCELLED) << status.error_message();
  }
  for (const char* token : {kWeb, kOperator}) {
    grpc::Status status;
    EXPECT_THAT(list_services(token, &status), HasSubstr("dotmax.v1.Dotmax"));
    EXPECT_TRUE(status.ok()) << status.error_message();
  }
}

TEST_F(TokensTest, ChannelzNeedsAnAdminsToken) {
  ASSERT_NO_FATAL_FAILURE(StartWithTokens());
  const auto servers = [&](const std::string& token, grpc::Status* status) {
    return testing::CallRaw(channel_, "/grpc.channelz.v1.Channelz/GetServers", "", status, token);
  };
  for (const char* token : {"", kNew, kWeb}) {
    grpc::Status status;
    EXPECT_EQ(servers(token, &status), "");
    EXPECT_EQ(status.error_code(), grpc::StatusCode::CANCELLED) << status.error_message();
  }
  grpc::Status status;
  EXPECT_NE(servers(kOperator, &status), "");
  EXPECT_TRUE(status.ok()) << status.error_message();
}

TEST_F(TokensTest, ARateIsKeptAndSaysWhenToTryAgain) {
  ASSERT_NO_FATAL_FAILURE(StartWithTokens());
  EXPECT_TRUE(Search(kSlow).ok());
  const WireError limited = ErrorOf(Search(kSlow));
  EXPECT_EQ(limited.code, grpc::StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_EQ(limited.reason, "RATE_LIMITED");
  ASSERT_TRUE(limited.retry_info);
  // One in 50 seconds.
  EXPECT_LE(limited.retry_delay, absl::Seconds(50));
  EXPECT_GT(limited.retry_delay, absl::Seconds(50) - ServerProcess::kPatience / 2);
  EXPECT_TRUE(Search(kWeb).ok());
}

TEST_F(TokensTest, AChangedFileIsTakenAndABadOneIsNot) {
  ASSERT_NO_FATAL_FAILURE(StartWithTokens());
  EXPECT_EQ(ReasonOf(kNew), "TOKEN_UNKNOWN");
  testing::Replace(path_, Line("new", "search", kNew));
  EXPECT_TRUE(Becomes([&] { return Search(kNew).ok(); }));
  EXPECT_EQ(ReasonOf(kWeb), "TOKEN_UNKNOWN");
  constexpr char kGauge[] = "dotmax_config_last_reload_success{file=\"tokens-file\"} ";
  EXPECT_THAT(Metrics(), HasSubstr(absl::StrCat(kGauge, 1)));

  testing::Replace(path_, absl::StrCat("web search ", kWeb, "\n"));  // the token instead of its hash
  EXPECT_TRUE(server_->AwaitOutput("\"event\":\"not_reloaded\""));
  EXPECT_THAT(server_->output(), AllOf(HasSubstr(path_), HasSubstr("line 1"), Not(HasSubstr(kWeb))));
  EXPECT_TRUE(Search(kNew).ok());
  EXPECT_THAT(Metrics(), HasSubstr(absl::StrCat(kGauge, 0)));

  testing::Replace(path_, Line("web", "search", kWeb));
  EXPECT_TRUE(Becomes([&] { return Search(kWeb).ok(); }));
  EXPECT_THAT(Metrics(), HasSubstr(absl::StrCat(kGauge, 1)));
}

TEST_F(TokensTest, MetricsAskForATokenIfTheyAreToAndProbesNever) {
  ASSERT_NO_FATAL_FAILURE(StartWithTokens({"--metrics-token"}));
  const int port = server_->http_port();
  const testing::HttpReply closed = HttpGet(port, "/metrics");
  EXPECT_EQ(closed.status, 401);
  EXPECT_THAT(closed.headers, HasSubstr("WWW-Authenticate: Bearer"));
  EXPECT_EQ(HttpGet(port, "/metrics", "GET", "dotmax_guess").status, 401);
  for (const char* token : {kWeb, kOperator, kSlow, kSlow}) {  // any scope, at any rate
    const testing::HttpReply reply = HttpGet(port, "/metrics", "GET", token);
    EXPECT_EQ(reply.status, 200);
    EXPECT_THAT(reply.body, HasSubstr("grpc_server_started_total"));
  }
  EXPECT_EQ(HttpGet(port, "/healthz").status, 200);
  EXPECT_EQ(HttpGet(port, "/readyz").status, 200);
  const testing::Ran ran = testing::RunCommand(
      absl::StrCat("DOTMAX_TOKEN=", kWeb, " $DOTMAX_BINARY bench --json --duration=100ms --warmup=0s",
                   " --server=", server_->grpc_address(), " --metrics=127.0.0.1:", port));
  EXPECT_EQ(ran.exit_code, 0);
  EXPECT_THAT(ran.output, HasSubstr("\"compute_seconds\""));
}

TEST_F(TokensTest, NoOutputHoldsASecret) {
  ASSERT_NO_FATAL_FAILURE(StartWithTokens({"--log-level=debug", "--access-log=1", "--slow-request=1ns"}));
  EXPECT_TRUE(Search(kWeb).ok());
  EXPECT_FALSE(Search(kOperator).ok());
  EXPECT_FALSE(Search(kNew).ok());
  EXPECT_TRUE(Search(kSlow).ok());
  EXPECT_THAT(ErrorOf(Search(kSlow)).message, Not(HasSubstr(kSlow)));
  EXPECT_THAT(ErrorOf(Search(kNew)).message, Not(HasSubstr(kNew)));
  server_->Signal(SIGTERM);
  EXPECT_EQ(server_->AwaitExit(), 0);
  const std::string output = server_->output();
  EXPECT_THAT(output, HasSubstr("\"client\":\"web\""));
  for (const char* token : {kWeb, kOperator, kSlow, kNew}) EXPECT_THAT(output, Not(HasSubstr(token)));
  EXPECT_THAT(output, Not(HasSubstr("Bearer ")));
}

TEST_F(TokensTest, AFileThatIsNoneStopsTheStart) {
  testing::Replace(path_, "web search\n");
  const ServerProcess server(
      {absl::StrCat("--matrix=", file_.path()), absl::StrCat("--tokens-file=", path_)});
  EXPECT_EQ(server.AwaitExit(), 1);
  EXPECT_THAT(server.output(), AllOf(HasSubstr(path_), HasSubstr("line 1")));
}

TEST_F(TokensTest, TheCommandMakesAndShowsTokens) {
  const std::string made = directory_ / "made";
  const std::string dotmax = getenv("DOTMAX_BINARY");
  const auto run = [&](const std::string& command) { return std::system(command.c_str()); };
  ASSERT_EQ(run(absl::StrCat(dotmax, " token cli --scopes=search >", made, " 2>", path_)), 0);
  ASSERT_NO_FATAL_FAILURE(
      Start({absl::StrCat("--tokens-file=", path_), "--access-log=1", "--log-level=info"}));
  const std::string info =
      absl::StrCat(dotmax, " info --server=", server_->grpc_address(), " >/dev/null 2>&1");
  EXPECT_EQ(run(absl::StrCat("DOTMAX_TOKEN_FILE=", made, " ", info)), 0);
  EXPECT_EQ(run(absl::StrCat("DOTMAX_TOKEN=$(cat ", made, ") ", info)), 0);
  EXPECT_NE(run(info), 0);
  EXPECT_NE(run(absl::StrCat("DOTMAX_TOKEN=x ", info)), 0);
  EXPECT_TRUE(server_->AwaitOutput("\"client\":\"cli\""));
  EXPECT_THAT(server_->output(), HasSubstr("\"reason\":\"TOKEN_UNKNOWN\""));
}

// The life of a call, by the log.
TEST_F(TokensTest, ACallIsLoggedByItsIdItsTraceAndWhatItCost) {
  ASSERT_NO_FATAL_FAILURE(Start({"--access-log=1"}));
  channel_ = Channel(server_->grpc_address());
  grpc::ClientContext context;
  context.AddMetadata("x-request-id", "order-17");
  context.AddMetadata("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01");
  context.AddMetadata("dotmax-priority", "high");
  v1::SearchResponse response;
  v1::SearchRequest request = SearchRequestOf("", RandomNormal(3, kDim, 2), 1, v1::PER_ROW);
  ASSERT_TRUE(v1::Dotmax::NewStub(channel_)->Search(&context, request, &response).ok());
  const auto& metadata = context.GetServerInitialMetadata();
  const auto id = metadata.find("x-request-id");
  ASSERT_NE(id, metadata.end());
  EXPECT_EQ(id->second, "order-17");
  ASSERT_TRUE(server_->AwaitOutput("order-17"));
  EXPECT_THAT(server_->output(), AllOf(HasSubstr("\"level\":\"info\",\"event\":\"rpc\""),
                                       HasSubstr("\"method\":\"Search\",\"code\":\"OK\""),
                                       HasSubstr("\"query_rows\":3"), HasSubstr("\"client\":\"127.0.0.1\""),
                                       HasSubstr(absl::StrCat("\"request_bytes\":", request.ByteSizeLong())),
                                       HasSubstr(absl::StrCat("\"reply_bytes\":", response.ByteSizeLong())),
                                       HasSubstr("\"trace_id\":\"0af7651916cd43dd8448eb211c80319c\"")));

  // Without an id, or with one that cannot be logged as it is, it gets its own.
  for (const char* bad : {"", "two words"}) {
    grpc::ClientContext other;
    if (*bad != '\0') other.AddMetadata("x-request-id", bad);
    ASSERT_TRUE(v1::Dotmax::NewStub(channel_)->Search(&other, request, &response).ok());
    const auto given = other.GetServerInitialMetadata().find("x-request-id");
    ASSERT_NE(given, other.GetServerInitialMetadata().end());
    EXPECT_EQ(given->second.size(), 16u);
    EXPECT_TRUE(server_->AwaitOutput(std::string(given->second.data(), given->second.size())));
  }
}

TEST_F(TokensTest, AnUnknownPriorityIsNamedAndAnIdComesBackWithFailures) {
  ASSERT_NO_FATAL_FAILURE(Start({}));
  channel_ = Channel(server_->grpc_address());
  for (const char* known : {"low", "normal", "high"}) EXPECT_TRUE(Search("", "dotmax-priority", known).ok());
  const WireError error = ErrorOf(Search("", "dotmax-priority", "urgent"));
  EXPECT_EQ(error.code, grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(error.reason, "UNKNOWN_PRIORITY");
  EXPECT_EQ(error.field, "dotmax-priority");
  EXPECT_THAT(error.message, HasSubstr("urgent"));

  grpc::ClientContext context;
  context.AddMetadata("x-request-id", "order-18");
  v1::SearchResponse response;
  EXPECT_FALSE(v1::Dotmax::NewStub(channel_)->Search(&context, {}, &response).ok());
  EXPECT_EQ(context.GetServerInitialMetadata().count("x-request-id"), 1u);
  // Neither asked for a line of its own.
  EXPECT_THAT(server_->output(), Not(HasSubstr("\"event\":\"rpc\"")));
}

TEST_F(TokensTest, SlowRequestsAreLoggedWhenAskedFor) {
  ASSERT_NO_FATAL_FAILURE(Start({"--slow-request=1ns"}));
  channel_ = Channel(server_->grpc_address());
  EXPECT_TRUE(Search("").ok());
  EXPECT_TRUE(server_->AwaitOutput("\"level\":\"warning\",\"event\":\"slow_request\""));
}

class TlsTest : public SecurityTest {
 protected:
  // A server with the certificate of `files`, in files of its own that a test may replace.
  void StartWithTls(const CertificateFiles& files, std::vector<std::string> args = {}) {
    Install(files);
    args.push_back(absl::StrCat("--tls-cert=", directory_ / "server.pem"));
    args.push_back(absl::StrCat("--tls-key=", directory_ / "server.key"));
    ASSERT_NO_FATAL_FAILURE(Start(std::move(args)));
  }

  void Install(const CertificateFiles& files) {
    testing::Replace(directory_ / "server.key", testing::ReadFile(files.key));
    testing::Replace(directory_ / "server.pem", testing::ReadFile(files.certificate));
  }

  Client ClientWith(const TlsOptions& tls) {
    absl::StatusOr<Client> client = Client::Create({.target = server_->grpc_address(), .tls = tls});
    EXPECT_TRUE(client.ok()) << client.status();
    return *std::move(client);
  }

  // What comes of a call over a new connection.
  absl::Status Ask(const TlsOptions& tls) { return ClientWith(tls).Describe().status(); }

  CertificateAuthority authority_;
};

TEST_F(TlsTest, TheServerIsWhoItsCertificateSays) {
  const CertificateAuthority stranger;
  ASSERT_NO_FATAL_FAILURE(StartWithTls(authority_.Issue("server")));
  EXPECT_TRUE(Ask({.ca_file = authority_.certificate()}).ok());
  const absl::Status wrong = Ask({.ca_file = stranger.certificate()});
  EXPECT_EQ(wrong.code(), absl::StatusCode::kUnavailable) << wrong;
  EXPECT_FALSE(Ask({.ca_file = authority_.certificate(), .server_name = "elsewhere"}).ok());
  // Nobody gets in without TLS.
  const auto plain = Client::Create({.target = server_->grpc_address()});
  EXPECT_FALSE(plain->Describe().ok());
  // The certificate is for two days.
  const std::string metrics = Metrics();
  constexpr char kGauge[] = "\ndotmax_certificate_expiry_timestamp_seconds ";
  const size_t at = metrics.find(kGauge);
  ASSERT_NE(at, metrics.npos);
  EXPECT_NEAR(std::atof(metrics.c_str() + at + sizeof(kGauge) - 1),
              absl::ToUnixSeconds(absl::Now() + absl::Hours(48)), 600);
}

TEST_F(TlsTest, AnExpiredServerCertificateIsRefusedAndLogged) {
  ASSERT_NO_FATAL_FAILURE(StartWithTls(authority_.Issue("server", -1)));
  EXPECT_THAT(server_->output(), HasSubstr("\"event\":\"certificate_expired\""));
  const absl::Status status = Ask({.ca_file = authority_.certificate()});
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable) << status;
}

TEST_F(TlsTest, CallersNeedACertificateThatHolds) {
  CertificateAuthority callers, strangers;
  ASSERT_NO_FATAL_FAILURE(
      StartWithTls(authority_.Issue("server"),
                   {absl::StrCat("--tls-client-ca=", callers.certificate()), "--access-log=1"}));
  const auto ask_as = [&](const CertificateFiles& files) {
    return Ask(
        {.ca_file = authority_.certificate(), .certificate_file = files.certificate, .key_file = files.key});
  };
  EXPECT_TRUE(ask_as(callers.Issue("billing")).ok());
  EXPECT_TRUE(server_->AwaitOutput("\"client\":\"billing\""));
  EXPECT_EQ(ask_as({}).code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(ask_as(callers.Issue("late", -1)).code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(ask_as(strangers.Issue("billing")).code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(server_->output(), AllOf(Not(HasSubstr("late")), HasSubstr("with client certificates")));
}

TEST_F(TlsTest, TokensGoOverTlsToo) {
  const std::string path = directory_ / "tokens";
  const std::string token = directory_ / "token";
  testing::Replace(path, Line("web", "search", kWeb));
  testing::Replace(token, absl::StrCat(kWeb, "\n"));
  ASSERT_NO_FATAL_FAILURE(StartWithTls(authority_.Issue("server"), {absl::StrCat("--tokens-file=", path)}));
  const TlsOptions tls = {.ca_file = authority_.certificate()};
  EXPECT_EQ(StatusReason(Ask(tls)), "TOKEN_MISSING");
  const auto client = Client::Create({.target = server_->grpc_address(), .tls = tls, .token = kWeb});
  EXPECT_TRUE(client->Describe().ok());
  // A stream, and pairs, take it along as well.
  const std::vector<float> rows(kDim, 1);
  EXPECT_TRUE(client->MaxOfPairs(std::vector<RowsPair>{{Rows(rows, kDim), Rows(rows, kDim)}}).ok());
  EXPECT_TRUE(client->MaxInnerProduct(Rows(rows, kDim), Rows(rows, kDim), {.max_message_bytes = 1}).ok());
  EXPECT_TRUE(client->Search(Rows(rows, kDim)).ok());
  EXPECT_TRUE(client->CheckHealth().ok());

  for (const char* command : {"info", "bench --warmup=0s --duration=100ms"}) {
    const testing::Ran ran =
        testing::Shell(absl::StrCat(command, " --json --server=", server_->grpc_address(),
                                    " --tls-ca=", authority_.certificate(), " --token-file=", token));
    EXPECT_EQ(ran.exit_code, 0) << ran.output;
    EXPECT_THAT(ran.output, AllOf(Not(HasSubstr("UNAUTHENTICATED")), Not(HasSubstr(kWeb))));
  }
}

TEST_F(TlsTest, AnotherCertificateIsTakenWithoutARestart) {
  CertificateAuthority next;
  ASSERT_NO_FATAL_FAILURE(StartWithTls(authority_.Issue("server")));
  const Client before = ClientWith({.ca_file = authority_.certificate()});
  EXPECT_TRUE(before.Describe().ok());
  EXPECT_FALSE(Ask({.ca_file = next.certificate()}).ok());

  const CertificateFiles files = next.Issue("server", 9);
  Install(files);
  EXPECT_TRUE(Becomes([&] { return Ask({.ca_file = next.certificate()}).ok(); }));
  EXPECT_FALSE(Ask({.ca_file = authority_.certificate()}).ok());
  EXPECT_TRUE(before.Describe().ok());  // connections stay
  const absl::Time expiry = *CheckKeyPair(*ReadPem(files.certificate), *ReadPem(files.key));
  EXPECT_TRUE(Becomes([&] {
    const std::string metrics = Metrics();
    const size_t at = metrics.find("\ndotmax_certificate_expiry_timestamp_seconds ");
    return at != metrics.npos &&
           std::abs(std::atof(metrics.c_str() + metrics.find(' ', at)) - absl::ToUnixSeconds(expiry)) < 1e4;
  }));

  // A certificate without its key is told of, and not taken.
  testing::Replace(directory_ / "server.pem", testing::ReadFile(authority_.Issue("server").certificate));
  EXPECT_TRUE(server_->AwaitOutput("\"event\":\"not_reloaded\",\"flag\":\"tls-cert\""));
  EXPECT_THAT(Metrics(), HasSubstr("dotmax_config_last_reload_success{file=\"tls-cert\"} 0\n"));
  absl::SleepFor(2 * FileWatch::kInterval);  // as long as gRPC may take to look
  EXPECT_TRUE(Ask({.ca_file = next.certificate()}).ok());
  EXPECT_FALSE(Ask({.ca_file = authority_.certificate()}).ok());
  EXPECT_FALSE(Client::Create({.target = server_->grpc_address()})->Describe().ok());
}

TEST_F(TlsTest, FilesThatDoNotFitStopTheStart) {
  const CertificateFiles one = authority_.Issue("one"), two = authority_.Issue("two");
  const auto refusal = [&](const std::string& certificate, const std::string& key, const std::string& ca) {
    std::vector<std::string> args = {absl::StrCat("--matrix=", file_.path()),
                                     absl::StrCat("--tls-cert=", certificate),
                                     absl::StrCat("--tls-key=", key)};
    if (!ca.empty()) args.push_back(absl::StrCat("--tls-client-ca=", ca));
    const ServerProcess server(args);
    EXPECT_EQ(server.AwaitExit(), 1);
    return server.output();
  };
  EXPECT_THAT(refusal("/absent.pem", one.key, ""), HasSubstr("/absent.pem"));
  EXPECT_THAT(refusal(one.certificate, "/absent.key", ""), HasSubstr("/absent.key"));
  EXPECT_THAT(refusal(one.certificate, two.key, ""), AllOf(HasSubstr(one.certificate), HasSubstr(two.key)));
  EXPECT_THAT(refusal(one.certificate, one.key, one.key), HasSubstr(one.key));
}

// 1,000 callers that stay connected, and 64 that ask at once.
TEST_F(SecurityTest, AThousandConnectionsAreHeldAndServed) {
  ASSERT_NO_FATAL_FAILURE(Start({}));
  constexpr int kConnections = 1000, kCallers = 64;
  std::vector<std::shared_ptr<grpc::Channel>> channels;
  for (int i = 0; i < kConnections; ++i) channels.push_back(Channel(server_->grpc_address()));
  for (const auto& channel : channels) channel->GetState(/*try_to_connect=*/true);
  for (const auto& channel : channels) {
    ASSERT_TRUE(channel->WaitForConnected(std::chrono::system_clock::now() + std::chrono::seconds(60)));
  }
  const v1::SearchRequest request = SearchRequestOf("", RandomNormal(2, kDim, 3), 1, v1::PER_ROW);
  std::atomic<int> answered{0};
  std::vector<std::thread> callers;
  for (int c = 0; c < kCallers; ++c) {
    callers.emplace_back([&, c] {
      for (int i = c; i < kConnections; i += kCallers) {
        grpc::ClientContext context;
        v1::SearchResponse response;
        const grpc::Status status = v1::Dotmax::NewStub(channels[i])->Search(&context, request, &response);
        if (status.ok()) ++answered;
      }
    });
  }
  for (std::thread& caller : callers) caller.join();
  EXPECT_EQ(answered.load(), kConnections);
}

}  // namespace
}  // namespace dotmax
