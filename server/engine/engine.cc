#include "server/engine/engine.h"

#include <algorithm>
#include <atomic>
#include <deque>
#include <optional>
#include <utility>
#include <vector>

#include "absl/algorithm/container.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "server/base/dtype.h"
#include "server/engine/aligned.h"
#include "server/engine/pass.h"
#include "server/engine/planner.h"
#include "server/engine/quantize.h"
#include "server/engine/topk.h"
#include "server/engine/workers.h"

namespace dotmax {
namespace {

// A block's queries take at most 2^20 · (8 + 4) bytes: fewer of them for dim > 4,096.
constexpr size_t kBlockElements = 1 << 20;

// Rows of which a worker may search all for some queries, and how many of these it takes to begin a pass of
// its own.
constexpr uint64_t kFewRows = 12288;
constexpr uint64_t kFewestOfFewRows = 16;

// Who works on a pass, and with what.
struct Crew {
  int threads() const { return workers != nullptr ? workers->count() : 1; }
  void Work(Pass& pass) const {
    for (int round = 0; round < pass.rounds(); ++round) {
      const auto work = [&](int worker) { pass.Work(round, scratch[worker]); };
      workers != nullptr ? workers->Run(work) : work(0);
    }
  }
  void Share(size_t count, absl::FunctionRef<void(int worker, size_t i)> job) const {
    if (workers != nullptr) return workers->Share(count, job);
    for (size_t i = 0; i < count; ++i) job(0, i);
  }

  Workers* workers;  // null: the caller alone
  absl::Span<Scratch> scratch;
  PassBuffers& buffers;
};

// What is searched: codes, or a matrix without them, or both.
struct Base {
  explicit Base(const Matrix& m) : view(m.view()), codes(m.codes()), matrix(&m) {}
  Base(const MatrixView& rows, const Int8Codes* its_codes) : view(rows), codes(its_codes) {}

  // ≥ the length of any row.
  double longest() const { return matrix != nullptr ? matrix->longest() : codes->longest(); }
  // Of rows in `codes`; null for none.
  const Copies* copies() const { return matrix != nullptr ? &matrix->copies() : nullptr; }
  // Of all rows; null if not known.
  const Supports* supports() const { return matrix != nullptr ? &matrix->supports() : nullptr; }
  // CommonUnit of all rows, if known.
  double unit() const { return matrix != nullptr ? matrix->unit() : 0.0; }

  const MatrixView& view;
  const Int8Codes* const codes;
  const Matrix* const matrix = nullptr;
};

// Of the lengths of scaled queries: zeros', and those of very few others (matrix.h).
bool IsShort(double norm) { return norm < 1.0; }

// A query of zeros scores 0 with every row, which no screen can tell apart: its hits are the first rows that
// may be.
bool ScoresZero(const BlockQuery& query) {
  const Question& question = *query.question;
  if (question.selection.metric == Metric::kSquaredEuclidean || question.selection.count_only) return false;
  return IsZero(question.queries.row(query.row), question.queries.dtype, question.queries.dim);
}
// `scorer` is for others in its list.
void AnswerZero(const MatrixView& base, const BlockQuery& query, PairScorer& scorer) {
  const Question& question = *query.question;
  uint64_t left = question.top_k;
  for (uint64_t id = 0; id < base.rows && left > 0; ++id) {
    if (!question.IsHit(query.row, id)) continue;
    query.best->Offer({0.0, 0.0, query.row, id}, scorer.Of(question));
    --left;
  }
}

// One pass of at least one query against every row of at least one. What stops it is in the questions'
// status.
absl::Status RunPass(const Base& base, absl::Span<const BlockQuery> queries, const Crew& crew) {
  QueryBlock block = crew.buffers.Prepare(queries, base.unit());
  std::vector<BlockQuery> zeros, others;
  if (absl::c_any_of(block.norms, IsShort)) {
    for (size_t q = 0; q < queries.size(); ++q) {
      (IsShort(block.norms[q]) && ScoresZero(queries[q]) ? zeros : others).push_back(queries[q]);
    }
    if (!zeros.empty() && !others.empty()) block = crew.buffers.Prepare(others, base.unit());
  }
  if (zeros.size() < queries.size()) {
    absl::StatusOr<std::unique_ptr<Pass>> pass =
        base.codes != nullptr
            ? MakeInt8Pass(base.view, *base.codes, base.copies(), base.supports(), block, crew.buffers)
            : absl::UnimplementedError("no codes");
    // The planner has asked whether 8-bit sums are exact here, but kernels differ by shape.
    if (absl::IsUnimplemented(pass.status()) && base.matrix != nullptr) {
      pass = MakeFloat32Pass(*base.matrix, block, crew.buffers);
    }
    if (!pass.ok()) return pass.status();
    crew.Work(**pass);
  }
  // Last: who shares a list with them would begin with a threshold of 0, and look for no better one.
  PairScorer scorer(base.view, base.longest());
  for (const BlockQuery& query : zeros) AnswerZero(base.view, query, scorer);
  return absl::OkStatus();
}

// The same with guessed thresholds; and again for those queries that were guessed too high, and what lies
// between them.
absl::Status GuessAndRun(const Base& base, absl::Span<const BlockQuery> queries, const Crew& crew) {
  if (absl::Status s = RunPass(base, queries, crew); !s.ok()) return s;
  if (absl::c_none_of(queries, [](const BlockQuery& q) { return q.question->guess; }))
    return absl::OkStatus();
  std::vector<char> fails(queries.size());
  crew.Share(queries.size(), [&](int, size_t i) {
    const Question& question = *queries[i].question;
    fails[i] = question.guess && question.status.ok() && !queries[i].best->GuessHolds();
  });
  const size_t begin = std::find(fails.begin(), fails.end(), true) - fails.begin();
  if (begin == fails.size()) return absl::OkStatus();
  const size_t end = fails.rend() - std::find(fails.rbegin(), fails.rend(), true);

  std::vector<BlockQuery> again;
  std::deque<Question> surely;  // the same questions, but not to guess
  std::vector<Question*> guessed_ones;
  for (size_t i = begin; i < end; ++i) {
    Question* const guessed = queries[i].question;
    // Hits of all queries together have not been guessed, and must not be offered twice.
    if (!guessed->guess || !guessed->status.ok()) continue;
    if (again.empty() || queries[i].question != queries[i - 1].question) {
      surely.emplace_back(guessed->queries, guessed->selection, guessed->top_k, false, guessed->stop);
      guessed_ones.push_back(guessed);
    }
    again.push_back({&surely.back(), queries[i].row, queries[i].best});
    queries[i].best->Restart();
  }
  const absl::Status status = RunPass(base, again, crew);
  for (size_t i = 0; i < surely.size(); ++i) guessed_ones[i]->status.Update(surely[i].status);
  return status;
}

// The next rows of tasks of one base, by `crew`: a block at most, or a block at most for each of its workers
// alone, side by side.
absl::Status AdvanceTasks(const Base& base, absl::Span<const Engine::Share> shares, const Crew& crew,
                          absl::Span<const Crew> alone = {}) {
  uint64_t all_rows = 0;
  for (const Engine::Share& share : shares) all_rows += share.rows;
  const uint64_t blocks = std::max<uint64_t>(alone.size(), 1);
  const auto block_of = [&](uint64_t query) { return query * blocks / all_rows; };
  std::deque<Question> questions;  // a block's of a task
  std::vector<Task*> asked_by;     // by question
  std::deque<TopK> by_row;         // of those that are per_row
  std::vector<BlockQuery> queries;
  std::vector<size_t> begins;  // of blocks
  for (const auto& [task, rows] : shares) {
    for (uint64_t i = 0; i < rows; ++i) {
      const uint64_t query = queries.size(), row = task->next_row() + i;
      const bool begins_block = query == 0 || block_of(query) != block_of(query - 1);
      if (begins_block) begins.push_back(query);
      if (begins_block || i == 0) {
        questions.emplace_back(task->queries(), task->selection(), task->kept(), task->may_guess(),
                               task->stop());
        asked_by.push_back(task);
      }
      TopK* const best =
          task->per_row() ? &by_row.emplace_back(task->kept(), task->Floor(row), crew.buffers.CandidateRoom())
                          : &task->global();
      queries.push_back({&questions.back(), row, best});
    }
  }
  begins.push_back(queries.size());
  if (base.view.rows > 0) {
    std::vector<absl::Status> statuses(begins.size() - 1);
    crew.Share(statuses.size(), [&](int worker, size_t block) {
      const absl::Span<const BlockQuery> its =
          absl::MakeConstSpan(queries).subspan(begins[block], begins[block + 1] - begins[block]);
      statuses[block] = GuessAndRun(base, its, alone.empty() ? crew : alone[worker]);
    });
    for (const absl::Status& status : statuses) {
      if (!status.ok()) return status;
    }
  }

  std::vector<std::vector<Hit>> hits(queries.size());
  std::vector<PairScorer> scorers(crew.threads(), PairScorer(base.view, base.longest()));
  crew.Share(queries.size(), [&](int worker, size_t i) {
    const auto& [question, row, best] = queries[i];
    if (question->selection.reduction != Reduction::kPerRow || !question->status.ok()) return;
    PairScorer& scorer = scorers[worker].Of(*question);
    hits[i] = best->Take(scorer, [&scorer](uint64_t id) { scorer.Fetch(id); });
  });
  for (size_t i = 0; i < questions.size(); ++i) asked_by[i]->Fail(questions[i].status);
  size_t next = 0;
  for (const auto& [task, rows] : shares) {
    if (!task->per_row()) {
      task->AddGlobalRows(rows);
      next += rows;
      continue;
    }
    for (uint64_t i = 0; i < rows; ++i, ++next) {
      if (task->status().ok()) task->AddRow(*queries[next].best, std::exchange(hits[next], {}));
    }
  }
  for (TopK& best : by_row) crew.buffers.KeepRoom(best.TakeRoom());
  return absl::OkStatus();
}

// All of a task.
absl::StatusOr<Answer> RunTask(const Base& base, Task& task, const Crew& crew) {
  while (task.rows_left() > 0) {
    const Engine::Share share = {&task, std::min(task.rows_left(), Engine::LargestPass(base.view.dim))};
    if (absl::Status s = AdvanceTasks(base, {&share, 1}, crew); !s.ok()) return s;
  }
  return Engine::Finish(task);
}

// A pair of matrices below this many products is one worker's; others are everybody's.
constexpr double kSharedPairProducts = 1e9;

double Products(const PairsQuery::Pair& pair) {
  return 1.0 * pair.queries.rows * pair.base.rows * pair.base.dim;
}

ReadAhead RowsOf(const PairsQuery::Pair& pair) {
  return {{pair.base.data, pair.base.bytes()}, {pair.queries.data, pair.queries.bytes()}};
}

}  // namespace

struct Engine::Impl {
  Impl(int threads, bool pin)
      : workers(threads, pin), scratch(threads), own_buffers(threads), plain_codes(threads) {}

  void ForgetStats() {
    for (Scratch& s : scratch) {
      s.pairs_screened = s.pairs_survived = s.pairs_checked = s.pairs_rescored = 0;
    }
  }
  void AddStats(SearchStats& stats) const {
    for (const Scratch& s : scratch) {
      stats.pairs_screened += s.pairs_screened;
      stats.pairs_survived += s.pairs_survived;
      stats.pairs_checked += s.pairs_checked;
      stats.pairs_rescored += s.pairs_rescored;
    }
  }

  // Crews of all workers, and of one.
  Crew Everybody() { return {&workers, absl::MakeSpan(scratch), buffers}; }
  Crew Alone(int worker) {
    return {nullptr, absl::MakeSpan(scratch).subspan(worker, 1), own_buffers[worker]};
  }

  absl::StatusOr<Answer> SearchAlone(int worker, const MatrixView& base, const MatrixView& queries,
                                     const Selection& selection, const Task::Stop& stop) {
    const auto make = [&] {
      return std::make_unique<Task>(base, queries, selection, [&stop](absl::Time now) { return stop(now); });
    };
    if (own_buffers[worker].kernels.has_own() && plain_codes[worker].EncodePlain(base)) {
      absl::StatusOr<Answer> answer = RunTask({base, &plain_codes[worker]}, *make(), Alone(worker));
      if (!absl::IsUnimplemented(answer.status())) return answer;
    }
    const Matrix matrix({base, nullptr}, ScreenForOnce(queries.rows));
    return RunTask(Base(matrix), *make(), Alone(worker));
  }

  Workers workers;
  PassBuffers buffers{&workers};
  // By worker.
  std::vector<Scratch> scratch;
  std::vector<PassBuffers> own_buffers;
  std::vector<Int8Codes> plain_codes;
};

Engine::Engine(int threads, bool pin) : impl_(std::make_unique<Impl>(threads, pin)) {}
Engine::~Engine() = default;

int Engine::threads() const { return impl_->workers.count(); }

uint64_t Engine::LargestPass(uint32_t dim) {
  uint64_t largest = kMaxColumns;
  while (largest * dim > kBlockElements) largest /= 2;
  return largest;
}

void Engine::Advance(const Matrix& matrix, absl::Span<const Share> shares) {
  const absl::Time start = absl::Now();
  impl_->ForgetStats();
  uint64_t all_rows = 0;
  for (const Share& share : shares) all_rows += share.rows;
  // Of few rows, one worker would claim all, or be done before the others are awake.
  const uint64_t few = std::max(threads() * kTilesPerClaim * Int8Codes::kTileRows, kFewRows);
  const bool is_small = threads() > 1 && matrix.view().rows <= few;
  std::vector<Crew> alone;
  if (all_rows > LargestPass(matrix.view().dim) || (is_small && all_rows >= threads() * kFewestOfFewRows)) {
    for (int worker = 0; worker < threads(); ++worker) alone.push_back(impl_->Alone(worker));
  }
  const absl::Status status = AdvanceTasks(Base(matrix), shares, impl_->Everybody(), alone);
  SearchStats cost;
  impl_->AddStats(cost);
  const double seconds = absl::ToDoubleSeconds(absl::Now() - start);
  for (const auto& [task, rows] : shares) {
    task->Fail(status);
    SearchStats& stats = task->stats();
    stats.compute_seconds += seconds;
    stats.pairs_screened += cost.pairs_screened * rows / all_rows;
    stats.pairs_survived += cost.pairs_survived * rows / all_rows;
    stats.pairs_checked += cost.pairs_checked * rows / all_rows;
    stats.pairs_rescored += cost.pairs_rescored * rows / all_rows;
  }
}

absl::StatusOr<Answer> Engine::Finish(Task& task) {
  PairScorer scorer(task.base());
  const Question question(task.queries(), task.selection(), task.kept(), false, task.stop());
  scorer.Of(question);
  return task.Finish(scorer, [&scorer](uint64_t id) { scorer.Fetch(id); });
}

absl::StatusOr<Answer> Engine::Search(const Matrix& matrix, const MatrixView& queries,
                                      const Selection& selection, absl::FunctionRef<absl::Status()> stop) {
  const absl::Time start = absl::Now();
  Task task(matrix.view(), queries, selection, [stop](absl::Time) { return stop(); });
  while (task.rows_left() > 0) {
    // With a whole block for each worker, nobody waits for anybody, nor begins tiles by what others knew a
    // while ago: 5% faster with two.
    const uint64_t largest = LargestPass(queries.dim), side_by_side = threads() * largest;
    const uint64_t rows =
        task.rows_left() < side_by_side ? std::min(task.rows_left(), largest) : side_by_side;
    const Share share = {&task, rows};
    Advance(matrix, {&share, 1});
  }
  absl::StatusOr<Answer> answer = Finish(task);
  if (answer.ok()) answer->stats.compute_seconds = absl::ToDoubleSeconds(absl::Now() - start);
  return answer;
}

absl::StatusOr<PairsAnswer> Engine::MaxOfPairs(absl::Span<const PairsQuery::Pair> pairs, Metric metric,
                                               absl::FunctionRef<absl::Status()> stop) {
  const absl::Time start = absl::Now();
  const Selection selection = {.top_k = 1, .reduction = Reduction::kGlobal, .metric = metric};
  const Task::Stop stop_between_tiles = [stop](absl::Time) { return stop(); };
  PairsAnswer result;
  const auto add_stats = [&result](const SearchStats& stats) {
    result.stats.pairs_screened += stats.pairs_screened;
    result.stats.pairs_survived += stats.pairs_survived;
    result.stats.pairs_checked += stats.pairs_checked;
    result.stats.pairs_rescored += stats.pairs_rescored;
  };
  std::vector<std::optional<Hit>> best(pairs.size());
  std::vector<size_t> small;
  for (size_t p = 0; p < pairs.size(); ++p) {
    const auto& [queries, base] = pairs[p];
    if (queries.rows == 0 || base.rows == 0) continue;
    if (threads() == 1 || Products(pairs[p]) < kSharedPairProducts) {
      small.push_back(p);
      continue;
    }
    const Matrix matrix({base, nullptr}, ScreenForOnce(queries.rows));
    const absl::StatusOr<Answer> answer = Search(matrix, queries, selection, stop);
    if (!answer.ok()) return answer.status();
    best[p] = answer->best;
    add_stats(answer->stats);
  }

  impl_->ForgetStats();
  std::atomic<size_t> next{0};
  absl::Mutex mutex;
  absl::Status status;
  impl_->workers.Run([&](int worker) {
    uint64_t rescored = 0;
    for (size_t i; (i = next.fetch_add(1, std::memory_order_relaxed)) < small.size();) {
      const auto& [queries, base] = pairs[small[i]];
      // Likely its next one.
      const size_t upcoming = i + threads();
      impl_->scratch[worker].scorer.set_ahead(upcoming < small.size() ? RowsOf(pairs[small[upcoming]])
                                                                      : ReadAhead());
      const absl::StatusOr<Answer> answer =
          impl_->SearchAlone(worker, base, queries, selection, stop_between_tiles);
      if (!answer.ok()) {
        next.store(small.size());
        absl::MutexLock lock(&mutex);
        status.Update(answer.status());
        return;
      }
      best[small[i]] = answer->best;
      rescored += answer->stats.pairs_rescored;
    }
    absl::MutexLock lock(&mutex);
    result.stats.pairs_rescored += rescored;
  });
  if (!status.ok()) return status;
  impl_->AddStats(result.stats);

  for (size_t p = 0; p < pairs.size(); ++p) {
    if (!best[p].has_value()) continue;
    result.hits.push_back({p, *best[p]});
    // Merits decide; ties go to the lowest pair, whatever the rows are.
    const double merit = MeritOf(metric, best[p]->score);
    if (!result.best.has_value() || merit > MeritOf(metric, result.best->hit.score)) {
      result.best = result.hits.back();
    }
  }
  result.stats.compute_seconds = absl::ToDoubleSeconds(absl::Now() - start);
  return result;
}

}  // namespace dotmax
