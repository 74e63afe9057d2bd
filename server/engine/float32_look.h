// What codes cannot rule out is looked at in float32 before it is checked in float64: where rows are long and
// many survive, that takes a fraction of the time, and rows come from memory once for all queries.
#ifndef DOTMAX_SERVER_ENGINE_FLOAT32_LOOK_H_
#define DOTMAX_SERVER_ENGINE_FLOAT32_LOOK_H_

#include <array>
#include <cstddef>
#include <cstdint>

#include "absl/functional/function_ref.h"
#include "absl/types/span.h"
#include "server/base/types.h"
#include "server/engine/bound.h"
#include "server/engine/pass.h"
#include "server/engine/reduce.h"

namespace dotmax {

// One worker's. Not thread-safe.
class Float32Look {
 public:
  // `base` and `block` outlive this. REQUIRES: rows whose magnitudes the float32 screen takes unscaled, or
  // zero (matrix.h).
  Float32Look(const MatrixView& base, const QueryBlock& block)
      : base_(base), block_(block), error_(base.dim) {}

  // Whether that is worth it for so many survivors of one to kTilesPerClaim tiles.
  bool Serves(size_t survivors) const;

  // Moves those whose inner product may reach score(q, row) to the front, by row; returns how many.
  // Their columns are those of `queries`, their rows numbered as id(row) says, of lengths ≤ norm. `scratch`
  // is a worker's.
  size_t Keep(absl::Span<Survivor> survivors, absl::Span<const uint32_t> queries, double norm,
              absl::FunctionRef<uint64_t(int row)> id, absl::FunctionRef<double(uint32_t q, int row)> score,
              Scratch& scratch) const;

  // What the inner products of query `q` and rows id(0) ... id(count - 1), of lengths ≤ norm, are at least: a
  // little less than in float64, in a fraction of the time. −infinity where this does not serve.
  double LeastScore(uint32_t q, size_t count, absl::FunctionRef<uint64_t(size_t i)> id, double norm) const;

 private:
  // A row in float32 as it lies, or null.
  const float* InPlace(uint64_t id) const;

  const MatrixView& base_;
  const QueryBlock& block_;
  const Float32ScreenError error_;
};

}  // namespace dotmax

#endif  // DOTMAX_SERVER_ENGINE_FLOAT32_LOOK_H_
