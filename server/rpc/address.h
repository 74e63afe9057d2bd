// Why a listener could not listen: neither gRPC nor civetweb hands out the system's own answer.
#ifndef DOTMAX_SERVER_RPC_ADDRESS_H_
#define DOTMAX_SERVER_RPC_ADDRESS_H_

#include <string>

#include "absl/status/status.h"

namespace dotmax {

// The error for a failed bind of `address` ("HOST:PORT" or "[IPV6]:PORT"), with the reason that the system
// gives when asked again: "cannot listen on 0.0.0.0:50051: Address already in use". Always kUnavailable.
absl::Status BindError(const std::string& address);

}  // namespace dotmax

#endif  // DOTMAX_SERVER_RPC_ADDRESS_H_
