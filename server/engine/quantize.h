// The int8 screen's view of rows and queries: 8-bit codes of their coordinates along a few axes, and of the
// length of what those axes miss, such that an integer dot product bounds the inner product (bound.h).
#ifndef DOTMAX_SERVER_ENGINE_QUANTIZE_H_
#define DOTMAX_SERVER_ENGINE_QUANTIZE_H_

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "server/base/types.h"
#include "server/engine/aligned.h"
#include "server/engine/rotate.h"

namespace dotmax {

// What holds for every row of a tile.
struct CodeTile {
  double scale;       // t: a coordinate is about code · t
  double norm;        // ≥ ‖b‖
  double code_norm;   // ≥ ‖ct‖
  double code_error;  // ≥ ‖Pb − ct‖
};

// One query, encoded. All lengths are of query · 2^-exponent.
struct QueryCode {
  int exponent;
  double scale;            // s
  double inverse_scale;    // 1 / s
  double norm;             // ≥ ‖a‖
  double projection_norm;  // ≥ ‖Pa‖
  double code_error;       // ≥ ‖Pa − qs‖
  double tail_excess;      // tail that did not fit into the codes: add tail_excess · t to the error
  double offset;           // what the rows' unsigned codes add to every integer score
};

// Rows in order of descending norm, as unsigned codes: byte i of a row is 128 + cᵢ for the axes, then u,
// `tail_dims` times, then zeros up to code_dim. Immutable.
class Int8Codes {
 public:
  // Encodes the rows of `rows` that `order` lists, in that order. REQUIRES: magnitudes in the range that the
  // float32 screen takes unscaled (matrix.h), or zero; norms[i] ≥ ‖row i‖, descending along `order`.
  static absl::StatusOr<std::unique_ptr<const Int8Codes>> Encode(const MatrixView& rows,
                                                                 absl::Span<const double> norms,
                                                                 std::vector<uint32_t> order, Axes axes);

  static constexpr int kTileRows = 512;

  const Axes& axes() const { return axes_; }
  int code_dim() const { return code_dim_; }
  uint64_t tiles() const { return tiles_.size(); }
  const CodeTile& tile(uint64_t t) const { return tiles_[t]; }
  // kTileRows × code_dim codes, 64-byte aligned; tiles follow one another. Padded with zeros, and readable
  // for another 64 bytes.
  const uint8_t* codes(uint64_t t) const { return codes_.data() + t * kTileRows * code_dim_; }
  int tile_rows(uint64_t t) const;
  // The row number in the matrix of row `row` of tile `t`.
  uint64_t id(uint64_t t, int row) const { return order_[t * kTileRows + row]; }
  uint64_t bytes() const;

  // Encodes one query from its float32 values, scaled by 2^-exponent, and their projection; `codes` gets
  // code_dim signed bytes. `norm` ≥ its length.
  QueryCode EncodeQuery(int exponent, double norm, const float* projected, int8_t* codes) const;

 private:
  Int8Codes() = default;

  Axes axes_;
  int tail_dims_ = 0;
  int code_dim_ = 0;
  double tail_unit_ = 1.0;  // ρ
  uint64_t rows_ = 0;
  std::vector<uint32_t> order_;
  std::vector<CodeTile> tiles_;
  AlignedArray<uint8_t> codes_;
};

}  // namespace dotmax

#endif  // DOTMAX_SERVER_ENGINE_QUANTIZE_H_
