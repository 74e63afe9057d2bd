#include "server/rpc/collections.h"

namespace dotmax {
namespace {

class ListCollectionsReactor final : public grpc::ServerUnaryReactor {
 public:
  ListCollectionsReactor(const Backend& backend, OpenCalls* open, v1::ListCollectionsResponse* response)
      : record_(backend, open, v1::Collections::service_full_name(), "ListCollections") {
    for (const CollectionInfo& info : backend.searcher->Collections()) {
      CollectionToProto(info, response->add_collections());
    }
    response->mutable_limits()->set_max_top_k(backend.limits.max_top_k);
    response->mutable_limits()->set_max_message_bytes(backend.limits.max_message_bytes);
    record_.Finish(this, absl::OkStatus());
  }

  void OnDone() override { delete this; }

 private:
  CallRecord record_;
};

}  // namespace

grpc::ServerUnaryReactor* CollectionsService::ListCollections(grpc::CallbackServerContext* /*context*/,
                                                              const v1::ListCollectionsRequest* /*request*/,
                                                              v1::ListCollectionsResponse* response) {
  return new ListCollectionsReactor(backend_, open_, response);
}

}  // namespace dotmax
