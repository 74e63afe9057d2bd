#include "server/rpc/batch_max.h"

#include <memory>
#include <optional>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "dotmax/v1/dotmax.grpc.pb.h"
#include "server/base/errors.h"

namespace dotmax {
namespace {

// Replies need no check against the message limit: the smallest pair that has a hit takes 24 bytes, and its
// hit at most 20.

// The question of `request`, which it owns.
absl::StatusOr<PairsQuery> QueryOf(std::shared_ptr<const v1::BatchMaxInnerProductRequest> request) {
  absl::StatusOr<PairsQuery> query = PairsFromProto(*request);
  if (query.ok()) query->owner = std::move(request);
  return query;
}

// What metrics count.
uint64_t QueryRowsOf(const PairsQuery& query) {
  uint64_t rows = 0;
  for (const PairsQuery::Pair& pair : query.pairs) rows += pair.queries.rows;
  return rows;
}

class BatchMaxCall final : public UnaryCall {
 public:
  BatchMaxCall(const Backend& backend, OpenCalls* open, grpc::CallbackServerContext* context)
      : UnaryCall(backend, open, {"unary", v1::Dotmax::service_full_name(), "BatchMaxInnerProduct"},
                  Scope::kSearch, context) {}

  // The object may be gone when this returns, but for what gRPC holds until it knows the reactor.
  void Start(grpc::ByteBuffer* bytes, grpc::ByteBuffer* response) {
    auto request = std::make_shared<v1::BatchMaxInnerProductRequest>();
    absl::Status status = record().admission();
    if (status.ok()) status = Parse(bytes, request.get());
    absl::StatusOr<PairsQuery> query = status.ok() ? QueryOf(std::move(request)) : status;
    if (!query.ok()) {
      End(query.status());
      return;
    }
    query->limits = record().limits();
    const uint64_t pairs = query->pairs.size();
    const uint64_t rows = QueryRowsOf(*query);
    record().AddQuestion("", rows);
    backend().searcher->MaxOfPairs(*std::move(query),
                                   [this, pairs, rows, response](absl::StatusOr<PairsAnswer> answer) {
                                     if (answer.ok()) {
                                       backend().metrics->PairsAnswered(pairs, rows, answer->stats);
                                       record().AddStats(answer->stats);
                                       v1::BatchMaxInnerProductResponse reply;
                                       PairsAnswerToProto(*answer, &reply);
                                       Write(reply, response);
                                     }
                                     End(answer.status());
                                   });
  }
};

// A line of requests: read, then in the engine, then written, each place holding one. What moves on is
// decided in Step, after anything has been done.
class BatchMaxStreamCall final
    : public StreamCall<grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer>> {
 public:
  BatchMaxStreamCall(const Backend& backend, OpenCalls* open, grpc::CallbackServerContext* context)
      : StreamCall(backend, open,
                   {"bidi_stream", v1::Dotmax::service_full_name(), "BatchMaxInnerProductStream"},
                   Scope::kSearch, context),
        context_(context) {}

  void Start() {
    if (record().admission().ok()) {
      StartRead(&read_bytes_);
    } else {
      End(record().admission());
    }
  }

 private:
  void OnReadDone(bool ok) override {
    absl::StatusOr<PairsQuery> query = absl::CancelledError();
    if (ok) query = Next();
    const bool gone = !ok && context_->IsCancelled();
    {
      absl::MutexLock lock(&mutex_);
      reading_ = false;
      all_read_ = all_read_ || !ok || !query.ok();
      if (gone) Fail(record().CallerIsGone());
      if (ok && query.ok()) waiting_ = *std::move(query);
      // What came before is answered first.
      if (ok && !query.ok()) wrong_request_ = query.status();
    }
    Step();
  }

  // The request that has been read.
  absl::StatusOr<PairsQuery> Next() {
    const uint64_t number = messages_++;
    auto request = std::make_shared<v1::BatchMaxInnerProductRequest>();
    const absl::Status parsed = Parse(&read_bytes_, request.get());
    absl::StatusOr<PairsQuery> query = parsed.ok() ? QueryOf(std::move(request)) : parsed;
    if (query.ok() && number == 0) metric_ = query->metric;
    if (query.ok() && query->metric != metric_) {
      query = InvalidField("metric", "METRIC_CHANGED", "metric: another one than in message 0");
    }
    if (!query.ok()) return InMessage(number, query.status());
    query->limits = record().limits();
    return query;
  }

  void Answered(absl::StatusOr<PairsAnswer> answer, uint64_t pairs, uint64_t rows) {
    if (answer.ok()) {
      backend().metrics->PairsAnswered(pairs, rows, answer->stats);
      record().AddQuestion("", rows);
      record().AddStats(answer->stats);
      CountOn(pairs, *answer);
    }
    {
      absl::MutexLock lock(&mutex_);
      computing_ = false;
      Fail(answer.status());
      if (answer.ok()) answer_ = *std::move(answer);
    }
    Step();
  }

  // Makes the answer for `pairs` more pairs one of all so far.
  void CountOn(uint64_t pairs, PairsAnswer& answer) {
    for (PairsAnswer::PairHit& hit : answer.hits) hit.pair += pairs_;
    if (answer.best.has_value()) {
      answer.best->pair += pairs_;
      // Ties go to the lower pair: to what is there.
      if (!best_.has_value() ||
          MeritOf(metric_, answer.best->hit.score) > MeritOf(metric_, best_->hit.score)) {
        best_ = answer.best;
      }
    }
    answer.best = best_;
    pairs_ += pairs;
  }

  void OnWriteDone(bool ok) override {
    {
      absl::MutexLock lock(&mutex_);
      writing_ = false;
      if (!ok) Fail(record().CallerIsGone());
    }
    Step();
  }

  // The object may be gone when this returns.
  void Step() {
    bool read = false;
    std::optional<PairsAnswer> write;
    std::optional<PairsQuery> compute;
    bool end = false;
    absl::Status status;
    {
      absl::MutexLock lock(&mutex_);
      if (ended_) return;
      if (failure_.ok()) {
        if (!writing_ && answer_.has_value()) {
          write.swap(answer_);
          writing_ = true;
        }
        if (!computing_ && !answer_.has_value() && waiting_.has_value()) {
          compute.swap(waiting_);
          computing_ = true;
        }
        if (!reading_ && !all_read_ && !waiting_.has_value()) read = reading_ = true;
      }
      const bool nothing_left = all_read_ && !waiting_.has_value() && !answer_.has_value();
      if (!computing_ && !writing_ && (!failure_.ok() || nothing_left)) {
        end = ended_ = true;
        status = failure_.ok() ? wrong_request_ : failure_;
      }
    }
    // What is started may come back at once, and end the call, unless more has been decided: a read goes with
    // something else, or is decided in OnReadDone, which gRPC waits for.
    if (end) End(status);
    if (read) StartRead(&read_bytes_);
    if (write.has_value()) WriteAnswer(*write);
    if (compute.has_value()) Compute(*std::move(compute));
  }

  void WriteAnswer(const PairsAnswer& answer) {
    v1::BatchMaxInnerProductResponse reply;
    PairsAnswerToProto(answer, &reply);
    Write(reply, &write_bytes_);
    StartWrite(&write_bytes_);
  }

  void Compute(PairsQuery query) {
    const uint64_t pairs = query.pairs.size();
    const uint64_t rows = QueryRowsOf(query);
    backend().searcher->MaxOfPairs(std::move(query), [this, pairs, rows](absl::StatusOr<PairsAnswer> answer) {
      Answered(std::move(answer), pairs, rows);
    });
  }

  grpc::CallbackServerContext* const context_;

  // Used by whoever reads.
  grpc::ByteBuffer read_bytes_;
  uint64_t messages_ = 0;
  Metric metric_ = Metric::kInnerProduct;  // constant once the first request has been read
  // Used by whoever computes.
  uint64_t pairs_ = 0;
  std::optional<PairsAnswer::PairHit> best_;
  // Used by whoever writes.
  grpc::ByteBuffer write_bytes_;

  bool reading_ ABSL_GUARDED_BY(mutex_) = true;
  bool computing_ ABSL_GUARDED_BY(mutex_) = false;
  bool writing_ ABSL_GUARDED_BY(mutex_) = false;
  bool all_read_ ABSL_GUARDED_BY(mutex_) = false;
  std::optional<PairsQuery> waiting_ ABSL_GUARDED_BY(mutex_);  // read
  std::optional<PairsAnswer> answer_ ABSL_GUARDED_BY(mutex_);  // computed
  absl::Status wrong_request_ ABSL_GUARDED_BY(mutex_);  // ends the call once all before it are answered
};

}  // namespace

grpc::ServerUnaryReactor* StartBatchMax(const Backend& backend, OpenCalls* open,
                                        grpc::CallbackServerContext* context, grpc::ByteBuffer* request,
                                        grpc::ByteBuffer* response) {
  auto* call = new BatchMaxCall(backend, open, context);
  call->Start(request, response);
  return call;
}

grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer>* StartBatchMaxStream(
    const Backend& backend, OpenCalls* open, grpc::CallbackServerContext* context) {
  auto* call = new BatchMaxStreamCall(backend, open, context);
  call->Start();
  return call;
}

}  // namespace dotmax
