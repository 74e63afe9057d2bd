#include "server/engine/matrix.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "server/base/dtype.h"
#include "server/engine/bound.h"
#include "server/engine/measure.h"
#include "server/engine/planner.h"

namespace dotmax {
namespace {

// 256 rows × 256 queries of float32 scores are 256 KiB: they stay in L2 between the kernel and the
// reduction, and 512 rows measured no faster on Zen 5 (oneDNN 2.6).
constexpr int kTileRows = 256;
// A tile that is converted takes at most 4 MiB of scratch: from dim = 4,096 on, tiles have fewer rows.
constexpr int kTileElements = 1 << 20;
constexpr int kMinTileRows = kTileElements / static_cast<int>(kMaxDim);
static_assert(kMinTileRows >= 16);

constexpr int kMaxExponent = 1000;

int TileRows(uint32_t dim) {
  return std::clamp(kTileElements / static_cast<int>(std::max(dim, 1u)), kMinTileRows, kTileRows);
}

}  // namespace

int ScreenExponent(double max_abs) {
  if (max_abs == 0.0) return 0;
  return std::clamp(std::ilogb(max_abs), -kMaxExponent, kMaxExponent);
}

Matrix::Matrix(SharedMatrix rows, const ScreenOptions& options)
    : rows_(std::move(rows)), tile_rows_(TileRows(rows_.view.dim)) {
  const MatrixView& b = rows_.view;
  std::vector<double> row(b.dim), norms;
  norms.reserve(b.rows);
  tiles_.reserve((b.rows + tile_rows_ - 1) / tile_rows_);
  bool ordinary = true;  // all tiles are screened where they lie
  for (uint64_t first = 0; first < b.rows; first += tile_rows_) {
    const uint64_t last = std::min<uint64_t>(first + tile_rows_, b.rows);
    double max_abs = 0.0;
    double max_norm = 0.0;
    double min_norm = std::numeric_limits<double>::infinity();
    for (uint64_t i = first; i < last; ++i) {
      ToFloat64(b.row(i), b.dtype, b.dim, row.data());
      double squares = 0.0;
      for (const double x : row) {
        max_abs = std::max(max_abs, std::abs(x));
        squares += x * x;
      }
      if (unit_ > 0.0) unit_ = CommonUnit(row, unit_);
      if (!SumsAreExact(squares, unit_)) unit_ = 0.0;   // of no use
      norms.push_back(NormUpperBound(b.dim, squares));  // right unless squares over- or underflow
      max_norm = std::max(max_norm, norms.back());
      min_norm = std::min(min_norm, norms.back());
    }
    TileStats stats = {max_norm, LeastNorm(min_norm), 0};
    if (!IsOrdinary(max_abs)) {
      // Rare: ‖row‖ ≤ √dim · max|x| is close enough.
      ordinary = false;
      stats.least = 0.0;
      stats.exponent = ScreenExponent(max_abs);
      stats.norm =
          std::sqrt(static_cast<double>(b.dim)) * ScaleByPowerOfTwo(max_abs, -stats.exponent) * kOutward;
    }
    tiles_.push_back(stats);
    longest_ = std::max(longest_, ScaleByPowerOfTwo(stats.norm, stats.exponent) * kOutward);
  }
  if (ordinary && b.rows > 0 && options.kind != ScreenOptions::Kind::kFloat32) {
    plan_ = PlanScreen(*this, norms, options);
  }
}

uint64_t Matrix::resident_bytes() const {
  return view().bytes() + tiles_.capacity() * sizeof(TileStats) +
         (codes() != nullptr ? codes()->bytes() + copies().bytes() + supports().bytes() : 0);
}

const float* Matrix::Float32Tile(uint64_t t, float* scratch) const {
  const MatrixView& b = view();
  const uint64_t first = t * tile_rows_;
  const uint64_t rows = std::min<uint64_t>(tile_rows_, b.rows - first);
  const int exponent = tiles_[t].exponent;
  const bool full = rows == static_cast<uint64_t>(tile_rows_);
  if (full && b.dtype == DType::kFloat32 && exponent == 0)
    return reinterpret_cast<const float*>(b.row(first));

  const size_t elements = rows * b.dim;
  if (exponent == 0) {
    ToFloat32(b.row(first), b.dtype, elements, scratch);
  } else {
    std::vector<double> row(b.dim);
    for (uint64_t i = 0; i < rows; ++i) {
      ToFloat64(b.row(first + i), b.dtype, b.dim, row.data());
      for (uint32_t j = 0; j < b.dim; ++j) {
        scratch[i * b.dim + j] = static_cast<float>(ScaleByPowerOfTwo(row[j], -exponent));
      }
    }
  }
  std::fill(scratch + elements, scratch + static_cast<size_t>(tile_rows_) * b.dim, 0.0f);
  return scratch;
}

}  // namespace dotmax
