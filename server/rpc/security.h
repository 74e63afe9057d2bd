// What guards the gRPC port: who may ask (tokens), and how connections are made (TLS). Both come from files
// that are read again whenever they change.
#ifndef DOTMAX_SERVER_RPC_SECURITY_H_
#define DOTMAX_SERVER_RPC_SECURITY_H_

#include <grpcpp/security/server_credentials.h>

#include <memory>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "server/base/config.h"
#include "server/base/file_watch.h"
#include "server/base/log.h"
#include "server/base/metrics.h"
#include "server/rpc/tokens.h"

namespace dotmax {

// Thread-safe. Outlives the listener that it guards.
class Security {
 public:
  // kInvalidArgument names the file that cannot be used. `metrics` and `log` outlive the object, and hear of
  // every change of a file.
  static absl::StatusOr<std::unique_ptr<Security>> Load(const SecurityFiles& files, Metrics* metrics,
                                                        Logger* log);

  Security(const Security&) = delete;
  Security& operator=(const Security&) = delete;

  Tokens* tokens() const { return tokens_.get(); }  // null without a file of them
  // For one listener, which uses the certificates of the last files that were right, at most two seconds old,
  // for each new connection.
  std::shared_ptr<grpc::ServerCredentials> Credentials() const;

 private:
  // A file that has no name, in memory.
  class MemoryFile {
   public:
    MemoryFile();
    ~MemoryFile();

    std::string path() const;                    // while the object lives
    absl::Status Write(absl::string_view text);  // all of it, or nothing changes

   private:
    const int fd_;
  };

  Security(const SecurityFiles& files, Metrics* metrics, Logger* log)
      : files_(files), metrics_(metrics), log_(log) {}

  absl::Status LoadCertificates();
  void Reloaded(const char* flag, const absl::Status& status);

  const SecurityFiles files_;
  Metrics* const metrics_;
  Logger* const log_;
  std::unique_ptr<Tokens> tokens_;
  // What gRPC reads, which would take whatever a path leads to: checked, and a key and its certificate in
  // one, so that it never sees one without the other.
  MemoryFile pair_, client_ca_;
  std::optional<FileWatch> watch_tokens_, watch_certificates_;  // last: they use the rest
};

}  // namespace dotmax

#endif  // DOTMAX_SERVER_RPC_SECURITY_H_
