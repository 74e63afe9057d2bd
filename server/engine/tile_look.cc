#include "server/engine/tile_look.h"

#include <algorithm>
#include <array>
#include <limits>
#include <utility>

#include "server/base/dtype.h"
#include "server/engine/aligned.h"
#include "server/engine/row_loops.h"

namespace dotmax {
namespace {

// Products of so many dims of a pair take as long as a check, and of fewer dims no less than those of a few.
// To measure and widen so many rows takes as long as a check, too, and to pack queries as long as products
// with so many rows.
constexpr uint64_t kDimsPerCheck = 2048, kFewestDims = 32, kRowsPerCheck = 2, kRowsPerPacking = 32;
// Where nearly all survivors are hits, it spares nothing: after so many checks' time in vain it waits until
// as much might have been spared, so many times over.
constexpr int64_t kPatience = 1024, kHope = 16;
// Of longer rows float32 says as much in half the time (float32_look.h).
constexpr uint32_t kMostDims = 255;
// The share of the survivors that may be left; and if codes rule out no more than one in so many pairs, so
// many tiles are looked at without them.
constexpr double kMostLeft = 0.75;
constexpr size_t kMostRuledOut = 4;
constexpr int kTilesAtOnce = 8;
// Whose products stay in the first cache.
constexpr size_t kRowsTogether = 64, kQueriesTogether = 64;

// Columns for so many queries: whole vectors.
constexpr size_t WidthOf(size_t queries) { return (queries + 7) / 8 * 8; }

}  // namespace

TileLook::TileLook(const MatrixView& base, const QueryBlock& block, Scratch& scratch)
    : base_(base), block_(block), scratch_(scratch), error_(base.dim), spared_(kPatience) {}

int64_t TileLook::Cost(size_t rows, size_t queries) const {
  const uint64_t packing = packed_ ? 0 : kRowsPerPacking;
  const uint64_t dims = (rows + packing) * queries * std::max<uint64_t>(base_.dim, kFewestDims);
  return static_cast<int64_t>(dims / kDimsPerCheck + rows / kRowsPerCheck);
}

bool TileLook::Serves(size_t survivors, size_t rows, size_t queries) {
  const int64_t most = static_cast<int64_t>(survivors) - Cost(rows, queries);  // that it may spare
  if (base_.dim > kMostDims || most <= 0) return false;
  spared_ += most / kHope;
  return spared_ > 0;
}

void TileLook::Pack(absl::Span<const uint32_t> queries) {
  const size_t dim = base_.dim;
  double* packed = scratch_.look_queries.Reserve(WidthOf(queries.size()) * dim);
  for (size_t first = 0; first < queries.size(); first += kQueriesTogether) {
    const absl::Span<const uint32_t> some = queries.subspan(first, kQueriesTogether);
    const size_t width = WidthOf(some.size());
    std::fill_n(packed, width * dim, 0.0);
    for (size_t c = 0; c < some.size(); ++c) {
      const double unit = ScaleByPowerOfTwo(1.0, -block_.exponents[some[c]]);
      const double* const query = block_.exact[some[c]].elements.data();
      for (size_t i = 0; i < dim; ++i) packed[i * width + c] = query[i] * unit;
    }
    packed += width * dim;
  }
}

void TileLook::Widen(const Tile& tile, size_t first, size_t end) {
  const size_t dim = base_.dim;
  double* wide = scratch_.look_rows.Reserve(kRowsTogether * dim);
  for (size_t r = first; r < end; ++r, wide += dim) {
    const size_t next = std::min(r + kRowsTogether, tile.ids.size() - 1);
    Prefetch(base_.row(tile.ids[next]), base_.row_bytes());
    ToFloat64(base_.row(tile.ids[r]), base_.dtype, dim, wide);
  }
}

void TileLook::MeasureTerms(const Tile& tile, size_t count, Metric metric, double* terms) const {
  if (metric == Metric::kInnerProduct) return void(std::fill_n(terms, count, 0.0));
  const double least = tile.lengths.least;
  SquaresOfRows(scratch_.look_rows.data(), count, base_.dim, terms);
  for (size_t r = 0; r < count; ++r) {
    const double longer = LeastNorm(NormUpperBound(base_.dim, terms[r])) - least;
    terms[r] = LengthTerm(metric, least, std::max(longer, 0.0)) * (1.0 - 0x1p-50);  // rounded down
  }
}

std::optional<size_t> TileLook::Collect(absl::Span<const uint32_t> queries, const Tile& tile,
                                        const Asked& asked, size_t survivors, Survivor* found) {
  const int64_t cost = Cost(tile.ids.size(), queries.size()),
                cost_of_first = Cost(kRowsTogether, queries.size());
  if (!std::exchange(packed_, true)) Pack(queries);
  const auto& [least_length, most_length] = tile.lengths;
  const double most = LengthTerm(asked.length_metric, least_length, most_length - least_length) * kOutward;
  std::array<double, kMaxColumns> base, slopes = {};
  base.fill(std::numeric_limits<double>::infinity());
  for (size_t c = 0; c < queries.size(); ++c) {
    const double error = ScaledDotError(error_, base_.dim, block_.norms[queries[c]], most_length);
    base[c] = ScreenBase(asked.scores[c], error, asked.slopes[c] * most);
    slopes[c] = asked.slopes[c];
  }

  std::array<double, kRowsTogether> terms;
  const size_t dim = base_.dim, rows = tile.ids.size();
  size_t count = 0;
  for (size_t first = 0, end; first < rows; first = end) {
    // The first rows tell whether the others are worth it.
    if (first == kRowsTogether && count * rows > survivors * kMostLeft * first) {
      at_once_ = 0;
      spared_ -= cost_of_first;
      return std::nullopt;
    }
    end = std::min(first + kRowsTogether, rows);
    Widen(tile, first, end);
    MeasureTerms(tile, end - first, asked.length_metric, terms.data());
    for (size_t c = 0; c < queries.size(); c += kQueriesTogether) {
      const size_t width = WidthOf(std::min(queries.size() - c, kQueriesTogether));
      const PackedColumns columns = {scratch_.look_queries.data() + c * dim, &base[c], &slopes[c], width};
      count += CollectReaching(scratch_.look_rows.data(), terms.data(), first, end - first, dim, columns, c,
                               found + count);
    }
  }
  spared_ += static_cast<int64_t>(survivors) - static_cast<int64_t>(count) - cost;
  spared_ = std::min(spared_, kPatience);
  const bool is_dense = survivors * kMostRuledOut >= rows * queries.size() * (kMostRuledOut - 1);
  at_once_ = at_once_ > 0 ? at_once_ - 1 : is_dense ? kTilesAtOnce : 0;
  return count;
}

}  // namespace dotmax
