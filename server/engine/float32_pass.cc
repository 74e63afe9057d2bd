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
      : Pass(matrix.view(), nullptr, nullptr, matrix.longest(), block),
        matrix_(matrix),
        screen_error_(matrix.view().dim),
        matmul_(matmul),
        packed_(packed) {}

 private:
  class TileWorker final : public Worker {
   public:
    TileWorker(Float32Pass& pass, Scratch& scratch, PairScorer& scorer)
        : pass_(pass), scratch_(scratch), checks_(pass, scratch, scorer) {
      const size_t scores = static_cast<size_t>(pass.matmul_.rows()) * pass.matmul_.columns();
      scratch.tile.Reserve(static_cast<size_t>(pass.matmul_.rows()) * pass.matrix_.view().dim);
      scratch.matmul.Reserve(pass.matmul_.scratch_bytes());
      scratch.float_scores.Reserve(scores + kScoresPadding);
      scratch.float_thresholds.Reserve(pass.matmul_.columns() + kColumnsTogether);
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
        checks_.Add(survivor.column, first_row + survivor.row, /*resolve=*/false);
      }
      checks_.Finish();
      scratch_.pairs_screened += rows * pass_.block_.size();
      scratch_.pairs_survived += count;
      scratch_.pairs_checked += count;
    }

    // Those that know nothing yet begin with the best of the tile's rows.
    void Seed(uint64_t first_row, int rows) {
      const QueryBlock& block = pass_.block_;
      const size_t columns = pass_.matmul_.columns();
      const float* const scores = scratch_.float_scores.data();
      float* const kth = scratch_.float_thresholds.data();
      std::array<int32_t, kMaxColumns + kColumnsTogether> wanted = {};
      bool any = false;
      for (size_t q = 0; q < block.size(); ++q) {
        const uint32_t top_k = block.question(q).top_k;
        wanted[q] = block.best(q).WantsSeeds() && top_k <= rows ? static_cast<int32_t>(top_k) : 0;
        any = any || wanted[q] > 0;
      }
      if (!any) return;
      scratch_.seeds.resize(std::max(scratch_.seeds.size(), block.size()));
      for (size_t q = 0; q < block.size(); ++q) scratch_.seeds[q].clear();
      const auto add = [&](size_t q, size_t row) {
        if (!pass_.IsHit(q, first_row + row)) return;
        scratch_.seeds[q].push_back(SeedKey(scores[row * columns + q], static_cast<uint32_t>(row)));
      };
      // Side by side.
      for (size_t c = 0; c < columns; c += kColumnsTogether) {
        KthLargest(scores + c, rows, columns, wanted.data() + c, kth + c);
      }
      for (size_t q = 0; q < columns; ++q) kth[q] = q < block.size() && wanted[q] > 0 ? kth[q] : kInfinity;
      const size_t count =
          CollectSurvivors(scores, rows, static_cast<int>(columns), kth, scratch_.survivors.data());
      for (size_t i = 0; i < count; ++i) {
        const Survivor survivor = scratch_.survivors.data()[i];
        add(survivor.column, survivor.row);
      }
      for (size_t q = 0; q < block.size(); ++q) {
        if (wanted[q] == 0) continue;
        std::vector<uint64_t>& keys = scratch_.seeds[q];
        if (keys.size() < static_cast<size_t>(wanted[q])) {  // ties, or others are no hits
          keys.clear();
          for (int row = 0; row < rows; ++row) add(q, row);
        }
        pass_.Seed(q, keys, [first_row](uint32_t row) { return first_row + row; });
      }
    }

    // What each query asks of the tile's scores, on the tile's scale.
    void SetThresholds(const TileStats& tile, uint64_t first_row, int rows) {
      Seed(first_row, rows);
      const QueryBlock& block = pass_.block_;
      float* const thresholds = scratch_.float_thresholds.data();
      for (size_t q = 0; q < block.size(); ++q) {
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
    Checks checks_;
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
