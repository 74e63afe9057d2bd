// Talking to a server the way a foreign client would: generated stubs, raw bytes, error details.
#ifndef DOTMAX_TESTS_WIRE_H_
#define DOTMAX_TESTS_WIRE_H_

#include <grpcpp/channel.h>
#include <grpcpp/support/status.h>

#include <memory>
#include <string>

#include "absl/time/time.h"
#include "dotmax/v1/dotmax.pb.h"
#include "server/base/types.h"

namespace dotmax::testing {

// A connection of its own, without limits on message sizes.
std::shared_ptr<grpc::Channel> Channel(const std::string& address);

v1::Matrix MatrixOf(const SharedMatrix& matrix);

v1::SearchRequest SearchRequestOf(const std::string& collection, const SharedMatrix& queries, uint32_t top_k,
                                  v1::Reduction reduction);

// A status and its google.rpc details; what is not there stays empty.
struct WireError {
  grpc::StatusCode code = grpc::StatusCode::OK;
  std::string message;
  std::string reason;  // of ErrorInfo, whose domain is checked
  std::string field;   // of BadRequest
  bool retry_info = false;
  absl::Duration retry_delay;
};
WireError ErrorOf(const grpc::Status& status);

// Sends one message of `bytes` to `method` ("/package.Service/Method"), with a bearer token if one is given,
// and returns the first of the reply.
std::string CallRaw(const std::shared_ptr<grpc::Channel>& channel, const std::string& method,
                    const std::string& bytes, grpc::Status* status, const std::string& token = "");

// grpc.health.v1 Check: "SERVING", "NOT_SERVING", or the failure: "NOT_FOUND", ...
std::string HealthOf(const std::shared_ptr<grpc::Channel>& channel, const std::string& service);

}  // namespace dotmax::testing

#endif  // DOTMAX_TESTS_WIRE_H_
