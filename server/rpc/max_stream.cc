#include "server/rpc/max_stream.h"

#include <optional>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "dotmax/v1/dotmax.grpc.pb.h"
#include "server/base/merge.h"
#include "server/rpc/stream_input.h"

namespace dotmax {
namespace {

// At any time until the end, a read or a search is under way, or both. What happens next is decided in Step,
// after either.
class MaxStreamCall final : public StreamCall<grpc::ServerReadReactor<grpc::ByteBuffer>> {
 public:
  MaxStreamCall(const Backend& backend, OpenCalls* open, grpc::CallbackServerContext* context,
                grpc::ByteBuffer* response)
      : StreamCall(backend, open, {"client_stream", v1::Dotmax::service_full_name(), "MaxInnerProductStream"},
                   Scope::kSearch, context),
        context_(context),
        response_(response),
        input_(backend.limits, *backend.searcher->Collections()) {}

  void Start() {
    if (record().admission().ok()) {
      StartRead(&bytes_);
    } else {
      End(record().admission());
    }
  }

 private:
  void OnReadDone(bool ok) override {
    absl::Status status;
    if (ok) {
      v1::MaxInnerProductStreamRequest message;
      status = Parse(&bytes_, &message);
      if (status.ok()) status = input_.Take(std::move(message));
    } else {
      // The caller has sent all, or is gone.
      status = context_->IsCancelled() ? record().CallerIsGone() : input_.End();
    }
    {
      absl::MutexLock lock(&mutex_);
      reading_ = false;
      all_read_ = !ok;
      Fail(status);
    }
    Step();
  }

  void Answered(absl::StatusOr<Answer> answer, uint64_t rows) {
    if (answer.ok()) {
      if (merge_.has_value()) {
        merge_->Add(*std::move(answer), rows);
      } else {
        answer_ = *std::move(answer);
      }
    }
    {
      absl::MutexLock lock(&mutex_);
      searching_ = false;
      answered_ = true;
      Fail(answer.status());
    }
    Step();
  }

  // The object may be gone when this returns.
  void Step() {
    bool read = false;
    std::optional<Query> query;
    absl::Status end;
    {
      absl::MutexLock lock(&mutex_);
      // A read that is under way when the call fails or ends only comes back to find that.
      if (ended_ || searching_) {
        if (ended_ || reading_ || all_read_ || !failure_.ok()) return;
        read = reading_ = !input_.ChunkIsFull();
      } else if (!failure_.ok() || IsDone()) {
        ended_ = true;
        end = failure_;
      } else if (!reading_) {
        if (all_read_ || input_.ChunkIsFull()) {
          query = NextQuery();
          searching_ = true;
        }
        read = reading_ = !all_read_;
      } else {
        return;
      }
      if (!ended_ && !read && !query.has_value()) return;
    }
    // Whatever is under way may come back, and end the call, before the next line: the last thing first.
    if (query.has_value()) {
      const uint64_t rows = query->base.has_value() ? query->base->view.rows : 0;
      if (read) StartRead(&bytes_);
      backend().searcher->Search(*std::move(query), [this, rows](absl::StatusOr<Answer> answer) {
        Answered(std::move(answer), rows);
      });
    } else if (read) {
      StartRead(&bytes_);
    } else {
      if (end.ok()) Reply();
      End(end);
    }
  }

  // Whether the answer is complete.
  bool IsDone() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    return all_read_ && answered_ && !input_.HasChunk();
  }

  // Of the chunk that has been read; of an empty one when B has no rows, so that there is an answer. Or of a
  // collection.
  Query NextQuery() {
    Query query;
    query.rows = input_.queries();
    query.limits = record().limits();
    if (!input_.collection().empty()) {
      query.collection = input_.collection();
      query.version = input_.version();
      query.selection = input_.selection();
      return query;
    }
    if (!merge_.has_value()) merge_.emplace(query.rows.view.rows, input_.selection());
    query.base = input_.TakeChunk();
    if (query.base->view.rows == 0) query.base->view.dim = query.rows.view.dim;
    query.selection = merge_->ForBlock(query.base->view.rows);
    return query;
  }

  void Reply() {
    const Answer answer = merge_.has_value() ? merge_->Take() : std::move(answer_);
    backend().metrics->SearchAnswered(input_.queries().view.rows, answer.stats);
    record().AddQuestion(input_.collection(), input_.queries().view.rows);
    record().AddStats(answer.stats);
    v1::SearchResponse reply;
    AnswerToProto(answer, input_.selection().reduction, &reply);
    Write(reply, response_);
  }

  grpc::CallbackServerContext* const context_;
  grpc::ByteBuffer* const response_;

  // Used by whoever reads, and by Step while nobody does.
  grpc::ByteBuffer bytes_;
  StreamInput input_;
  // Used by whoever searches, and by Step while nobody does.
  std::optional<Merge> merge_;  // unless B is a collection, whose
  Answer answer_;               // is this

  bool reading_ ABSL_GUARDED_BY(mutex_) = true;
  bool searching_ ABSL_GUARDED_BY(mutex_) = false;
  bool all_read_ ABSL_GUARDED_BY(mutex_) = false;
  bool answered_ ABSL_GUARDED_BY(mutex_) = false;  // one search at least
};

}  // namespace

grpc::ServerReadReactor<grpc::ByteBuffer>* StartMaxStream(const Backend& backend, OpenCalls* open,
                                                          grpc::CallbackServerContext* context,
                                                          grpc::ByteBuffer* response) {
  auto* call = new MaxStreamCall(backend, open, context, response);
  call->Start();
  return call;
}

}  // namespace dotmax
