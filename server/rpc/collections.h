// The service dotmax.v1.Collections: what is resident, and the limits of requests.
#ifndef DOTMAX_SERVER_RPC_COLLECTIONS_H_
#define DOTMAX_SERVER_RPC_COLLECTIONS_H_

#include "dotmax/v1/collections.grpc.pb.h"
#include "server/rpc/call.h"

namespace dotmax {

// Thread-safe. `backend` and `open` outlive the server that it is registered with.
class CollectionsService final : public v1::Collections::CallbackService {
 public:
  CollectionsService(const Backend& backend, OpenCalls* open) : backend_(backend), open_(open) {}

  grpc::ServerUnaryReactor* ListCollections(grpc::CallbackServerContext* context,
                                            const v1::ListCollectionsRequest* request,
                                            v1::ListCollectionsResponse* response) override;

 private:
  const Backend& backend_;
  OpenCalls* const open_;
};

}  // namespace dotmax

#endif  // DOTMAX_SERVER_RPC_COLLECTIONS_H_
