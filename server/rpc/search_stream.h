// The RPC SearchStream: any number of searches in one call, answered as they finish.
#ifndef DOTMAX_SERVER_RPC_SEARCH_STREAM_H_
#define DOTMAX_SERVER_RPC_SEARCH_STREAM_H_

#include <grpcpp/support/byte_buffer.h>
#include <grpcpp/support/server_callback.h>

#include "server/rpc/call.h"

namespace dotmax {

// The reactor of one call, which owns itself. Its searches share passes with each other and with everybody's.
// It holds a bounded number of them and of their bytes, from before they are read until their results have
// been written: who does not read results is not read from. A drain ends it once what has been read is
// answered.
grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer>* StartSearchStream(
    const Backend& backend, OpenCalls* open, grpc::CallbackServerContext* context);

}  // namespace dotmax

#endif  // DOTMAX_SERVER_RPC_SEARCH_STREAM_H_
