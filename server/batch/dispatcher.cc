#include "server/batch/dispatcher.h"

#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "server/base/errors.h"
#include "server/engine/planner.h"

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

Dispatcher::Dispatcher(std::unique_ptr<Engine> engine, std::shared_ptr<const Catalog> catalog, Limits limits)
    : engine_(std::move(engine)),
      catalog_(std::move(catalog)),
      limits_(limits),
      thread_([this] { Loop(); }) {}

Dispatcher::~Dispatcher() { Shutdown(); }

void Dispatcher::Search(Query query, Done done) {
  SearchJob job = {std::move(query), std::move(done), {}};
  if (const absl::Status status = Resolve(job); !status.ok()) {
    job.done(status);
    return;
  }
  const bool resident = job.query.resident.has_value();
  const uint64_t bytes = (resident ? 0 : job.query.rows.view.bytes()) +
                         (job.query.base.has_value() ? job.query.base->view.bytes() : 0);
  Enqueue({std::move(job), bytes, absl::Now()});
}

void Dispatcher::MaxOfPairs(PairsQuery query, PairsDone done) {
  uint64_t bytes = 0;
  for (const PairsQuery::Pair& pair : query.pairs) bytes += pair.queries.bytes() + pair.base.bytes();
  Enqueue({PairsJob{std::move(query), std::move(done)}, bytes, absl::Now()});
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

absl::Status Dispatcher::Resolve(SearchJob& job) const {
  Query& query = job.query;
  std::string base_name = "the base";
  if (!query.base.has_value()) {
    absl::StatusOr<Catalog::Resident> found = catalog_->Find(query.collection);
    if (!found.ok()) return found.status();
    base_name = absl::StrCat("collection \"", found->name, "\"");
    if (query.version.has_value() && *query.version != found->version) {
      return Error(
          absl::StatusCode::kFailedPrecondition, "VERSION_MISMATCH",
          absl::StrCat("version: ", *query.version, ", but ", base_name, " has version ", found->version));
    }
    job.base = *std::move(found);
  }
  if (query.resident.has_value()) {
    ResidentRows& rows = *query.resident;
    // Of the searched collection the very version that is searched.
    const bool same =
        job.base.matrix != nullptr && (rows.collection.empty() || rows.collection == job.base.name);
    const absl::StatusOr<Catalog::Resident> found = same ? job.base : catalog_->Find(rows.collection);
    if (!found.ok()) return found.status();
    const MatrixView& all = found->matrix->view();
    if (rows.first > all.rows || rows.rows > all.rows - rows.first) {
      return Error(absl::StatusCode::kOutOfRange, "ROWS_OUT_OF_RANGE",
                   absl::StrCat("resident_queries: rows ", rows.first, " to ", rows.first, " + ", rows.rows,
                                ", but collection \"", found->name, "\" has ", all.rows));
    }
    const uint64_t count = rows.rows == 0 ? all.rows - rows.first : rows.rows;
    query.rows = {{all.row(rows.first), count, all.dim, all.dtype}, found->matrix};
    query.selection.self_first = rows.first;
  }
  const MatrixView& base = job.base.matrix != nullptr ? job.base.matrix->view() : query.base->view;
  const MatrixView& rows = query.rows.view;
  if (rows.rows > 0 && rows.dim != base.dim && (job.base.matrix != nullptr || base.rows > 0)) {
    return InvalidField("queries.dim", "DIM_MISMATCH",
                        absl::StrCat("queries.dim: ", rows.dim, ", but ", base_name, " has dim ", base.dim));
  }
  return absl::OkStatus();
}

void Dispatcher::Enqueue(Pending pending) {
  const absl::Status status = Admit(pending);
  if (!status.ok()) std::visit([&status](auto& job) { job.done(status); }, pending.job);
}

absl::Status Dispatcher::Admit(Pending& pending) {
  absl::MutexLock lock(&mutex_);
  if (draining_) {
    return Error(absl::StatusCode::kUnavailable, "DRAINING", "the server is shutting down");
  }
  // An empty queue takes anything: what comes as a stream may be larger than a message, and would never fit.
  const bool has_room = queue_.empty() || queued_bytes_ + pending.bytes <= limits_.query_bytes;
  if (queue_.size() >= limits_.requests || !has_room) {
    return Error(absl::StatusCode::kResourceExhausted, "QUEUE_FULL",
                 absl::StrCat("the queue is full: ", queue_.size(), " requests with ", queued_bytes_,
                              " bytes wait, and this one has ", pending.bytes, " bytes; at most ",
                              limits_.requests, " requests with ", limits_.query_bytes, " bytes may wait"));
  }
  queued_bytes_ += pending.bytes;
  queue_.push_back(std::move(pending));
  return absl::OkStatus();
}

absl::StatusOr<Answer> Dispatcher::Run(const SearchJob& job) {
  const auto stop = [&job] { return StopReason(job.query.limits); };
  MatrixView queries = job.query.rows.view;
  std::optional<Matrix> once;
  if (job.base.matrix == nullptr) once.emplace(*job.query.base, ScreenForOnce(queries.rows));
  const Matrix& base = job.base.matrix != nullptr ? *job.base.matrix : *once;
  queries.dim = base.view().dim;  // no rows need no dim
  absl::StatusOr<Answer> answer = engine_->Search(base, queries, job.query.selection, stop);
  if (job.base.matrix != nullptr) {
    if (absl::Status s = job.base.Intact(); !s.ok()) return s;
  }
  if (answer.ok()) answer->version = job.base.version;
  return answer;
}

absl::StatusOr<PairsAnswer> Dispatcher::Run(const PairsJob& job) {
  return engine_->MaxOfPairs(job.query.pairs, job.query.metric,
                             [&job] { return StopReason(job.query.limits); });
}

void Dispatcher::Loop() {
  for (;;) {
    Pending pending;
    {
      absl::MutexLock lock(&mutex_);
      mutex_.Await(absl::Condition(this, &Dispatcher::HasWork));
      if (queue_.empty()) return;
      pending = std::move(queue_.front());
      queue_.pop_front();
      queued_bytes_ -= pending.bytes;
    }
    const absl::Duration queued = absl::Now() - pending.accepted;
    std::visit(
        [&](auto& job) {
          const absl::Status expired = StopReason(job.query.limits);
          auto answer = expired.ok() ? Run(job) : expired;
          if (answer.ok()) answer->stats.queue_seconds = absl::ToDoubleSeconds(queued);
          auto done = std::move(job.done);
          pending = {};
          done(std::move(answer));
        },
        pending.job);
  }
}

}  // namespace dotmax
