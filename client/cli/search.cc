// dotmax search: the best rows of a server's collection for query vectors.
#include <unistd.h>

#include <iostream>
#include <numeric>
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
  bool exclude_self = false;
  QuestionFlags question;
};

// The collection that is searched, if the server has it.
const CollectionDescription* Searched(const SearchFlags& flags, const ServerDescription& server) {
  for (const CollectionDescription& c : server.collections) {
    if (c.name == flags.collection || (flags.collection.empty() && server.collections.size() == 1)) return &c;
  }
  return nullptr;  // the search says so
}

// The names of the rows of the collection that is searched: --ids, or what lies beside the query file if it
// fits the collection.
absl::Status FindRowNames(const SearchFlags& flags, const ServerDescription& server, Names& names) {
  const std::string path = flags.ids.empty() ? NamesPathBeside(flags.queries) : flags.ids;
  if (flags.ids.empty() && access(path.c_str(), R_OK) != 0) return absl::OkStatus();
  absl::StatusOr<std::vector<std::string>> ids = ReadIds(path);
  if (!ids.ok()) return ids.status();
  const CollectionDescription* const searched = Searched(flags, server);
  if (searched == nullptr) return absl::OkStatus();
  if (searched->rows == ids->size()) {
    names.rows = *std::move(ids);
  } else if (!flags.ids.empty()) {
    return absl::InvalidArgumentError(absl::StrCat("--ids: ", path, " has ", ids->size(),
                                                   " names, collection \"", searched->name, "\" has ",
                                                   searched->rows, " rows"));
  }
  return absl::OkStatus();
}

// That query i is not to find row rows[i], as it is that row.
absl::StatusOr<Exclusions> ExcludeSelf(const SearchFlags& flags, const ServerDescription& server,
                                       uint64_t file_rows, const std::vector<uint64_t>& rows) {
  const CollectionDescription* const searched = Searched(flags, server);
  if (searched != nullptr && searched->rows != file_rows) {
    return absl::InvalidArgumentError(absl::StrCat("--exclude-self: ", flags.queries, " has ", file_rows,
                                                   " rows, collection \"", searched->name, "\" has ",
                                                   searched->rows, ": they cannot be the same"));
  }
  Exclusions exclude;
  for (uint64_t i = 0; i <= rows.size(); ++i) exclude.row_splits.push_back(i);
  exclude.ids = rows;
  return exclude;
}

absl::StatusOr<SearchResult> RunSearch(const SearchFlags& flags, SearchOptions& options, Names& names) {
  absl::StatusOr<SharedMatrix> queries =
      flags.queries == "-" ? ReadTextMatrix(std::cin) : ReadMatrixFile(flags.queries, {.dataset = "test"});
  if (!queries.ok()) return queries.status();
  const uint64_t file_rows = queries->view.rows;
  std::vector<uint64_t> rows;  // of the file, that are asked for
  if (!flags.words.empty()) {
    names.queries = absl::StrSplit(flags.words, ',', absl::SkipEmpty());
    if (names.queries.empty()) return absl::InvalidArgumentError("--words names no row");
    const absl::StatusOr<std::vector<std::string>> ids = ReadIds(NamesPathBeside(flags.queries));
    if (!ids.ok()) return ids.status();
    if (ids->size() != file_rows) {
      return absl::InvalidArgumentError(
          absl::StrCat("there are ", ids->size(), " names for ", file_rows, " rows"));
    }
    absl::StatusOr<std::vector<uint64_t>> found = FindByName(*ids, names.queries);
    if (!found.ok()) return found.status();
    rows = *std::move(found);
    queries = SelectRows(*queries, rows);
  } else if (flags.exclude_self) {
    rows.resize(file_rows);
    std::iota(rows.begin(), rows.end(), uint64_t{0});
  }
  const absl::StatusOr<Client> client = flags.common.Connect();
  if (!client.ok()) return client.status();
  const absl::StatusOr<ServerDescription> server = client->Describe();
  if (!server.ok()) return server.status();
  if (absl::Status s = FindRowNames(flags, *server, names); !s.ok()) return s;
  if (flags.exclude_self) {
    absl::StatusOr<Exclusions> exclude = ExcludeSelf(flags, *server, file_rows, rows);
    if (!exclude.ok()) return exclude.status();
    options.exclude = *std::move(exclude);
  }
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
  flags.Add({"exclude-self", "",
             "--queries is the file that the collection was loaded from, and none of its rows is to find "
             "itself.",
             ""},
            &f.exclude_self);
  f.common.AddTo(flags);
  f.common.AddFormatTo(flags);
  return WithFlags(flags, argc, argv, {}, [&f](const std::vector<std::string>&) {
    if (f.queries.empty()) return WrongUse("--queries=FILE or --queries=- is required");
    if (f.queries == "-" && !f.words.empty()) {
      return WrongUse("--words needs --queries=FILE, which has its names beside it");
    }
    if (f.queries == "-" && f.exclude_self) return WrongUse("--exclude-self needs --queries=FILE");
    absl::StatusOr<SearchOptions> options = f.question.Options();
    if (!options.ok()) return WrongUse(std::string(options.status().message()));
    Names names;
    const absl::StatusOr<SearchResult> result = RunSearch(f, *options, names);
    if (!result.ok()) return Fail(result.status());
    return f.question.Give(*result, *options, names, f.common);
  });
}

}  // namespace dotmax
