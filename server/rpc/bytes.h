// Messages as the bytes that handlers take and give.
#ifndef DOTMAX_SERVER_RPC_BYTES_H_
#define DOTMAX_SERVER_RPC_BYTES_H_

#include <grpcpp/impl/codegen/proto_utils.h>
#include <grpcpp/support/byte_buffer.h>

#include <string>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "server/base/errors.h"

namespace dotmax {

// Parses `bytes`, which are freed, into `message`. kInvalidArgument names the type that they are not of.
template <typename Message>
absl::Status ParseBytes(grpc::ByteBuffer* bytes, Message* message) {
  if (grpc::SerializationTraits<Message>::Deserialize(bytes, message).ok()) return absl::OkStatus();
  return Error(absl::StatusCode::kInvalidArgument, "MALFORMED_REQUEST",
               absl::StrCat("the request is not a ", std::string(Message::descriptor()->full_name())));
}

// Whatever `bytes` held is gone. Cannot fail for replies: MaxReplyBytes keeps them far below Protobuf's
// limit.
template <typename Message>
void WriteBytes(const Message& message, grpc::ByteBuffer* bytes) {
  bool own_buffer = false;
  bytes->Clear();  // gRPC aborts over what an earlier message left
  grpc::SerializationTraits<Message>::Serialize(message, bytes, &own_buffer).ok();
}

}  // namespace dotmax

#endif  // DOTMAX_SERVER_RPC_BYTES_H_
