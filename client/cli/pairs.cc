// dotmax pairs: the closest pairs of rows within one matrix, or what is closest to each of its rows.
#include <string>
#include <vector>

#include "client/cli/commands.h"
#include "client/cli/common.h"
#include "client/cli/files.h"
#include "client/cli/format.h"
#include "client/cli/local.h"
#include "client/cli/progress.h"
#include "client/cli/queries.h"
#include "client/cli/question.h"
#include "dotmax/client.h"
#include "server/base/flags.h"

namespace dotmax {
namespace {

struct PairsFlags {
  CommonFlags common;
  QuestionFlags question;
  std::string collection;
  bool per_row = false;
  bool local = false;
  int64_t threads = DefaultThreads();
};

// Of a file, in this process.
absl::StatusOr<SearchResult> OfFile(const PairsFlags& flags, const std::string& path,
                                    const SearchOptions& options, Names& names) {
  const absl::StatusOr<SharedMatrix> rows = ReadMatrixFile(path);
  if (!rows.ok()) return rows.status();
  names.queries = names.rows = NamesBeside(path, rows->view.rows);
  return LocalPairs(*rows, path, options, static_cast<int>(flags.threads));
}

// Of a collection that a server holds.
absl::StatusOr<SearchResult> OfCollection(const PairsFlags& flags, SearchOptions options) {
  const absl::StatusOr<Client> client = flags.common.Connect();
  if (!client.ok()) return client.status();
  options.collection = flags.collection;
  return client->SearchRows({}, flags.per_row ? SelfPairs::kNotItself : SelfPairs::kEachOnce, options);
}

ExitCode Run(const PairsFlags& flags, const std::vector<std::string>& files) {
  if (files.empty() == flags.collection.empty()) {
    return WrongUse("either FILE.npy or --collection=NAME is needed");
  }
  if (flags.local && files.empty()) {
    return WrongUse("--local: a collection is in its server; give FILE.npy");
  }
  absl::StatusOr<SearchOptions> options = flags.question.Options();
  if (!options.ok()) return WrongUse(std::string(options.status().message()));
  options->global = !flags.per_row;
  Names names;
  absl::StatusOr<SearchResult> result;
  {
    Progress progress;
    options->progress = [&progress](uint64_t done, uint64_t total) { progress.Update(done, total); };
    result = files.empty() ? OfCollection(flags, *options) : OfFile(flags, files[0], *options, names);
  }
  if (!result.ok()) return Fail(result.status());
  return flags.question.Give(*result, *options, names, flags.common);
}

}  // namespace

ExitCode Pairs(int argc, const char* const* argv) {
  PairsFlags f;
  f.common.timeout = absl::Minutes(10);
  Flags flags(
      "dotmax pairs FILE.npy [FLAGS]   or   dotmax pairs --collection=NAME [FLAGS]",
      "Finds the closest pairs of different rows of one matrix, each pair once: with\n"
      "--metric=squared_euclidean the nearest ones, with cosine the most alike; or for each row the\n"
      "others that are closest to it. A file is searched in this process, a collection by the server that\n"
      "holds it. A file's rows are shown by the names in the .ids file beside it (one name per line), if\n"
      "there is one.");
  flags.Add({"collection", "NAME", "The pairs of a server's collection.", ""}, &f.collection);
  flags.Add({"per-row", "", "The best other rows for each row, instead of the best pairs of all.", ""},
            &f.per_row);
  f.question.AddTo(flags);
  flags.Add({"local", "", "Search in this process, as is done for files anyway.", ""}, &f.local);
  flags.Add({"threads", "N", "For a file: how many threads search.", ""}, 1, 1024, &f.threads);
  f.common.AddTo(flags);
  f.common.AddFormatTo(flags);
  return WithFlags(flags, argc, argv, {"[FILE.npy]"},
                   [&f](const std::vector<std::string>& files) { return Run(f, files); });
}

}  // namespace dotmax
