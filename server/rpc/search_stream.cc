#include "server/rpc/search_stream.h"

#include <deque>
#include <memory>
#include <optional>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "dotmax/v1/dotmax.grpc.pb.h"
#include "server/base/errors.h"
#include "server/rpc/metadata.h"

namespace dotmax {
namespace {

// Requests in flight: few beside what may wait in the queue by default, and enough to fill passes while
// results and the next requests are on their way (single rows over 340,000 × 100 take an eighth longer than
// with 256). Their bytes, with those of the largest replies to them, meet max_message_bytes, and one request
// more may come, as its size is known only when it has been read.
constexpr uint64_t kMostRequests = 64;

class SearchStreamCall final : public StreamCall<grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer>>,
                               public EndsWithDrain {
 public:
  SearchStreamCall(const Backend& backend, OpenCalls* open, grpc::CallbackServerContext* context)
      : StreamCall(backend, open, {"bidi_stream", v1::Dotmax::service_full_name(), "SearchStream"},
                   Scope::kSearch, context),
        open_(open),
        context_(context) {}

  void Start() {
    if (!record().admission().ok()) {
      End(record().admission());
      return;
    }
    // Watched from now on, Drain may come before this goes on, and waits for it.
    mutex_.Lock();
    draining_ = !open_->Watch(this);
    Proceed();
  }

 private:
  // A request that has been read. Its query borrows its bytes; whoever calls back holds it.
  struct Item {
    v1::SearchRequest request;
    uint64_t request_bytes = 0;
    uint64_t query_rows = 0;
    Reduction reduction = Reduction::kPerRow;
    uint64_t bytes = 0;  // that it has in bytes_
  };

  void OnReadDone(bool ok) override {
    if (!ok) {
      // The caller has sent all, or is gone.
      const absl::Status gone = context_->IsCancelled() ? record().CallerIsGone() : absl::OkStatus();
      mutex_.Lock();
      reading_ = false;
      all_read_ = true;
      Fail(gone);
      Proceed();
      return;
    }
    const uint64_t number = messages_++;
    auto item = std::make_shared<Item>();
    item->request_bytes = read_bytes_.Length();
    const absl::Status parsed = Parse(&read_bytes_, &item->request);
    // The call's beginning was the first request's.
    const absl::Status admitted = number == 0 ? absl::OkStatus() : AdmitNext();
    // What says nothing of its tag, or may ask nothing any more, ends the call. What came before is answered.
    absl::Status wrong = InMessage(number, parsed);
    if (wrong.ok() && admitted.code() != absl::StatusCode::kResourceExhausted) wrong = admitted;
    bool search = false;
    {
      absl::MutexLock lock(&mutex_);
      if (!wrong.ok()) {
        all_read_ = true;
        wrong_request_ = wrong;
      } else if (!ended_ && failure_.ok()) {
        search = true;
        ++searching_;
        ++requests_;
      }
    }
    if (search) {
      if (admitted.ok()) {
        Search(std::move(item));
      } else {
        Answered(*item, admitted);
      }
    }
    // gRPC keeps the call until this returns, even if it has ended by now.
    mutex_.Lock();
    reading_ = false;
    Proceed();
  }

  // Whether the call's token allows another request.
  absl::Status AdmitNext() const {
    if (backend().tokens == nullptr) return absl::OkStatus();
    return backend()
        .tokens->Admit(ReadMetadata(context_->client_metadata()).authorization, Scope::kSearch, absl::Now())
        .status();
  }

  // Of an item that counts as searching, which keeps the call. That may be over when this returns.
  void Search(std::shared_ptr<Item> item) {
    const ResidentInfos resident = backend().searcher->Collections();
    absl::StatusOr<Query> query = QueryFromProto(item->request, backend().limits, *resident);
    if (!query.ok()) {
      Answered(*item, query.status());
      return;
    }
    item->query_rows = QueryRows(*query, *resident);
    item->reduction = query->selection.reduction;
    const uint64_t reply_bytes =
        MaxReplyBytes(item->query_rows, RowsOf(*resident, query->collection), query->selection);
    {
      absl::MutexLock lock(&mutex_);
      SetBytes(*item, item->request_bytes + reply_bytes);
    }
    query->limits = record().limits();
    backend().searcher->Search(
        *std::move(query), [this, item = std::move(item)](const absl::StatusOr<Answer>& answer) mutable {
          const bool refused = answer.status().code() == absl::StatusCode::kResourceExhausted;
          if (!refused || !WaitsForRoom(item)) Answered(*item, answer);
        });
  }

  // Whether `item`, for which the queue has no room, waits for the answer to another one. The object may be
  // gone if it does.
  bool WaitsForRoom(std::shared_ptr<Item>& item) {
    mutex_.Lock();
    if (searching_ == 1 || !failure_.ok()) {
      mutex_.Unlock();
      return false;
    }
    --searching_;
    room_ = false;
    waiting_.push_back(std::move(item));
    Proceed();
    return true;
  }

  // The object may be gone when this returns.
  void Answered(Item& item, const absl::StatusOr<Answer>& answer) {
    v1::SearchResult result;
    result.set_tag(item.request.tag());
    if (answer.ok()) {
      AnswerToProto(*answer, item.reduction, result.mutable_response());
      backend().metrics->SearchAnswered(item.query_rows, answer->stats);
    } else {
      *result.mutable_status() = StatusToProto(answer.status());
      backend().metrics->Refused(ErrorReason(answer.status()).value_or(""));
    }
    grpc::ByteBuffer bytes;
    Write(result, &bytes);

    mutex_.Lock();
    record().AddQuestion(item.request.collection(), item.query_rows);
    if (answer.ok()) {
      record().AddStats(answer->stats);
    } else {
      record().AddFailedQuestion();
    }
    --searching_;
    room_ = true;
    SetBytes(item, bytes.Length());
    results_.push_back(std::move(bytes));
    Proceed();
  }

  void OnWriteDone(bool ok) override {
    mutex_.Lock();
    writing_ = false;
    --requests_;
    bytes_ -= write_bytes_.Length();
    if (!ok) Fail(record().CallerIsGone());
    Proceed();
  }

  void Drain() override {
    mutex_.Lock();
    draining_ = true;
    Proceed();
  }

  void SetBytes(Item& item, uint64_t bytes) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    bytes_ = bytes_ - item.bytes + bytes;
    item.bytes = bytes;
  }

  // To be called after any change, which is made under the same lock, so that nobody else ends the call in
  // between. Starts whatever may be started, one thread at a time: others leave to it what they have changed.
  // The object may be gone when this returns, except within gRPC's callbacks.
  void Proceed() ABSL_UNLOCK_FUNCTION(mutex_) {
    changed_ = true;
    if (proceeding_) {
      mutex_.Unlock();
      return;
    }
    proceeding_ = true;
    while (changed_) {
      changed_ = false;
      if (MayEnd()) {
        ended_ = true;  // and nobody else proceeds any more
        const absl::Status status = EndStatus();
        mutex_.Unlock();
        End(status);
        return;
      }
      const bool good = failure_.ok();
      const bool write = good && !writing_ && !results_.empty();
      if (write) {
        writing_ = true;
        write_bytes_.Swap(&results_.front());
        results_.pop_front();
      }
      std::shared_ptr<Item> again;
      if (good && room_ && !waiting_.empty()) {
        again = std::move(waiting_.front());
        waiting_.pop_front();
        ++searching_;
        changed_ = true;  // there may be room for more
      }
      const bool read = good && !reading_ && !all_read_ && !draining_ && waiting_.empty() &&
                        requests_ < kMostRequests && bytes_ < backend().limits.max_message_bytes;
      if (read) reading_ = true;

      mutex_.Unlock();
      if (write) StartWrite(&write_bytes_);
      if (read) StartRead(&read_bytes_);
      if (again != nullptr) Search(std::move(again));
      mutex_.Lock();
    }
    proceeding_ = false;
    mutex_.Unlock();
  }

  // Whether nothing is under way that End must wait for, nor left to be done.
  bool MayEnd() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    if (searching_ > 0 || writing_) return false;
    const bool done = (all_read_ || draining_) && waiting_.empty() && results_.empty();
    if (failure_.ok() && !done) return false;
    return draining_ || open_->Unwatch(this);  // if not, Drain is about to come
  }

  absl::Status EndStatus() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    if (!failure_.ok()) return failure_;
    if (all_read_) return wrong_request_;
    return Error(absl::StatusCode::kUnavailable, "DRAINING",
                 "the server is shutting down; what has no result may be asked again");
  }

  OpenCalls* const open_;
  grpc::CallbackServerContext* const context_;

  // Used by whoever reads.
  grpc::ByteBuffer read_bytes_;
  uint64_t messages_ = 0;
  // Used by whoever writes.
  grpc::ByteBuffer write_bytes_;

  bool proceeding_ ABSL_GUARDED_BY(mutex_) = false;
  bool changed_ ABSL_GUARDED_BY(mutex_) = false;
  bool reading_ ABSL_GUARDED_BY(mutex_) = false;
  bool writing_ ABSL_GUARDED_BY(mutex_) = false;
  bool all_read_ ABSL_GUARDED_BY(mutex_) = false;
  bool draining_ ABSL_GUARDED_BY(mutex_) = false;
  bool room_ ABSL_GUARDED_BY(mutex_) = true;  // for waiting_, as far as is known
  // In flight: those that the searcher has, that wait for it, and whose results are not yet written.
  uint64_t requests_ ABSL_GUARDED_BY(mutex_) = 0;
  uint64_t bytes_ ABSL_GUARDED_BY(mutex_) = 0;  // of requests and of the replies that there are or may be
  uint64_t searching_ ABSL_GUARDED_BY(mutex_) = 0;
  std::deque<std::shared_ptr<Item>> waiting_ ABSL_GUARDED_BY(mutex_);  // refused as the queue was full
  std::deque<grpc::ByteBuffer> results_ ABSL_GUARDED_BY(mutex_);       // not yet written
  absl::Status wrong_request_ ABSL_GUARDED_BY(mutex_);  // ends the call once all before it are answered
};

}  // namespace

grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer>* StartSearchStream(
    const Backend& backend, OpenCalls* open, grpc::CallbackServerContext* context) {
  auto* call = new SearchStreamCall(backend, open, context);
  call->Start();
  return call;
}

}  // namespace dotmax
