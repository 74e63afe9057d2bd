// Where codes rule out little of a tile, all of its pairs are looked at in float64 side by side, as a matrix
// product: of short rows that takes a fraction of what checks one by one do.
#ifndef DOTMAX_SERVER_ENGINE_TILE_LOOK_H_
#define DOTMAX_SERVER_ENGINE_TILE_LOOK_H_

#include <cstddef>
#include <cstdint>
#include <optional>

#include "absl/types/span.h"
#include "server/base/types.h"
#include "server/engine/bound.h"
#include "server/engine/measure.h"
#include "server/engine/pass.h"
#include "server/engine/reduce.h"

namespace dotmax {

// One worker's. Not thread-safe.
class TileLook {
 public:
  // All that is given outlives this; `scratch` is the worker's. REQUIRES: rows whose magnitudes the float32
  // screen takes unscaled, or zero (matrix.h).
  TileLook(const MatrixView& base, const QueryBlock& block, Scratch& scratch);

  // Whether that is worth it if so many pairs of a tile survive codes, and has been so far. To be asked once
  // a tile: after a look in vain it is tried again once so much might have been spared.
  bool Serves(size_t survivors, size_t rows, size_t queries);
  // Whether it is so without codes: for some tiles after one of which these have ruled out little.
  bool ServesAtOnce() const { return at_once_ > 0; }

  // The tile's rows: their numbers, and what holds for their lengths.
  struct Tile {
    absl::Span<const uint32_t> ids;
    LengthRange lengths;
  };
  // What inner products must reach, by column, for a row of the least length, and how that rises with
  // LengthTerm of a metric: 0 for columns of others.
  struct Asked {
    Metric length_metric;
    const double *scores, *slopes;
  };
  // Writes the pairs that may reach what they are asked for to `found` (room for all), and returns how many.
  // Their columns are those of `queries`. `survivors`: how many codes left, or all; nothing, and nothing of
  // use in `found`, if that would leave most of these.
  std::optional<size_t> Collect(absl::Span<const uint32_t> queries, const Tile& tile, const Asked& asked,
                                size_t survivors, Survivor* found);
  // The next call's `queries` are others than the last one's.
  void Forget() { packed_ = false; }

 private:
  // What a tile takes, in checks.
  int64_t Cost(size_t rows, size_t queries) const;
  void Pack(absl::Span<const uint32_t> queries);
  // Rows [first, end) in float64, to `scratch`; and from there LengthTerm of each, or a little less.
  void Widen(const Tile& tile, size_t first, size_t end);
  void MeasureTerms(const Tile& tile, size_t count, Metric metric, double* terms) const;

  const MatrixView& base_;
  const QueryBlock& block_;
  Scratch& scratch_;
  const Float64DotError error_;
  bool packed_ = false;  // whether `scratch` has the queries
  int64_t spared_;       // checks, less what that took
  int at_once_ = 0;
};

}  // namespace dotmax

#endif  // DOTMAX_SERVER_ENGINE_TILE_LOOK_H_
