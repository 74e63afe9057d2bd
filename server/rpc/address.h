// What an address means, and why a listener could not listen there.
#ifndef DOTMAX_SERVER_RPC_ADDRESS_H_
#define DOTMAX_SERVER_RPC_ADDRESS_H_

#include <netdb.h>

#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace dotmax {

struct FreeAddresses {
  void operator()(addrinfo* addresses) const { freeaddrinfo(addresses); }
};
using Addresses = std::unique_ptr<addrinfo, FreeAddresses>;

// All TCP addresses that "HOST:PORT" or "[IPV6]:PORT" means to who listens, at least one. kInvalidArgument
// says why there is none.
absl::StatusOr<Addresses> Resolve(const std::string& address);

// The error for a failed bind of such an address, with the reason that the system gives when asked again, as
// civetweb does not hand out its answer: "cannot listen on 0.0.0.0:50051: Address already in use". Always
// kUnavailable.
absl::Status BindError(const std::string& address);

}  // namespace dotmax

#endif  // DOTMAX_SERVER_RPC_ADDRESS_H_
