#include "server/engine/engine.h"

#include <algorithm>
#include <cmath>
#include <deque>
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

std::vector<Hit> Take(TopK& best, const PairScorer& scorer) {
  return best.Take(scorer, [&scorer](uint64_t id) { scorer.Fetch(id); });
}

// Appends the finished hits of `best` to `answer`.
absl::Status AddHits(const TopK& best, const std::vector<Hit>& hits, Answer& answer) {
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
    std::vector<char> fails(best.size());
    workers.Share(best.size(), [&](int, size_t i) { fails[i] = !best[i]->GuessHolds(); });
    const size_t begin = std::find(fails.begin(), fails.end(), true) - fails.begin();
    if (begin == fails.size()) return absl::OkStatus();
    const size_t end = fails.rend() - std::find(fails.rbegin(), fails.rend(), true);
    for (TopK* const query : best.subspan(begin, end - begin)) query->Restart();
    return RunPass(matrix, queries, first + begin, top_k, best.subspan(begin, end - begin), /*guess=*/false,
                   stop);
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
  PassBuffers buffers{&workers};
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
    scratch.pairs_screened = scratch.pairs_survived = scratch.pairs_checked = scratch.pairs_rescored = 0;

  const uint64_t block_rows = LargestBlock(queries.dim);
  const std::vector<PairScorer> scorers(threads(), PairScorer(queries, matrix.view()));
  std::vector<std::vector<Hit>> hits;  // of a block, by row
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
    hits.resize(by_row.size());
    impl_->workers.Share(by_row.size(),
                         [&](int worker, size_t i) { hits[i] = Take(by_row[i], scorers[worker]); });
    for (size_t i = 0; i < by_row.size(); ++i) {
      if (absl::Status s = AddHits(by_row[i], std::exchange(hits[i], {}), answer); !s.ok()) return s;
      answer.row_splits.push_back(answer.hits.size());
    }
  }
  if (!per_row) {
    if (absl::Status s = AddHits(global, Take(global, scorers[0]), answer); !s.ok()) return s;
  }

  for (const Scratch& scratch : impl_->scratch) {
    answer.stats.pairs_screened += scratch.pairs_screened;
    answer.stats.pairs_survived += scratch.pairs_survived;
    answer.stats.pairs_checked += scratch.pairs_checked;
    answer.stats.pairs_rescored += scratch.pairs_rescored;
  }
  answer.stats.compute_seconds = absl::ToDoubleSeconds(absl::Now() - start);
  return answer;
}

}  // namespace dotmax
