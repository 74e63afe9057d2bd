// The dotmax command: asks a dotmax server from a terminal or a script.
#include <unistd.h>

#include <cstdlib>
#include <iostream>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "client/cli/format.h"
#include "client/cli/queries.h"
#include "dotmax/client.h"
#include "server/base/flags.h"
#include "server/store/ingest.h"

namespace dotmax {
namespace {

constexpr char kHelp[] =
    R"(Usage: dotmax COMMAND [FLAGS]

Asks a dotmax server which rows of its matrices have the largest inner products with your vectors.

Commands:
  search   the best rows for query vectors
  info     what the server holds, and its limits
  health   whether the server takes searches

dotmax COMMAND --help explains its flags.

Exit status: 0 done; 1 anything not below; 2 the command line is wrong; 3 the input is wrong, says this
command or the server; 4 the server is absent, busy or too slow: trying again may help.
)";

enum ExitCode { kOk = 0, kFailed = 1, kUsage = 2, kBadInput = 3, kTryAgain = 4 };

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
    case absl::StatusCode::kDeadlineExceeded:
    case absl::StatusCode::kResourceExhausted:
      return kTryAgain;
    default:
      return kFailed;
  }
}

// One line on standard error.
ExitCode Fail(const absl::Status& status) {
  std::cerr << "dotmax: " << status.message();
  const std::string reason = StatusReason(status);
  if (!reason.empty()) std::cerr << " (" << reason << ")";
  std::cerr << "\n";
  return CodeFor(status);
}

// Prints a command's output. An answer that did not arrive, on a full disk say, is a failure.
ExitCode Print(const std::string& text) {
  std::cout << text << std::flush;
  if (std::cout.good()) return kOk;
  std::cerr << "dotmax: standard output could not be written\n";
  return kFailed;
}

// The flags of every command.
struct CommonFlags {
  std::string server = "localhost:50051";
  absl::Duration timeout = absl::Seconds(60);
  bool json = false;
  bool table = false;

  void AddTo(Flags& flags) {
    flags.Add({"server", "HOST:PORT", "The server.", "DOTMAX_SERVER"}, &server);
    flags.Add({"timeout", "DURATION", "How long to wait for the whole answer.", "DOTMAX_TIMEOUT"}, &timeout);
  }
  void AddFormatTo(Flags& flags) {
    flags.Add({"json", "", "Print JSON, which is the default unless standard output is a terminal.", ""},
              &json);
    flags.Add({"table", "", "Print a table even where standard output is not a terminal.", ""}, &table);
  }
  bool WantsTable() const { return table || (!json && isatty(STDOUT_FILENO) != 0); }
  absl::StatusOr<Client> Connect() const { return Client::Create({.target = server, .timeout = timeout}); }
};

// Runs `command` once its flags are parsed.
template <typename Command>
ExitCode WithFlags(Flags& flags, int argc, const char* const* argv, Command command) {
  const absl::StatusOr<Flags::Parsed> parsed =
      flags.Parse(argc, argv, [](const char* name) { return getenv(name); });
  if (!parsed.ok() || (!parsed->help && !parsed->positionals.empty())) {
    const std::string what = parsed.ok() ? absl::StrCat("unexpected argument ", parsed->positionals[0])
                                         : std::string(parsed.status().message());
    std::cerr << "dotmax: " << what << "\n";
    return kUsage;
  }
  if (parsed->help) return Print(flags.Help());
  return command();
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

struct SearchFlags {
  CommonFlags common;
  std::string queries;
  std::string words;
  std::string ids;
  std::string collection;
  int64_t top_k = 1;
  bool global = false;
};

// The names of the rows of the collection that is searched: --ids, or what lies beside the query file if it
// fits the collection.
absl::Status FindRowNames(const SearchFlags& flags, const ServerDescription& server, Names& names) {
  const std::string path = flags.ids.empty() ? IdsPathBeside(flags.queries) : flags.ids;
  if (flags.ids.empty() && access(path.c_str(), R_OK) != 0) return absl::OkStatus();
  absl::StatusOr<std::vector<std::string>> ids = ReadIds(path);
  if (!ids.ok()) return ids.status();
  for (const CollectionDescription& c : server.collections) {
    if (c.name != flags.collection && !(flags.collection.empty() && server.collections.size() == 1)) continue;
    if (c.rows == ids->size()) {
      names.rows = *std::move(ids);
    } else if (!flags.ids.empty()) {
      return absl::InvalidArgumentError(absl::StrCat("--ids: ", path, " has ", ids->size(),
                                                     " names, collection \"", c.name, "\" has ", c.rows,
                                                     " rows"));
    }
    return absl::OkStatus();
  }
  return absl::OkStatus();  // no such collection: the search says so
}

// What to print.
absl::StatusOr<std::string> RunSearch(const SearchFlags& flags) {
  absl::StatusOr<SharedMatrix> queries =
      flags.queries == "-" ? ReadTextMatrix(std::cin) : ReadMatrix(flags.queries);
  if (!queries.ok()) return queries.status();
  Names names;
  if (!flags.words.empty()) {
    names.queries = absl::StrSplit(flags.words, ',', absl::SkipEmpty());
    if (names.queries.empty()) return absl::InvalidArgumentError("--words names no row");
    const absl::StatusOr<std::vector<std::string>> ids = ReadIds(IdsPathBeside(flags.queries));
    if (!ids.ok()) return ids.status();
    queries = SelectByName(*queries, *ids, names.queries);
    if (!queries.ok()) return queries.status();
  }
  const absl::StatusOr<Client> client = flags.common.Connect();
  if (!client.ok()) return client.status();
  const absl::StatusOr<ServerDescription> server = client->Describe();
  if (!server.ok()) return server.status();
  if (absl::Status s = FindRowNames(flags, *server, names); !s.ok()) return s;
  const absl::StatusOr<SearchResult> result =
      client->Search(ToRows(queries->view), {.collection = flags.collection,
                                             .top_k = static_cast<uint32_t>(flags.top_k),
                                             .global = flags.global,
                                             .max_message_bytes = server->max_message_bytes});
  if (!result.ok()) return result.status();
  return flags.common.WantsTable() ? HitsTable(*result, names) : HitsJson(*result, names);
}

ExitCode Search(int argc, const char* const* argv) {
  SearchFlags f;
  Flags flags("dotmax search --queries=FILE|- [FLAGS]",
              "Finds the rows of a collection that have the largest inner products with query vectors.");
  flags.Add({"queries", "FILE",
             "Query vectors: a .npy, .fvecs or .fbin file, or - for text on standard input, one "
             "vector per line, numbers separated by blanks or commas. Text is sent as float32 when every "
             "number is exactly one, as float64 otherwise.",
             ""},
            &f.queries);
  flags.Add({"words", "A,B,...",
             "Ask only for these rows of --queries, by the names in the .ids file beside it (one "
             "name per line).",
             ""},
            &f.words);
  flags.Add({"ids", "FILE",
             "Names of the collection's rows, one per line, to show with the ids; by default the .ids "
             "file beside --queries, if it has as many.",
             ""},
            &f.ids);
  flags.Add({"collection", "NAME", "The collection; empty: the server's only one.", "DOTMAX_COLLECTION"},
            &f.collection);
  flags.Add({"top-k", "K", "How many hits, per query vector or globally.", ""}, 1, UINT32_MAX, &f.top_k);
  flags.Add({"global", "", "The best pairs of all query vectors together.", ""}, &f.global);
  f.common.AddTo(flags);
  f.common.AddFormatTo(flags);
  return WithFlags(flags, argc, argv, [&f] {
    if (f.queries.empty()) {
      std::cerr << "dotmax: --queries=FILE or --queries=- is required\n";
      return kUsage;
    }
    if (f.queries == "-" && !f.words.empty()) {
      std::cerr << "dotmax: --words needs --queries=FILE, which has its names beside it\n";
      return kUsage;
    }
    const absl::StatusOr<std::string> output = RunSearch(f);
    return output.ok() ? Print(*output) : Fail(output.status());
  });
}

ExitCode Info(int argc, const char* const* argv) {
  CommonFlags common;
  Flags flags("dotmax info [FLAGS]", "Shows what the server holds, and its limits.");
  common.AddTo(flags);
  common.AddFormatTo(flags);
  return WithFlags(flags, argc, argv, [&common] {
    const absl::StatusOr<Client> client = common.Connect();
    if (!client.ok()) return Fail(client.status());
    const absl::StatusOr<ServerDescription> server = client->Describe();
    if (!server.ok()) return Fail(server.status());
    return Print(common.WantsTable() ? InfoTable(*server) : InfoJson(*server));
  });
}

ExitCode Health(int argc, const char* const* argv) {
  CommonFlags common;
  common.timeout = absl::Seconds(5);
  Flags flags("dotmax health [FLAGS]",
              "Prints \"serving\" and exits with 0 while the server takes searches.");
  common.AddTo(flags);
  return WithFlags(flags, argc, argv, [&common] {
    const absl::StatusOr<Client> client = common.Connect();
    if (!client.ok()) return Fail(client.status());
    if (const absl::Status status = client->CheckHealth(); !status.ok()) return Fail(status);
    return Print("serving\n");
  });
}

ExitCode Main(int argc, const char* const* argv) {
  const absl::string_view command = argc > 1 ? argv[1] : "";
  if (command == "search") return Search(argc - 1, argv + 1);
  if (command == "info") return Info(argc - 1, argv + 1);
  if (command == "health") return Health(argc - 1, argv + 1);
  if (command == "--help" || command == "-h" || command == "help") {
    return Print(kHelp);
  }
  if (command.empty()) {
    std::cerr << kHelp;
  } else {
    std::cerr << "dotmax: unknown command " << command << " (see dotmax --help)\n";
  }
  return kUsage;
}

}  // namespace
}  // namespace dotmax

int main(int argc, char** argv) {
  setenv("GRPC_VERBOSITY", "NONE", /*replace=*/0);  // our own line says what failed
  return dotmax::Main(argc, argv);
}
