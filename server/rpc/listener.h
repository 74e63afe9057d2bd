// The gRPC server: our services, the standard health service and reflection, on one address.
#ifndef DOTMAX_SERVER_RPC_LISTENER_H_
#define DOTMAX_SERVER_RPC_LISTENER_H_

#include <grpcpp/security/server_credentials.h>
#include <grpcpp/server.h>
#include <grpcpp/server_builder.h>

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "server/rpc/acceptor.h"
#include "server/rpc/call.h"
#include "server/rpc/collections.h"
#include "server/rpc/search.h"

namespace dotmax {

// Thread-safe, but for Shutdown, which is called once at a time.
class Listener {
 public:
  // Serves from now on, with health NOT_SERVING. `address` is "HOST:PORT", port 0 for any free one;
  // kUnavailable names it when it cannot be bound, also when another process listens there. The parts of
  // `backend` outlive the listener.
  static absl::StatusOr<std::unique_ptr<Listener>> Start(const std::string& address,
                                                         std::shared_ptr<grpc::ServerCredentials> credentials,
                                                         const Backend& backend);

  ~Listener();  // Shutdown at once

  Listener(const Listener&) = delete;
  Listener& operator=(const Listener&) = delete;

  int port() const { return acceptor_->port(); }

  // Health of "" and of each service, as load balancers see it.
  void SetServing(bool serving);

  // From now on health is NOT_SERVING, and calls that begin are refused with kUnavailable. What has begun
  // goes on, streams with all that they still have to say.
  void Drain();

  // Drains, lets the calls that have begun end, until `deadline`, then cancels what is left, and returns when
  // nothing is.
  void Shutdown(absl::Time deadline);

 private:
  class Waker;

  explicit Listener(const Backend& backend);

  const Backend backend_;
  OpenCalls open_;
  SearchService search_;
  CollectionsService collections_;
  std::unique_ptr<grpc::Server> server_;
  std::unique_ptr<grpc::experimental::ExternalConnectionAcceptor> connections_;  // into server_
  std::unique_ptr<Acceptor> acceptor_;                                           // it uses the rest
  std::unique_ptr<Waker> waker_;
};

}  // namespace dotmax

#endif  // DOTMAX_SERVER_RPC_LISTENER_H_
