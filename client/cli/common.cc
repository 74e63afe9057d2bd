#include "client/cli/common.h"

#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <iostream>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"

namespace dotmax {
namespace {

ExitCode CodeFor(const absl::Status& status) {
  switch (status.code()) {
    case absl::StatusCode::kInvalidArgument:
    case absl::StatusCode::kAlreadyExists:
    case absl::StatusCode::kNotFound:
    case absl::StatusCode::kOutOfRange:
    case absl::StatusCode::kFailedPrecondition:
    case absl::StatusCode::kPermissionDenied:
    case absl::StatusCode::kUnauthenticated:
      return kBadInput;
    case absl::StatusCode::kUnavailable:
    case absl::StatusCode::kAborted:
    case absl::StatusCode::kDeadlineExceeded:
    case absl::StatusCode::kResourceExhausted:
      return kTryAgain;
    default:
      return kFailed;
  }
}

}  // namespace

ExitCode Fail(const absl::Status& status) {
  std::cerr << "dotmax: " << status.message();
  const std::string reason = StatusReason(status);
  if (!reason.empty()) std::cerr << " (" << reason << ")";
  std::cerr << "\n";
  return CodeFor(status);
}

ExitCode WrongUse(const std::string& what) {
  std::cerr << "dotmax: " << what << "\n";
  return kUsage;
}

ExitCode Print(const std::string& text) {
  std::cout << text << std::flush;
  if (std::cout.good()) return kOk;
  std::cerr << "dotmax: standard output could not be written\n";
  return kFailed;
}

void CommonFlags::AddTo(Flags& flags) {
  flags.Add({"server", "HOST:PORT", "The server.", "DOTMAX_SERVER"}, &server);
  flags.Add({"timeout", "DURATION", "How long to wait for the whole answer.", "DOTMAX_TIMEOUT"}, &timeout);
  // Other names than the server's own, whose environment this command often runs in.
  flags.Add({"tls", "", "Connect over TLS; so does each of the next four.", "DOTMAX_CLIENT_TLS"}, &tls);
  flags.Add({"tls-ca", "FILE",
             "PEM certificates, one of which has signed the server's; without, those that the system trusts.",
             "DOTMAX_CLIENT_TLS_CA"},
            &tls_files.ca_file);
  flags.Add(
      {"tls-cert", "FILE", "A PEM certificate for a server that asks for one.", "DOTMAX_CLIENT_TLS_CERT"},
      &tls_files.certificate_file);
  flags.Add({"tls-key", "FILE", "The PEM private key of --tls-cert.", "DOTMAX_CLIENT_TLS_KEY"},
            &tls_files.key_file);
  flags.Add({"tls-server-name", "NAME", "The name on the server's certificate, if not the host of --server.",
             "DOTMAX_CLIENT_TLS_SERVER_NAME"},
            &tls_files.server_name);
  flags.Add({"token-file", "FILE",
             "Holds the token to show to the server; without, it is what DOTMAX_TOKEN holds in the "
             "environment, if that is set.",
             "DOTMAX_TOKEN_FILE"},
            &token_file);
}

absl::StatusOr<ClientOptions> CommonFlags::Options() const {
  ClientOptions options = {.target = server, .timeout = timeout};
  const TlsOptions& files = tls_files;
  if (tls || !(files.ca_file + files.certificate_file + files.key_file + files.server_name).empty()) {
    options.tls = files;
  }
  if (!token_file.empty()) {
    std::ifstream file(token_file);
    if (!(file >> options.token)) {
      return absl::InvalidArgumentError(
          absl::StrCat("--token-file=", token_file, ": there is no token in it"));
    }
  } else if (const char* const token = getenv("DOTMAX_TOKEN"); token != nullptr) {
    options.token = token;
  }
  return options;
}

absl::StatusOr<Client> CommonFlags::Connect() const {
  const absl::StatusOr<ClientOptions> options = Options();
  if (!options.ok()) return options.status();
  return Client::Create(*options);
}

void CommonFlags::AddFormatTo(Flags& flags) {
  flags.Add({"json", "", "Print JSON, which is the default unless standard output is a terminal.", ""},
            &json);
  flags.Add({"table", "", "Print a table even where standard output is not a terminal.", ""}, &table);
}

bool CommonFlags::WantsTable() const { return table || (!json && isatty(STDOUT_FILENO) != 0); }

ExitCode WithFlags(Flags& flags, int argc, const char* const* argv, const std::vector<std::string>& names,
                   absl::FunctionRef<ExitCode(const std::vector<std::string>& arguments)> command) {
  const absl::StatusOr<Flags::Parsed> parsed =
      flags.Parse(argc, argv, [](const char* name) { return getenv(name); });
  if (!parsed.ok()) return WrongUse(std::string(parsed.status().message()));
  if (parsed->help) return Print(flags.Help());
  const std::vector<std::string>& given = parsed->positionals;
  if (given.size() > names.size()) {
    return WrongUse(absl::StrCat("unexpected argument ", given[names.size()]));
  }
  if (given.size() < names.size() && names[given.size()][0] != '[')
    return WrongUse(absl::StrCat(names[given.size()], " is missing"));
  return command(given);
}

Rows ToRows(const MatrixView& view) {
  constexpr std::pair<DType, ElementType> kTypes[] = {
      {DType::kFloat32, ElementType::kFloat32},   {DType::kFloat16, ElementType::kFloat16},
      {DType::kBFloat16, ElementType::kBFloat16}, {DType::kFloat64, ElementType::kFloat64},
      {DType::kInt8, ElementType::kInt8},
  };
  ElementType type = ElementType::kFloat32;
  for (const auto& [ours, client] : kTypes) {
    if (ours == view.dtype) type = client;
  }
  return Rows(view.data, view.bytes(), view.dim, type);
}

int DefaultThreads() { return std::max(1, static_cast<int>(std::thread::hardware_concurrency())); }

}  // namespace dotmax
