#include "server/batch/dispatcher.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/time/clock.h"
#include "server/base/errors.h"

namespace dotmax {
namespace {

absl::Status StopReason(const CallLimits& limits) {
  // The deadline first: a caller's transport also withdraws what is overdue.
  if (absl::Now() >= limits.deadline) {
    return Error(absl::StatusCode::kDeadlineExceeded, "DEADLINE_EXCEEDED",
                 "the deadline passed before the search was done");
  }
  if (limits.cancelled != nullptr && limits.cancelled->load(std::memory_order_relaxed)) {
    return Error(absl::StatusCode::kCancelled, "CANCELLED", "the caller cancelled the search");
  }
  return absl::OkStatus();
}

}  // namespace

Dispatcher::Dispatcher(std::unique_ptr<Engine> engine, Snapshots snapshots, Limits limits)
    : engine_(std::move(engine)),
      snapshots_(std::move(snapshots)),
      limits_(limits),
      thread_([this] { Loop(); }) {}

Dispatcher::~Dispatcher() { Shutdown(); }

void Dispatcher::Search(Query query, Done done) {
  absl::StatusOr<std::shared_ptr<const Matrix>> matrix = Find(query);
  if (!matrix.ok()) {
    done(matrix.status());
    return;
  }
  Pending pending{std::move(query), std::move(done), *std::move(matrix), absl::Now()};
  const absl::Status accepted = Enqueue(pending);
  if (!accepted.ok()) pending.done(accepted);
}

void Dispatcher::MaxOfPairs(PairsQuery, PairsDone done) { done(absl::UnimplementedError("MaxOfPairs")); }

std::vector<CollectionInfo> Dispatcher::Collections() const {
  std::vector<CollectionInfo> collections;
  for (const auto& [name, matrix] : snapshots_) {
    const MatrixView& view = matrix->view();
    collections.push_back({name, view.rows, view.dim, view.dtype, matrix->resident_bytes(), matrix->screen(),
                           matrix->estimates()});
  }
  return collections;
}

void Dispatcher::Drain() {
  absl::MutexLock lock(&mutex_);
  draining_ = true;
}

void Dispatcher::Shutdown() {
  Drain();
  absl::MutexLock lock(&join_mutex_);
  if (thread_.joinable()) thread_.join();
}

absl::StatusOr<std::shared_ptr<const Matrix>> Dispatcher::Find(const Query& query) const {
  auto found = snapshots_.find(query.collection);
  if (query.collection.empty() && snapshots_.size() == 1) found = snapshots_.begin();
  if (found == snapshots_.end()) {
    const std::string names = absl::StrJoin(
        snapshots_, ", ", [](std::string* out, const auto& entry) { absl::StrAppend(out, entry.first); });
    return Error(
        absl::StatusCode::kNotFound, "COLLECTION_NOT_FOUND",
        query.collection.empty()
            ? absl::StrCat("collection: a name is needed, because the server holds ", names)
            : absl::StrCat("collection: there is no \"", query.collection, "\"; the server holds ", names));
  }
  const MatrixView& base = found->second->view();
  const MatrixView& rows = query.rows.view;
  if (rows.rows > 0 && rows.dim != base.dim) {
    return InvalidField("queries.dim", "DIM_MISMATCH",
                        absl::StrCat("queries.dim: ", rows.dim, ", but collection \"", found->first,
                                     "\" has dim ", base.dim));
  }
  return found->second;
}

absl::Status Dispatcher::Enqueue(Pending& pending) {
  const uint64_t bytes = pending.query.rows.view.bytes();
  absl::MutexLock lock(&mutex_);
  if (draining_) {
    return Error(absl::StatusCode::kUnavailable, "DRAINING", "the server is shutting down");
  }
  if (queue_.size() >= limits_.requests || bytes > limits_.query_bytes - queued_bytes_) {
    return Error(absl::StatusCode::kResourceExhausted, "QUEUE_FULL",
                 absl::StrCat("the queue is full: ", queue_.size(), " requests with ", queued_bytes_,
                              " bytes wait, and this one has ", bytes, " bytes; at most ", limits_.requests,
                              " requests with ", limits_.query_bytes, " bytes may wait"));
  }
  queued_bytes_ += bytes;
  queue_.push_back(std::move(pending));
  return absl::OkStatus();
}

absl::StatusOr<Answer> Dispatcher::Run(const Pending& pending) {
  const absl::Time started = absl::Now();
  const auto stop = [&pending] { return StopReason(pending.query.limits); };
  if (absl::Status status = stop(); !status.ok()) return status;
  MatrixView queries = pending.query.rows.view;
  queries.dim = pending.matrix->view().dim;  // no query rows need no dim
  absl::StatusOr<Answer> answer = engine_->Search(*pending.matrix, queries, pending.query.selection, stop);
  if (answer.ok()) answer->stats.queue_seconds = absl::ToDoubleSeconds(started - pending.accepted);
  return answer;
}

void Dispatcher::Loop() {
  for (;;) {
    absl::StatusOr<Answer> answer;
    Done done;
    {
      Pending pending;
      {
        absl::MutexLock lock(&mutex_);
        mutex_.Await(absl::Condition(this, &Dispatcher::HasWork));
        if (queue_.empty()) return;
        pending = std::move(queue_.front());
        queue_.pop_front();
        queued_bytes_ -= pending.query.rows.view.bytes();
      }
      answer = Run(pending);
      done = std::move(pending.done);
    }
    done(std::move(answer));
  }
}

}  // namespace dotmax
