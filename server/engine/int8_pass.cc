// The int8 screen: oneDNN u8 · s8 matmul of codes, in order of descending norm. Queries that no later tile
// can serve leave the block, which is packed anew when a narrower kernel takes what is left.
#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <functional>
#include <limits>
#include <optional>

#include "server/engine/bound.h"
#include "server/engine/pass.h"
#include "server/engine/quantize.h"

namespace dotmax {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();
// A row comes from anywhere in memory: so many are on their way while one is checked.
constexpr size_t kChecksInFlight = 16;
constexpr size_t kCacheLineBytes = 64;
// Up to this width a kernel takes kTilesPerRun tiles at once: their scores still fit into L2, and a call per
// tile would cost as much as its work.
constexpr int kNarrowColumns = 16;

int KernelRows(int columns) {
  return Int8Codes::kTileRows * (columns <= kNarrowColumns ? Int8Codes::kTilesPerRun : 1);
}

class Int8Pass final : public Pass {
 public:
  // `kernels` by kBlockColumns, as far as the block needs; `codes` of the queries, code_dim each.
  Int8Pass(const MatrixView& base, const Int8Codes& rows, const QueryBlock& block,
           std::vector<const TileMatmul*> kernels, std::vector<QueryCode> queries, const int8_t* codes)
      : Pass(base, block),
        rows_(rows),
        kernels_(std::move(kernels)),
        queries_(std::move(queries)),
        codes_(codes) {}

 private:
  class TileWorker final : public Worker {
   public:
    TileWorker(Int8Pass& pass, Scratch& scratch, const PairScorer& scorer)
        : pass_(pass), scratch_(scratch), scorer_(scorer) {
      active_.resize(pass.block_.best.size());
      for (size_t q = 0; q < active_.size(); ++q) active_[q] = static_cast<uint32_t>(q);
      Pack();
    }

    bool Search(uint64_t first, uint64_t end) override {
      if (!DropFinished(first)) return false;
      const uint64_t tiles_per_run = matmul_->rows() / Int8Codes::kTileRows;
      for (uint64_t run = first; run < end; run += tiles_per_run) {
        runner_->Run(pass_.rows_.codes(run));
        for (uint64_t t = run; t < std::min(run + tiles_per_run, end); ++t) {
          SearchTile(t, scratch_.int_scores.data() + (t - run) * Int8Codes::kTileRows * matmul_->columns());
        }
      }
      FinishChecks();
      return true;
    }

   private:
    // A query's score to reach, on its own scale; as of now, for a few tiles: other workers keep raising it.
    double ScoreToReach(uint32_t q) const {
      return ScaleByPowerOfTwo(pass_.block_.best[q]->threshold(), -pass_.queries_[q].exponent);
    }

    // Lets go of queries that neither this tile nor a later one can serve; false if none is left.
    bool DropFinished(uint64_t tile) {
      // ‖a‖‖b‖ bounds every score of this tile and, as norms descend, of all later ones.
      const double row_norm = pass_.rows_.tile(tile).norm;
      size_t kept = 0;
      for (const uint32_t q : active_) {
        const double score = ScoreToReach(q);
        if (pass_.queries_[q].norm * row_norm * kOutward < score) continue;
        active_[kept] = q;
        columns_.score[kept++] = score;
      }
      if (kept == 0) return false;
      if (kept != active_.size()) {
        active_.resize(kept);
        Pack();
      }
      return true;
    }

    void SearchTile(uint64_t t, const int32_t* scores) {
      const int rows = pass_.rows_.tile_rows(t);
      SetThresholds(t, rows, scores);
      const size_t count = CollectSurvivors(scores, rows, matmul_->columns(), scratch_.int_thresholds.data(),
                                            scratch_.survivors.data());
      CheckSurvivors(t, count);
      scratch_.pairs_screened += rows * active_.size();
      scratch_.pairs_survived += count;
    }

    void Pack() {
      const size_t dim = pass_.rows_.code_dim();
      const int columns = PaddedColumns(active_.size());
      matmul_ = pass_.kernels_[std::lower_bound(kBlockColumns.begin(), kBlockColumns.end(), columns) -
                               kBlockColumns.begin()];
      int8_t* const codes = scratch_.codes.Reserve(columns * dim);
      for (size_t c = 0; c < active_.size(); ++c) {
        std::memcpy(codes + c * dim, pass_.codes_ + active_[c] * dim, dim);
        const QueryCode& query = pass_.queries_[active_[c]];
        columns_.code_error[c] = query.code_error;
        columns_.projection_norm[c] = query.projection_norm;
        columns_.tail_excess[c] = query.tail_excess;
        columns_.inverse_scale[c] = query.inverse_scale;
        columns_.offset[c] = query.offset;
      }
      std::fill(codes + active_.size() * dim, codes + columns * dim, int8_t{0});
      matmul_->Pack(codes, scratch_.packed.Reserve(matmul_->packed_bytes()));
      const size_t scores = static_cast<size_t>(matmul_->rows()) * columns;
      scratch_.matmul.Reserve(matmul_->scratch_bytes());
      scratch_.int_scores.Reserve(scores + kScoresPadding);
      scratch_.int_thresholds.Reserve(columns);
      scratch_.survivors.Reserve(scores + kSurvivorPadding);
      runner_.emplace(*matmul_, scratch_.packed.data(), scratch_.matmul.data(), scratch_.int_scores.data());
    }

    void SetThresholds(uint64_t t, int rows, const int32_t* scores) {
      const CodeTile& tile = pass_.rows_.tile(t);
      const double inverse_tile_scale = 1.0 / tile.scale;
      int32_t* const thresholds = scratch_.int_thresholds.data();
      const int columns = static_cast<int>(active_.size());
      for (int c = 0; c < columns; ++c) {
        if (columns_.score[c] != -kInfinity) continue;
        pass_.Seed(active_[c], scores + c, rows, matmul_->columns(), scratch_.seeds,
                   [&](uint32_t row) { return pass_.rows_.id(t, row); });
        columns_.score[c] = ScoreToReach(active_[c]);
      }
      for (int c = 0; c < columns; ++c) {
        const double error = (Term("query code error", columns_.code_error[c] * tile.code_norm) +
                              Term("row code error", columns_.projection_norm[c] * tile.code_error) +
                              Term("tail excess", columns_.tail_excess[c] * tile.scale)) *
                             kOutward;
        thresholds[c] = Int8Threshold(columns_.score[c], error,
                                      inverse_tile_scale * columns_.inverse_scale[c], columns_.offset[c]);
      }
      std::fill(thresholds + columns, thresholds + matmul_->columns(), std::numeric_limits<int32_t>::max());
    }

    // Survivors wait in line while their rows come from memory.
    void CheckSurvivors(uint64_t t, size_t count) {
      const MatrixView& view = pass_.base_;
      const size_t row_bytes = view.row_bytes();
      for (size_t i = 0; i < count; ++i) {
        const Survivor survivor = scratch_.survivors.data()[i];
        const Waiting next = {active_[survivor.column], pass_.rows_.id(t, survivor.row)};
        const std::byte* const row = view.row(next.id);
        for (size_t byte = 0; byte < row_bytes; byte += kCacheLineBytes) __builtin_prefetch(row + byte);
        Waiting& slot = waiting_[arrived_++ % kChecksInFlight];
        if (arrived_ > kChecksInFlight) Check(slot);
        slot = next;
      }
    }

    void FinishChecks() {
      const size_t first = arrived_ > kChecksInFlight ? arrived_ - kChecksInFlight : 0;
      for (size_t i = first; i < arrived_; ++i) Check(waiting_[i % kChecksInFlight]);
      arrived_ = 0;
    }

    struct Waiting {
      uint32_t query;
      uint64_t id;
    };
    void Check(const Waiting& pair) {
      pass_.block_.best[pair.query]->Offer(pass_.Check(pair.query, pair.id), scorer_);
    }

    Int8Pass& pass_;
    Scratch& scratch_;
    const PairScorer& scorer_;
    std::vector<uint32_t> active_;  // the queries of the block by column
    // What SetThresholds needs of them, side by side, so that compilers vectorise it.
    struct {
      std::array<double, kBlockColumns.back()> score, code_error, projection_norm, tail_excess, inverse_scale,
          offset;
    } columns_;
    const TileMatmul* matmul_ = nullptr;
    std::optional<TileRunner> runner_;
    std::array<Waiting, kChecksInFlight> waiting_;
    size_t arrived_ = 0;
  };

  std::unique_ptr<Worker> MakeWorker(Scratch& scratch, const PairScorer& scorer) override {
    return std::make_unique<TileWorker>(*this, scratch, scorer);
  }
  uint64_t tiles() const override { return rows_.tiles(); }

  const Int8Codes& rows_;
  const std::vector<const TileMatmul*> kernels_;
  const std::vector<QueryCode> queries_;
  const int8_t* const codes_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Pass>> MakeInt8Pass(const MatrixView& base, const Int8Codes& rows,
                                                   const QueryBlock& block, PassBuffers& buffers) {
  const Axes& axes = rows.axes();
  const size_t queries = block.best.size();
  const int padded = PaddedColumns(queries);
  std::vector<const TileMatmul*> by_columns;
  for (const int columns : kBlockColumns) {
    if (columns > padded) break;
    const absl::StatusOr<const TileMatmul*> matmul =
        buffers.kernels.Get(TileKind::kInt8, KernelRows(columns), rows.code_dim(), columns);
    if (!matmul.ok()) return matmul.status();
    by_columns.push_back(*matmul);
  }

  // Coordinates of the queries along the axes.
  const float* projected = block.scaled;
  if (!axes.identity) {
    // The axes are the kernel's tile, so that a block of any width packs the queries and not them.
    const absl::StatusOr<const TileMatmul*> project = buffers.kernels.Get(
        TileKind::kFloat32, static_cast<int>(axes.count), static_cast<int>(axes.dim), padded);
    if (!project.ok()) return project.status();
    AlignedArray<std::byte> scratch;
    std::vector<float> wide(static_cast<size_t>(padded) * axes.dim);
    std::copy_n(block.scaled, queries * axes.dim, wide.begin());
    (*project)->Pack(wide.data(), buffers.packed.Reserve((*project)->packed_bytes()));
    AlignedArray<float> transposed;
    float* const by_axis = transposed.Reserve(static_cast<size_t>(axes.count) * padded);
    TileRunner(**project, buffers.packed.data(), scratch.Reserve((*project)->scratch_bytes()), by_axis)
        .Run(axes.directions.data());
    float* const by_query = buffers.projected.Reserve(queries * axes.count);
    for (size_t q = 0; q < queries; ++q) {
      for (uint32_t i = 0; i < axes.count; ++i)
        by_query[q * axes.count + i] = by_axis[size_t{i} * padded + q];
    }
    projected = by_query;
  }

  int8_t* const codes = buffers.codes.Reserve(queries * rows.code_dim());
  std::vector<QueryCode> encoded;
  encoded.reserve(queries);
  for (size_t q = 0; q < queries; ++q) {
    encoded.push_back(rows.EncodeQuery(block.exponents[q], block.norms[q], projected + q * axes.count,
                                       codes + q * rows.code_dim()));
  }
  return std::make_unique<Int8Pass>(base, rows, block, std::move(by_columns), std::move(encoded), codes);
}

}  // namespace dotmax
