// What a call says about itself beside its messages: HTTP headers, which gRPC calls metadata.
#ifndef DOTMAX_SERVER_RPC_METADATA_H_
#define DOTMAX_SERVER_RPC_METADATA_H_

#include <grpcpp/support/string_ref.h>

#include <map>
#include <optional>
#include <string>

#include "absl/strings/string_view.h"
#include "server/base/searcher.h"

namespace dotmax {

// Borrows the metadata that it was read from. What a caller left out, or sent malformed, is empty.
struct CallMetadata {
  absl::string_view authorization;   // as sent, a secret: never to be logged
  absl::string_view request_id;      // x-request-id: 1 to kMaxRequestId printable ASCII characters
  absl::string_view trace_id;        // of traceparent (W3C Trace Context): 32 hexadecimal digits
  absl::string_view priority_name;   // dotmax-priority, as sent
  std::optional<Priority> priority;  // what it means; none for a name that means nothing

  static constexpr size_t kMaxRequestId = 128;
};

inline constexpr char kRequestIdKey[] = "x-request-id";
inline constexpr char kPriorityKey[] = "dotmax-priority";

CallMetadata ReadMetadata(const std::multimap<grpc::string_ref, grpc::string_ref>& metadata);

// The host of gRPC's name of a peer, without what tells its connections apart: "ipv4:192.0.2.1:4711" and
// "ipv6:%5B2001:db8::1%5D:4711" give "192.0.2.1" and "2001:db8::1"; what has another form stays as it is.
std::string HostOfPeer(absl::string_view peer);

}  // namespace dotmax

#endif  // DOTMAX_SERVER_RPC_METADATA_H_
