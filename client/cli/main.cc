// The dotmax command: asks a dotmax server from a terminal or a script, or does without one.
#include <cstdlib>
#include <iostream>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "client/cli/commands.h"
#include "client/cli/common.h"
#include "server/base/config.h"

namespace dotmax {
namespace {

constexpr char kHelp[] =
    R"(Usage: dotmax COMMAND [FLAGS]

Finds the best scores between the rows of two matrices, exactly: inner products, cosines or squared distances.

Commands:
  search   the best rows of a server's collection for query vectors
  max      the best pairs of rows of two files, by a server or in this process
  pairs    the closest pairs of rows within one file, or within a server's collection
  convert  a matrix file into another format
  eval     a data set of ann-benchmarks, by its own queries
  bench    how fast a server answers, and how it fares under load
  load     a file that the server can read, as a collection, while it serves
  reload   a collection from its file
  swap     what two collections' names mean
  drop     a collection
  info     what the server holds, and its limits
  health   whether the server takes searches
  token    a new token, and its line for the server's --tokens-file

dotmax COMMAND --help explains its flags; dotmax --version says which one this is.

Exit status: 0 done; 1 anything not below; 2 the command line is wrong; 3 the input is wrong, says this
command or the server; 4 the server is absent, busy or too slow: trying again may help.
)";

ExitCode Main(int argc, const char* const* argv) {
  const absl::string_view command = argc > 1 ? argv[1] : "";
  if (command == "search") return Search(argc - 1, argv + 1);
  if (command == "max") return Max(argc - 1, argv + 1);
  if (command == "pairs") return Pairs(argc - 1, argv + 1);
  if (command == "convert") return Convert(argc - 1, argv + 1);
  if (command == "eval") return Eval(argc - 1, argv + 1);
  if (command == "bench") return Bench(argc - 1, argv + 1);
  if (command == "load") return Load(argc - 1, argv + 1);
  if (command == "reload") return Reload(argc - 1, argv + 1);
  if (command == "swap") return Swap(argc - 1, argv + 1);
  if (command == "drop") return Drop(argc - 1, argv + 1);
  if (command == "info") return Info(argc - 1, argv + 1);
  if (command == "health") return Health(argc - 1, argv + 1);
  if (command == "token") return Token(argc - 1, argv + 1);
  if (command == "--version" || command == "version") return Print(absl::StrCat("dotmax ", kVersion, "\n"));
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
  absl::SetMutexDeadlockDetectionMode(absl::OnDeadlockCycle::kIgnore);  // as the server does
  setenv("GRPC_VERBOSITY", "NONE", /*replace=*/0);                      // our own line says what failed
  return dotmax::Main(argc, argv);
}
