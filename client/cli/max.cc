// dotmax max: the best pairs of rows of two matrix files.
#include <unistd.h>

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

struct MaxFlags {
  CommonFlags common;
  QuestionFlags question;
  bool per_row = false;
  bool local = false;
  int64_t threads = DefaultThreads();
};

absl::StatusOr<SearchResult> RunMax(const MaxFlags& flags, const std::string& queries_path,
                                    const std::string& base_path, SearchOptions& options, Names& names) {
  Progress progress;
  options.progress = [&progress](uint64_t done, uint64_t total) { progress.Update(done, total); };
  const absl::StatusOr<SharedMatrix> queries = ReadMatrixFile(queries_path);
  if (!queries.ok()) return queries.status();
  const absl::StatusOr<SharedMatrix> base = ReadMatrixFile(base_path);
  if (!base.ok()) return base.status();
  names = {NamesBeside(queries_path, queries->view.rows), NamesBeside(base_path, base->view.rows)};
  if (flags.local) return LocalMax(*queries, *base, base_path, options, static_cast<int>(flags.threads));
  const absl::StatusOr<Client> client = flags.common.Connect();
  if (!client.ok()) return client.status();
  const absl::StatusOr<ServerDescription> server = client->Describe();
  if (!server.ok()) return server.status();
  options.max_message_bytes = server->max_message_bytes;
  return client->MaxInnerProduct(ToRows(queries->view), ToRows(base->view), options);
}

}  // namespace

ExitCode Max(int argc, const char* const* argv) {
  MaxFlags f;
  f.common.timeout = absl::Minutes(10);
  Flags flags(
      "dotmax max A.npy B.npy [FLAGS]",
      "Finds the best of all pairs of a row of A and a row of B, and where it is; or the best row of B\n"
      "for each row of A. Files may be of any size: no server needs to hold them.\n"
      "Rows are shown by the names in the .ids file beside their file (one name per line), if there is\n"
      "one.");
  flags.Add({"per-row", "", "The best rows of B for each row of A, instead of the best pairs of all.", ""},
            &f.per_row);
  f.question.AddTo(flags);
  flags.Add({"local", "", "Search in this process, without a server.", ""}, &f.local);
  flags.Add({"threads", "N", "With --local: how many threads search.", ""}, 1, 1024, &f.threads);
  f.common.AddTo(flags);
  f.common.AddFormatTo(flags);
  return WithFlags(flags, argc, argv, {"A.npy", "B.npy"}, [&f](const std::vector<std::string>& files) {
    absl::StatusOr<SearchOptions> options = f.question.Options();
    if (!options.ok()) return WrongUse(std::string(options.status().message()));
    options->global = !f.per_row;
    Names names;
    const absl::StatusOr<SearchResult> result = RunMax(f, files[0], files[1], *options, names);
    if (!result.ok()) return Fail(result.status());
    return f.question.Give(*result, *options, names, f.common);
  });
}

}  // namespace dotmax
