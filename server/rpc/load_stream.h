// The RPCs LoadCollection and ReloadCollection: a load, and how far it is.
#ifndef DOTMAX_SERVER_RPC_LOAD_STREAM_H_
#define DOTMAX_SERVER_RPC_LOAD_STREAM_H_

#include <grpcpp/support/byte_buffer.h>
#include <grpcpp/support/server_callback.h>

#include "server/rpc/call.h"

namespace dotmax {

// The reactor of one call, which owns itself. Takes the bytes of `request`. A caller that reads slowly gets
// fewer messages, and never holds up the load.
grpc::ServerWriteReactor<grpc::ByteBuffer>* StartLoad(const Backend& backend, OpenCalls* open,
                                                      grpc::CallbackServerContext* context,
                                                      grpc::ByteBuffer* request);
grpc::ServerWriteReactor<grpc::ByteBuffer>* StartReload(const Backend& backend, OpenCalls* open,
                                                        grpc::CallbackServerContext* context,
                                                        grpc::ByteBuffer* request);

}  // namespace dotmax

#endif  // DOTMAX_SERVER_RPC_LOAD_STREAM_H_
