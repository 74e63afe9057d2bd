#include "server/engine/engine.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <deque>
#include <limits>
#include <optional>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "server/base/errors.h"
#include "server/engine/pass.h"
#include "server/engine/planner.h"
#include "server/engine/quantize.h"
#include "server/engine/topk.h"
#include "server/engine/workers.h"

namespace dotmax {
namespace {

// A block's queries take at most 2^20 · (8 + 4) bytes: fewer of them for dim > 4,096.
constexpr size_t kBlockElements = 1 << 20;

int LargestBlock(uint32_t dim) {
  int largest = kMaxColumns;
  while (largest * size_t{dim} > kBlockElements) largest /= 2;
  return largest;
}

// Turns merits into scores. kOutOfRange if one is beyond float64.
absl::Status MakeScores(Metric metric, std::vector<Hit>& hits) {
  for (Hit& hit : hits) {
    if (!std::isfinite(hit.score)) {
      const char* const what = metric == Metric::kInnerProduct ? "inner product" : "squared distance";
      return Error(absl::StatusCode::kOutOfRange, "SCORE_OVERFLOW",
                   absl::StrCat("the ", what, " of query row ", hit.query_row, " and row ", hit.id,
                                " is beyond float64"));
    }
    hit.score = MeritOf(metric, hit.score);
  }
  return absl::OkStatus();
}

// How many candidates a query keeps: one more than wanted to know whether there are more.
uint32_t Kept(const Selection& selection) {
  if (selection.count_only) return 0;
  return selection.top_k + (selection.tell_truncated ? 1 : 0);
}

// The least merit that a hit of query row `row` has.
double Floor(const Selection& selection, uint64_t row) {
  const std::vector<double>& bounds = selection.bounds;
  if (bounds.empty()) return -std::numeric_limits<double>::infinity();
  return MeritOf(selection.metric, bounds.size() == 1 ? bounds[0] : bounds[row]);
}

std::vector<Hit> Take(TopK& best, const PairScorer& scorer) {
  return best.Take(scorer, [&scorer](uint64_t id) { scorer.Fetch(id); });
}

// Moves what `best` has found, `hits`, to the end of `answer`.
absl::Status AddHits(const TopK& best, std::vector<Hit> hits, const Selection& selection, Answer& answer) {
  if (selection.count_only) {
    answer.counts.push_back(best.counted());
    answer.stats.pairs_rescored += best.resolved();
    return absl::OkStatus();
  }
  answer.stats.pairs_rescored += best.resolved();
  if (selection.tell_truncated) {
    answer.truncated.push_back(hits.size() > selection.top_k);
    if (answer.truncated.back()) hits.pop_back();
  }
  if (absl::Status s = MakeScores(selection.metric, hits); !s.ok()) return s;
  if (!hits.empty() && (!answer.best.has_value() || BetterBy(selection.metric, hits[0], *answer.best))) {
    answer.best = hits[0];
  }
  answer.hits.insert(answer.hits.end(), hits.begin(), hits.end());
  return absl::OkStatus();
}

// Who works on a pass, and with what.
struct Crew {
  int threads() const { return workers != nullptr ? workers->count() : 1; }
  void Work(Pass& pass) const {
    for (int round = 0; round < pass.rounds(); ++round) {
      const auto work = [&](int worker) { pass.Work(round, scratch[worker], stop); };
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
  absl::FunctionRef<absl::Status()> stop;
};

// What is searched: codes, or a matrix without them, or both.
struct Base {
  explicit Base(const Matrix& m) : view(m.view()), codes(m.codes()), matrix(&m) {}
  Base(const MatrixView& rows, const Int8Codes* its_codes) : view(rows), codes(its_codes) {}

  const MatrixView& view;
  const Int8Codes* const codes;
  const Matrix* const matrix = nullptr;
};

// One pass: queries [first, first + best.size()) against every row, into best[i] for query first + i.
absl::Status RunPass(const Base& base, const MatrixView& queries, uint64_t first,
                     absl::Span<TopK* const> best, uint32_t kept, const Selection& selection, bool guess,
                     const Crew& crew) {
  const QueryBlock block = crew.buffers.Prepare(queries, first, best, kept, selection, guess);
  absl::StatusOr<std::unique_ptr<Pass>> pass = base.codes != nullptr
                                                   ? MakeInt8Pass(base.view, *base.codes, block, crew.buffers)
                                                   : absl::UnimplementedError("no codes");
  // The planner has asked whether 8-bit sums are exact here, but kernels differ by shape.
  if (absl::IsUnimplemented(pass.status()) && base.matrix != nullptr) {
    pass = MakeFloat32Pass(*base.matrix, block, crew.buffers);
  }
  if (!pass.ok()) return pass.status();
  crew.Work(**pass);
  return (*pass)->status();
}

// The same with guessed thresholds; and again for those queries that were guessed too high, and what lies
// between them.
absl::Status GuessAndRun(const Base& base, const MatrixView& queries, uint64_t first,
                         absl::Span<TopK* const> best, uint32_t kept, const Selection& selection,
                         const Crew& crew) {
  if (absl::Status s = RunPass(base, queries, first, best, kept, selection, true, crew); !s.ok()) return s;
  std::vector<char> fails(best.size());
  crew.Share(best.size(), [&](int, size_t i) { fails[i] = !best[i]->GuessHolds(); });
  const size_t begin = std::find(fails.begin(), fails.end(), true) - fails.begin();
  if (begin == fails.size()) return absl::OkStatus();
  const size_t end = fails.rend() - std::find(fails.rbegin(), fails.rend(), true);
  const absl::Span<TopK* const> again = best.subspan(begin, end - begin);
  for (TopK* const query : again) query->Restart();
  return RunPass(base, queries, first + begin, again, kept, selection, false, crew);
}

// The hits of a search, block by block, at the end of `answer`.
absl::Status SearchBlocks(const Base& base, const MatrixView& queries, const Selection& selection,
                          const Crew& crew, Answer& answer) {
  const bool per_row = selection.reduction == Reduction::kPerRow;
  if (per_row) answer.row_splits.assign(1, 0);
  const uint64_t block_rows = LargestBlock(queries.dim);
  const std::vector<PairScorer> scorers(crew.threads(), PairScorer(queries, base.view, selection.metric));
  const uint32_t kept = Kept(selection);
  // All queries' hits together are kept from one block to the next, and can't be searched for again; a bound
  // is a better start than a guess.
  const bool guess = per_row && !selection.count_only && selection.bounds.empty();
  TopK global(kept, per_row ? 0.0 : Floor(selection, 0));
  std::vector<std::vector<Hit>> hits;  // of a block, by row
  std::deque<TopK> by_row;
  std::vector<TopK*> best;
  for (uint64_t first = 0; first < queries.rows; first += block_rows) {
    const uint64_t rows = std::min(block_rows, queries.rows - first);
    best.assign(rows, &global);
    by_row.clear();
    for (uint64_t i = 0; per_row && i < rows; ++i) {
      best[i] = &by_row.emplace_back(kept, Floor(selection, first + i));
    }
    if (base.view.rows > 0) {
      const absl::Status s = guess ? GuessAndRun(base, queries, first, best, kept, selection, crew)
                                   : RunPass(base, queries, first, best, kept, selection, false, crew);
      if (!s.ok()) return s;
    }
    hits.resize(by_row.size());
    crew.Share(by_row.size(), [&](int worker, size_t i) { hits[i] = Take(by_row[i], scorers[worker]); });
    for (size_t i = 0; i < by_row.size(); ++i) {
      if (absl::Status s = AddHits(by_row[i], std::exchange(hits[i], {}), selection, answer); !s.ok())
        return s;
      answer.row_splits.push_back(answer.hits.size());
    }
  }
  return per_row ? absl::OkStatus() : AddHits(global, Take(global, scorers[0]), selection, answer);
}

// A pair of matrices below this many products is one worker's; others are everybody's.
constexpr double kSharedPairProducts = 1e9;

double Products(const PairsQuery::Pair& pair) {
  return 1.0 * pair.queries.rows * pair.base.rows * pair.base.dim;
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

  // By all workers.
  absl::Status SearchTogether(const Matrix& matrix, const MatrixView& queries, const Selection& selection,
                              absl::FunctionRef<absl::Status()> stop, Answer& answer) {
    return SearchBlocks(Base(matrix), queries, selection, {&workers, absl::MakeSpan(scratch), buffers, stop},
                        answer);
  }
  // By one of them.
  absl::Status SearchAlone(int worker, const MatrixView& base, const MatrixView& queries,
                           const Selection& selection, absl::FunctionRef<absl::Status()> stop,
                           Answer& answer) {
    const Crew crew = {nullptr, absl::MakeSpan(scratch).subspan(worker, 1), own_buffers[worker], stop};
    if (crew.buffers.kernels.has_vnni() && plain_codes[worker].EncodePlain(base)) {
      absl::Status status = SearchBlocks({base, &plain_codes[worker]}, queries, selection, crew, answer);
      if (!absl::IsUnimplemented(status)) return status;
    }
    const Matrix matrix({base, nullptr}, ScreenForOnce(queries.rows));
    return SearchBlocks(Base(matrix), queries, selection, crew, answer);
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

absl::StatusOr<Answer> Engine::Search(const Matrix& matrix, const MatrixView& queries,
                                      const Selection& selection, absl::FunctionRef<absl::Status()> stop) {
  const absl::Time start = absl::Now();
  Answer answer;
  answer.rows_held = answer.rows_searched = matrix.view().rows;
  impl_->ForgetStats();
  if (absl::Status s = impl_->SearchTogether(matrix, queries, selection, stop, answer); !s.ok()) return s;
  impl_->AddStats(answer.stats);
  answer.stats.compute_seconds = absl::ToDoubleSeconds(absl::Now() - start);
  return answer;
}

absl::StatusOr<PairsAnswer> Engine::MaxOfPairs(absl::Span<const PairsQuery::Pair> pairs, Metric metric,
                                               absl::FunctionRef<absl::Status()> stop) {
  const absl::Time start = absl::Now();
  const Selection selection = {.top_k = 1, .reduction = Reduction::kGlobal, .metric = metric};
  impl_->ForgetStats();
  std::vector<std::optional<Hit>> best(pairs.size());
  std::vector<size_t> small;
  std::vector<Answer> answers(threads());  // by worker
  for (size_t p = 0; p < pairs.size(); ++p) {
    const auto& [queries, base] = pairs[p];
    if (queries.rows == 0 || base.rows == 0) continue;
    if (threads() == 1 || Products(pairs[p]) < kSharedPairProducts) {
      small.push_back(p);
      continue;
    }
    const Matrix matrix({base, nullptr}, ScreenForOnce(queries.rows));
    Answer& answer = answers[0];
    if (absl::Status s = impl_->SearchTogether(matrix, queries, selection, stop, answer); !s.ok()) return s;
    best[p] = std::exchange(answer.best, std::nullopt);
    answer.hits.clear();
  }

  std::atomic<size_t> next{0};
  absl::Mutex mutex;
  absl::Status status;
  impl_->workers.Run([&](int worker) {
    Answer& answer = answers[worker];
    for (size_t i; (i = next.fetch_add(1, std::memory_order_relaxed)) < small.size();) {
      const auto& [queries, base] = pairs[small[i]];
      if (absl::Status s = impl_->SearchAlone(worker, base, queries, selection, stop, answer); !s.ok()) {
        next.store(small.size());
        absl::MutexLock lock(&mutex);
        status.Update(s);
        return;
      }
      best[small[i]] = std::exchange(answer.best, std::nullopt);
      answer.hits.clear();
    }
  });
  if (!status.ok()) return status;

  PairsAnswer result;
  for (size_t p = 0; p < pairs.size(); ++p) {
    if (!best[p].has_value()) continue;
    result.hits.push_back({p, *best[p]});
    // Merits decide; ties go to the lowest pair, whatever the rows are.
    const double merit = MeritOf(metric, best[p]->score);
    if (!result.best.has_value() || merit > MeritOf(metric, result.best->hit.score)) {
      result.best = result.hits.back();
    }
  }
  for (const Answer& answer : answers) result.stats.pairs_rescored += answer.stats.pairs_rescored;
  impl_->AddStats(result.stats);
  result.stats.compute_seconds = absl::ToDoubleSeconds(absl::Now() - start);
  return result;
}

}  // namespace dotmax
