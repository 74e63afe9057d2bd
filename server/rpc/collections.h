// The service dotmax.v1.Collections: what is resident and how it changes, and the limits of requests.
#ifndef DOTMAX_SERVER_RPC_COLLECTIONS_H_
#define DOTMAX_SERVER_RPC_COLLECTIONS_H_

#include <grpcpp/support/byte_buffer.h>

#include "dotmax/v1/collections.grpc.pb.h"
#include "server/rpc/call.h"

namespace dotmax {

// Takes changes as bytes, as RawDotmax does searches.
using RawCollections =
    v1::Collections::WithCallbackMethod_ListCollections<v1::Collections::WithRawCallbackMethod_LoadCollection<
        v1::Collections::WithRawCallbackMethod_ReloadCollection<
            v1::Collections::WithRawCallbackMethod_SwapCollections<
                v1::Collections::WithRawCallbackMethod_DropCollection<v1::Collections::Service>>>>>;

// Thread-safe. `backend` and `open` outlive the server that it is registered with.
class CollectionsService final : public RawCollections {
 public:
  CollectionsService(const Backend& backend, OpenCalls* open) : backend_(backend), open_(open) {}

  grpc::ServerUnaryReactor* ListCollections(grpc::CallbackServerContext* context,
                                            const v1::ListCollectionsRequest* request,
                                            v1::ListCollectionsResponse* response) override;
  grpc::ServerWriteReactor<grpc::ByteBuffer>* LoadCollection(grpc::CallbackServerContext* context,
                                                             const grpc::ByteBuffer* request) override;
  grpc::ServerWriteReactor<grpc::ByteBuffer>* ReloadCollection(grpc::CallbackServerContext* context,
                                                               const grpc::ByteBuffer* request) override;
  grpc::ServerUnaryReactor* SwapCollections(grpc::CallbackServerContext* context,
                                            const grpc::ByteBuffer* request,
                                            grpc::ByteBuffer* response) override;
  grpc::ServerUnaryReactor* DropCollection(grpc::CallbackServerContext* context,
                                           const grpc::ByteBuffer* request,
                                           grpc::ByteBuffer* response) override;

 private:
  const Backend& backend_;
  OpenCalls* const open_;
};

}  // namespace dotmax

#endif  // DOTMAX_SERVER_RPC_COLLECTIONS_H_
