#include "server/engine/quantize.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>
#include <optional>
#include <utility>

#include "server/base/dtype.h"
#include "server/engine/avx2.h"
#include "server/engine/bound.h"
#include "server/engine/packing.h"
#include "server/engine/reduce.h"
#include "server/engine/row_loops.h"

namespace dotmax {
namespace {

constexpr int kMaxTailCode = 255;  // of a row's tail
constexpr int kMaxTailDims = 8;
// A tile ends before rows that are shorter than its first one by so much.
constexpr double kMostTileSpread = 1.25;

// Beyond this ratio of lengths within a tile, what a cosine or distance asks of the shortest row is too
// little for the others. Inner products of long rows are a smaller part of these, by about the root of dim,
// and thresholds for rows of a tile take less of the time.
constexpr double kMostSpread = 1.1, kMostSpreadOfRoot = 0.3;
constexpr uint32_t kLongDim = 256;
// So is it where half the difference of squares is more than so many times what codes miss, of rows that lie
// closely about one that is far away.
constexpr double kMostErrors = 5.0;
bool LengthsMatter(const CodeTile& tile, uint32_t dim, double query_norm) {
  const double spread = dim < kLongDim ? kMostSpread : 1.0 + kMostSpreadOfRoot / std::sqrt(dim);
  if (tile.norm > spread * tile.least_norm) return true;
  const double difference = 0.5 * (tile.norm - tile.least_norm) * (tile.norm + tile.least_norm);
  return difference > kMostErrors * query_norm * tile.code_error;
}
constexpr double kLargestPlain = 0x1p50;  // float32 sums of squares stay finite

// How large a code may be that follows others in `codes`, zeros from there on, where sums in 16 bits ask for
// small ones (QueryScale).
int RoomForCode(const int8_t* codes, size_t at, size_t code_dim) {
  const size_t first = at / kOctet * kOctet + at / 2 % 2 * 2;
  int sum = 0;
  for (const size_t i : {first, first + 1, first + kQuad, first + kQuad + 1}) {
    if (i < code_dim) sum += std::max<int>(codes[i], 0);
  }
  return std::max(kMostOfFour - sum, 0);
}

CodeSums operator+(const CodeSums& a, const CodeSums& b) {
  return {a.codes + b.codes, a.error + b.error, a.decoded + b.decoded, a.squares + b.squares};
}

// Of a number ≥ 0.
float RoundedDown(double x) { return std::max(std::nextafter(static_cast<float>(x), -1.0f), 0.0f); }

double Length(const float* y, uint32_t count) {
  double squares = 0.0;
  for (uint32_t i = 0; i < count; ++i) squares += static_cast<double>(y[i]) * y[i];
  return std::sqrt(squares);
}

}  // namespace

RowOrder RowOrder::ByNorm(std::vector<uint32_t> ids, absl::Span<const double> norms) {
  RowOrder order;
  for (size_t first = 0; first < ids.size(); first += order.tile_rows.back()) {
    size_t end = first;
    do {
      end = std::min<size_t>(end + Int8Codes::kLeastTileRows, ids.size());
    } while (end < ids.size() && end - first < Int8Codes::kTileRows &&
             norms[ids[end]] * kMostTileSpread > norms[ids[first]]);
    order.tile_rows.push_back(static_cast<int>(end - first));
  }
  order.ids = std::move(ids);
  return order;
}

RowOrder RowOrder::Even(std::vector<uint32_t> ids) {
  RowOrder order;
  order.tile_rows.assign(ids.size() / Int8Codes::kTileRows, Int8Codes::kTileRows);
  if (const int rest = static_cast<int>(ids.size() % Int8Codes::kTileRows); rest > 0) {
    order.tile_rows.push_back(rest);
  }
  order.ids = std::move(ids);
  return order;
}

// Codes of all rows while they are made, along axes [first, first + stored): earlier ones are in the head's.
class Int8Codes::Writer {
 public:
  // REQUIRES: codes.axes_ and order_ are set.
  Writer(Int8Codes& codes, uint32_t first, int dim_multiple, int most_tail_dims)
      : codes_(codes),
        stored_(codes.axes_.count - first),
        dim_multiple_(dim_multiple),
        most_tail_dims_(most_tail_dims),
        stride_(RoundUpDim(static_cast<int>(stored_) + most_tail_dims, dim_multiple)),
        all_(codes.codes_.Reserve((codes.order_.size() + kTileRows) * stride_ + kReadableBytes)) {
    if (!codes.axes_.identity) tails_.resize(codes.order_.size());
  }

  // Where the codes of the row at a place go.
  uint8_t* to(uint64_t place) const { return all_ + place * stride_; }

  // Rows of all places in turn, tiles when all of theirs are there. `lengths`, also of what the head stores;
  // norm ≥ the row's; error as AxesError says.
  void AddRow(uint64_t place, const CodeLengths& lengths, double norm, double error, CodeTile& tile) {
    if (!tails_.empty()) {
      tails_[place] = TailBound(norm, lengths.length, error) / tile.scale;
      largest_tail_ = std::max(largest_tail_, tails_[place]);
    }
    tile.code_norm = std::max(tile.code_norm, lengths.norm);
    tile.code_error =
        std::max(tile.code_error, (lengths.error + Term("row projection error", error)) * kOutward);
  }
  void AddTile(const CodeTile& tile) { codes_.Add(tile); }

  // Tails follow now that their unit is known.
  void Finish() {
    // u covers the largest tail; a query with a tail like that, in units of its own scale, fits into V.
    codes_.tail_unit_ = largest_tail_ > 0.0 ? largest_tail_ / kMaxTailCode : 1.0;
    const double needed = std::ceil(largest_tail_ * largest_tail_ / (kMaxTailCode * kMaxCode));
    codes_.tail_dims_ = static_cast<int>(std::min(std::max(needed, 1.0), 1.0 * most_tail_dims_));
    const size_t used = stored_ + codes_.tail_dims_;
    const size_t dim = RoundUpDim(static_cast<int>(used), dim_multiple_), rows = codes_.order_.size();
    codes_.code_dim_ = static_cast<int>(dim);
    for (uint64_t i = 0; i < rows; ++i) {
      // Forward into what earlier rows have left.
      uint8_t* const row = all_ + i * dim;
      std::memmove(row, to(i), stored_);
      if (codes_.tail_dims_ > 0) {
        const double code = Term("row tail", std::ceil(tails_[i] / codes_.tail_unit_ * kOutward));
        std::fill_n(row + stored_, codes_.tail_dims_,
                    static_cast<uint8_t>(std::min(code, 1.0 * kMaxTailCode)));
      }
      std::fill(row + used, row + dim, uint8_t{0});
    }
    std::fill_n(all_ + rows * dim, kTileRows * dim + kReadableBytes, uint8_t{0});
    // The largest tail may have rounded to one code more than there is: a slightly larger unit makes up for
    // that.
    codes_.tail_unit_ *= 1.0 + 0x1p-40;
  }

 private:
  Int8Codes& codes_;
  const uint32_t stored_;
  const int dim_multiple_, most_tail_dims_;
  const size_t stride_;
  uint8_t* const all_;
  std::vector<double> tails_;  // in units of their tiles' scales
  double largest_tail_ = 0.0;
};

absl::StatusOr<std::unique_ptr<Int8Codes>> Int8Codes::Encode(const MatrixView& rows,
                                                             absl::Span<const double> norms, RowOrder order,
                                                             CodeLevels levels) {
  std::unique_ptr<Int8Codes> codes(new Int8Codes);
  if (levels.head.count > 0) {
    auto head = Encode(rows, norms, order, {std::move(levels.head)});
    if (!head.ok()) return head.status();
    codes->head_ = *std::move(head);
    codes->head_->own_order_ = {};
  }
  if (!levels.axes.identity && !levels.with_fine) {
    levels.deflation = nullptr;
    levels.spread = nullptr;
  }
  if (levels.with_fine && !levels.axes.identity) {
    codes->fine_ = std::make_unique<FineCodes>(rows, norms, order.ids, levels.deflation, levels.spread);
  }
  codes->axes_ = std::move(levels.axes);
  codes->deflation_ = std::move(levels.deflation);
  codes->spread_ = std::move(levels.spread);
  codes->own_order_ = std::move(order.ids);
  codes->order_ = codes->own_order_;
  if (codes->head_ != nullptr) codes->head_->order_ = codes->order_;
  const uint32_t dim = rows.dim;
  const uint32_t count = codes->axes_.count, head_count = codes->axes_.head;
  absl::StatusOr<Projector> projector = Projector::Create(codes->axes_, kTileRows);
  if (!projector.ok()) return projector.status();

  const Deflation* const deflation = codes->deflation();
  const Spread* const spread = codes->own_spread();
  // What all axes miss is next to nothing: errors cover it.
  Writer whole(*codes, head_count, kCodeDimMultiple, count < dim ? kMaxTailDims : 0);
  std::optional<Writer> head;
  if (head_count > 0) {
    codes->head_.reset(new Int8Codes);
    codes->head_->axes_ = {dim, head_count, false, {}, 0};
    codes->head_->order_ = codes->order_;
    const int multiple = static_cast<int>(kHeadMultiple);
    const int room = RoundUpDim(static_cast<int>(head_count) + 1, multiple) - static_cast<int>(head_count);
    head.emplace(*codes->head_, 0, multiple, std::min(room, kMaxTailDims));
  }

  AlignedArray<float> gathered, rests;
  gathered.Reserve(static_cast<size_t>(kTileRows) * dim);
  if (deflation != nullptr) rests.Reserve(static_cast<size_t>(kTileRows) * dim);
  uint64_t first = 0;
  for (const int tile_rows : order.tile_rows) {
    std::fill_n(gathered.data(), static_cast<size_t>(kTileRows) * dim, 0.0f);
    double norm = 0.0;
    double least_norm = std::numeric_limits<double>::infinity();
    for (int r = 0; r < tile_rows; ++r) {
      const uint32_t id = codes->order_[first + r];
      if (!codes->is_deflated()) {
        ToFloat32(rows.row(id), rows.dtype, dim, gathered.data() + static_cast<size_t>(r) * dim);
      }
      norm = std::max(norm, norms[id]);
      least_norm = std::min(least_norm, norms[id]);
    }
    if (!order.by_norm) codes->AddBall(gathered.data(), tile_rows, norm);
    if (deflation != nullptr) codes->AddAlong(rows, first, tile_rows, rests.data());
    float* const whole_rows = codes->is_deflated() ? rests.data() : gathered.data();
    for (int r = 0; r < tile_rows && spread != nullptr; ++r) {
      spread->Apply(whole_rows + static_cast<size_t>(r) * count);
    }
    const float* const projected = projector->Project(whole_rows);

    // Of what is left of deflated rows, float32 has no more bits than that.
    const double length = codes->is_deflated() ? norm * 0x1p-20 : order.by_norm ? norm : codes->radii_.back();
    const double scale = CodeScale(MaxAbs(projected, tile_rows * count), length);
    const float inverse_scale = static_cast<float>(1.0 / scale);
    CodeTile tile = {first, tile_rows, scale, norm, LeastNorm(least_norm), 0.0, 0.0};
    CodeTile head_tile = tile;
    for (int r = 0; r < tile_rows; ++r) {
      const float* const y = projected + static_cast<size_t>(r) * count;
      const uint64_t place = first + r;
      const double row_norm = norms[codes->order_[place]];
      CodeSums sums = {};
      if (head.has_value()) {
        sums = EncodeUnsigned(y, head_count, scale, inverse_scale, kMaxCode, kZeroCode, head->to(place));
        head->AddRow(place, LengthsOf(sums, head_count), row_norm, AxesError(codes->axes_, row_norm),
                     head_tile);
      }
      sums = sums + EncodeUnsigned(y + head_count, count - head_count, scale, inverse_scale, kMaxCode,
                                   kZeroCode, whole.to(place));
      const CodeLengths lengths = LengthsOf(sums, count);
      // Differences from a centre are rounded once more.
      const double error =
          SightError(codes->axes_, codes->own_deflation(), spread, row_norm, lengths.length) +
          (order.by_norm ? 0.0 : length * kUnitFloat32);
      whole.AddRow(place, lengths, row_norm, error, tile);
    }
    if (deflation != nullptr || LengthsMatter(tile, dim, order.by_norm ? tile.code_norm : norm)) {
      tile.first_longer = head_tile.first_longer = static_cast<int64_t>(codes->longer_.size());
      for (int r = 0; r < tile_rows; ++r) {
        const double longer = LeastNorm(norms[codes->order_[first + r]]) - tile.least_norm;
        codes->longer_.push_back(RoundedDown(longer));
      }
    }
    whole.AddTile(tile);
    if (head.has_value()) head->AddTile(head_tile);
    first += tile_rows;
  }
  if (!order.by_norm) {
    if (absl::Status s = codes->EncodeCentres(); !s.ok()) return s;
  }
  // Whole vectors of rows' terms are read.
  if (deflation != nullptr) codes->more_along_.resize(codes->order_.size() + kScoresPadding);
  codes->longer_.resize(codes->longer_.size() + kScoresPadding);
  whole.Finish();
  if (head.has_value()) {
    codes->head_->longer_ = codes->longer_;
    head->Finish();
    codes->code_dim_ += codes->head_->code_dim_;
  }
  return codes;
}

CodeRows Int8Codes::codes(uint64_t t, int row) const {
  const CodeRows::Plane own = {codes_.data(), static_cast<size_t>(own_dim())};
  const CodeRows all = axes_.head > 0 ? CodeRows{head_->codes(0).head, own} : CodeRows{own};
  return all.From(tiles_[t].first + row);
}

bool Int8Codes::EncodePlain(const MatrixView& rows) {
  if (rows.dtype == DType::kFloat64) return false;
  if (axes_.dim != rows.dim) axes_ = IdentityAxes(rows.dim);
  is_plain_ = true;
  const uint32_t dim = rows.dim;
  code_dim_ = RoundUpDim(static_cast<int>(dim));
  own_order_.resize(rows.rows);
  std::iota(own_order_.begin(), own_order_.end(), 0);
  order_ = own_order_;
  tiles_.clear();
  longest_ = 0.0;
  uint8_t* const to = codes_.Reserve((rows.rows + kTileRows) * code_dim_ + kReadableBytes);
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
    const PlainSquares squares =
        EncodePlainUnsigned(x, count, dim, inverse_scale, kZeroCode, code_dim_, to + first * code_dim_);
    CodeTile tile = {first,
                     count,
                     scale,
                     std::sqrt(LargestSquares(dim, squares.most)) * kOutward,
                     std::sqrt(LeastSquares(dim, squares.least)) * (1.0 - 0x1p-50),
                     0.0,
                     PlainCodeError(dim, scale)};
    tile.code_norm = (tile.norm + tile.code_error) * kOutward;
    Add(tile);
  }
  return true;
}

void Int8Codes::AddAlong(const MatrixView& rows, uint64_t first, int count, float* rests) {
  std::array<double, kTileRows> along;
  for (int r = 0; r < count; ++r) {
    const uint32_t id = order_[first + r];
    along[r] = deflation_->SplitRow(rows.row(id), rows.dtype, rests + static_cast<size_t>(r) * rows.dim);
  }
  const auto [least, most] = std::minmax_element(along.begin(), along.begin() + count);
  along_.push_back({*least, *most});
  for (int r = 0; r < count; ++r) more_along_.push_back(static_cast<float>(along[r] - *least));
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
  auto encoded = Encode(view, norms, RowOrder::Even(std::move(ids)), {axes_});
  if (!encoded.ok()) return encoded.status();
  centre_codes_ = *std::move(encoded);
  return absl::OkStatus();
}

uint64_t Int8Codes::bytes() const {
  return tiles_.size() * sizeof(CodeTile) + (longer_.size() + more_along_.size()) * sizeof(float) +
         along_.size() * sizeof(along_[0]) + order_.size() * own_dim() +
         own_order_.size() * sizeof(order_[0]) + (head_ != nullptr ? head_->bytes() : 0) +
         axes_.directions.size() * sizeof(float) + radii_.size() * sizeof(double) +
         centres_.size() * sizeof(float) + (centre_codes_ != nullptr ? centre_codes_->bytes() : 0) +
         (pivots_ != nullptr
              ? pivots_->norms.size() * sizeof(double) + pivots_->reaches.size() * sizeof(uint16_t)
              : 0) +
         (fine_ != nullptr ? fine_->bytes() : 0) + (deflation_ != nullptr ? deflation_->bytes() : 0) +
         (spread_ != nullptr ? spread_->bytes() : 0);
}

QueryCode Int8Codes::EncodeQuery(int exponent, double norm, const float* projected, int8_t* codes) const {
  const uint32_t count = axes_.count;
  if (is_plain_) return EncodePlainQuery(exponent, norm, projected, codes);
  const double scale = QueryScale(projected, axes_.head, count, norm, sums_in_16_bits_);
  QueryCode query =
      EncodeCoordinates(axes_, scale, own_deflation(), own_spread(), exponent, norm, projected, codes);
  int8_t* end = codes + count;
  if (axes_.head > 0) {  // zeros meet the head's tails
    const size_t zeros = head_->code_dim_ - head_->axes_.count;
    int8_t* const rest = codes + head_->axes_.count;
    std::memmove(rest + zeros, rest, end - rest);
    std::fill_n(rest, zeros, int8_t{0});
    end += zeros;
  }
  std::fill(end, codes + code_dim_, int8_t{0});
  if (!axes_.identity) {
    // V in all, spread over the tail's dimensions.
    const double tail = TailBound(norm, Length(projected, count), AxesError(axes_, norm));
    double rest = Term("query tail", tail * tail_unit_ / query.scale * kOutward);
    if (tail_dims_ > 0) rest = std::ceil(rest);
    for (int i = 0; i < tail_dims_; ++i) {
      const int most = sums_in_16_bits_ ? RoomForCode(codes, end + i - codes, code_dim_) : kMaxCode;
      const double part = std::min(rest, 1.0 * std::min(most, kMaxCode));
      end[i] = static_cast<int8_t>(part);
      rest -= part;
    }
    query.tail_excess = rest * kMaxTailCode * query.scale * kOutward;
  }
  return query;
}

QueryRest Int8Codes::EncodeRest(const QueryCode& query, const float* projected, const int8_t* codes,
                                int8_t* rest_codes) const {
  const uint32_t count = axes_.count;
  std::vector<float> missed(count);
  for (uint32_t i = 0; i < count; ++i) missed[i] = static_cast<float>(projected[i] - codes[i] * query.scale);
  QueryRest rest;
  rest.scale = QueryScale(missed.data(), 0, count, query.code_error, sums_in_16_bits_);
  const CodeSums sums = EncodeSigned(missed.data(), count, rest.scale, static_cast<float>(1.0 / rest.scale),
                                     kMaxCode, rest_codes);
  std::fill(rest_codes + count, rest_codes + code_dim_, int8_t{0});
  rest.offset = 1.0 * kZeroCode * sums.codes;
  // Beside the projection's own error, that of what is missed: rounded to float32, and twice before.
  rest.code_error =
      (Term("query rest code error", LengthsOf(sums, count).error + query.code_error * 0x1p-23) +
       Term("query rest projection error",
            SightError(axes_, own_deflation(), own_spread(), query.norm, query.projection_norm)) +
       query.norm * 0x1p-50) *
      kOutward;
  return rest;
}

QueryCode Int8Codes::EncodePlainQuery(int exponent, double norm, const float* query_row,
                                      int8_t* codes) const {
  QueryCode query;
  query.exponent = exponent;
  query.norm = norm;
  query.scale = QueryScale(query_row, 0, axes_.dim, norm, sums_in_16_bits_);
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

}  // namespace dotmax
