#include "server/rpc/search.h"

#include <atomic>
#include <memory>
#include <utility>

#include "absl/time/time.h"
#include "server/base/errors.h"

namespace dotmax {
namespace {

// One Search. Holds the request that its query borrows bytes of: it lives until the searcher has called back.
class SearchCall final : public Call {
 public:
  SearchCall(const Backend& backend, OpenCalls* open)
      : Call(backend, open, v1::Dotmax::service_full_name(), "Search") {}

  // Takes the bytes of `request`. The object may be gone when this returns, but for what gRPC holds until it
  // knows the reactor.
  void Start(const grpc::CallbackServerContext& context, grpc::ByteBuffer* request,
             grpc::ByteBuffer* response) {
    absl::StatusOr<Query> query = Parse(request);
    if (!query.ok()) {
      End(query.status());
      return;
    }
    query->limits.deadline = absl::FromChrono(context.deadline());
    query->limits.cancelled = cancelled_;
    const uint64_t rows = query->rows.view.rows;
    const Reduction reduction = query->selection.reduction;
    backend().searcher->Search(*std::move(query),
                               [this, rows, reduction, response](absl::StatusOr<Answer> answer) {
                                 if (answer.ok()) {
                                   backend().metrics->SearchAnswered(rows, answer->stats);
                                   Write(*answer, reduction, response);
                                 }
                                 End(answer.status());
                               });
  }

 private:
  absl::StatusOr<Query> Parse(grpc::ByteBuffer* bytes) {
    if (!grpc::SerializationTraits<v1::SearchRequest>::Deserialize(bytes, &request_).ok()) {
      return Error(absl::StatusCode::kInvalidArgument, "MALFORMED_REQUEST",
                   "the request is not a dotmax.v1.SearchRequest");
    }
    return QueryFromProto(request_, backend().limits, backend().searcher->Collections());
  }

  static void Write(const Answer& answer, Reduction reduction, grpc::ByteBuffer* bytes) {
    v1::SearchResponse response;
    AnswerToProto(answer, reduction, &response);
    bool own_buffer = false;
    // Cannot fail: MaxReplyBytes keeps replies far below Protobuf's limit.
    grpc::SerializationTraits<v1::SearchResponse>::Serialize(response, bytes, &own_buffer).ok();
  }

  void Cancelled() override { cancelled_->store(true, std::memory_order_relaxed); }

  v1::SearchRequest request_;
  const std::shared_ptr<std::atomic<bool>> cancelled_ = std::make_shared<std::atomic<bool>>(false);
};

}  // namespace

grpc::ServerUnaryReactor* SearchService::Search(grpc::CallbackServerContext* context,
                                                const grpc::ByteBuffer* request, grpc::ByteBuffer* response) {
  // The bytes are ours to free, which parsing does; gRPC would keep them beside the parsed request. That the
  // call may end before this returns is fine: OnDone waits until gRPC knows the reactor.
  auto* call = new SearchCall(backend_, open_);
  call->Start(*context, const_cast<grpc::ByteBuffer*>(request), response);
  return call;
}

}  // namespace dotmax
