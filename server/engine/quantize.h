// The int8 screen's view of rows and queries: 8-bit codes of their coordinates along a few axes, and of the
// length of what those axes miss, such that an integer dot product bounds the inner product (bound.h).
#ifndef DOTMAX_SERVER_ENGINE_QUANTIZE_H_
#define DOTMAX_SERVER_ENGINE_QUANTIZE_H_

#include <algorithm>
#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "server/base/types.h"
#include "server/engine/aligned.h"
#include "server/engine/bound.h"
#include "server/engine/code_kernel.h"
#include "server/engine/code_rows.h"
#include "server/engine/deflation.h"
#include "server/engine/fine_codes.h"
#include "server/engine/measure.h"
#include "server/engine/rotate.h"
#include "server/engine/row_code.h"
#include "server/engine/spread.h"

namespace dotmax {

// The order in which rows are encoded, and the tiles that they are cut into: 1 to kTileRows rows each.
struct RowOrder {
  // Tiles of kTileRows rows; the last one may be shorter.
  static RowOrder Even(std::vector<uint32_t> ids);
  // Shorter ones where lengths, norms[id], descend fast: codes are as coarse as the longest row of a tile
  // asks for. But for the last one, multiples of kLeastTileRows.
  static RowOrder ByNorm(std::vector<uint32_t> ids, absl::Span<const double> norms);

  std::vector<uint32_t> ids;
  std::vector<int> tile_rows;
  bool by_norm = true;  // descending; otherwise tiles are of rows that lie near each other, and get balls
};

// What rows are encoded along.
struct CodeLevels {
  // Unrotated.
  static CodeLevels Whole(uint32_t dim) { return {IdentityAxes(dim)}; }

  Axes axes;
  Axes head = {};          // of a head in codes of its own, if any; or axes.head
  bool with_fine = false;  // with fine codes, too, unless unrotated
  // What whole rows are seen without: unrotated ones, or those of fine codes; null: nothing.
  std::shared_ptr<const Deflation> deflation = nullptr;
  // By which their codes, then, are spread; null: by none.
  std::shared_ptr<const Spread> spread = nullptr;
};

// A tile's rows, and what holds for every one of them.
struct CodeTile {
  uint64_t first;
  int rows;
  double scale;               // t: a coordinate is about code · t
  double norm;                // ≥ ‖b‖
  double least_norm;          // ≤ ‖b‖
  double code_norm;           // ≥ ‖ct‖
  double code_error;          // ≥ ‖Pb − ct‖
  int64_t first_longer = -1;  // see Int8Codes::lengths
};

// What a query's codes miss, in codes of its own: a coordinate is about code · scale + rest code · rest
// scale.
struct QueryRest {
  double scale;
  double code_error;  // ≥ ‖Pa − both‖
  double offset;      // as QueryCode's
};

// The lengths of the rows of a tile.
inline LengthRange Lengths(const CodeTile& tile) { return {tile.least_norm, tile.norm}; }

// The same, and by how much each row is longer than the least, at least, unless that says little: then empty.
struct RowLengths {
  LengthRange all;
  absl::Span<const float> longer;
};

// E of bound.h: what the integer score of a query and a row of the tile, scaled, may lack.
inline double CodeError(const QueryCode& query, const CodeTile& tile) {
  return CodeError(query.code_error, query.projection_norm, query.tail_excess, tile.code_norm,
                   tile.code_error, tile.scale);
}

// What some centres of balls, the pivots, say of all balls: how far each reaches in the direction of each
// pivot.
struct Pivots {
  size_t count() const { return norms.size(); }
  // The ball whose centre a pivot is, of `tiles` in all.
  uint64_t tile(size_t pivot, uint64_t tiles) const { return pivot * tiles / count(); }

  std::vector<double> norms;  // ≥ ‖p‖
  // By pivot, then by ball: bfloat16s ≥ 0 and ≥ p·(b − centre) for each row b of the ball.
  std::vector<uint16_t> reaches;
};

// Rows in some order, as unsigned codes: byte i of a row is 128 + cᵢ for the axes, then u,
// `tail_dims` times, then zeros up to code_dim; with axes.head, a row of the head's codes, and then the same
// for the other axes. Immutable.
class Int8Codes {
 public:
  // Encodes rows of `rows` in an order. REQUIRES: magnitudes in the range that the float32 screen takes
  // unscaled (matrix.h), or zero; norms[i] ≥ ‖row i‖; whole rows as they are unless by_norm.
  static absl::StatusOr<std::unique_ptr<Int8Codes>> Encode(const MatrixView& rows,
                                                           absl::Span<const double> norms, RowOrder order,
                                                           CodeLevels levels);

  // Empty: for EncodePlain.
  Int8Codes() = default;

  // Encodes rows in their own order, unrotated, into the memory that these codes had before: for few rows
  // that are searched once. One look at them for their largest magnitude, one to encode. False, with the
  // codes then of no use, for what it does not serve: FLOAT64, and magnitudes beyond those of Encode.
  bool EncodePlain(const MatrixView& rows);

  static constexpr int kTileRows = 512;
  static constexpr int kLeastTileRows = 64;

  const Axes& axes() const { return axes_; }
  int code_dim() const { return code_dim_; }
  uint64_t tiles() const { return tiles_.size(); }
  const CodeTile& tile(uint64_t t) const { return tiles_[t]; }
  uint64_t rows() const { return tiles_.empty() ? 0 : tiles_.back().first + tiles_.back().rows; }
  // The tile of a place in the order.
  uint64_t tile_at(uint64_t place) const {
    const auto after = [](uint64_t p, const CodeTile& tile) { return p < tile.first; };
    return std::upper_bound(tiles_.begin(), tiles_.end(), place, after) - tiles_.begin() - 1;
  }
  // The first tile, by norm, with a row of no more than this length, or the last one.
  uint64_t tile_of_length(double length) const {
    const auto longer = [](const CodeTile& tile, double l) { return tile.least_norm > l; };
    return std::lower_bound(tiles_.begin(), tiles_.end() - 1, length, longer) - tiles_.begin();
  }
  // ≥ the length of any row.
  double longest() const { return longest_; }
  // Of a tile's rows. If they are deflated, they are all told apart.
  RowLengths lengths(uint64_t t) const {
    const CodeTile& tile = tiles_[t];
    if (tile.first_longer < 0) return {Lengths(tile), {}};
    return {Lengths(tile), absl::MakeConstSpan(longer_).subspan(tile.first_longer, tile.rows)};
  }
  // A tile's codes, from a row on. Tiles follow one another; beyond any, kTileRows rows and 64 bytes are
  // readable.
  CodeRows codes(uint64_t t, int row = 0) const;
  // The row number in the matrix of row `row` of tile `t`.
  uint64_t id(uint64_t t, int row) const { return id_at(tiles_[t].first + row); }
  // Those of all its rows.
  absl::Span<const uint32_t> ids(uint64_t t) const { return order_.subspan(tiles_[t].first, tiles_[t].rows); }
  // That of a place in the order.
  uint64_t id_at(uint64_t place) const { return order_[place]; }

  // The same rows, in the same tiles, by fewer codes, for few queries, which wait for memory: along the first
  // axes().head axes, or along others. Null if there are none of these.
  const Int8Codes* head() const { return head_.get(); }

  // What whole rows and queries are seen without: by these codes, if is_deflated, or by the fine ones. Null
  // if they are encoded as they are.
  const Deflation* deflation() const { return deflation_.get(); }
  bool is_deflated() const { return own_deflation() != nullptr; }
  // REQUIRES: deflation().
  RowsAlong along(uint64_t t) const {
    const CodeTile& tile = tiles_[t];
    return {along_[t].first, along_[t].second,
            absl::MakeConstSpan(more_along_).subspan(tile.first, tile.rows)};
  }
  // By which they are spread then; null if they are not.
  const Spread* spread() const { return spread_.get(); }

  // The same rows' fine codes, by place in the order; null if not asked for, or if these are unrotated.
  const FineCodes* fine() const { return fine_.get(); }

  // For tiles of rows that lie near each other, the balls around them: centres, also in codes of their own
  // (id: the tile), and radii ≥ ‖b − centre‖. The codes of such a tile are those of b − centre. Null for rows
  // by norm.
  const Int8Codes* centre_codes() const { return centre_codes_.get(); }
  const float* centre(uint64_t t) const { return centres_.data() + t * axes_.dim; }
  double radius(uint64_t t) const { return radii_[t]; }
  // Null until set (pivots.h).
  const Pivots* pivots() const { return pivots_.get(); }
  void set_pivots(Pivots pivots) { pivots_ = std::make_unique<const Pivots>(std::move(pivots)); }

  uint64_t bytes() const;

  // Encodes one query from the projection of its float32 values, scaled by 2^-exponent, or what deflation
  // leaves of them, spread; `codes` gets code_dim signed bytes, as this machine's kernel wants them. `norm` ≥
  // its length.
  QueryCode EncodeQuery(int exponent, double norm, const float* projected, int8_t* codes) const;

  // What that missed: `rest_codes` gets code_dim signed bytes. REQUIRES: axes().head = 0.
  QueryRest EncodeRest(const QueryCode& query, const float* projected, const int8_t* codes,
                       int8_t* rest_codes) const;

 private:
  class Writer;

  // Those of these codes; null if there are none.
  const Deflation* own_deflation() const { return axes_.identity ? deflation_.get() : nullptr; }
  const Spread* own_spread() const { return axes_.identity ? spread_.get() : nullptr; }

  // Of a row's codes, those that are not the head's.
  int own_dim() const { return code_dim_ - (axes_.head > 0 ? head_->code_dim_ : 0); }

  QueryCode EncodePlainQuery(int exponent, double norm, const float* query, int8_t* codes) const;

  // Splits the next tile's rows; `rests` gets what is left of them.
  void AddAlong(const MatrixView& rows, uint64_t first, int count, float* rests);
  // The ball around the next tile's `count` rows, of lengths ≤ norm, which become differences from its
  // centre.
  void AddBall(float* rows, int count, double norm);
  absl::Status EncodeCentres();
  void Add(const CodeTile& tile) {
    tiles_.push_back(tile);
    longest_ = std::max(longest_, tile.norm);
  }

  // Asked here, as queries are encoded more often than the processor wants to be looked at.
  const bool sums_in_16_bits_ = CodeKernel().sums_in_16_bits();
  Axes axes_;
  int tail_dims_ = 0;
  int code_dim_ = 0;
  double tail_unit_ = 1.0;           // ρ
  std::vector<uint32_t> own_order_;  // empty for a head
  absl::Span<const uint32_t> order_;
  std::vector<CodeTile> tiles_;
  double longest_ = 0.0;
  std::vector<float> longer_;                     // where that matters
  std::vector<std::pair<double, double>> along_;  // by tile: least, most
  std::vector<float> more_along_;
  std::unique_ptr<Int8Codes> head_;
  AlignedArray<uint8_t> codes_;
  std::vector<float> centres_;  // tiles × dim
  std::unique_ptr<const Int8Codes> centre_codes_;
  std::vector<double> radii_;  // by tile
  std::unique_ptr<const Pivots> pivots_;
  std::unique_ptr<const FineCodes> fine_;
  std::shared_ptr<const Deflation> deflation_;
  std::shared_ptr<const Spread> spread_;
  bool is_plain_ = false;
  AlignedArray<float> plain_rows_;  // a tile in float32
};

}  // namespace dotmax

#endif  // DOTMAX_SERVER_ENGINE_QUANTIZE_H_
