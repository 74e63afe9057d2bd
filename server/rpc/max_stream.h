// The RPC MaxInnerProductStream: A, then B in blocks, of any number of rows in constant memory.
#ifndef DOTMAX_SERVER_RPC_MAX_STREAM_H_
#define DOTMAX_SERVER_RPC_MAX_STREAM_H_

#include <grpcpp/support/byte_buffer.h>
#include <grpcpp/support/server_callback.h>

#include "server/rpc/call.h"

namespace dotmax {

// The reactor of one call, which owns itself. One chunk of B is searched while the next one is read, and no
// message is read that has no room in it: the caller is held back by flow control.
grpc::ServerReadReactor<grpc::ByteBuffer>* StartMaxStream(const Backend& backend, OpenCalls* open,
                                                          grpc::CallbackServerContext* context,
                                                          grpc::ByteBuffer* response);

}  // namespace dotmax

#endif  // DOTMAX_SERVER_RPC_MAX_STREAM_H_
