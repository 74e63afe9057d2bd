#include "server/engine/quantize.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>
#include <utility>

#include "server/base/dtype.h"
#include "server/engine/bound.h"
#include "server/engine/reduce.h"

namespace dotmax {
namespace {

constexpr int kMaxCode = 127;      // of coordinates, on both sides
constexpr int kZeroCode = 128;     // what an unsigned code of a row adds
constexpr int kMaxTailCode = 255;  // of a row's tail
constexpr int kMaxTailDims = 8;
constexpr int kCodeDimMultiple = 4;       // u8 · s8 instructions sum four products at a time
constexpr int kReadableBytes = 64;        // beyond the last row
constexpr double kLargestPlain = 0x1p50;  // float32 sums of squares stay finite

int RoundUp(int dim) { return (dim + kCodeDimMultiple - 1) / kCodeDimMultiple * kCodeDimMultiple; }

// The step between codes for coordinates up to max_abs. Not much below the tail's or the whole row's length,
// so that tails stay within a small multiple of it; any positive step is valid.
double CodeScale(double max_abs, double norm) {
  const double reach = std::max(max_abs, norm * 0x1p-10);
  // Of next to nothing the inverse is finite all the same, also as float32.
  return std::max(reach / kMaxCode, 0x1p-100);
}

// ‖y − code · scale‖, ‖code · scale‖ and about ‖y‖ for `count` numbers, the first two outward.
struct CodeLengths {
  double error;
  double norm;
  double length;
};
CodeLengths Lengths(const CodeSums& sums, uint32_t count) {
  // Decoded numbers are rounded: relative 2^-53 of themselves.
  const double norm = NormUpperBound(count, sums.decoded);
  return {NormUpperBound(count, sums.error) + norm * 0x1p-50, norm * (1.0 + 0x1p-50),
          std::sqrt(sums.squares)};
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

// A query's codes along some axes, but for its tail.
QueryCode EncodeCoordinates(const Axes& axes, int exponent, double norm, const float* projected,
                            int8_t* codes) {
  const uint32_t count = axes.count;
  QueryCode query;
  query.exponent = exponent;
  query.norm = norm;
  query.scale = CodeScale(MaxAbs(projected, count), norm);
  query.inverse_scale = 1.0 / query.scale;
  const CodeSums sums =
      EncodeSigned(projected, count, query.scale, static_cast<float>(query.inverse_scale), kMaxCode, codes);
  query.offset = 1.0 * kZeroCode * sums.codes;
  const CodeLengths lengths = Lengths(sums, count);
  const double error = AxesError(axes, norm);
  query.code_error = (lengths.error + Term("query projection error", error)) * kOutward;
  query.projection_norm =
      (lengths.length * (1.0 + kLengthRounding) + Term("projection norm error", error)) * kOutward;
  query.tail_excess = 0.0;
  return query;
}

}  // namespace

RowOrder RowOrder::Even(std::vector<uint32_t> ids) {
  RowOrder order;
  order.tile_rows.assign(ids.size() / Int8Codes::kTileRows, Int8Codes::kTileRows);
  if (const int rest = static_cast<int>(ids.size() % Int8Codes::kTileRows); rest > 0) {
    order.tile_rows.push_back(rest);
  }
  order.ids = std::move(ids);
  return order;
}

absl::StatusOr<std::unique_ptr<Int8Codes>> Int8Codes::Encode(const MatrixView& rows,
                                                             absl::Span<const double> norms, RowOrder order,
                                                             Axes axes, bool with_fine) {
  std::unique_ptr<Int8Codes> codes(new Int8Codes);
  if (with_fine && !axes.identity) codes->fine_ = std::make_unique<FineCodes>(rows, norms, order.ids);
  codes->axes_ = std::move(axes);
  codes->order_ = std::move(order.ids);
  const uint64_t row_count = codes->order_.size();
  const uint32_t dim = rows.dim;
  const uint32_t count = codes->axes_.count;
  absl::StatusOr<Projector> projector = Projector::Create(codes->axes_, kTileRows);
  if (!projector.ok()) return projector.status();

  AlignedArray<float> gathered;
  gathered.Reserve(static_cast<size_t>(kTileRows) * dim);
  const bool identity = codes->axes_.identity;
  std::vector<double> tails(identity ? 0 : row_count);
  // Coordinate codes for now, with room for tails, which follow once their unit is known.
  const size_t stride = RoundUp(static_cast<int>(count) + (identity ? 0 : kMaxTailDims));
  uint8_t* const all = codes->codes_.Reserve((row_count + kTileRows) * stride + kReadableBytes);
  double largest_tail = 0.0;  // in units of its tile's scale
  uint64_t first = 0;
  for (const int tile_rows : order.tile_rows) {
    std::fill_n(gathered.data(), static_cast<size_t>(kTileRows) * dim, 0.0f);
    double norm = 0.0;
    double least_norm = std::numeric_limits<double>::infinity();
    for (int r = 0; r < tile_rows; ++r) {
      const uint32_t id = codes->order_[first + r];
      ToFloat32(rows.row(id), rows.dtype, dim, gathered.data() + static_cast<size_t>(r) * dim);
      norm = std::max(norm, norms[id]);
      least_norm = std::min(least_norm, norms[id]);
    }
    if (!order.by_norm) codes->AddBall(gathered.data(), tile_rows, norm);
    const float* const projected = projector->Project(gathered.data());

    const double length = order.by_norm ? norm : codes->radii_.back();
    const double scale = CodeScale(MaxAbs(projected, tile_rows * count), length);
    const float inverse_scale = static_cast<float>(1.0 / scale);
    CodeTile tile = {first, tile_rows, scale, norm, LeastNorm(least_norm), 0.0, 0.0};
    double tile_tail = 0.0;
    for (int r = 0; r < tile_rows; ++r) {
      const float* const y = projected + static_cast<size_t>(r) * count;
      uint8_t* const to = all + (first + r) * stride;
      const CodeLengths lengths =
          Lengths(EncodeUnsigned(y, count, scale, inverse_scale, kMaxCode, kZeroCode, to), count);
      const double row_norm = norms[codes->order_[first + r]];
      // Differences from a centre are rounded once more.
      const double error = AxesError(codes->axes_, row_norm) + (order.by_norm ? 0.0 : length * kUnitFloat32);
      if (!identity) {
        const double tail = TailBound(row_norm, lengths.length, error);
        tails[first + r] = tail / scale;
        tile_tail = std::max(tile_tail, tail);
      }
      tile.code_norm = std::max(tile.code_norm, lengths.norm);
      tile.code_error =
          std::max(tile.code_error, (lengths.error + Term("row projection error", error)) * kOutward);
    }
    largest_tail = std::max(largest_tail, tile_tail / scale);
    codes->tiles_.push_back(tile);
    first += tile_rows;
  }
  if (!order.by_norm) {
    if (absl::Status s = codes->EncodeCentres(); !s.ok()) return s;
  }

  // u covers the largest tail; a query with a tail like that, in units of its own scale, fits into V.
  codes->tail_unit_ = largest_tail > 0.0 ? largest_tail / kMaxTailCode : 1.0;
  const double needed = largest_tail * largest_tail / (kMaxTailCode * kMaxCode);
  codes->tail_dims_ = identity ? 0 : static_cast<int>(std::clamp(std::ceil(needed), 1.0, 1.0 * kMaxTailDims));
  const int used = static_cast<int>(count) + codes->tail_dims_;
  codes->code_dim_ = RoundUp(used);
  for (uint64_t i = 0; i < row_count; ++i) {
    // Forward into what earlier rows have left.
    uint8_t* const to = all + i * codes->code_dim_;
    std::memmove(to, all + i * stride, count);
    if (!identity) {
      const double code = Term("row tail", std::ceil(tails[i] / codes->tail_unit_ * kOutward));
      std::fill_n(to + count, codes->tail_dims_, static_cast<uint8_t>(std::min(code, 1.0 * kMaxTailCode)));
    }
    std::fill(to + used, to + codes->code_dim_, uint8_t{0});
  }
  std::fill_n(all + row_count * codes->code_dim_,
              static_cast<size_t>(kTileRows) * codes->code_dim_ + kReadableBytes, uint8_t{0});
  // The largest tail may have rounded to one code more than there is: a slightly larger unit makes up for
  // that.
  codes->tail_unit_ *= 1.0 + 0x1p-40;
  return codes;
}

bool Int8Codes::EncodePlain(const MatrixView& rows) {
  if (rows.dtype == DType::kFloat64) return false;
  if (axes_.dim != rows.dim) axes_ = IdentityAxes(rows.dim);
  is_plain_ = true;
  const uint32_t dim = rows.dim;
  code_dim_ = RoundUp(static_cast<int>(dim));
  order_.resize(rows.rows);
  std::iota(order_.begin(), order_.end(), 0);
  tiles_.clear();
  uint8_t* to = codes_.Reserve((rows.rows + kTileRows) * code_dim_ + kReadableBytes);
  for (uint64_t first = 0; first < rows.rows; first += kTileRows) {
    const int count = static_cast<int>(std::min<uint64_t>(kTileRows, rows.rows - first));
    const float* x = reinterpret_cast<const float*>(rows.row(first));
    if (rows.dtype != DType::kFloat32) {
      float* const converted = plain_rows_.Reserve(static_cast<size_t>(kTileRows) * dim);
      ToFloat32(rows.row(first), rows.dtype, static_cast<size_t>(count) * dim, converted);
      x = converted;
    }
    const double max_abs = MaxAbs(x, static_cast<size_t>(count) * dim);
    if (!IsOrdinary(max_abs) || max_abs > kLargestPlain) return false;
    // A row's length is at most 2^8 times its largest element.
    const double scale = CodeScale(max_abs, 0.0);
    const float inverse_scale = static_cast<float>(1.0 / scale);
    float most = 0.0f, least = std::numeric_limits<float>::infinity();
    for (int r = 0; r < count; ++r, x += dim, to += code_dim_) {
      const PlainSums sums = EncodePlainUnsigned(x, dim, inverse_scale, kZeroCode, to);
      std::fill(to + dim, to + code_dim_, uint8_t{0});
      most = std::max(most, sums.squares);
      least = std::min(least, sums.squares);
    }
    CodeTile tile = {first,
                     count,
                     scale,
                     std::sqrt(LargestSquares(dim, most)) * kOutward,
                     std::sqrt(LeastSquares(dim, least)) * (1.0 - 0x1p-50),
                     0.0,
                     PlainCodeError(dim, scale)};
    tile.code_norm = (tile.norm + tile.code_error) * kOutward;
    tiles_.push_back(tile);
  }
  return true;
}

void Int8Codes::AddBall(float* rows, int count, double norm) {
  const uint32_t dim = axes_.dim;
  std::vector<double> mean(dim);
  for (int r = 0; r < count; ++r) {
    for (uint32_t i = 0; i < dim; ++i) mean[i] += rows[static_cast<size_t>(r) * dim + i];
  }
  for (const double sum : mean) centres_.push_back(static_cast<float>(sum / count));
  const float* const centre = centres_.data() + centres_.size() - dim;
  double largest = 0.0;
  for (int r = 0; r < count; ++r) {
    double squares = 0.0;
    for (uint32_t i = 0; i < dim; ++i) {
      float& x = rows[static_cast<size_t>(r) * dim + i];
      const double rest = static_cast<double>(x) - centre[i];
      squares += rest * rest;
      x = static_cast<float>(rest);
    }
    largest = std::max(largest, squares);
  }
  // The differences are rounded, each relative 2^-53.
  radii_.push_back(
      (NormUpperBound(dim, largest) * (1.0 + 0x1p-50) + Term("ball rounding", AxesError(axes_, norm))) *
      kOutward);
}

absl::Status Int8Codes::EncodeCentres() {
  const uint32_t dim = axes_.dim;
  std::vector<double> norms;
  for (size_t first = 0; first < centres_.size(); first += dim) {
    const double length = Length(centres_.data() + first, dim);
    norms.push_back(NormUpperBound(dim, length * length * (1.0 + 0x1p-50)));
  }
  std::vector<uint32_t> ids(norms.size());
  std::iota(ids.begin(), ids.end(), 0);
  const MatrixView view = {reinterpret_cast<const std::byte*>(centres_.data()), norms.size(), dim,
                           DType::kFloat32};
  auto encoded = Encode(view, norms, RowOrder::Even(std::move(ids)), axes_);
  if (!encoded.ok()) return encoded.status();
  centre_codes_ = *std::move(encoded);
  return absl::OkStatus();
}

uint64_t Int8Codes::bytes() const {
  return tiles_.size() * sizeof(CodeTile) + order_.size() * (code_dim_ + sizeof(order_[0])) +
         axes_.directions.size() * sizeof(float) + radii_.size() * sizeof(double) +
         centres_.size() * sizeof(float) + (centre_codes_ != nullptr ? centre_codes_->bytes() : 0) +
         (pivots_ != nullptr
              ? pivots_->norms.size() * sizeof(double) + pivots_->reaches.size() * sizeof(uint16_t)
              : 0) +
         (fine_ != nullptr ? fine_->bytes() : 0);
}

QueryCode Int8Codes::EncodeQuery(int exponent, double norm, const float* projected, int8_t* codes) const {
  const uint32_t count = axes_.count;
  if (is_plain_) return EncodePlainQuery(exponent, norm, projected, codes);
  QueryCode query = EncodeCoordinates(axes_, exponent, norm, projected, codes);
  std::fill(codes + count, codes + code_dim_, int8_t{0});
  if (tail_dims_ > 0) {
    // V in all, spread over the tail's dimensions.
    const double tail = TailBound(norm, Length(projected, count), AxesError(axes_, norm));
    double rest = Term("query tail", std::ceil(tail * tail_unit_ / query.scale * kOutward));
    for (int i = 0; i < tail_dims_; ++i) {
      const double part = std::min(rest, 1.0 * kMaxCode);
      codes[count + i] = static_cast<int8_t>(part);
      rest -= part;
    }
    query.tail_excess = rest * kMaxTailCode * query.scale * kOutward;
  }
  return query;
}

QueryCode Int8Codes::EncodePlainQuery(int exponent, double norm, const float* query_row,
                                      int8_t* codes) const {
  QueryCode query;
  query.exponent = exponent;
  query.norm = norm;
  query.scale = CodeScale(MaxAbs(query_row, axes_.dim), norm);
  query.inverse_scale = 1.0 / query.scale;
  const PlainSums sums =
      EncodePlainSigned(query_row, axes_.dim, static_cast<float>(query.inverse_scale), codes);
  std::fill(codes + axes_.dim, codes + code_dim_, int8_t{0});
  query.offset = 1.0 * kZeroCode * sums.codes;
  const double error = AxesError(axes_, norm);
  query.code_error =
      (PlainCodeError(axes_.dim, query.scale) + Term("query projection error", error)) * kOutward;
  query.projection_norm = (norm + Term("projection norm error", error)) * kOutward;
  query.tail_excess = 0.0;
  return query;
}

FineCodes::FineCodes(const MatrixView& rows, absl::Span<const double> norms, absl::Span<const uint32_t> order)
    : axes_(IdentityAxes(rows.dim)), code_dim_(RoundUp(static_cast<int>(rows.dim))) {
  std::vector<float> row(rows.dim);
  rows_.reserve(order.size());
  uint8_t* to = codes_.Reserve(order.size() * code_dim_ + kReadableBytes);
  for (const uint32_t id : order) {
    ToFloat32(rows.row(id), rows.dtype, rows.dim, row.data());
    const float scale = NextFloat32(CodeScale(MaxAbs(row.data(), rows.dim), norms[id]));
    const CodeLengths lengths =
        Lengths(EncodeUnsigned(row.data(), rows.dim, scale, 1.0f / scale, kMaxCode, kZeroCode, to), rows.dim);
    std::fill(to + rows.dim, to + code_dim_, uint8_t{0});
    const double error =
        (lengths.error + Term("row projection error", AxesError(axes_, norms[id]))) * kOutward;
    rows_.push_back({scale, NextFloat32(lengths.norm), NextFloat32(error)});
    to += code_dim_;
  }
  std::fill_n(to, kReadableBytes, uint8_t{0});
}

QueryCode FineCodes::EncodeQuery(int exponent, double norm, const float* query, int8_t* codes) const {
  std::fill(codes + axes_.dim, codes + code_dim_, int8_t{0});
  return EncodeCoordinates(axes_, exponent, norm, query, codes);
}

}  // namespace dotmax
