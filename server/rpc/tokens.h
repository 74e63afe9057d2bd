// Who may ask for what: bearer tokens, known by their hashes.
//
// The file has a line for each token, and comments that begin with '#':
//
//   NAME SCOPES SHA256 [RATE]
//   search-ui search 9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08 200
//
// NAME is what logs call the token's owner, and need not be unique: whoever replaces a token has two for a
// while. SCOPES is a comma-separated list of search and admin. SHA256 is the token's hash: tokens are long
// and random (`dotmax token` makes them), so that nothing slower is needed to keep them from being guessed.
// RATE is how many calls begin per second at most; as many may begin at once after a second without any.
#ifndef DOTMAX_SERVER_RPC_TOKENS_H_
#define DOTMAX_SERVER_RPC_TOKENS_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"

namespace dotmax {

// What a call needs of its token.
enum class Scope : uint8_t { kSearch, kAdmin };

// Thread-safe. No message ever holds a part of a token or of the file.
class Tokens {
 public:
  // kInvalidArgument names the file, the line and what is wrong with it.
  static absl::StatusOr<std::unique_ptr<Tokens>> Load(const std::string& path);

  // Reads the file again. When that fails, the tokens stay what they were.
  absl::Status Reload();

  // The name of whose token `authorization` ("Bearer TOKEN") holds, which may begin a call that needs `scope`
  // at `now`. kUnauthenticated (TOKEN_MISSING, TOKEN_UNKNOWN), kPermissionDenied (SCOPE_MISSING), or
  // kResourceExhausted with when to try again (RATE_LIMITED).
  absl::StatusOr<std::string> Admit(absl::string_view authorization, Scope scope, absl::Time now) const;

  // The same for what any token may do, at any rate.
  absl::Status Identify(absl::string_view authorization) const;

  const std::string& path() const { return path_; }

 private:
  struct Token;
  using List = std::vector<std::shared_ptr<Token>>;

  explicit Tokens(std::string path) : path_(std::move(path)) {}
  static absl::StatusOr<List> Read(const std::string& path);
  absl::StatusOr<std::shared_ptr<Token>> Find(absl::string_view authorization) const;

  const std::string path_;
  mutable absl::Mutex mutex_;
  std::shared_ptr<const List> tokens_ ABSL_GUARDED_BY(mutex_);  // never null once loaded
};

}  // namespace dotmax

#endif  // DOTMAX_SERVER_RPC_TOKENS_H_
