// What every command shares: exit codes, messages, flags.
#ifndef DOTMAX_CLIENT_CLI_COMMON_H_
#define DOTMAX_CLIENT_CLI_COMMON_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "dotmax/client.h"
#include "server/base/flags.h"
#include "server/base/types.h"

namespace dotmax {

enum ExitCode { kOk = 0, kFailed = 1, kUsage = 2, kBadInput = 3, kTryAgain = 4 };

// One line on standard error.
ExitCode Fail(const absl::Status& status);
ExitCode WrongUse(const std::string& what);

// Prints a command's output. An answer that did not arrive, on a full disk say, is a failure.
ExitCode Print(const std::string& text);

// The flags of every command that asks a server.
struct CommonFlags {
  std::string server = "localhost:50051";
  absl::Duration timeout = absl::Seconds(60);
  bool tls = false;  // also when one of tls_files is given
  TlsOptions tls_files;
  std::string token_file;
  bool json = false;
  bool table = false;

  void AddTo(Flags& flags);
  void AddFormatTo(Flags& flags);
  bool WantsTable() const;
  absl::StatusOr<ClientOptions> Options() const;
  absl::StatusOr<Client> Connect() const;
};

// Runs `command` once its flags are parsed and it has the other arguments that `names` says; those in
// brackets may be missing.
ExitCode WithFlags(Flags& flags, int argc, const char* const* argv, const std::vector<std::string>& names,
                   absl::FunctionRef<ExitCode(const std::vector<std::string>& arguments)> command);

Rows ToRows(const MatrixView& view);

// How many threads this process may use.
int DefaultThreads();

}  // namespace dotmax

#endif  // DOTMAX_CLIENT_CLI_COMMON_H_
