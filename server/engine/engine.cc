#include "server/engine/engine.h"

#include <algorithm>
#include <cmath>
#include <deque>
#include <iterator>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "server/base/errors.h"
#include "server/engine/pass.h"
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

// Moves the finished hits of `best` to the end of `answer`.
absl::Status TakeHits(TopK& best, const PairScorer& scorer, Answer& answer) {
  std::vector<Hit> hits = best.Take(scorer);
  answer.stats.pairs_rescored += best.resolved();
  for (const Hit& hit : hits) {
    if (!std::isfinite(hit.score)) {
      return Error(absl::StatusCode::kOutOfRange, "SCORE_OVERFLOW",
                   absl::StrCat("the inner product of query row ", hit.query_row, " and row ", hit.id,
                                " is beyond float64"));
    }
    if (!answer.best.has_value() || Better(hit, *answer.best)) answer.best = hit;
  }
  answer.hits.insert(answer.hits.end(), hits.begin(), hits.end());
  return absl::OkStatus();
}

}  // namespace

struct Engine::Impl {
  Impl(int threads, bool pin) : workers(threads, pin), scratch(threads) {}

  // Queries [first, first + best.size()) against every row, into best[i] for query first + i; again for those
  // whose thresholds were guessed too high, and what lies between them.
  absl::Status SearchBlock(const Matrix& matrix, const MatrixView& queries, uint64_t first, uint32_t top_k,
                           absl::Span<TopK* const> best, absl::FunctionRef<absl::Status()> stop) {
    if (absl::Status s = RunPass(matrix, queries, first, top_k, best, /*guess=*/true, stop); !s.ok())
      return s;
    const auto fails = [](TopK* query) { return !query->GuessHolds(); };
    const auto begin = std::find_if(best.begin(), best.end(), fails);
    if (begin == best.end()) return absl::OkStatus();
    const auto end = std::find_if(best.rbegin(), std::make_reverse_iterator(begin), fails).base();
    const absl::Span<TopK* const> again = best.subspan(begin - best.begin(), end - begin);
    for (TopK* const query : again) query->Restart();
    return RunPass(matrix, queries, first + (begin - best.begin()), top_k, again, /*guess=*/false, stop);
  }

  // One pass, which may guess thresholds.
  absl::Status RunPass(const Matrix& matrix, const MatrixView& queries, uint64_t first, uint32_t top_k,
                       absl::Span<TopK* const> best, bool guess, absl::FunctionRef<absl::Status()> stop) {
    const QueryBlock block = buffers.Prepare(queries, first, best, top_k, guess);
    absl::StatusOr<std::unique_ptr<Pass>> pass =
        matrix.codes() != nullptr ? MakeInt8Pass(matrix.view(), *matrix.codes(), block, buffers)
                                  : absl::UnimplementedError("no codes");
    // The planner has asked whether 8-bit sums are exact here, but kernels differ by shape.
    if (absl::IsUnimplemented(pass.status())) pass = MakeFloat32Pass(matrix, block, buffers);
    if (!pass.ok()) return pass.status();
    for (int round = 0; round < (*pass)->rounds(); ++round) {
      workers.Run([&](int worker) { (*pass)->Work(round, scratch[worker], stop); });
    }
    return (*pass)->status();
  }

  Workers workers;
  std::vector<Scratch> scratch;  // by worker
  PassBuffers buffers;
};

Engine::Engine(int threads, bool pin) : impl_(std::make_unique<Impl>(threads, pin)) {}
Engine::~Engine() = default;

int Engine::threads() const { return impl_->workers.count(); }

absl::StatusOr<PairsAnswer> Engine::MaxOfPairs(absl::Span<const PairsQuery::Pair>, Metric,
                                               absl::FunctionRef<absl::Status()>) {
  return absl::UnimplementedError("MaxOfPairs");
}

absl::StatusOr<Answer> Engine::Search(const Matrix& matrix, const MatrixView& queries,
                                      const Selection& selection, absl::FunctionRef<absl::Status()> stop) {
  const absl::Time start = absl::Now();
  const uint32_t top_k = selection.top_k;
  const Reduction reduction = selection.reduction;
  const bool per_row = reduction == Reduction::kPerRow;
  Answer answer;
  answer.rows_held = answer.rows_searched = matrix.view().rows;
  if (per_row) answer.row_splits.assign(1, 0);
  for (Scratch& scratch : impl_->scratch)
    scratch.pairs_screened = scratch.pairs_survived = scratch.pairs_checked = 0;

  const uint64_t block_rows = LargestBlock(queries.dim);
  const PairScorer scorer(queries, matrix.view());
  TopK global(top_k);
  std::deque<TopK> by_row;
  std::vector<TopK*> best;
  for (uint64_t first = 0; first < queries.rows; first += block_rows) {
    const uint64_t rows = std::min(block_rows, queries.rows - first);
    best.assign(rows, &global);
    by_row.clear();
    for (uint64_t i = 0; per_row && i < rows; ++i) best[i] = &by_row.emplace_back(top_k);
    if (matrix.view().rows > 0) {
      // All queries' hits together are kept from one block to the next, and can't be searched for again.
      const absl::Status s = per_row ? impl_->SearchBlock(matrix, queries, first, top_k, best, stop)
                                     : impl_->RunPass(matrix, queries, first, top_k, best, false, stop);
      if (!s.ok()) return s;
    }
    for (TopK& row : by_row) {
      if (absl::Status s = TakeHits(row, scorer, answer); !s.ok()) return s;
      answer.row_splits.push_back(answer.hits.size());
    }
  }
  if (!per_row) {
    if (absl::Status s = TakeHits(global, scorer, answer); !s.ok()) return s;
  }

  for (const Scratch& scratch : impl_->scratch) {
    answer.stats.pairs_screened += scratch.pairs_screened;
    answer.stats.pairs_survived += scratch.pairs_survived;
    answer.stats.pairs_checked += scratch.pairs_checked;
  }
  answer.stats.compute_seconds = absl::ToDoubleSeconds(absl::Now() - start);
  return answer;
}

}  // namespace dotmax
