// dotmax load, reload, swap and drop: changes of what a server holds, while it serves.
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "client/cli/commands.h"
#include "client/cli/common.h"
#include "client/cli/progress.h"
#include "dotmax/client.h"
#include "server/base/flags.h"

namespace dotmax {
namespace {

std::string Line(const CollectionDescription& c) {
  return absl::StrCat(c.name, ": version ", c.version, ", ", c.rows, " rows of dim ", c.dim, "\n");
}

CollectionLoadOptions OptionsOf(const CommonFlags& common, Progress& progress) {
  CollectionLoadOptions options;
  options.timeout = common.timeout;
  options.progress = [&progress](LoadStage, uint64_t done, uint64_t total) { progress.Update(done, total); };
  return options;
}

ExitCode Tell(const absl::StatusOr<CollectionDescription>& loaded) {
  return loaded.ok() ? Print(Line(*loaded)) : Fail(loaded.status());
}

}  // namespace

ExitCode Load(int argc, const char* const* argv) {
  CommonFlags common;
  common.timeout = CollectionLoadOptions().timeout;
  Flags flags(
      "dotmax load NAME PATH [FLAGS]",
      "Has the server load a file as collection NAME, beside what it searches; when that is done, the "
      "name means it. PATH is within the server's --data-dir. A load that fails, or is interrupted, "
      "changes nothing.");
  common.AddTo(flags);
  return WithFlags(flags, argc, argv, {"NAME", "PATH"}, [&common](const std::vector<std::string>& arguments) {
    const absl::StatusOr<Client> client = common.Connect();
    if (!client.ok()) return Fail(client.status());
    absl::StatusOr<CollectionDescription> loaded;
    {
      Progress progress;
      loaded = client->LoadCollection(arguments[0], arguments[1], OptionsOf(common, progress));
    }
    return Tell(loaded);
  });
}

ExitCode Reload(int argc, const char* const* argv) {
  CommonFlags common;
  common.timeout = CollectionLoadOptions().timeout;
  Flags flags("dotmax reload NAME [FLAGS]",
              "Has the server load collection NAME again from its file, as `dotmax load` would.");
  common.AddTo(flags);
  return WithFlags(flags, argc, argv, {"NAME"}, [&common](const std::vector<std::string>& arguments) {
    const absl::StatusOr<Client> client = common.Connect();
    if (!client.ok()) return Fail(client.status());
    absl::StatusOr<CollectionDescription> loaded;
    {
      Progress progress;
      loaded = client->ReloadCollection(arguments[0], OptionsOf(common, progress));
    }
    return Tell(loaded);
  });
}

ExitCode Swap(int argc, const char* const* argv) {
  CommonFlags common;
  Flags flags(
      "dotmax swap A B [FLAGS]",
      "Collections A and B change names: from one moment to the next, each means what the other did.");
  common.AddTo(flags);
  return WithFlags(flags, argc, argv, {"A", "B"}, [&common](const std::vector<std::string>& arguments) {
    const absl::StatusOr<Client> client = common.Connect();
    if (!client.ok()) return Fail(client.status());
    const auto swapped = client->SwapCollections(arguments[0], arguments[1]);
    return swapped.ok() ? Print(Line(swapped->first) + Line(swapped->second)) : Fail(swapped.status());
  });
}

ExitCode Drop(int argc, const char* const* argv) {
  CommonFlags common;
  Flags flags("dotmax drop NAME [FLAGS]",
              "Has the server forget collection NAME. Searches that have begun are still answered.");
  common.AddTo(flags);
  return WithFlags(flags, argc, argv, {"NAME"}, [&common](const std::vector<std::string>& arguments) {
    const absl::StatusOr<Client> client = common.Connect();
    if (!client.ok()) return Fail(client.status());
    const absl::Status status = client->DropCollection(arguments[0]);
    return status.ok() ? Print(absl::StrCat(arguments[0], ": dropped\n")) : Fail(status);
  });
}

}  // namespace dotmax
