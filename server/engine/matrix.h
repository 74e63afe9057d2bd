// The resident side of a search: B, and what the screen keeps beside it. Immutable once built, so any
// number of searches read one snapshot without locks.
#ifndef DOTMAX_SERVER_ENGINE_MATRIX_H_
#define DOTMAX_SERVER_ENGINE_MATRIX_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "server/base/types.h"
#include "server/engine/copies.h"
#include "server/engine/exact.h"
#include "server/engine/planner.h"
#include "server/engine/quantize.h"

namespace dotmax {

// The power of two that the screen divides a row, or a tile of rows, by: brings their largest magnitude
// into [1, 2), so that float32 products of dim ≤ 2^16 elements cannot overflow. Clamped to ±1000 (only
// float64 reaches beyond), where magnitudes stay below 2^24. 0 for zeros.
int ScreenExponent(double max_abs);

// What the screen knows of a tile: its rows are seen as row · 2^-exponent.
struct TileStats {
  double norm;   // upper bound of the largest ‖row · 2^-exponent‖
  double least;  // lower bound of the least ‖row‖
  int exponent;  // 0 for tiles that are screened where they lie
};

class Matrix {
 public:
  // Reads every row some times, and measures. REQUIRES: every element of `rows` is finite; dim ≤ kMaxDim, and
  // dim ≥ 1 unless rows = 0.
  explicit Matrix(SharedMatrix rows, const ScreenOptions& options = {});

  Matrix(const Matrix&) = delete;
  Matrix& operator=(const Matrix&) = delete;

  const MatrixView& view() const { return rows_.view; }

  // The rows are cut into tiles of tile_rows() rows; the last one may be shorter.
  int tile_rows() const { return tile_rows_; }
  uint64_t tiles() const { return tiles_.size(); }
  const TileStats& tile(uint64_t t) const { return tiles_[t]; }
  // ≥ the length of any row.
  double longest() const { return longest_; }
  // CommonUnit of all rows; 0 where sums of their products are not all exact.
  double unit() const { return unit_; }

  // Tile `t` in float32, scaled by its exponent, tile_rows() × dim: the caller's own bytes where they serve
  // as they are, otherwise converted into `scratch` (tile_rows() · dim elements), missing rows zero.
  const float* Float32Tile(uint64_t t, float* scratch) const;

  // What the int8 screen works on; null for the float32 screen.
  const Int8Codes* codes() const { return plan_.codes.get(); }
  // The rows that it does not see, as they equal others.
  const Copies& copies() const { return plan_.copies; }
  const Supports& supports() const { return plan_.supports; }

  // The caller's rows and everything kept beside them.
  uint64_t resident_bytes() const;
  // How hopeless pairs are ruled out, and what that was chosen by.
  std::string screen() const { return ScreenName(codes()); }
  const std::vector<ScreenEstimate>& estimates() const { return plan_.estimates; }

 private:
  const SharedMatrix rows_;
  const int tile_rows_;
  std::vector<TileStats> tiles_;
  double longest_ = 0.0;
  double unit_ = kAnyUnit;
  ScreenPlan plan_;
};

}  // namespace dotmax

#endif  // DOTMAX_SERVER_ENGINE_MATRIX_H_
