// dotmax info and dotmax health: what a server is and holds.
#include <string>
#include <vector>

#include "client/cli/commands.h"
#include "client/cli/common.h"
#include "client/cli/format.h"
#include "dotmax/client.h"
#include "server/base/flags.h"

namespace dotmax {

ExitCode Info(int argc, const char* const* argv) {
  CommonFlags common;
  Flags flags("dotmax info [FLAGS]", "Shows what the server holds, and its limits.");
  common.AddTo(flags);
  common.AddFormatTo(flags);
  return WithFlags(flags, argc, argv, {}, [&common](const std::vector<std::string>&) {
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
  return WithFlags(flags, argc, argv, {}, [&common](const std::vector<std::string>&) {
    const absl::StatusOr<Client> client = common.Connect();
    if (!client.ok()) return Fail(client.status());
    if (const absl::Status status = client->CheckHealth(); !status.ok()) return Fail(status);
    return Print("serving\n");
  });
}

}  // namespace dotmax
