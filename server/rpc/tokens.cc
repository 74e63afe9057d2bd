#include "server/rpc/tokens.h"

#include <algorithm>
#include <fstream>
#include <iterator>
#include <utility>

#include "absl/memory/memory.h"
#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/types/optional.h"
#include "server/base/crypto.h"
#include "server/base/errors.h"

namespace dotmax {
namespace {

constexpr absl::string_view kScopeNames[] = {"search", "admin"};  // by Scope
constexpr double kMaxRate = 1e6;

// How many calls begin per second. Thread-safe.
class RateLimit {
 public:
  explicit RateLimit(double rate)
      : interval_(absl::Seconds(1 / rate)), burst_(std::max(absl::Seconds(1), interval_)) {}

  absl::Duration interval() const { return interval_; }

  // Whether one more begins at `now`: 0; otherwise how much later it could.
  absl::Duration Begin(absl::Time now) {
    absl::MutexLock lock(&mutex_);
    const absl::Duration wait = next_ - (now + burst_ - interval_);
    if (wait > absl::ZeroDuration()) return wait;
    next_ = std::max(next_, now) + interval_;
    return absl::ZeroDuration();
  }

 private:
  const absl::Duration interval_;
  const absl::Duration burst_;  // how far the schedule may be ahead of the clock
  absl::Mutex mutex_;
  // When the next call would begin if all kept the interval.
  absl::Time next_ ABSL_GUARDED_BY(mutex_) = absl::InfinitePast();
};

absl::Status MissingToken(absl::string_view reason, absl::string_view message) {
  return Error(absl::StatusCode::kUnauthenticated, reason, message);
}

}  // namespace

struct Tokens::Token {
  std::string name;
  bool scopes[std::size(kScopeNames)] = {};
  Sha256Digest hash = {};
  std::shared_ptr<RateLimit> rate;  // null: as often as it likes
};

absl::StatusOr<std::unique_ptr<Tokens>> Tokens::Load(const std::string& path) {
  auto tokens = absl::WrapUnique(new Tokens(path));
  if (absl::Status s = tokens->Reload(); !s.ok()) return s;
  return tokens;
}

absl::Status Tokens::Reload() {
  absl::StatusOr<List> read = Read(path_);
  if (!read.ok()) return read.status();
  absl::MutexLock lock(&mutex_);
  // Whose rate stays keeps what it has used of it.
  if (tokens_ != nullptr) {
    for (const std::shared_ptr<Token>& now : *read) {
      for (const std::shared_ptr<Token>& before : *tokens_) {
        if (now->hash == before->hash && now->rate != nullptr && before->rate != nullptr &&
            now->rate->interval() == before->rate->interval()) {
          now->rate = before->rate;
        }
      }
    }
  }
  tokens_ = std::make_shared<const List>(*std::move(read));
  return absl::OkStatus();
}

absl::StatusOr<Tokens::List> Tokens::Read(const std::string& path) {
  std::ifstream file(path);
  const std::string text(std::istreambuf_iterator<char>(file), {});
  if (!file.is_open()) return absl::InvalidArgumentError(absl::StrCat(path, ": cannot be read"));
  List list;
  int number = 0;
  for (absl::string_view line : absl::StrSplit(text, '\n')) {
    ++number;
    const auto wrong = [&](absl::string_view what) {
      return absl::InvalidArgumentError(absl::StrCat(path, ", line ", number, ": ", what));
    };
    line = absl::StripAsciiWhitespace(line);
    if (line.empty() || line[0] == '#') continue;
    const std::vector<absl::string_view> words =
        absl::StrSplit(line, absl::ByAnyChar(" \t"), absl::SkipEmpty());
    if (words.size() < 3 || words.size() > 4) return wrong("expected NAME SCOPES SHA256 [RATE]");
    auto token = std::make_shared<Token>();
    token->name = std::string(words[0]);
    for (const absl::string_view scope : absl::StrSplit(words[1], ',')) {
      const auto* const known = std::find(std::begin(kScopeNames), std::end(kScopeNames), scope);
      if (known == std::end(kScopeNames)) return wrong("expected search, admin or search,admin as SCOPES");
      token->scopes[known - kScopeNames] = true;
    }
    bool is_hash = words[2].size() == 2 * token->hash.size() &&
                   std::all_of(words[2].begin(), words[2].end(), absl::ascii_isxdigit);
    for (size_t i = 0; is_hash && i < token->hash.size(); ++i) {
      uint32_t byte = 0;
      is_hash = absl::SimpleHexAtoi(words[2].substr(2 * i, 2), &byte);
      token->hash[i] = static_cast<uint8_t>(byte);
    }
    if (!is_hash) return wrong("expected the 64 hexadecimal digits of the token's SHA-256");
    if (words.size() == 4) {
      double rate = 0;
      if (!absl::SimpleAtod(words[3], &rate) || !(rate > 0) || rate > kMaxRate) {
        return wrong("expected RATE as a number of calls per second, above 0 and at most 1,000,000");
      }
      token->rate = std::make_shared<RateLimit>(rate);
    }
    for (const std::shared_ptr<Token>& other : list) {
      if (other->hash == token->hash) return wrong("another line has the same token");
    }
    list.push_back(std::move(token));
  }
  if (list.empty()) return absl::InvalidArgumentError(absl::StrCat(path, ": there is no token in it"));
  return list;
}

absl::StatusOr<std::shared_ptr<Tokens::Token>> Tokens::Find(absl::string_view authorization) const {
  constexpr absl::string_view kScheme = "Bearer ";
  if (!absl::StartsWithIgnoreCase(authorization, kScheme)) {
    return MissingToken("TOKEN_MISSING", "this server needs a token: authorization: Bearer TOKEN");
  }
  const Sha256Digest hash = Sha256(absl::StripAsciiWhitespace(authorization.substr(kScheme.size())));
  std::shared_ptr<const List> tokens;
  {
    absl::ReaderMutexLock lock(&mutex_);
    tokens = tokens_;
  }
  // All are compared, each in constant time: how long it takes tells nothing of what is in the file.
  std::shared_ptr<Token> found;
  for (const std::shared_ptr<Token>& token : *tokens) {
    if (EqualInConstantTime(token->hash, hash)) found = token;
  }
  if (found == nullptr) return MissingToken("TOKEN_UNKNOWN", "the token is none of this server's");
  return found;
}

absl::StatusOr<std::string> Tokens::Admit(absl::string_view authorization, Scope scope,
                                          absl::Time now) const {
  const absl::StatusOr<std::shared_ptr<Token>> found = Find(authorization);
  if (!found.ok()) return found.status();
  const Token& token = **found;
  if (!token.scopes[static_cast<int>(scope)]) {
    return Error(absl::StatusCode::kPermissionDenied, "SCOPE_MISSING",
                 absl::StrCat("the token of ", token.name, " does not have the scope ",
                              kScopeNames[static_cast<int>(scope)], ", which this call needs"));
  }
  if (token.rate != nullptr) {
    if (const absl::Duration wait = token.rate->Begin(now); wait > absl::ZeroDuration()) {
      return RetryAfter(
          wait, "RATE_LIMITED",
          absl::StrCat("the token of ", token.name, " may begin ",
                       absl::FDivDuration(absl::Seconds(1), token.rate->interval()), " calls per second"));
    }
  }
  return token.name;
}

absl::Status Tokens::Identify(absl::string_view authorization) const { return Find(authorization).status(); }

}  // namespace dotmax
