// The axes that the int8 screen sees rows along: most of the rows' length in few coordinates.
#ifndef DOTMAX_SERVER_ENGINE_ROTATE_H_
#define DOTMAX_SERVER_ENGINE_ROTATE_H_

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "server/base/types.h"
#include "server/engine/aligned.h"
#include "server/engine/tile.h"

namespace dotmax {

// A projection P onto `count` axes. P is a contraction, ‖Px‖ ≤ ‖x‖ for every x, which is all that the bounds
// ask of it: then I − PᵀP is positive semidefinite, and by Cauchy–Schwarz in its semi-inner product
//   a·b − (Pa)·(Pb) = aᵀ(I − PᵀP)b ≤ √(‖a‖² − ‖Pa‖²) · √(‖b‖² − ‖Pb‖²).
// That the axes are nearly orthonormal and nearly principal only makes this small.
struct Axes {
  uint32_t dim = 0;
  uint32_t count = 0;
  bool identity = false;          // count = dim, and Px is x itself
  std::vector<float> directions;  // count × dim, row-major; empty for the identity
  uint32_t head = 0;              // so many of the first may be used alone; 0: they need not be
};

// All of a row, unrotated.
Axes IdentityAxes(uint32_t dim);

// The space of the first `count` of `axes`, which are in order of the length that they hold, along other axes
// in no order: 8-bit steps are as coarse as the largest coordinate asks for, and along these no coordinate is
// much larger than others. The first `head` of these have the space of the first `head` of those. A
// contraction, too. REQUIRES: 1 ≤ count ≤ axes.count, head < count.
absl::StatusOr<Axes> MixedAxes(const Axes& axes, uint32_t count, uint32_t head = 0);

// About the `count` principal axes of `rows` (of their second moment, uncentred: inner products are what
// matters), in order, from a sample of at most a few thousand rows, by orthogonal iteration (Golub and Van
// Loan, Matrix Computations, §8.2.4). Any result is valid; a better one screens better.
// REQUIRES: 1 ≤ count ≤ dim; rows.rows ≥ 1; magnitudes that float32 can square.
absl::StatusOr<Axes> PrincipalAxes(const MatrixView& rows, uint32_t count);

// Projects rows in float32, a tile at a time. Not thread-safe.
class Projector {
 public:
  static absl::StatusOr<Projector> Create(const Axes& axes, int tile_rows);

  // P · from[i] for tile_rows rows: `from` is tile_rows × dim, the result tile_rows × count, valid until the
  // next call. For the identity `from` itself. Each coordinate is a float32 dot product: its error is
  // bound.h's.
  const float* Project(const float* from);

 private:
  Projector() = default;

  std::unique_ptr<const TileMatmul> matmul_;
  AlignedArray<std::byte> packed_, scratch_;
  AlignedArray<float> projected_;
  std::unique_ptr<TileRunner> runner_;  // null for the identity
};

}  // namespace dotmax

#endif  // DOTMAX_SERVER_ENGINE_ROTATE_H_
