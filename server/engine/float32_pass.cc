// The float32 screen: oneDNN float32 matmul of the rows themselves, in their own order.
#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <optional>

#include "server/engine/bound.h"
#include "server/engine/pass.h"

namespace dotmax {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

class Float32Pass final : public Pass {
 public:
  Float32Pass(const Matrix& matrix, const QueryBlock& block, const TileMatmul& matmul,
              const std::byte* packed)
      : Pass(matrix.view(), matrix.longest(), block),
        matrix_(matrix),
        screen_error_(matrix.view().dim),
        matmul_(matmul),
        packed_(packed) {}

 private:
  class TileWorker final : public Worker {
   public:
    TileWorker(Float32Pass& pass, Scratch& scratch, PairScorer& scorer)
        : pass_(pass), scratch_(scratch), scorer_(scorer) {
      const size_t scores = static_cast<size_t>(pass.matmul_.rows()) * pass.matmul_.columns();
      scratch.tile.Reserve(static_cast<size_t>(pass.matmul_.rows()) * pass.matrix_.view().dim);
      scratch.matmul.Reserve(pass.matmul_.scratch_bytes());
      scratch.float_scores.Reserve(scores + kScoresPadding);
      scratch.float_thresholds.Reserve(pass.matmul_.columns());
      scratch.survivors.Reserve(scores + kSurvivorPadding);
      runner_.emplace(pass.matmul_, pass.packed_, scratch.matmul.data(), scratch.float_scores.data());
    }

    bool Search(uint64_t first, uint64_t end) override {
      for (uint64_t t = first; t < end; ++t) SearchTile(t);
      return true;
    }

   private:
    void SearchTile(uint64_t t) {
      const Matrix& matrix = pass_.matrix_;
      const uint64_t first_row = t * matrix.tile_rows();
      const int rows =
          static_cast<int>(std::min<uint64_t>(matrix.tile_rows(), matrix.view().rows - first_row));
      const float* tile = matrix.Float32Tile(t, scratch_.tile.data());
      runner_->Run(tile);
      SetThresholds(matrix.tile(t), first_row, rows);
      const size_t count = CollectSurvivors(scratch_.float_scores.data(), rows, pass_.matmul_.columns(),
                                            scratch_.float_thresholds.data(), scratch_.survivors.data());
      for (size_t i = 0; i < count; ++i) {
        const Survivor survivor = scratch_.survivors.data()[i];
        const uint64_t id = first_row + survivor.row;
        if (!pass_.IsHit(survivor.column, id)) continue;
        pass_.block_.best(survivor.column)
            .Offer(pass_.Check(survivor.column, id), scorer_.Of(pass_.block_.question(survivor.column)));
      }
      scratch_.pairs_screened += rows * pass_.block_.size();
      scratch_.pairs_survived += count;
      scratch_.pairs_checked += count;
    }

    // What each query asks of the tile's scores, on the tile's scale.
    void SetThresholds(const TileStats& tile, uint64_t first_row, int rows) {
      const QueryBlock& block = pass_.block_;
      float* const thresholds = scratch_.float_thresholds.data();
      for (size_t q = 0; q < block.size(); ++q) {
        if (block.best(q).WantsSeeds()) {
          scratch_.seeds.resize(1);
          std::vector<uint64_t>& keys = scratch_.seeds[0];
          keys.clear();
          for (int row = 0; row < rows; ++row) {
            if (!pass_.IsHit(q, first_row + row)) continue;
            const size_t at = static_cast<size_t>(row) * pass_.matmul_.columns() + q;
            keys.push_back(SeedKey(scratch_.float_scores.data()[at], static_cast<uint32_t>(row)));
          }
          pass_.Seed(q, keys, [first_row](uint32_t row) { return first_row + row; });
        }
        const double error = pass_.screen_error_(block.norms[q], tile.norm);
        thresholds[q] = ScreenThreshold(ScoreToReach(q, tile), error);
      }
      std::fill(thresholds + block.size(), thresholds + pass_.matmul_.columns(), kInfinity);
    }

    // The inner product that query `q` asks of the tile's rows, on both their scales.
    double ScoreToReach(size_t q, const TileStats& tile) const {
      const QueryBlock& block = pass_.block_;
      if (std::isinf(block.best(q).threshold()) && block.best(q).threshold() > 0.0)
        return block.best(q).threshold();
      if (block.metric(q) == Metric::kInnerProduct) {  // at once: either step could overflow
        return ScaleByPowerOfTwo(pass_.LeastMerit(q), -(block.exponents[q] + tile.exponent));
      }
      const LengthRange lengths = {tile.least, ScaleByPowerOfTwo(tile.norm, tile.exponent)};
      const double score = LeastDot(block.metric(q), pass_.MeritToReach(q), block.measured[q], lengths);
      return ScaleByPowerOfTwo(score, -tile.exponent);
    }

    Float32Pass& pass_;
    Scratch& scratch_;
    PairScorer& scorer_;
    std::optional<TileRunner> runner_;
  };

  std::unique_ptr<Worker> MakeWorker(int, Scratch& scratch, PairScorer& scorer) override {
    return std::make_unique<TileWorker>(*this, scratch, scorer);
  }
  uint64_t tiles(int) const override { return matrix_.tiles(); }

  const Matrix& matrix_;
  const Float32ScreenError screen_error_;
  const TileMatmul& matmul_;
  const std::byte* const packed_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Pass>> MakeFloat32Pass(const Matrix& matrix, const QueryBlock& block,
                                                      PassBuffers& buffers) {
  const size_t queries = block.size();
  const uint32_t dim = matrix.view().dim;
  const absl::StatusOr<const TileMatmul*> matmul = buffers.kernels.Get(
      TileKind::kFloat32, matrix.tile_rows(), static_cast<int>(dim), PaddedColumns(queries));
  if (!matmul.ok()) return matmul.status();
  const size_t padded = static_cast<size_t>((*matmul)->columns()) * dim;
  float* const scaled = buffers.projected.Reserve(padded);
  std::fill(std::copy_n(block.scaled, queries * dim, scaled), scaled + padded, 0.0f);
  std::byte* const packed = buffers.packed.Reserve((*matmul)->packed_bytes());
  (*matmul)->Pack(scaled, packed);
  return std::make_unique<Float32Pass>(matrix, block, **matmul, packed);
}

}  // namespace dotmax
