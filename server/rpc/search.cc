#include "server/rpc/search.h"

#include <atomic>
#include <memory>
#include <utility>

#include "absl/time/time.h"

namespace dotmax {
namespace {

// One Search. Owns itself: gRPC calls OnDone when the call is over and neither the request nor the reply is
// used any more, which is after Finish even for a cancelled call. So the request outlives the query that
// borrows its bytes, and whoever answers needs no reference to this object beyond Done.
class SearchReactor final : public grpc::ServerUnaryReactor {
 public:
  SearchReactor(const Backend& backend, OpenCalls* open, v1::SearchResponse* response)
      : record_(backend, open, v1::Dotmax::service_full_name(), "Search"),
        backend_(backend),
        response_(response) {}

  // The reactor may be gone when this returns.
  void Start(const grpc::CallbackServerContext& context, const v1::SearchRequest& request) {
    absl::StatusOr<Query> query =
        QueryFromProto(request, backend_.limits, backend_.searcher->Collections());
    if (!query.ok()) {
      record_.Finish(this, query.status());
      return;
    }
    query->deadline = absl::FromChrono(context.deadline());
    query->cancelled = cancelled_;
    const uint64_t rows = query->rows.view.rows;
    const Reduction reduction = query->reduction;
    backend_.searcher->Search(*std::move(query), [this, rows, reduction](absl::StatusOr<Answer> answer) {
      if (answer.ok()) {
        backend_.metrics->SearchAnswered(rows, answer->stats);
        AnswerToProto(*answer, reduction, response_);
      }
      record_.Finish(this, answer.status());
    });
  }

  // Also called when the deadline passes or the connection breaks.
  void OnCancel() override { cancelled_->store(true, std::memory_order_relaxed); }
  void OnDone() override { delete this; }

 private:
  CallRecord record_;
  const Backend& backend_;
  v1::SearchResponse* const response_;
  const std::shared_ptr<std::atomic<bool>> cancelled_ = std::make_shared<std::atomic<bool>>(false);
};

}  // namespace

grpc::ServerUnaryReactor* SearchService::Search(grpc::CallbackServerContext* context,
                                                const v1::SearchRequest* request,
                                                v1::SearchResponse* response) {
  // Finish before this returns is fine: OnDone waits until gRPC knows the reactor.
  auto* reactor = new SearchReactor(backend_, open_, response);
  reactor->Start(*context, *request);
  return reactor;
}

}  // namespace dotmax
