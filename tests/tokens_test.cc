#include "server/rpc/tokens.h"

#include <memory>
#include <string>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/base/crypto.h"
#include "server/base/errors.h"
#include "tests/certificates.h"

namespace dotmax {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

std::string HashOf(const std::string& token) {
  const Sha256Digest digest = Sha256(token);
  return absl::BytesToHexString(std::string(digest.begin(), digest.end()));
}

class TokensTest : public ::testing::Test {
 protected:
  std::unique_ptr<Tokens> Load(const std::string& text) {
    testing::Replace(path_, text);
    absl::StatusOr<std::unique_ptr<Tokens>> tokens = Tokens::Load(path_);
    EXPECT_TRUE(tokens.ok()) << tokens.status();
    return tokens.ok() ? *std::move(tokens) : nullptr;
  }

  // Why `text` is no file of tokens.
  std::string Wrong(const std::string& text) {
    testing::Replace(path_, text);
    const absl::Status status = Tokens::Load(path_).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << text;
    EXPECT_THAT(status.message(), HasSubstr(path_));
    return std::string(status.message());
  }

  const testing::TempDirectory directory_;
  const std::string path_ = directory_ / "tokens";
  const absl::Time now_ = absl::FromUnixSeconds(1'000'000);
};

TEST_F(TokensTest, ATokenAllowsWhatItsLineSays) {
  const auto tokens =
      Load(absl::StrCat("# who may ask\n\n", "web search ", HashOf("w"), "\n\t operator admin,search  ",
                        HashOf("o"), "\r\n", "deploy admin ", HashOf("d")));
  ASSERT_NE(tokens, nullptr);
  EXPECT_EQ(*tokens->Admit("Bearer w", Scope::kSearch, now_), "web");
  EXPECT_EQ(*tokens->Admit("Bearer o", Scope::kSearch, now_), "operator");
  EXPECT_EQ(*tokens->Admit("bearer o", Scope::kAdmin, now_), "operator");
  for (const auto& [token, scope, name] :
       {std::tuple("w", Scope::kAdmin, "admin"), std::tuple("d", Scope::kSearch, "search")}) {
    const absl::Status status = tokens->Admit(absl::StrCat("Bearer ", token), scope, now_).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kPermissionDenied);
    EXPECT_EQ(ErrorReason(status), "SCOPE_MISSING");
    EXPECT_THAT(status.message(), HasSubstr(name));
  }
  EXPECT_TRUE(tokens->Identify("Bearer d").ok());
}

TEST_F(TokensTest, WhatIsNoTokenOfTheFileIsRefused) {
  const auto tokens = Load("web search " + HashOf("secret") + "\n");
  ASSERT_NE(tokens, nullptr);
  for (const char* missing : {"", "secret", "Basic secret", "Bearer"}) {
    const absl::Status status = tokens->Admit(missing, Scope::kSearch, now_).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kUnauthenticated) << missing;
    EXPECT_EQ(ErrorReason(status), "TOKEN_MISSING") << missing;
  }
  for (const std::string& unknown :
       {std::string(""), std::string("Secret"), std::string("secret2"), HashOf("secret")}) {
    const absl::Status status = tokens->Identify("Bearer " + unknown);
    EXPECT_EQ(status.code(), absl::StatusCode::kUnauthenticated) << unknown;
    EXPECT_EQ(ErrorReason(status), "TOKEN_UNKNOWN") << unknown;
    EXPECT_THAT(status.message(), Not(HasSubstr("ecret")));
  }
}

TEST_F(TokensTest, ALineThatIsWrongIsNamedByItsNumberAndNeverShown) {
  const std::string hash = HashOf("x");
  EXPECT_THAT(Wrong("a search\n"), AllOf(HasSubstr("line 1"), HasSubstr("NAME SCOPES SHA256")));
  EXPECT_THAT(Wrong("# \na search " + hash + " 1 2"), HasSubstr("line 2"));
  EXPECT_THAT(Wrong("a read " + hash), AllOf(HasSubstr("SCOPES"), Not(HasSubstr("read"))));
  EXPECT_THAT(Wrong("a search,, " + hash), HasSubstr("SCOPES"));
  EXPECT_THAT(Wrong("a search my-token"), AllOf(HasSubstr("SHA-256"), Not(HasSubstr("my-token"))));
  EXPECT_THAT(Wrong("a search " + hash.substr(1)), HasSubstr("64"));
  EXPECT_THAT(Wrong("a search g" + hash.substr(1)), HasSubstr("64"));
  for (const char* rate : {"0", "-1", "nan", "inf", "1e7", "fast"}) {
    EXPECT_THAT(Wrong(absl::StrCat("a search ", hash, " ", rate)), HasSubstr("RATE")) << rate;
  }
  EXPECT_THAT(Wrong("a search " + hash + "\nb admin " + hash), HasSubstr("line 2"));
  EXPECT_THAT(Wrong("# nobody\n"), HasSubstr("no token"));
  EXPECT_THAT(Wrong(""), HasSubstr("no token"));
  EXPECT_THAT(Tokens::Load(directory_ / "absent").status().message(), HasSubstr("absent"));
}

TEST_F(TokensTest, ARateLetsASecondsWorthBeginAtOnceAndThenOneByOne) {
  const auto tokens = Load("web search " + HashOf("w") + " 4\n");
  ASSERT_NE(tokens, nullptr);
  const auto admit = [&](absl::Time now) { return tokens->Admit("Bearer w", Scope::kSearch, now).status(); };
  for (int i = 0; i < 4; ++i) EXPECT_TRUE(admit(now_).ok()) << i;
  absl::Status status = admit(now_);
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(ErrorReason(status), "RATE_LIMITED");
  EXPECT_EQ(ErrorRetryDelay(status), absl::Milliseconds(250));
  EXPECT_THAT(status.message(), HasSubstr("4 calls per second"));
  // Whoever is refused uses nothing up, and is let in at the time it was told.
  status = admit(now_ + absl::Milliseconds(200));
  EXPECT_EQ(ErrorRetryDelay(status), absl::Milliseconds(50));
  EXPECT_TRUE(admit(now_ + absl::Milliseconds(250)).ok());
  EXPECT_FALSE(admit(now_ + absl::Milliseconds(250)).ok());
  // Long silence saves up no more than a second.
  const absl::Time later = now_ + absl::Hours(1);
  for (int i = 0; i < 4; ++i) EXPECT_TRUE(admit(later).ok()) << i;
  EXPECT_FALSE(admit(later).ok());
}

TEST_F(TokensTest, ARateBelowOneIsKept) {
  const auto tokens = Load("web search " + HashOf("w") + " 0.1\n");
  ASSERT_NE(tokens, nullptr);
  EXPECT_TRUE(tokens->Admit("Bearer w", Scope::kSearch, now_).ok());
  EXPECT_EQ(ErrorRetryDelay(tokens->Admit("Bearer w", Scope::kSearch, now_).status()), absl::Seconds(10));
  EXPECT_TRUE(tokens->Admit("Bearer w", Scope::kSearch, now_ + absl::Seconds(10)).ok());
}

TEST_F(TokensTest, AnotherFileReplacesTheTokensUnlessItIsWrong) {
  const auto tokens = Load("a search " + HashOf("a") + " 1\nb search " + HashOf("b") + "\n");
  ASSERT_NE(tokens, nullptr);
  EXPECT_TRUE(tokens->Admit("Bearer a", Scope::kSearch, now_).ok());

  testing::Replace(path_, "nonsense\n");
  EXPECT_THAT(tokens->Reload().message(), HasSubstr("line 1"));
  EXPECT_TRUE(tokens->Admit("Bearer b", Scope::kSearch, now_).ok());

  testing::Replace(path_, "a search " + HashOf("a") + " 1\nc admin " + HashOf("c") + "\n");
  EXPECT_TRUE(tokens->Reload().ok());
  EXPECT_EQ(ErrorReason(tokens->Identify("Bearer b")), "TOKEN_UNKNOWN");
  EXPECT_EQ(*tokens->Admit("Bearer c", Scope::kAdmin, now_), "c");
  // It has used up its second before.
  EXPECT_EQ(ErrorReason(tokens->Admit("Bearer a", Scope::kSearch, now_).status()), "RATE_LIMITED");
}

}  // namespace
}  // namespace dotmax
