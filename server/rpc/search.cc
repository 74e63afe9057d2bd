#include "server/rpc/search.h"

#include <atomic>
#include <memory>
#include <utility>

#include "absl/time/time.h"

namespace dotmax {
namespace {

// One Search. The request lives as long as this object, which ends only after the searcher has called back:
// so the query may borrow the request's bytes.
class SearchCall final : public Call {
 public:
  SearchCall(const Backend& backend, OpenCalls* open)
      : Call(backend, open, v1::Dotmax::service_full_name(), "Search") {}

  // The object may be gone when this returns, but for what gRPC holds until it knows the reactor.
  void Start(const grpc::CallbackServerContext& context, const v1::SearchRequest& request,
             v1::SearchResponse* response) {
    absl::StatusOr<Query> query =
        QueryFromProto(request, backend().limits, backend().searcher->Collections());
    if (!query.ok()) {
      End(query.status());
      return;
    }
    query->deadline = absl::FromChrono(context.deadline());
    query->cancelled = cancelled_;
    const uint64_t rows = query->rows.view.rows;
    const Reduction reduction = query->reduction;
    backend().searcher->Search(*std::move(query),
                               [this, rows, reduction, response](absl::StatusOr<Answer> answer) {
                                 if (answer.ok()) {
                                   backend().metrics->SearchAnswered(rows, answer->stats);
                                   AnswerToProto(*answer, reduction, response);
                                 }
                                 End(answer.status());
                               });
  }

 private:
  void Cancelled() override { cancelled_->store(true, std::memory_order_relaxed); }

  const std::shared_ptr<std::atomic<bool>> cancelled_ = std::make_shared<std::atomic<bool>>(false);
};

}  // namespace

grpc::ServerUnaryReactor* SearchService::Search(grpc::CallbackServerContext* context,
                                                const v1::SearchRequest* request,
                                                v1::SearchResponse* response) {
  // That the call may end before this returns is fine: OnDone waits until gRPC knows the reactor.
  auto* call = new SearchCall(backend_, open_);
  call->Start(*context, *request, response);
  return call;
}

}  // namespace dotmax
