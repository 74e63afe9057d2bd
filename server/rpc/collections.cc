#include "server/rpc/collections.h"

namespace dotmax {
namespace {

class ListCollectionsCall final : public UnaryCall {
 public:
  ListCollectionsCall(const Backend& backend, OpenCalls* open, grpc::CallbackServerContext* context)
      : UnaryCall(backend, open, {"unary", v1::Collections::service_full_name(), "ListCollections"},
                  Scope::kSearch, context) {}

  void Start(v1::ListCollectionsResponse* response) {
    if (!record().admission().ok()) {
      End(record().admission());
      return;
    }
    const ResidentInfos resident = backend().searcher->Collections();
    for (const CollectionInfo& info : *resident) {
      CollectionToProto(info, response->add_collections());
    }
    response->mutable_limits()->set_max_top_k(backend().limits.max_top_k);
    response->mutable_limits()->set_max_message_bytes(backend().limits.max_message_bytes);
    End(absl::OkStatus());
  }
};

}  // namespace

grpc::ServerUnaryReactor* CollectionsService::ListCollections(grpc::CallbackServerContext* context,
                                                              const v1::ListCollectionsRequest* /*request*/,
                                                              v1::ListCollectionsResponse* response) {
  auto* call = new ListCollectionsCall(backend_, open_, context);
  call->Start(response);
  return call;
}

}  // namespace dotmax
