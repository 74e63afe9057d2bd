// The RPCs BatchMaxInnerProduct and BatchMaxInnerProductStream: the best of each of many pairs of matrices.
#ifndef DOTMAX_SERVER_RPC_BATCH_MAX_H_
#define DOTMAX_SERVER_RPC_BATCH_MAX_H_

#include <grpcpp/support/byte_buffer.h>
#include <grpcpp/support/server_callback.h>

#include "server/rpc/call.h"

namespace dotmax {

// The reactor of one call, which owns itself. Takes the bytes of `request`.
grpc::ServerUnaryReactor* StartBatchMax(const Backend& backend, OpenCalls* open,
                                        grpc::CallbackServerContext* context, grpc::ByteBuffer* request,
                                        grpc::ByteBuffer* response);

// The same. One request is in the engine at a time; the next one is read ahead, and no further one before its
// turn comes, which waits for responses to be sent, too: the caller is held back by flow control.
grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer>* StartBatchMaxStream(
    const Backend& backend, OpenCalls* open, grpc::CallbackServerContext* context);

}  // namespace dotmax

#endif  // DOTMAX_SERVER_RPC_BATCH_MAX_H_
