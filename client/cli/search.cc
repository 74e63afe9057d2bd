// dotmax search: the best rows of a server's collection for query vectors.
#include <unistd.h>

#include <iostream>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "client/cli/commands.h"
#include "client/cli/common.h"
#include "client/cli/files.h"
#include "client/cli/format.h"
#include "client/cli/progress.h"
#include "client/cli/queries.h"
#include "client/cli/question.h"
#include "dotmax/client.h"
#include "server/base/flags.h"
#include "server/store/names.h"

namespace dotmax {
namespace {

struct SearchFlags {
  CommonFlags common;
  std::string queries;
  std::string words;
  std::string ids;
  std::string collection;
  bool global = false;
  QuestionFlags question;
};

// The names of the rows of the collection that is searched: --ids, or what lies beside the query file if it
// fits the collection.
absl::Status FindRowNames(const SearchFlags& flags, const ServerDescription& server, Names& names) {
  const std::string path = flags.ids.empty() ? NamesPathBeside(flags.queries) : flags.ids;
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

absl::StatusOr<SearchResult> RunSearch(const SearchFlags& flags, SearchOptions& options, Names& names) {
  absl::StatusOr<SharedMatrix> queries =
      flags.queries == "-" ? ReadTextMatrix(std::cin) : ReadMatrixFile(flags.queries, {.dataset = "test"});
  if (!queries.ok()) return queries.status();
  if (!flags.words.empty()) {
    names.queries = absl::StrSplit(flags.words, ',', absl::SkipEmpty());
    if (names.queries.empty()) return absl::InvalidArgumentError("--words names no row");
    const absl::StatusOr<std::vector<std::string>> ids = ReadIds(NamesPathBeside(flags.queries));
    if (!ids.ok()) return ids.status();
    queries = SelectByName(*queries, *ids, names.queries);
    if (!queries.ok()) return queries.status();
  }
  const absl::StatusOr<Client> client = flags.common.Connect();
  if (!client.ok()) return client.status();
  const absl::StatusOr<ServerDescription> server = client->Describe();
  if (!server.ok()) return server.status();
  if (absl::Status s = FindRowNames(flags, *server, names); !s.ok()) return s;
  options.collection = flags.collection;
  options.global = flags.global;
  options.max_message_bytes = server->max_message_bytes;
  Progress progress;
  options.progress = [&progress](uint64_t done, uint64_t total) { progress.Update(done, total); };
  return client->Search(ToRows(queries->view), options);
}

}  // namespace

ExitCode Search(int argc, const char* const* argv) {
  SearchFlags f;
  Flags flags("dotmax search --queries=FILE|- [FLAGS]",
              "Finds the rows of a collection that score best with query vectors, exactly: by their inner\n"
              "product, cosine or squared distance.");
  flags.Add({"queries", "FILE",
             "Query vectors: a matrix file (dotmax convert --help lists the formats), or - for text on "
             "standard input, one "
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
  f.question.AddTo(flags);
  flags.Add({"global", "", "The best pairs of all query vectors together.", ""}, &f.global);
  f.common.AddTo(flags);
  f.common.AddFormatTo(flags);
  return WithFlags(flags, argc, argv, {}, [&f](const std::vector<std::string>&) {
    if (f.queries.empty()) return WrongUse("--queries=FILE or --queries=- is required");
    if (f.queries == "-" && !f.words.empty()) {
      return WrongUse("--words needs --queries=FILE, which has its names beside it");
    }
    absl::StatusOr<SearchOptions> options = f.question.Options();
    if (!options.ok()) return WrongUse(std::string(options.status().message()));
    Names names;
    const absl::StatusOr<SearchResult> result = RunSearch(f, *options, names);
    if (!result.ok()) return Fail(result.status());
    return f.question.Give(*result, *options, names, f.common);
  });
}

}  // namespace dotmax
