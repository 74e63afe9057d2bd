#include "client/cli/common.h"

#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <iostream>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"

namespace dotmax {
namespace {

ExitCode CodeFor(const absl::Status& status) {
  switch (status.code()) {
    case absl::StatusCode::kInvalidArgument:
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
