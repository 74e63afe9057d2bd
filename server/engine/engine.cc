#include "server/engine/engine.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <cmath>
#include <deque>
#include <limits>
#include <map>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "server/base/dtype.h"
#include "server/base/errors.h"
#include "server/engine/aligned.h"
#include "server/engine/bound.h"
#include "server/engine/exact.h"
#include "server/engine/reduce.h"
#include "server/engine/tile.h"
#include "server/engine/topk.h"
#include "server/engine/workers.h"

namespace dotmax {
namespace {

// A pass over the base serves one block of queries. The kernel is compiled for these block widths, and a
// narrower block is padded: beyond 256 the kernel gains nothing, below 16 the pass is bound by memory.
constexpr std::array kBlockColumns = {1, 4, 16, 32, 64, 96, 128, 160, 192, 224, 256};
// A block's queries take at most 2^20 · (4 + 4) bytes: fewer of them for dim > 4,096.
constexpr size_t kBlockElements = 1 << 20;
// Tiles that a worker claims at once; between claims it asks whether to stop. A tile takes from 5 µs
// (1 query) to 100 µs (256 queries of dim 256).
constexpr uint64_t kTilesPerClaim = 4;

constexpr float kInfinity = std::numeric_limits<float>::infinity();

int LargestBlock(uint32_t dim) {
  int largest = kBlockColumns.front();
  for (const int columns : kBlockColumns) {
    if (columns * size_t{dim} <= kBlockElements) largest = columns;
  }
  return largest;
}

int PaddedColumns(uint64_t queries) {
  return *std::lower_bound(kBlockColumns.begin(), kBlockColumns.end(), static_cast<int>(queries));
}

// One query of a block, ready to be screened as query · 2^-exponent.
struct ScreenedQuery {
  double norm;  // upper bound of ‖query · 2^-exponent‖
  int exponent;
  TopK* best;  // shared by all queries for Reduction::kGlobal
};

// The correctly rounded score of any pair of two matrices. Not thread-safe.
class PairScorer {
 public:
  PairScorer(const MatrixView& queries, const MatrixView& base)
      : queries_(queries), base_(base), query_row_(queries.dim), base_row_(base.dim) {}

  double operator()(uint64_t query_row, uint64_t id) const {
    ToFloat64(queries_.row(query_row), queries_.dtype, queries_.dim, query_row_.data());
    ToFloat64(base_.row(id), base_.dtype, base_.dim, base_row_.data());
    return CorrectlyRoundedDot(query_row_, base_row_);
  }

 private:
  const MatrixView& queries_;
  const MatrixView& base_;
  mutable std::vector<double> query_row_, base_row_;  // reused
};

// What one worker needs of its own for a pass; kept from one pass to the next.
struct Scratch {
  AlignedArray<float> tile;
  AlignedArray<std::byte> matmul;
  AlignedArray<float> scores;
  AlignedArray<float> thresholds;
  AlignedArray<Survivor> survivors;
  std::vector<float> column;  // one query's scores
  uint64_t pairs_screened = 0;
  uint64_t pairs_survived = 0;
};

// One block of queries on its pass over the matrix; shared by the workers.
class Pass {
 public:
  // `wide` holds the block's queries in float64, block.size() × dim, and `packed` as `matmul` wants them.
  Pass(const Matrix& matrix, const MatrixView& queries, uint64_t first_query, uint32_t top_k,
       std::vector<ScreenedQuery> block, const double* wide, const TileMatmul& matmul,
       const std::byte* packed)
      : matrix_(matrix),
        queries_(queries),
        first_query_(first_query),
        top_k_(top_k),
        screen_error_(queries.dim),
        block_(std::move(block)),
        wide_(wide),
        matmul_(matmul),
        packed_(packed) {}

  // One worker's share: claims tiles until none are left or `stop` says so.
  void Work(Scratch& scratch, absl::FunctionRef<absl::Status()> stop) {
    const size_t scores = static_cast<size_t>(matmul_.rows()) * matmul_.columns();
    scratch.tile.Reserve(static_cast<size_t>(matmul_.rows()) * matrix_.view().dim);
    scratch.matmul.Reserve(matmul_.scratch_bytes());
    scratch.scores.Reserve(scores);
    scratch.survivors.Reserve(scores);
    scratch.thresholds.Reserve(matmul_.columns());
    const PairScorer scorer(queries_, matrix_.view());
    while (!stopped_.load(std::memory_order_relaxed)) {
      const uint64_t claimed = next_tile_.fetch_add(kTilesPerClaim, std::memory_order_relaxed);
      if (claimed >= matrix_.tiles()) return;
      if (absl::Status status = stop(); !status.ok()) {
        absl::MutexLock lock(&mutex_);
        status_.Update(status);
        stopped_.store(true, std::memory_order_relaxed);
        return;
      }
      const uint64_t end = std::min(claimed + kTilesPerClaim, matrix_.tiles());
      for (uint64_t t = claimed; t < end; ++t) SearchTile(t, scratch, scorer);
    }
  }

  absl::Status status() {
    absl::MutexLock lock(&mutex_);
    return status_;
  }

 private:
  void SearchTile(uint64_t t, Scratch& scratch, const PairScorer& scorer) {
    const uint64_t first_row = t * matrix_.tile_rows();
    const int rows =
        static_cast<int>(std::min<uint64_t>(matrix_.tile_rows(), matrix_.view().rows - first_row));
    const float* tile = matrix_.Float32Tile(t, scratch.tile.data());
    matmul_.Run(tile, packed_, scratch.matmul.data(), scratch.scores.data());
    SetThresholds(matrix_.tile(t), rows, scratch);
    const size_t count = CollectSurvivors(scratch.scores.data(), rows, matmul_.columns(),
                                          scratch.thresholds.data(), scratch.survivors.data());
    for (size_t i = 0; i < count; ++i) CheckSurvivor(first_row, scratch.survivors.data()[i], scorer);
    scratch.pairs_screened += rows * block_.size();
    scratch.pairs_survived += count;
  }

  // What each query asks of the tile's scores, on the tile's scale.
  void SetThresholds(const TileStats& tile, int rows, Scratch& scratch) {
    float* thresholds = scratch.thresholds.data();
    for (size_t column = 0; column < block_.size(); ++column) {
      const ScreenedQuery& query = block_[column];
      const double error = screen_error_(query.norm, tile.norm);
      const int exponent = query.exponent + tile.exponent;
      if (query.best->threshold() == -kInfinity) Seed(column, rows, error, exponent, scratch);
      thresholds[column] = ScreenThreshold(ScaleByPowerOfTwo(query.best->threshold(), -exponent), error);
    }
    std::fill(thresholds + block_.size(), thresholds + matmul_.columns(), kInfinity);
  }

  // A query that knows nothing yet learns from the tile's own scores: top_k of them are at least the
  // top_k-th largest less its error. Without this, the whole first tile would survive.
  void Seed(size_t column, uint32_t rows, double error, int exponent, Scratch& scratch) {
    if (rows < top_k_) return;
    scratch.column.resize(rows);
    for (size_t row = 0; row < rows; ++row) {
      scratch.column[row] = scratch.scores.data()[row * matmul_.columns() + column];
    }
    const auto kth = scratch.column.begin() + (top_k_ - 1);
    std::nth_element(scratch.column.begin(), kth, scratch.column.end(), std::greater<>());
    const double bound = ScaleByPowerOfTwo(DifferenceBelow(*kth - error), exponent);
    // Below this the scaling may have rounded up.
    if (std::abs(bound) > 0x1p-1000) block_[column].best->RaiseThreshold(bound);
  }

  // Level two: float64, over the caller's own numbers.
  void CheckSurvivor(uint64_t first_row, Survivor survivor, const PairScorer& scorer) {
    const MatrixView& base = matrix_.view();
    const uint64_t id = first_row + survivor.row;
    const double* query = wide_ + static_cast<size_t>(survivor.column) * base.dim;
    const DotSums dot = CheckDot(query, base.row(id), base.dtype, base.dim);
    // Rounding the interval's ends takes another 2^-53 of the sum.
    const double error = Float64DotError(base.dim, dot.sum_abs) + std::abs(dot.sum) * 0x1p-51;
    Candidate candidate = {dot.sum - error, dot.sum + error, first_query_ + survivor.column, id};
    if (!std::isfinite(candidate.lower) || !std::isfinite(candidate.upper)) {
      candidate.lower = -kInfinity;
      candidate.upper = kInfinity;
    }
    block_[survivor.column].best->Offer(candidate, scorer);
  }

  const Matrix& matrix_;
  const MatrixView& queries_;
  const uint64_t first_query_;
  const uint32_t top_k_;
  const Float32ScreenError screen_error_;
  const std::vector<ScreenedQuery> block_;
  const double* const wide_;
  const TileMatmul& matmul_;
  const std::byte* const packed_;

  std::atomic<uint64_t> next_tile_{0};
  std::atomic<bool> stopped_{false};
  absl::Mutex mutex_;
  absl::Status status_ ABSL_GUARDED_BY(mutex_);
};

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
  explicit Impl(int threads) : workers(threads), scratch(threads) {}

  // One pass: queries [first, first + best.size()) against every row, into best[i] for query first + i.
  absl::Status RunPass(const Matrix& matrix, const MatrixView& queries, uint64_t first, uint32_t top_k,
                       absl::Span<TopK* const> best, absl::FunctionRef<absl::Status()> stop) {
    const uint32_t dim = queries.dim;
    const int columns = PaddedColumns(best.size());
    std::unique_ptr<const TileMatmul>& matmul = matmuls[{matrix.tile_rows(), static_cast<int>(dim), columns}];
    if (matmul == nullptr) {
      absl::StatusOr<std::unique_ptr<const TileMatmul>> made =
          TileMatmul::Create(matrix.tile_rows(), static_cast<int>(dim), columns);
      if (!made.ok()) return made.status();
      matmul = *std::move(made);
    }

    wide.Reserve(best.size() * dim);
    scaled.Reserve(static_cast<size_t>(columns) * dim);
    ToFloat64(queries.row(first), queries.dtype, best.size() * dim, wide.data());
    std::vector<ScreenedQuery> block;
    block.reserve(best.size());
    for (size_t i = 0; i < best.size(); ++i) {
      const absl::Span<const double> row(wide.data() + i * dim, dim);
      float* const to = scaled.data() + i * dim;
      double max_abs = 0.0;
      for (const double x : row) max_abs = std::max(max_abs, std::abs(x));
      const int exponent = ScreenExponent(max_abs);
      double squares = 0.0;
      for (uint32_t j = 0; j < dim; ++j) {
        const double x = ScaleByPowerOfTwo(row[j], -exponent);
        squares += x * x;
        to[j] = static_cast<float>(x);
      }
      block.push_back({NormUpperBound(dim, squares), exponent, best[i]});
    }
    std::fill(scaled.data() + best.size() * dim, scaled.data() + static_cast<size_t>(columns) * dim, 0.0f);
    matmul->Pack(scaled.data(), packed.Reserve(matmul->packed_bytes()));

    Pass pass(matrix, queries, first, top_k, std::move(block), wide.data(), *matmul, packed.data());
    workers.Run([&](int worker) { pass.Work(scratch[worker], stop); });
    return pass.status();
  }

  Workers workers;
  std::vector<Scratch> scratch;  // by worker
  AlignedArray<double> wide;     // the block's queries, in float64
  AlignedArray<float> scaled;    // in float32, scaled, padded
  AlignedArray<std::byte> packed;
  std::map<std::array<int, 3>, std::unique_ptr<const TileMatmul>> matmuls;  // by tile rows, dim, columns
};

Engine::Engine(int threads) : impl_(std::make_unique<Impl>(threads)) {}
Engine::~Engine() = default;

int Engine::threads() const { return impl_->workers.count(); }

absl::StatusOr<Answer> Engine::Search(const Matrix& matrix, const MatrixView& queries, uint32_t top_k,
                                      Reduction reduction, absl::FunctionRef<absl::Status()> stop) {
  const absl::Time start = absl::Now();
  const bool per_row = reduction == Reduction::kPerRow;
  Answer answer;
  answer.rows_held = answer.rows_searched = matrix.view().rows;
  if (per_row) answer.row_splits.assign(1, 0);
  for (Scratch& scratch : impl_->scratch) scratch.pairs_screened = scratch.pairs_survived = 0;

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
    if (matrix.tiles() > 0) {
      if (absl::Status s = impl_->RunPass(matrix, queries, first, top_k, best, stop); !s.ok()) return s;
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
  }
  answer.stats.compute_seconds = absl::ToDoubleSeconds(absl::Now() - start);
  return answer;
}

}  // namespace dotmax
