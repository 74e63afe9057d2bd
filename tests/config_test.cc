#include "server/base/config.h"

#include <map>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace dotmax {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

using Environment = std::map<std::string, std::string>;

absl::StatusOr<Config> Parse(std::vector<const char*> arguments, const Environment& environment = {}) {
  arguments.insert(arguments.begin(), "dotmax-server");
  return ParseConfig(static_cast<int>(arguments.size()), arguments.data(), [&](const char* name) {
    const auto at = environment.find(name);
    return at == environment.end() ? nullptr : at->second.c_str();
  });
}

std::string Refused(const std::vector<const char*>& arguments) {
  const absl::StatusOr<Config> config = Parse(arguments);
  EXPECT_EQ(config.status().code(), absl::StatusCode::kInvalidArgument);
  return std::string(config.status().message());
}

TEST(ConfigTest, DefaultsServeAllCoresWith64MiBMessages) {
  const absl::StatusOr<Config> config = Parse({"--matrix=a.npy"});
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->listen, "0.0.0.0:50051");
  EXPECT_EQ(config->metrics_listen, "0.0.0.0:9464");
  EXPECT_GE(config->threads, 1);
  EXPECT_EQ(config->max_message_bytes, 64u << 20);
  EXPECT_EQ(config->max_top_k, 10000u);
  EXPECT_GE(config->max_queue_bytes, config->max_message_bytes);
  EXPECT_EQ(config->log_level, LogLevel::kInfo);
  EXPECT_EQ(config->print, "");
}

TEST(ConfigTest, CollectionsAreNamedAfterTheirFilesOrByTheCaller) {
  const absl::StatusOr<Config> config = Parse({"--matrix=data/v1.glove.npy", "--matrix=words=/x/b=c.fbin",
                                               "--matrix=/x/k=v/d.fvecs", "--matrix=.hidden"});
  ASSERT_TRUE(config.ok()) << config.status();
  ASSERT_EQ(config->matrices.size(), 4u);
  EXPECT_EQ(config->matrices[0].name, "v1.glove");
  EXPECT_EQ(config->matrices[0].path, "data/v1.glove.npy");
  EXPECT_EQ(config->matrices[1].name, "words");
  EXPECT_EQ(config->matrices[1].path, "/x/b=c.fbin");
  EXPECT_EQ(config->matrices[2].name, "d");
  EXPECT_EQ(config->matrices[2].path, "/x/k=v/d.fvecs");
  EXPECT_EQ(config->matrices[3].name, ".hidden");
}

TEST(ConfigTest, EveryFlagHasAnEnvironmentEquivalent) {
  const absl::StatusOr<Config> config = Parse({}, {{"DOTMAX_MATRIX", "a=x.npy,b=y.npy"},
                                                   {"DOTMAX_LISTEN", "[::1]:1"},
                                                   {"DOTMAX_METRICS_LISTEN", ""},
                                                   {"DOTMAX_THREADS", "3"},
                                                   {"DOTMAX_MAX_MESSAGE_BYTES", "1000"},
                                                   {"DOTMAX_MAX_TOP_K", "5"},
                                                   {"DOTMAX_MAX_QUEUE_REQUESTS", "7"},
                                                   {"DOTMAX_MAX_QUEUE_ROWS", "900"},
                                                   {"DOTMAX_MAX_QUEUE_BYTES", "2000"},
                                                   {"DOTMAX_DRAIN_TIMEOUT", "1500ms"},
                                                   {"DOTMAX_MAX_GRPC_BYTES", "3000"},
                                                   {"DOTMAX_TOKENS_FILE", "tokens"},
                                                   {"DOTMAX_METRICS_TOKEN", "true"},
                                                   {"DOTMAX_TLS_CERT", "cert.pem"},
                                                   {"DOTMAX_TLS_KEY", "key.pem"},
                                                   {"DOTMAX_TLS_CLIENT_CA", "ca.pem"},
                                                   {"DOTMAX_ACCESS_LOG", "0.25"},
                                                   {"DOTMAX_SLOW_REQUEST", "2s"},
                                                   {"DOTMAX_LOG_LEVEL", "debug"}});
  ASSERT_TRUE(config.ok()) << config.status();
  ASSERT_EQ(config->matrices.size(), 2u);
  EXPECT_EQ(config->matrices[1].path, "y.npy");
  EXPECT_EQ(config->listen, "[::1]:1");
  EXPECT_EQ(config->metrics_listen, "");
  EXPECT_EQ(config->threads, 3);
  EXPECT_EQ(config->max_message_bytes, 1000u);
  EXPECT_EQ(config->max_top_k, 5u);
  EXPECT_EQ(config->max_queue_requests, 7u);
  EXPECT_EQ(config->max_queue_rows, 900u);
  EXPECT_EQ(config->max_queue_bytes, 2000u);
  EXPECT_EQ(config->drain_timeout, absl::Milliseconds(1500));
  EXPECT_EQ(config->max_grpc_bytes, 3000u);
  EXPECT_EQ(config->security.tokens, "tokens");
  EXPECT_TRUE(config->metrics_token);
  EXPECT_EQ(config->security.certificate, "cert.pem");
  EXPECT_EQ(config->security.key, "key.pem");
  EXPECT_EQ(config->security.client_ca, "ca.pem");
  EXPECT_EQ(config->access_log, 0.25);
  EXPECT_EQ(config->slow_request, absl::Seconds(2));
  EXPECT_EQ(config->log_level, LogLevel::kDebug);
}

TEST(ConfigTest, WhatCannotBeServedIsRefusedByName) {
  EXPECT_THAT(Refused({}), HasSubstr("--matrix"));
  EXPECT_THAT(Refused({"a.npy"}), AllOf(HasSubstr("a.npy"), HasSubstr("--matrix=PATH")));
  EXPECT_THAT(Refused({"--matrix=name="}), HasSubstr("[NAME=]PATH"));
  EXPECT_THAT(Refused({"--matrix=x/"}), HasSubstr("[NAME=]PATH"));
  EXPECT_THAT(Refused({"--matrix=x/a.npy", "--matrix=y/a.fbin"}),
              AllOf(HasSubstr("x/a.npy"), HasSubstr("y/a.fbin"), HasSubstr("\"a\"")));
  EXPECT_THAT(Refused({"--matrix=a.npy", "--listen="}), HasSubstr("--listen"));
  EXPECT_THAT(Refused({"--matrix=a.npy", "--max-queue-bytes=10", "--max-message-bytes=11"}),
              AllOf(HasSubstr("--max-queue-bytes=10"), HasSubstr("--max-message-bytes=11")));
  EXPECT_THAT(Refused({"--matrix=a.npy", "--max-grpc-bytes=10", "--max-message-bytes=11"}),
              AllOf(HasSubstr("--max-grpc-bytes=10"), HasSubstr("--max-message-bytes=11")));
  EXPECT_THAT(Refused({"--matrix=a.npy", "--log-level=loud"}), AllOf(HasSubstr("loud"), HasSubstr("debug")));
  EXPECT_THAT(Refused({"--matrix=a.npy", "--drain-timeout=-1s"}), HasSubstr("--drain-timeout"));
  EXPECT_THAT(Refused({"--matrix=a.npy", "--max-top-k=0"}), HasSubstr("max-top-k"));
  EXPECT_THAT(Refused({"--matrix=a.npy", "--max-message-bytes=2147483648"}), HasSubstr("2147483648"));
}

TEST(ConfigTest, WhatGuardsThePortComesTogether) {
  EXPECT_THAT(Refused({"--matrix=a.npy", "--tls-cert=c"}),
              AllOf(HasSubstr("--tls-cert"), HasSubstr("--tls-key")));
  EXPECT_THAT(Refused({"--matrix=a.npy", "--tls-key=k"}),
              AllOf(HasSubstr("--tls-cert"), HasSubstr("--tls-key")));
  EXPECT_THAT(Refused({"--matrix=a.npy", "--tls-client-ca=a"}), HasSubstr("--tls-client-ca"));
  EXPECT_THAT(Refused({"--matrix=a.npy", "--metrics-token"}), HasSubstr("--tokens-file"));
  EXPECT_THAT(Refused({"--matrix=a.npy", "--access-log=2"}), HasSubstr("--access-log"));
}

TEST(ConfigTest, MessagesOnTheirWayHaveRoomForSomeOfTheLargest) {
  EXPECT_EQ(Parse({"--matrix=a.npy"})->max_grpc_bytes, uint64_t{1} << 30);
  EXPECT_EQ(Parse({"--matrix=a.npy", "--max-message-bytes=1000000000"})->max_grpc_bytes, 4'000'000'000u);
  EXPECT_EQ(Parse({"--matrix=a.npy"})->slow_request, absl::InfiniteDuration());
}

TEST(ConfigTest, HelpAndVersionNeedNoMatrix) {
  const absl::StatusOr<Config> help = Parse({"--help"});
  ASSERT_TRUE(help.ok()) << help.status();
  EXPECT_THAT(help->print, AllOf(HasSubstr("--matrix"), HasSubstr("DOTMAX_LISTEN"), HasSubstr("9464")));
  const absl::StatusOr<Config> version = Parse({"--version"});
  ASSERT_TRUE(version.ok()) << version.status();
  EXPECT_EQ(version->print, std::string("dotmax-server ") + kVersion + "\n");
}

}  // namespace
}  // namespace dotmax
