#include "server/rpc/collections.h"

#include "absl/functional/function_ref.h"
#include "server/rpc/load_stream.h"

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

// A change that takes no time. Its request is parsed into a Request, and `change` answers it.
template <typename Request, typename Response>
class ChangeCall final : public UnaryCall {
 public:
  ChangeCall(const Backend& backend, OpenCalls* open, const char* method,
             grpc::CallbackServerContext* context)
      : UnaryCall(backend, open, {"unary", v1::Collections::service_full_name(), method}, Scope::kAdmin,
                  context) {}

  void Start(grpc::ByteBuffer* bytes, grpc::ByteBuffer* reply,
             absl::FunctionRef<absl::Status(const Request&, Response*)> change) {
    Request request;
    Response response;
    absl::Status status = record().admission();
    if (status.ok()) status = Parse(bytes, &request);
    if (status.ok()) status = change(request, &response);
    if (status.ok()) Write(response, reply);
    End(status);
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

grpc::ServerWriteReactor<grpc::ByteBuffer>* CollectionsService::LoadCollection(
    grpc::CallbackServerContext* context, const grpc::ByteBuffer* request) {
  return StartLoad(backend_, open_, context, const_cast<grpc::ByteBuffer*>(request));
}

grpc::ServerWriteReactor<grpc::ByteBuffer>* CollectionsService::ReloadCollection(
    grpc::CallbackServerContext* context, const grpc::ByteBuffer* request) {
  return StartReload(backend_, open_, context, const_cast<grpc::ByteBuffer*>(request));
}

grpc::ServerUnaryReactor* CollectionsService::SwapCollections(grpc::CallbackServerContext* context,
                                                              const grpc::ByteBuffer* request,
                                                              grpc::ByteBuffer* response) {
  auto* call = new ChangeCall<v1::SwapCollectionsRequest, v1::SwapCollectionsResponse>(
      backend_, open_, "SwapCollections", context);
  call->Start(const_cast<grpc::ByteBuffer*>(request), response,
              [this](const v1::SwapCollectionsRequest& swap, v1::SwapCollectionsResponse* reply) {
                const auto swapped = backend_.admin->Swap(swap.a(), swap.b());
                if (!swapped.ok()) return swapped.status();
                CollectionToProto(swapped->first, reply->mutable_a());
                CollectionToProto(swapped->second, reply->mutable_b());
                return absl::OkStatus();
              });
  return call;
}

grpc::ServerUnaryReactor* CollectionsService::DropCollection(grpc::CallbackServerContext* context,
                                                             const grpc::ByteBuffer* request,
                                                             grpc::ByteBuffer* response) {
  auto* call = new ChangeCall<v1::DropCollectionRequest, v1::DropCollectionResponse>(
      backend_, open_, "DropCollection", context);
  call->Start(const_cast<grpc::ByteBuffer*>(request), response,
              [this](const v1::DropCollectionRequest& drop, v1::DropCollectionResponse*) {
                return backend_.admin->Drop(drop.name());
              });
  return call;
}

}  // namespace dotmax
