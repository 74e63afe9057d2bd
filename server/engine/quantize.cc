#include "server/engine/quantize.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "server/base/dtype.h"
#include "server/engine/bound.h"

namespace dotmax {
namespace {

constexpr int kMaxCode = 127;      // of coordinates, on both sides
constexpr int kZeroCode = 128;     // what an unsigned code of a row adds
constexpr int kMaxTailCode = 255;  // of a row's tail
constexpr int kMaxTailDims = 8;
constexpr int kCodeDimMultiple = 4;  // u8 · s8 instructions sum four products at a time

// The step between codes for coordinates up to max_abs. Not much below the tail's or the whole row's length,
// so that tails stay within a small multiple of it; any positive step is valid.
double CodeScale(double max_abs, double norm) {
  const double reach = std::max(max_abs, norm * 0x1p-10);
  return reach > 0.0 ? reach / kMaxCode : 1.0;
}

int Code(float x, float inverse_scale) {
  return std::clamp(static_cast<int>(std::lrintf(x * inverse_scale)), -kMaxCode, kMaxCode);
}

// ‖y − code · scale‖ and ‖code · scale‖, for any codes, outward.
struct CodeLengths {
  double error;
  double norm;
};
template <typename CodeAt>
CodeLengths Lengths(const float* y, uint32_t count, double scale, CodeAt code_at) {
  double error = 0.0, norm = 0.0;
  for (uint32_t i = 0; i < count; ++i) {
    const double decoded = code_at(i) * scale;
    const double rest = y[i] - decoded;
    error += rest * rest;
    norm += decoded * decoded;
  }
  // `decoded` is rounded: relative 2^-53 of itself.
  const double length = NormUpperBound(count, norm);
  return {NormUpperBound(count, error) + length * 0x1p-50, length * (1.0 + 0x1p-50)};
}

double Length(const float* y, uint32_t count) {
  double squares = 0.0;
  for (uint32_t i = 0; i < count; ++i) squares += static_cast<double>(y[i]) * y[i];
  return std::sqrt(squares);
}

// ‖Px − y‖ for a row of length ≤ norm. The identity only rounds float64 sources to float32.
double AxesError(const Axes& axes, double norm) {
  if (axes.identity) {
    return Term("identity rounding", norm * kUnitFloat32) + Term("identity underflow", axes.dim * 0x1p-126);
  }
  return ProjectionError(axes.dim, axes.count, norm);
}

double MaxAbs(const float* y, uint32_t count) {
  float max_abs = 0.0f;
  for (uint32_t i = 0; i < count; ++i) max_abs = std::max(max_abs, std::abs(y[i]));
  return max_abs;
}

}  // namespace

absl::StatusOr<std::unique_ptr<const Int8Codes>> Int8Codes::Encode(const MatrixView& rows,
                                                                   absl::Span<const double> norms,
                                                                   std::vector<uint32_t> order, Axes axes) {
  std::unique_ptr<Int8Codes> codes(new Int8Codes);
  codes->axes_ = std::move(axes);
  codes->order_ = std::move(order);
  codes->rows_ = codes->order_.size();
  const uint32_t dim = rows.dim;
  const uint32_t count = codes->axes_.count;
  const uint64_t tiles = (codes->rows_ + kTileRows - 1) / kTileRows;
  absl::StatusOr<Projector> projector = Projector::Create(codes->axes_, kTileRows);
  if (!projector.ok()) return projector.status();

  AlignedArray<float> gathered;
  gathered.Reserve(static_cast<size_t>(kTileRows) * dim);
  std::vector<double> tails(codes->rows_);
  // Coordinate codes for now; tails follow once their unit is known.
  std::vector<uint8_t> main(tiles * kTileRows * count, kZeroCode);
  double largest_tail = 0.0;  // in units of its tile's scale
  for (uint64_t t = 0; t < tiles; ++t) {
    const int tile_rows = codes->tile_rows(t);
    std::fill_n(gathered.data(), static_cast<size_t>(kTileRows) * dim, 0.0f);
    for (int r = 0; r < tile_rows; ++r) {
      ToFloat32(rows.row(codes->id(t, r)), rows.dtype, dim, gathered.data() + static_cast<size_t>(r) * dim);
    }
    const float* const projected = projector->Project(gathered.data());

    const double norm = norms[codes->id(t, 0)];  // the largest: they descend
    const double scale = CodeScale(MaxAbs(projected, tile_rows * count), norm);
    const float inverse_scale = static_cast<float>(1.0 / scale);
    CodeTile tile = {scale, norm, 0.0, 0.0};
    double tile_tail = 0.0;
    for (int r = 0; r < tile_rows; ++r) {
      const float* const y = projected + static_cast<size_t>(r) * count;
      uint8_t* const to = main.data() + (t * kTileRows + r) * count;
      for (uint32_t i = 0; i < count; ++i)
        to[i] = static_cast<uint8_t>(kZeroCode + Code(y[i], inverse_scale));
      const CodeLengths lengths =
          Lengths(y, count, scale, [to](uint32_t i) { return int{to[i]} - kZeroCode; });
      const double row_norm = norms[codes->id(t, r)];
      const double error = AxesError(codes->axes_, row_norm);
      const double tail = codes->axes_.identity ? 0.0 : TailBound(row_norm, Length(y, count), error);
      tails[t * kTileRows + r] = tail;
      tile_tail = std::max(tile_tail, tail);
      tile.code_norm = std::max(tile.code_norm, lengths.norm);
      tile.code_error =
          std::max(tile.code_error, (lengths.error + Term("row projection error", error)) * kOutward);
    }
    largest_tail = std::max(largest_tail, tile_tail / scale);
    codes->tiles_.push_back(tile);
  }

  // u covers the largest tail; a query with a tail like that, in units of its own scale, fits into V.
  codes->tail_unit_ = largest_tail > 0.0 ? largest_tail / kMaxTailCode : 1.0;
  const double needed = largest_tail * largest_tail / (kMaxTailCode * kMaxCode);
  codes->tail_dims_ =
      codes->axes_.identity ? 0 : static_cast<int>(std::clamp(std::ceil(needed), 1.0, 1.0 * kMaxTailDims));
  const int used = static_cast<int>(count) + codes->tail_dims_;
  codes->code_dim_ = (used + kCodeDimMultiple - 1) / kCodeDimMultiple * kCodeDimMultiple;
  const uint64_t padded_rows = (tiles + kTilesPerRun - 1) / kTilesPerRun * kTilesPerRun * kTileRows;
  uint8_t* const all = codes->codes_.Reserve(padded_rows * codes->code_dim_);
  std::fill_n(all, padded_rows * codes->code_dim_, uint8_t{0});
  for (uint64_t i = 0; i < codes->rows_; ++i) {
    uint8_t* const to = all + i * codes->code_dim_;
    std::copy_n(main.data() + i * count, count, to);
    const double unit = codes->tail_unit_ * codes->tiles_[i / kTileRows].scale;
    const double code = Term("row tail", std::ceil(tails[i] / unit * kOutward));
    std::fill_n(to + count, codes->tail_dims_, static_cast<uint8_t>(std::min(code, 1.0 * kMaxTailCode)));
  }
  // The largest tail may have rounded to one code more than there is: a slightly larger unit makes up for
  // that.
  codes->tail_unit_ *= 1.0 + 0x1p-40;
  return std::unique_ptr<const Int8Codes>(std::move(codes));
}

int Int8Codes::tile_rows(uint64_t t) const {
  return static_cast<int>(std::min<uint64_t>(kTileRows, rows_ - t * kTileRows));
}

uint64_t Int8Codes::bytes() const {
  return tiles_.size() * (sizeof(CodeTile) + static_cast<uint64_t>(kTileRows) * code_dim_) +
         order_.size() * sizeof(order_[0]) + axes_.directions.size() * sizeof(float);
}

QueryCode Int8Codes::EncodeQuery(int exponent, double norm, const float* projected, int8_t* codes) const {
  const uint32_t count = axes_.count;
  QueryCode query;
  query.exponent = exponent;
  query.norm = norm;
  query.scale = CodeScale(MaxAbs(projected, count), norm);
  query.inverse_scale = 1.0 / query.scale;
  const float inverse_scale = static_cast<float>(query.inverse_scale);
  int sum = 0;
  for (uint32_t i = 0; i < count; ++i) {
    codes[i] = static_cast<int8_t>(Code(projected[i], inverse_scale));
    sum += codes[i];
  }
  query.offset = 1.0 * kZeroCode * sum;
  const CodeLengths lengths =
      Lengths(projected, count, query.scale, [codes](uint32_t i) { return int{codes[i]}; });
  const double length = Length(projected, count);
  const double error = AxesError(axes_, norm);
  query.code_error = (lengths.error + Term("query projection error", error)) * kOutward;
  query.projection_norm =
      (length * (1.0 + kLengthRounding) + Term("projection norm error", error)) * kOutward;
  query.tail_excess = 0.0;

  std::fill(codes + count, codes + code_dim_, int8_t{0});
  if (tail_dims_ > 0) {
    // V in all, spread over the tail's dimensions.
    double rest =
        Term("query tail", std::ceil(TailBound(norm, length, error) * tail_unit_ / query.scale * kOutward));
    for (int i = 0; i < tail_dims_; ++i) {
      const double part = std::min(rest, 1.0 * kMaxCode);
      codes[count + i] = static_cast<int8_t>(part);
      rest -= part;
    }
    query.tail_excess = rest * kMaxTailCode * query.scale * kOutward;
  }
  return query;
}

}  // namespace dotmax
