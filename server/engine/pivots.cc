#include "server/engine/pivots.h"

#include <algorithm>
#include <bit>
#include <vector>

#include "server/engine/bound.h"
#include "server/engine/reduce.h"
#include "server/engine/scorer.h"

namespace dotmax {
namespace {

// A bfloat16 above x ≥ 0.
uint16_t NextBFloat16(double x) {
  return static_cast<uint16_t>((std::bit_cast<uint32_t>(NextFloat32(x)) + 0xFFFF) >> 16);
}

}  // namespace

absl::StatusOr<Pivots> MeasurePivots(const Int8Codes& rows, size_t most, Kernels& kernels) {
  const size_t dim = rows.axes().dim, code_dim = rows.code_dim();
  const uint64_t tiles = rows.tiles();
  Pivots pivots;
  pivots.norms.resize(std::min<uint64_t>(most, tiles));
  pivots.reaches.resize(pivots.count() * tiles);
  CodeScorer scorer;
  LargestScores largest;
  std::vector<int8_t> codes(kMaxColumns * code_dim);
  std::vector<QueryCode> queries(kMaxColumns);
  for (size_t first = 0; first < pivots.count(); first += kMaxColumns) {
    const size_t count = std::min<size_t>(kMaxColumns, pivots.count() - first);
    for (size_t i = 0; i < count; ++i) {
      const float* const pivot = rows.centre(pivots.tile(first + i, tiles));
      double squares = 0.0;
      for (size_t d = 0; d < dim; ++d) squares += static_cast<double>(pivot[d]) * pivot[d];
      const double norm = NormUpperBound(static_cast<uint32_t>(dim), squares);
      pivots.norms[first + i] = norm;
      queries[i] = rows.EncodeQuery(0, norm, pivot, codes.data() + i * code_dim);
    }
    const int columns = kernels.Int8Columns(count, rows.code_dim());
    const absl::StatusOr<const TileMatmul*> kernel = kernels.GetInt8(rows, columns);
    if (!kernel.ok()) return kernel.status();
    scorer.Pack(*kernel, columns, codes.data(), static_cast<int>(count), rows.code_dim());
    for (uint64_t t = 0; t < tiles; ++t) {
      const CodeTile& tile = rows.tile(t);
      LargestByColumn(scorer.Score(rows.codes(t), tile.rows), tile.rows, columns, largest);
      for (size_t i = 0; i < count; ++i) {
        const double score = (largest.score[i] - queries[i].offset) * queries[i].scale * tile.scale;
        const double reach = std::max(0.0, BallBound(score, CodeError(queries[i], tile), 0.0));
        pivots.reaches[(first + i) * tiles + t] = NextBFloat16(reach);
      }
    }
  }
  return pivots;
}

}  // namespace dotmax
