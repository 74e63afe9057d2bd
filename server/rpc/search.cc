#include "server/rpc/search.h"

#include <utility>

#include "server/rpc/batch_max.h"
#include "server/rpc/max_stream.h"
#include "server/rpc/search_stream.h"

namespace dotmax {
namespace {

// One Search or MaxInnerProduct. Holds the request that its query borrows bytes of: it lives until the
// searcher has called back.
template <typename Request>
class SearchCall final : public UnaryCall {
 public:
  SearchCall(const Backend& backend, OpenCalls* open, const char* method,
             grpc::CallbackServerContext* context)
      : UnaryCall(backend, open, {"unary", v1::Dotmax::service_full_name(), method}, Scope::kSearch,
                  context) {}

  // Takes the bytes of `request`. The object may be gone when this returns, but for what gRPC holds until it
  // knows the reactor.
  void Start(grpc::ByteBuffer* request, grpc::ByteBuffer* response) {
    absl::Status status = record().admission();
    if (status.ok()) status = Parse(request, &request_);
    if (!status.ok()) {
      End(status);
      return;
    }
    uint64_t rows = 0;
    absl::StatusOr<Query> query = ToQuery(request_, &rows);
    if (!query.ok()) {
      End(query.status());
      return;
    }
    record().AddQuestion(query->collection, rows);
    query->limits = record().limits();
    const Reduction reduction = query->selection.reduction;
    backend().searcher->Search(*std::move(query),
                               [this, rows, reduction, response](absl::StatusOr<Answer> answer) {
                                 if (answer.ok()) {
                                   backend().metrics->SearchAnswered(rows, answer->stats);
                                   record().AddStats(answer->stats);
                                   v1::SearchResponse reply;
                                   AnswerToProto(*answer, reduction, &reply);
                                   Write(reply, response);
                                 }
                                 End(answer.status());
                               });
  }

 private:
  absl::StatusOr<Query> ToQuery(const v1::SearchRequest& request, uint64_t* rows) {
    const ResidentInfos resident = backend().searcher->Collections();
    absl::StatusOr<Query> query = QueryFromProto(request, backend().limits, *resident);
    if (query.ok()) *rows = QueryRows(*query, *resident);
    return query;
  }
  absl::StatusOr<Query> ToQuery(const v1::MaxInnerProductRequest& request, uint64_t* rows) {
    *rows = request.queries().rows();
    return QueryFromProto(request, backend().limits);
  }

  Request request_;
};

// The bytes are ours to free, which parsing does; gRPC would keep them beside the parsed request. That the
// call may end before this returns is fine: OnDone waits until gRPC knows the reactor.
template <typename Request>
grpc::ServerUnaryReactor* StartSearch(const Backend& backend, OpenCalls* open, const char* method,
                                      grpc::CallbackServerContext* context, const grpc::ByteBuffer* request,
                                      grpc::ByteBuffer* response) {
  auto* call = new SearchCall<Request>(backend, open, method, context);
  call->Start(const_cast<grpc::ByteBuffer*>(request), response);
  return call;
}

}  // namespace

grpc::ServerUnaryReactor* SearchService::Search(grpc::CallbackServerContext* context,
                                                const grpc::ByteBuffer* request, grpc::ByteBuffer* response) {
  return StartSearch<v1::SearchRequest>(backend_, open_, "Search", context, request, response);
}

grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer>* SearchService::SearchStream(
    grpc::CallbackServerContext* context) {
  return StartSearchStream(backend_, open_, context);
}

grpc::ServerUnaryReactor* SearchService::MaxInnerProduct(grpc::CallbackServerContext* context,
                                                         const grpc::ByteBuffer* request,
                                                         grpc::ByteBuffer* response) {
  return StartSearch<v1::MaxInnerProductRequest>(backend_, open_, "MaxInnerProduct", context, request,
                                                 response);
}

grpc::ServerReadReactor<grpc::ByteBuffer>* SearchService::MaxInnerProductStream(
    grpc::CallbackServerContext* context, grpc::ByteBuffer* response) {
  return StartMaxStream(backend_, open_, context, response);
}

grpc::ServerUnaryReactor* SearchService::BatchMaxInnerProduct(grpc::CallbackServerContext* context,
                                                              const grpc::ByteBuffer* request,
                                                              grpc::ByteBuffer* response) {
  return StartBatchMax(backend_, open_, context, const_cast<grpc::ByteBuffer*>(request), response);
}

grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer>* SearchService::BatchMaxInnerProductStream(
    grpc::CallbackServerContext* context) {
  return StartBatchMaxStream(backend_, open_, context);
}

}  // namespace dotmax
