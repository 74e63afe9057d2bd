#include "server/engine/reduce.h"

#include <bit>
#include <cstring>

#include "server/engine/bound.h"

// Compiles the rest of this file once per instruction set.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "server/engine/reduce.cc"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace dotmax {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// Stores the survivors among columns [column, column + lanes) of one row, from the mask of a compare: packs
// (row, column) pairs in a register, stores a whole vector, and advances by as many as there are. No
// branches, and no compressing store to memory, which is slow on Zen 4.
template <class D, class M>
HWY_INLINE size_t AppendSurvivors(D d, M mask, uint32_t first, uint32_t* out) {
  const hn::RebindToUnsigned<D> du;
  const auto pairs = hn::Iota(du, first);
  hn::StoreU(hn::Compress(pairs, hn::RebindMask(du, mask)), du, out);
  return hn::CountTrue(d, mask);
}

// With a bit for every score first, as a compress takes a table where AVX2 is all there is: per row as many
// compares and stores of a byte as vectors, then a few instructions per survivor.
template <class D, class T = hn::TFromD<D>>
HWY_INLINE size_t CollectByBits(D d, const T* HWY_RESTRICT scores, int rows, size_t columns,
                                const T* HWY_RESTRICT thresholds, uint32_t* HWY_RESTRICT survivors) {
  uint32_t* out = survivors;
  for (int row = 0; row < rows; ++row, scores += columns) {
    for (size_t column = 0; column < columns; column += 64) {
      uint64_t bits;
      uint8_t bytes[sizeof(bits)];
      for (size_t i = 0; i < sizeof(bits); ++i) {
        const size_t c = column + 8 * i;
        hn::StoreMaskBits(d, hn::Gt(hn::LoadU(d, scores + c), hn::LoadU(d, thresholds + c)), bytes + i);
      }
      std::memcpy(&bits, bytes, sizeof(bits));
      for (; bits != 0; bits &= bits - 1) {
        *out++ = static_cast<uint32_t>(row) << 16 | static_cast<uint32_t>(column + std::countr_zero(bits));
      }
    }
  }
  return out - survivors;
}

// Appends the survivors of a row, whole vectors of columns at a time, and returns where these end.
template <class D, class Exceeds>
HWY_INLINE size_t CollectRow(D d, uint32_t row_bits, size_t columns, const Exceeds& exceeds,
                             uint32_t* HWY_RESTRICT& out) {
  const size_t lanes = hn::Lanes(d);
  size_t column = 0;
  // Four vectors share one branch.
  for (; column + 4 * lanes <= columns; column += 4 * lanes) {
    const auto m0 = exceeds(column), m1 = exceeds(column + lanes);
    const auto m2 = exceeds(column + 2 * lanes), m3 = exceeds(column + 3 * lanes);
    if (HWY_LIKELY(hn::AllFalse(d, hn::Or(hn::Or(m0, m1), hn::Or(m2, m3))))) continue;
    const uint32_t first = row_bits + static_cast<uint32_t>(column);
    const uint32_t step = static_cast<uint32_t>(lanes);
    out += AppendSurvivors(d, m0, first, out);
    out += AppendSurvivors(d, m1, first + step, out);
    out += AppendSurvivors(d, m2, first + 2 * step, out);
    out += AppendSurvivors(d, m3, first + 3 * step, out);
  }
  for (; column + lanes <= columns; column += lanes) {
    const auto m = exceeds(column);
    if (HWY_LIKELY(hn::AllFalse(d, m))) continue;
    out += AppendSurvivors(d, m, row_bits + static_cast<uint32_t>(column), out);
  }
  return column;
}

template <class T>
HWY_INLINE size_t CollectSurvivorsOf(const T* HWY_RESTRICT scores, int rows, int columns,
                                     const T* HWY_RESTRICT thresholds, Survivor* HWY_RESTRICT survivors) {
  static_assert(sizeof(Survivor) == sizeof(uint32_t));
  const hn::ScalableTag<T> d;
  const size_t lanes = hn::Lanes(d);
  const size_t n = static_cast<size_t>(columns);
  uint32_t* out = reinterpret_cast<uint32_t*>(survivors);
  if (lanes == 8 && n % 64 == 0) return CollectByBits(d, scores, rows, n, thresholds, out);
  for (int row = 0; row < rows; ++row) {
    const T* HWY_RESTRICT line = scores + row * n;
    const uint32_t row_bits = static_cast<uint32_t>(row) << 16;  // little-endian: the row is the upper half
    size_t column = CollectRow(
        d, row_bits, n,
        [&](size_t c) HWY_ATTR { return hn::Gt(hn::LoadU(d, line + c), hn::LoadU(d, thresholds + c)); }, out);
    for (; column < n; ++column) {
      if (line[column] > thresholds[column]) *out++ = row_bits + static_cast<uint32_t>(column);
    }
  }
  return out - reinterpret_cast<uint32_t*>(survivors);
}

// Narrow tiles are read as if several rows were one, so that every compare fills its vectors.
constexpr int kWideColumns = kScoresPadding;

template <class T>
HWY_INLINE size_t CollectAnyWidth(const T* HWY_RESTRICT scores, int rows, int columns,
                                  const T* HWY_RESTRICT thresholds, Survivor* HWY_RESTRICT survivors) {
  if (columns >= kWideColumns || kWideColumns % columns != 0) {
    return CollectSurvivorsOf(scores, rows, columns, thresholds, survivors);
  }
  const int joined = kWideColumns / columns;  // a power of two, as columns is
  HWY_ALIGN T repeated[kWideColumns];
  for (int i = 0; i < kWideColumns; ++i) repeated[i] = thresholds[i % columns];
  size_t count = CollectSurvivorsOf(scores, (rows + joined - 1) / joined, kWideColumns, repeated, survivors);
  for (size_t i = 0; i < count; ++i) {
    const uint32_t at = uint32_t{survivors[i].row} * kWideColumns + survivors[i].column;
    survivors[i] = {static_cast<uint16_t>(at % columns), static_cast<uint16_t>(at / columns)};
  }
  while (count > 0 && survivors[count - 1].row >= rows) --count;
  return count;
}

size_t CollectFloats(const float* scores, int rows, int columns, const float* thresholds,
                     Survivor* survivors) {
  return CollectAnyWidth(scores, rows, columns, thresholds, survivors);
}
size_t CollectInts(const int32_t* scores, int rows, int columns, const int32_t* thresholds,
                   Survivor* survivors) {
  return CollectAnyWidth(scores, rows, columns, thresholds, survivors);
}

size_t CollectByRow(const int32_t* HWY_RESTRICT scores, int rows, int columns,
                    const ThresholdsByRow& thresholds, const RowTerms& terms,
                    Survivor* HWY_RESTRICT survivors) {
  const hn::ScalableTag<int32_t> d;
  const hn::Rebind<float, decltype(d)> df;
  const size_t n = static_cast<size_t>(columns), lanes = hn::Lanes(d);
  // Not a structured binding: clang 14 captures none.
  const float* HWY_RESTRICT base = thresholds.base;
  const float* HWY_RESTRICT by_length = thresholds.by_length;
  const float* HWY_RESTRICT by_along = thresholds.by_along;
  const auto least = hn::Set(df, kLeastThreshold);
  uint32_t* out = reinterpret_cast<uint32_t*>(survivors);
  if (n == 1) {  // rows are side by side then
    const auto threshold = hn::Set(df, base[0]);
    const auto length_slope = hn::Set(df, by_length[0]), along_slope = hn::Set(df, by_along[0]);
    const auto exceeds = [&](size_t r) HWY_ATTR {
      const auto of_length = hn::MulAdd(length_slope, hn::LoadU(df, terms.length + r), threshold);
      const auto all = hn::MulAdd(along_slope, hn::LoadU(df, terms.along + r), of_length);
      return hn::RebindMask(d, hn::Gt(hn::ConvertTo(df, hn::LoadU(d, scores + r)), hn::Max(all, least)));
    };
    CollectRow(d, 0, (rows + lanes - 1) / lanes * lanes, exceeds, out);
    size_t count = out - reinterpret_cast<uint32_t*>(survivors);
    while (count > 0 && survivors[count - 1].column >= rows) --count;
    for (size_t i = 0; i < count; ++i) survivors[i] = {0, survivors[i].column};
    return count;
  }
  for (int row = 0; row < rows; ++row) {
    const int32_t* HWY_RESTRICT line = scores + row * n;
    const auto length = hn::Set(df, terms.length[row]), along = hn::Set(df, terms.along[row]);
    const auto exceeds = [&](size_t c) HWY_ATTR {
      const auto of_length = hn::MulAdd(hn::LoadU(df, by_length + c), length, hn::LoadU(df, base + c));
      const auto all = hn::MulAdd(hn::LoadU(df, by_along + c), along, of_length);
      return hn::RebindMask(d, hn::Gt(hn::ConvertTo(df, hn::LoadU(d, line + c)), hn::Max(all, least)));
    };
    CollectRow(d, static_cast<uint32_t>(row) << 16, (n + lanes - 1) / lanes * lanes, exceeds, out);
  }
  return out - reinterpret_cast<uint32_t*>(survivors);
}

void AddProducts(int32_t* HWY_RESTRICT scores, int rows, int columns, const float* HWY_RESTRICT slopes,
                 const float* HWY_RESTRICT terms) {
  const hn::ScalableTag<int32_t> d;
  const hn::Rebind<float, decltype(d)> df;
  const int lanes = static_cast<int>(hn::Lanes(d));
  const auto most = hn::Set(df, 0x1p30f), least = hn::Set(df, -0x1p30f);
  for (int r = 0; r < rows; ++r, scores += columns) {
    const auto term = hn::Set(df, terms[r]);
    int c = 0;
    for (; c + lanes <= columns; c += lanes) {
      const auto added = hn::Max(hn::Min(hn::Mul(hn::LoadU(df, slopes + c), term), most), least);
      hn::StoreU(hn::Add(hn::LoadU(d, scores + c), hn::NearestInt(added)), d, scores + c);
    }
    for (; c < columns; ++c) {
      const float added = slopes[c] * terms[r];
      scores[c] += static_cast<int32_t>(added > 0x1p30f ? 0x1p30f : added < -0x1p30f ? -0x1p30f : added);
    }
  }
}

void LargestColumns(const int32_t* HWY_RESTRICT scores, int rows, int columns, LargestScores& largest) {
  const hn::ScalableTag<int32_t> d;
  const int lanes = static_cast<int>(hn::Lanes(d));
  for (int c = 0; c < columns; c += lanes) {  // beyond the last column it is padding that is written
    auto best = hn::LoadU(d, scores + c);
    auto row = hn::Zero(d);
    for (int r = 1; r < rows; ++r) {
      const auto score = hn::LoadU(d, scores + static_cast<size_t>(r) * columns + c);
      const auto larger = hn::Gt(score, best);
      best = hn::IfThenElse(larger, score, best);
      row = hn::IfThenElse(larger, hn::Set(d, r), row);
    }
    hn::StoreU(best, d, largest.score.data() + c);
    hn::StoreU(row, d, largest.row.data() + c);
  }
}

void GroupColumns(const int32_t* HWY_RESTRICT scores, int rows, size_t step, int columns,
                  const float* HWY_RESTRICT offset, float scale, size_t stride, float* HWY_RESTRICT largest) {
  const hn::CappedTag<int32_t, kColumnsTogether> d;
  const hn::Rebind<float, decltype(d)> df;
  const int lanes = static_cast<int>(hn::Lanes(d));
  for (int c = 0; c < columns; c += lanes) {
    auto most = hn::LoadU(d, scores + c);
    for (int r = 1; r < rows; ++r) {
      most = hn::Max(most, hn::LoadU(d, scores + r * step * columns + c));
    }
    const auto scaled =
        hn::Mul(hn::Sub(hn::ConvertTo(df, most), hn::LoadU(df, offset + c)), hn::Set(df, scale));
    hn::StoreU(scaled, df, largest + c / kColumnsTogether * stride + c % kColumnsTogether);
  }
}

void GroupByRow(const int32_t* HWY_RESTRICT scores, int rows, size_t step, int columns,
                const ThresholdsByRow& less, const RowTerms& terms, const float* HWY_RESTRICT scales,
                size_t stride, float* HWY_RESTRICT largest) {
  const hn::CappedTag<int32_t, kColumnsTogether> d;
  const hn::Rebind<float, decltype(d)> df;
  const int lanes = static_cast<int>(hn::Lanes(d));
  for (int c = 0; c < columns; c += lanes) {
    const auto base = hn::LoadU(df, less.base + c);
    const auto by_length = hn::LoadU(df, less.by_length + c), by_along = hn::LoadU(df, less.by_along + c);
    const auto scaled = [&](size_t r) HWY_ATTR {
      const auto score = hn::ConvertTo(df, hn::LoadU(d, scores + r * columns + c));
      const auto of_length = hn::MulAdd(by_length, hn::Set(df, terms.length[r]), base);
      const auto all = hn::MulAdd(by_along, hn::Set(df, terms.along[r]), of_length);
      return hn::Mul(hn::Sub(score, all), hn::Set(df, scales[r]));
    };
    auto most = scaled(0);
    for (int r = 1; r < rows; ++r) most = hn::Max(most, scaled(r * step));
    hn::StoreU(most, df, largest + c / kColumnsTogether * stride + c % kColumnsTogether);
  }
}

void Kth(const float* HWY_RESTRICT numbers, size_t count, size_t stride, const int32_t* HWY_RESTRICT wanted,
         float* HWY_RESTRICT kth) {
  constexpr int kHalvings = 12;
  const hn::CappedTag<float, kColumnsTogether> d;
  const hn::RebindToSigned<decltype(d)> di;
  const size_t end = count * stride;
  for (size_t c = 0; c < kColumnsTogether; c += hn::Lanes(d)) {
    auto least = hn::LoadU(d, numbers + c), most = least;
    for (size_t i = stride; i < end; i += stride) {
      const auto x = hn::LoadU(d, numbers + i + c);
      least = hn::Min(least, x);
      most = hn::Max(most, x);
    }
    const auto enough = hn::LoadU(di, wanted + c);
    for (int step = 0; step < kHalvings; ++step) {
      const auto middle = hn::Mul(hn::Add(least, most), hn::Set(d, 0.5f));
      auto larger = hn::Zero(di);
      for (size_t i = 0; i < end; i += stride) {
        // A true lane is −1.
        larger = hn::Sub(
            larger, hn::VecFromMask(di, hn::RebindMask(di, hn::Gt(hn::LoadU(d, numbers + i + c), middle))));
      }
      const auto has_few = hn::RebindMask(d, hn::Gt(enough, larger));
      least = hn::IfThenElse(has_few, least, middle);
      most = hn::IfThenElse(has_few, middle, most);
    }
    hn::StoreU(least, d, kth + c);
  }
}

// Plain, for the compiler to vectorise: bound.h's formulas stand there only.
void Thresholds(const ThresholdColumns& columns, int count, double code_norm, double code_error, double scale,
                int32_t* HWY_RESTRICT thresholds) {
  const auto [score, query_error, projection_norm, tail_excess, inverse_scale, offset] = columns;
  const double inverse_tile_scale = 1.0 / scale;
  for (int c = 0; c < count; ++c) {
    const double error =
        CodeError(query_error[c], projection_norm[c], tail_excess[c], code_norm, code_error, scale);
    thresholds[c] = Int8Threshold(score[c], error, inverse_tile_scale * inverse_scale[c], offset[c]);
  }
}

void ThresholdsOfRows(const ThresholdColumns& columns, const SlopeColumns& slopes, int count,
                      double code_norm, double code_error, double scale, float* HWY_RESTRICT base,
                      float* HWY_RESTRICT by_length, float* HWY_RESTRICT by_along) {
  const auto [score, query_error, projection_norm, tail_excess, inverse_scale, offset] = columns;
  const double *const length = slopes.length, *const along = slopes.along;
  const double most_length = slopes.most_length, most_along = slopes.most_along;
  const double inverse_tile_scale = 1.0 / scale;
  for (int c = 0; c < count; ++c) {
    const double error =
        CodeError(query_error[c], projection_norm[c], tail_excess[c], code_norm, code_error, scale);
    const RowThreshold threshold = ThresholdByRow(score[c], error, inverse_tile_scale * inverse_scale[c],
                                                  offset[c], length[c], most_length, along[c], most_along);
    base[c] = threshold.base;
    by_length[c] = threshold.by_length;
    by_along[c] = threshold.by_along;
  }
}

void BoundCentre(const int32_t* HWY_RESTRICT scores, const CentreColumns& columns, int count,
                 double code_norm, double code_error, double scale, double* HWY_RESTRICT most) {
  const auto [query_scale, offset, query_error, projection_norm, tail_excess] = columns;
  for (int q = 0; q < count; ++q) {
    const double error =
        CodeError(query_error[q], projection_norm[q], tail_excess[q], code_norm, code_error, scale);
    most[q] = BallBound((scores[q] - offset[q]) * query_scale[q] * scale, error, 0.0);
  }
}

void BoundBall(const double* HWY_RESTRICT centres, const BallColumns& columns, size_t count, double radius,
               double* HWY_RESTRICT bounds) {
  const auto [norm, alpha, rest, reach] = columns;
  for (size_t q = 0; q < count; ++q) {
    bounds[q] = BallBound(centres[q], 0.0, BallSpread(norm[q], radius, alpha[q], reach[q], rest[q]));
  }
}

size_t Select(const double* HWY_RESTRICT bounds, const double* HWY_RESTRICT least, size_t count,
              uint32_t* HWY_RESTRICT reaching) {
  const hn::ScalableTag<double> d;
  const size_t lanes = hn::Lanes(d);
  size_t found = 0, i = 0;
  for (; i + lanes <= count; i += lanes) {
    const auto mask = hn::Ge(hn::LoadU(d, bounds + i), hn::LoadU(d, least + i));
    if (HWY_LIKELY(hn::AllFalse(d, mask))) continue;
    for (size_t j = i; j < i + lanes; ++j) {
      reaching[found] = static_cast<uint32_t>(j);
      found += bounds[j] >= least[j] ? 1 : 0;
    }
  }
  for (; i < count; ++i) {
    reaching[found] = static_cast<uint32_t>(i);
    found += bounds[i] >= least[i] ? 1 : 0;
  }
  return found;
}

// Σ aᵢ·bᵢ, exactly. Two lanes of 16 bits make one of 32.
HWY_INLINE int32_t DotCodes(const uint8_t* HWY_RESTRICT a, const int8_t* HWY_RESTRICT b, size_t dim) {
  const hn::ScalableTag<int16_t> d16;
  const hn::RepartitionToWide<decltype(d16)> d32;
  const size_t lanes = hn::Lanes(d16);
  auto even = hn::Zero(d32), odd = hn::Zero(d32);
  size_t i = 0;
  for (; i + lanes <= dim; i += lanes) {
    const auto x = hn::PromoteTo(d16, hn::LoadU(hn::Rebind<uint8_t, decltype(d16)>(), a + i));
    const auto y = hn::PromoteTo(d16, hn::LoadU(hn::Rebind<int8_t, decltype(d16)>(), b + i));
    even = hn::ReorderWidenMulAccumulate(d32, x, y, even, odd);
  }
  int32_t sum = hn::GetLane(hn::SumOfLanes(d32, hn::Add(even, odd)));
  for (; i < dim; ++i) sum += a[i] * b[i];
  return sum;
}

void ScoreEach(const uint8_t* tile, int dim, const int8_t* const* queries,
               absl::Span<const Survivor> survivors, int32_t* scores) {
  const size_t n = static_cast<size_t>(dim);
  for (const Survivor& s : survivors) *scores++ = DotCodes(tile + s.row * n, queries[s.column], n);
}

const char* TargetName() { return hwy::TargetName(HWY_TARGET); }

}  // namespace HWY_NAMESPACE
}  // namespace dotmax
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace dotmax {

HWY_EXPORT(CollectFloats);
HWY_EXPORT(CollectInts);
HWY_EXPORT(CollectByRow);
HWY_EXPORT(AddProducts);
HWY_EXPORT(LargestColumns);
HWY_EXPORT(GroupColumns);
HWY_EXPORT(GroupByRow);
HWY_EXPORT(Kth);
HWY_EXPORT(Thresholds);
HWY_EXPORT(ThresholdsOfRows);
HWY_EXPORT(BoundCentre);
HWY_EXPORT(BoundBall);
HWY_EXPORT(Select);
HWY_EXPORT(ScoreEach);
HWY_EXPORT(TargetName);

size_t CollectSurvivors(const float* scores, int rows, int columns, const float* thresholds,
                        Survivor* survivors) {
  return HWY_DYNAMIC_DISPATCH(CollectFloats)(scores, rows, columns, thresholds, survivors);
}

size_t CollectSurvivors(const int32_t* scores, int rows, int columns, const int32_t* thresholds,
                        Survivor* survivors) {
  return HWY_DYNAMIC_DISPATCH(CollectInts)(scores, rows, columns, thresholds, survivors);
}

size_t CollectSurvivors(const int32_t* scores, int rows, int columns, const ThresholdsByRow& thresholds,
                        const RowTerms& terms, Survivor* survivors) {
  return HWY_DYNAMIC_DISPATCH(CollectByRow)(scores, rows, columns, thresholds, terms, survivors);
}

void AddToScores(int32_t* scores, int rows, int columns, const float* slopes, const float* terms) {
  HWY_DYNAMIC_DISPATCH(AddProducts)(scores, rows, columns, slopes, terms);
}

void LargestByColumn(const int32_t* scores, int rows, int columns, LargestScores& largest) {
  HWY_DYNAMIC_DISPATCH(LargestColumns)(scores, rows, columns, largest);
}

void LargestOfGroup(const int32_t* scores, int rows, size_t step, int columns, const float* offset,
                    float scale, size_t stride, float* largest) {
  HWY_DYNAMIC_DISPATCH(GroupColumns)(scores, rows, step, columns, offset, scale, stride, largest);
}

void LargestOfGroup(const int32_t* scores, int rows, size_t step, int columns, const ThresholdsByRow& less,
                    const RowTerms& terms, const float* scales, size_t stride, float* largest) {
  HWY_DYNAMIC_DISPATCH(GroupByRow)(scores, rows, step, columns, less, terms, scales, stride, largest);
}

void KthLargest(const float* numbers, size_t count, size_t stride, const int32_t* wanted, float* kth) {
  HWY_DYNAMIC_DISPATCH(Kth)(numbers, count, stride, wanted, kth);
}

void Int8Thresholds(const ThresholdColumns& columns, int count, double code_norm, double code_error,
                    double scale, int32_t* thresholds) {
  HWY_DYNAMIC_DISPATCH(Thresholds)(columns, count, code_norm, code_error, scale, thresholds);
}

void Int8ThresholdsByRow(const ThresholdColumns& columns, const SlopeColumns& slopes, int count,
                         double code_norm, double code_error, double scale,
                         const std::array<float*, 3>& by_row) {
  const auto [base, by_length, by_along] = by_row;
  HWY_DYNAMIC_DISPATCH(ThresholdsOfRows)
  (columns, slopes, count, code_norm, code_error, scale, base, by_length, by_along);
}

void MostOfCentre(const int32_t* scores, const CentreColumns& columns, int count, double code_norm,
                  double code_error, double scale, double* most) {
  HWY_DYNAMIC_DISPATCH(BoundCentre)(scores, columns, count, code_norm, code_error, scale, most);
}

void BallBounds(const double* centres, const BallColumns& columns, size_t count, double radius,
                double* bounds) {
  HWY_DYNAMIC_DISPATCH(BoundBall)(centres, columns, count, radius, bounds);
}

size_t SelectReaching(const double* bounds, const double* least, size_t count, uint32_t* reaching) {
  return HWY_DYNAMIC_DISPATCH(Select)(bounds, least, count, reaching);
}

void ScoreSurvivors(const uint8_t* tile, int dim, const int8_t* const* queries,
                    absl::Span<const Survivor> survivors, int32_t* scores) {
  HWY_DYNAMIC_DISPATCH(ScoreEach)(tile, dim, queries, survivors, scores);
}

std::string SimdName() { return HWY_DYNAMIC_DISPATCH(TargetName)(); }

}  // namespace dotmax
#endif  // HWY_ONCE
