// dotmax token: makes a token, and the line by which a server knows it.
#include <sys/random.h>

#include <iostream>
#include <string>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"
#include "client/cli/commands.h"
#include "client/cli/common.h"
#include "server/base/crypto.h"
#include "server/base/flags.h"

namespace dotmax {
namespace {

// 256 bits: nobody guesses one, however fast its hash is.
constexpr size_t kTokenBytes = 32;
// By which tools find tokens where they should not be.
constexpr char kPrefix[] = "dotmax_";

constexpr int64_t kMaxRate = 1'000'000;

bool IsWord(absl::string_view text) {
  return !text.empty() && text[0] != '#' && text.find_first_of(" \t\r\n") == text.npos;
}

}  // namespace

ExitCode Token(int argc, const char* const* argv) {
  std::string scopes = "search";
  int64_t rate = 0;
  Flags flags(
      "dotmax token NAME [FLAGS]",
      "Makes a token for NAME: prints it on standard output, and on standard error the line to add to "
      "the server's --tokens-file, which holds its hash only. Asks no server.");
  flags.Add({"scopes", "LIST", "What the token allows: search, admin or search,admin.", ""}, &scopes);
  flags.Add({"rate", "N", "Calls per second that may begin with it; 0 for any number.", ""}, 0, kMaxRate,
            &rate);
  return WithFlags(flags, argc, argv, {"NAME"}, [&](const std::vector<std::string>& arguments) {
    if (!IsWord(arguments[0])) return WrongUse("NAME must be one word, which does not begin with #");
    for (const absl::string_view scope : absl::StrSplit(scopes, ',')) {
      if (scope == "search" || scope == "admin") continue;
      return WrongUse(absl::StrCat("--scopes=", scopes, ": expected search, admin or search,admin"));
    }
    std::string random(kTokenBytes, '\0');
    if (getrandom(random.data(), random.size(), 0) != static_cast<ssize_t>(random.size())) {
      return Fail(absl::InternalError("the system gives no random bytes"));
    }
    const std::string token = absl::StrCat(kPrefix, absl::WebSafeBase64Escape(random));
    const Sha256Digest digest = Sha256(token);
    const std::string hash = absl::BytesToHexString(
        absl::string_view(reinterpret_cast<const char*>(digest.data()), digest.size()));
    std::cerr << absl::StrCat(arguments[0], " ", scopes, " ", hash, rate > 0 ? absl::StrCat(" ", rate) : "",
                              "\n");
    return Print(token + "\n");
  });
}

}  // namespace dotmax
