#include "server/batch/dispatcher.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "server/base/errors.h"
#include "server/engine/planner.h"
#include "server/engine/task.h"

namespace dotmax {
namespace {

// Of pairs of matrices that are searched in one go, unless a single one has more: some hundredths of a
// second.
constexpr double kPairsProducts = 2e9;

void AddTo(SearchStats& stats, const SearchStats& more) {
  stats.compute_seconds += more.compute_seconds;
  stats.pairs_screened += more.pairs_screened;
  stats.pairs_survived += more.pairs_survived;
  stats.pairs_checked += more.pairs_checked;
  stats.pairs_rescored += more.pairs_rescored;
}

}  // namespace

// What waits for the engine. `base` is the matrix, or the job itself when nobody can share its passes.
struct Dispatcher::Job : Scheduler::Job {
  // The most rows that a pass should have.
  virtual uint64_t MostRows() const = 0;
  // Has `turns`, of jobs with this one's base, searched in one pass.
  virtual void RunPass(Engine& engine, absl::Span<const Scheduler::Turn> turns) = 0;
  // How many rows are left: none, too, when it has failed.
  virtual uint64_t RowsLeft() const = 0;
  // What is to be called when the job is gone: with the answer, or with `failure`.
  virtual absl::AnyInvocable<void()> Finish(const absl::Status& failure) = 0;

  // Whose passes' costs are worth knowing; null for others.
  virtual std::shared_ptr<const Matrix> ResidentMatrix() const { return nullptr; }

  void Starts(absl::Time now) {
    if (!queued.has_value()) queued = now - accepted;
  }
  double QueueSeconds() const { return absl::ToDoubleSeconds(queued.value_or(absl::ZeroDuration())); }

  const absl::Time accepted = absl::Now();
  std::optional<absl::Duration> queued;
};

struct Dispatcher::SearchJob final : Job {
  SearchJob(Query its_query, Done its_done) : query(std::move(its_query)), done(std::move(its_done)) {
    limits = std::move(query.limits);
  }

  // When everything has been found.
  void Prepare() {
    MatrixView queries = query.rows.view;
    const MatrixView& view = resident.matrix != nullptr ? resident.matrix->view() : query.base->view;
    queries.dim = view.dim;  // no rows need no dim
    task.emplace(view, queries, std::move(query.selection),
                 [this](absl::Time now) { return StopReason(limits, now); });
    matrix = resident.matrix;
    base = matrix != nullptr ? static_cast<const void*>(matrix.get()) : this;
    rows = queries.rows;
    bytes = (query.resident.has_value() ? 0 : queries.bytes()) + (matrix != nullptr ? 0 : view.bytes());
  }

  uint64_t MostRows() const override { return Engine::LargestPass(task->base().dim); }
  uint64_t RowsLeft() const override { return task->rows_left(); }
  std::shared_ptr<const Matrix> ResidentMatrix() const override { return resident.matrix; }

  void RunPass(Engine& engine, absl::Span<const Scheduler::Turn> turns) override {
    if (matrix == nullptr) matrix = std::make_shared<const Matrix>(*query.base, ScreenForOnce(rows));
    std::vector<Engine::Share> shares;
    shares.reserve(turns.size());
    for (const auto& [job, turn_rows] : turns) {
      shares.push_back({&*static_cast<SearchJob&>(*job).task, turn_rows});
    }
    engine.Advance(*matrix, shares);
  }

  absl::AnyInvocable<void()> Finish(const absl::Status& failure) override {
    absl::StatusOr<Answer> answer = failure.ok() ? Engine::Finish(*task) : failure;
    // Of whatever has been read until now.
    for (const Catalog::Resident* const read : {&resident, &queries_from}) {
      if (!answer.ok()) break;
      if (absl::Status intact = read->Intact(); !intact.ok()) answer = intact;
    }
    if (answer.ok()) {
      answer->stats.queue_seconds = QueueSeconds();
      answer->version = resident.version;
    }
    return [call = std::move(done), answer = std::move(answer)]() mutable { call(std::move(answer)); };
  }

  Query query;
  Done done;
  Catalog::Resident resident;            // without a matrix: query.base
  Catalog::Resident queries_from;        // when they are resident rows
  std::shared_ptr<const Matrix> matrix;  // of query.base: when it is first needed
  std::optional<Task> task;
};

struct Dispatcher::PairsJob final : Job {
  PairsJob(PairsQuery its_query, PairsDone its_done)
      : query(std::move(its_query)), done(std::move(its_done)) {
    limits = std::move(query.limits);
    base = this;
    rows = query.pairs.size();
    for (const PairsQuery::Pair& pair : query.pairs) bytes += pair.queries.bytes() + pair.base.bytes();
  }

  uint64_t MostRows() const override {
    double products = 0.0;
    size_t next = searched;
    while (next < query.pairs.size() && products < kPairsProducts) {
      const auto& [queries, its_base] = query.pairs[next++];
      products += 1.0 * queries.rows * its_base.rows * its_base.dim;
    }
    return std::max<uint64_t>(next - searched, 1);
  }
  uint64_t RowsLeft() const override { return status.ok() ? query.pairs.size() - searched : 0; }

  void RunPass(Engine& engine, absl::Span<const Scheduler::Turn> turns) override {
    const absl::Span<const PairsQuery::Pair> pairs =
        absl::MakeSpan(query.pairs).subspan(searched, turns[0].rows);
    absl::StatusOr<PairsAnswer> some =
        engine.MaxOfPairs(pairs, query.metric, [this] { return StopReason(limits, absl::Now()); });
    status = some.status();
    if (!status.ok()) return;
    for (PairsAnswer::PairHit& hit : some->hits) {
      hit.pair += searched;
      answer.hits.push_back(hit);
      // Merits decide; ties go to the lowest pair.
      if (!answer.best.has_value() ||
          MeritOf(query.metric, hit.hit.score) > MeritOf(query.metric, answer.best->hit.score)) {
        answer.best = hit;
      }
    }
    AddTo(answer.stats, some->stats);
    searched += pairs.size();
  }

  absl::AnyInvocable<void()> Finish(const absl::Status& failure) override {
    status.Update(failure);
    answer.stats.queue_seconds = QueueSeconds();
    absl::StatusOr<PairsAnswer> result = std::move(answer);
    if (!status.ok()) result = status;
    return [call = std::move(done), result = std::move(result)]() mutable { call(std::move(result)); };
  }

  PairsQuery query;
  PairsDone done;
  size_t searched = 0;
  PairsAnswer answer;  // of those
  absl::Status status;
};

Dispatcher::Dispatcher(std::unique_ptr<Engine> engine, std::shared_ptr<const Catalog> catalog, Limits limits,
                       OnPass on_pass)
    : engine_(std::move(engine)),
      catalog_(std::move(catalog)),
      on_pass_(std::move(on_pass)),
      scheduler_(limits),
      thread_([this] { Loop(); }) {}

Dispatcher::~Dispatcher() { Shutdown(); }

void Dispatcher::Search(Query query, Done done) {
  auto job = std::make_unique<SearchJob>(std::move(query), std::move(done));
  if (const absl::Status status = Resolve(*job); !status.ok()) {
    absl::AnyInvocable<void()> call = job->Finish(status);
    job.reset();
    call();
    return;
  }
  job->Prepare();
  Enqueue(std::move(job));
}

void Dispatcher::MaxOfPairs(PairsQuery query, PairsDone done) {
  Enqueue(std::make_unique<PairsJob>(std::move(query), std::move(done)));
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
    job.resident = *std::move(found);
  }
  if (query.resident.has_value()) {
    ResidentRows& rows = *query.resident;
    // Of the searched collection the very version that is searched.
    const bool same =
        job.resident.matrix != nullptr && (rows.collection.empty() || rows.collection == job.resident.name);
    const absl::StatusOr<Catalog::Resident> found = same ? job.resident : catalog_->Find(rows.collection);
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
    job.queries_from = *found;
  }
  const MatrixView& base = job.resident.matrix != nullptr ? job.resident.matrix->view() : query.base->view;
  const MatrixView& rows = query.rows.view;
  if (rows.rows > 0 && rows.dim != base.dim && (job.resident.matrix != nullptr || base.rows > 0)) {
    return InvalidField("queries.dim", "DIM_MISMATCH",
                        absl::StrCat("queries.dim: ", rows.dim, ", but ", base_name, " has dim ", base.dim));
  }
  return absl::OkStatus();
}

PassCosts& Dispatcher::CostsOf(const Job& job) {
  const std::shared_ptr<const Matrix> matrix = job.ResidentMatrix();
  if (matrix == nullptr) return unknown_costs_;
  if (const auto known = costs_.find(matrix); known != costs_.end()) return known->second;
  std::erase_if(costs_, [](const auto& entry) { return entry.first.expired(); });
  return costs_[matrix];
}

void Dispatcher::Enqueue(std::unique_ptr<Job> job) {
  absl::Status status;
  {
    absl::MutexLock lock(&mutex_);
    if (draining_) {
      status = Error(absl::StatusCode::kUnavailable, "DRAINING", "the server is shutting down");
    } else if (job->rows > 0) {
      const PassCosts& costs = CostsOf(*job);
      std::unique_ptr<Scheduler::Job> waits = std::move(job);
      const absl::Time deadline = waits->limits.deadline, now = absl::Now();
      status = scheduler_.Admit(waits, costs, now, busy_until_);
      if (status.ok()) {
        urgent_ = urgent_ || gathering_.IsUrgent(deadline, now);
        return;
      }
      job.reset(static_cast<Job*>(waits.release()));
    }
  }
  // Refused, or nothing was asked.
  absl::AnyInvocable<void()> call = job->Finish(status);
  job.reset();
  call();
}

void Dispatcher::AwaitOthers() {
  const Gathering::Wait wait = gathering_.From(absl::Now());
  const Job& next = static_cast<const Job&>(scheduler_.Next());
  if (wait.requests == 0 || next.ResidentMatrix() == nullptr) return;
  wanted_requests_ = wait.requests;
  wanted_rows_ = CostsOf(next).EnoughRows(next.MostRows());
  while (!HasEnough()) {
    const uint64_t before = scheduler_.requests();
    mutex_.AwaitWithDeadline(absl::Condition(this, &Dispatcher::HasEnough),
                             std::min(absl::Now() + wait.gap, wait.end));
    if (scheduler_.requests() == before || absl::Now() >= wait.end) return;
  }
}

void Dispatcher::Loop() {
  for (;;) {
    std::vector<Scheduler::Turn> turns;
    std::vector<std::pair<std::unique_ptr<Scheduler::Job>, absl::Status>> unwanted;
    PassReport report;
    absl::Time start;
    {
      absl::MutexLock lock(&mutex_);
      mutex_.Await(absl::Condition(this, &Dispatcher::HasWork));
      if (!scheduler_.empty()) AwaitOthers();
      start = absl::Now();
      if (!scheduler_.empty()) {
        const Job& next = static_cast<const Job&>(scheduler_.Next());
        const PassCosts& costs = CostsOf(next);
        turns = scheduler_.Take(costs.EnoughRows(next.MostRows()), costs, start);
        report.requests = turns.size();
        for (const Scheduler::Turn& turn : turns) report.rows += turn.rows;
        urgent_ = false;
        busy_until_ = start + absl::Seconds(costs.Seconds(report.rows).value_or(0.0));
      } else if (!scheduler_.has_unwanted()) {
        return;  // drained
      }
      unwanted = scheduler_.TakeUnwanted();
      report.waiting = WhatWaits();
    }
    for (auto& [job, status] : unwanted) {
      absl::AnyInvocable<void()> call = static_cast<Job&>(*job).Finish(status);
      job.reset();
      call();
    }
    if (turns.empty()) {
      if (on_pass_ != nullptr) on_pass_(report);
      continue;
    }

    for (const Scheduler::Turn& turn : turns) static_cast<Job&>(*turn.job).Starts(start);
    Job& first = static_cast<Job&>(*turns[0].job);
    first.RunPass(*engine_, turns);
    const double seconds = absl::ToDoubleSeconds(absl::Now() - start);

    std::vector<std::unique_ptr<Job>> over;
    {
      absl::MutexLock lock(&mutex_);
      busy_until_ = absl::InfinitePast();
      if (first.ResidentMatrix() != nullptr) {
        CostsOf(first).Record(report.rows, seconds);
        gathering_.PassEnded(report.requests, scheduler_.requests(), seconds);
      } else {
        scheduler_.Charge(first, seconds);
      }
      // Those that came first are to be in front again.
      std::reverse(turns.begin(), turns.end());
      for (Scheduler::Turn& turn : turns) {
        std::unique_ptr<Job> job(static_cast<Job*>(turn.job.release()));
        job->rows = job->RowsLeft();
        if (job->rows > 0) {
          scheduler_.Return(std::move(job));
        } else {
          scheduler_.Release(*job);
          over.push_back(std::move(job));
        }
      }
      report.waiting = WhatWaits();
    }
    if (on_pass_ != nullptr) on_pass_(report);
    std::reverse(over.begin(), over.end());
    for (std::unique_ptr<Job>& job : over) {
      absl::AnyInvocable<void()> call = job->Finish(absl::OkStatus());
      job.reset();
      call();
    }
    absl::MutexLock lock(&mutex_);
    gathering_.Answered(absl::Now());
  }
}

}  // namespace dotmax
