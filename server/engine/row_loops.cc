#include "server/engine/row_loops.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>

#include "server/engine/aligned.h"

// Compiles the rest of this file once per instruction set.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "server/engine/row_loops.cc"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace dotmax {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

float LargestAbs(const float* HWY_RESTRICT x, size_t n) {
  const hn::ScalableTag<float> d;
  const size_t lanes = hn::Lanes(d);
  auto largest = hn::Zero(d);
  size_t i = 0;
  for (; i + lanes <= n; i += lanes) {
    __builtin_prefetch(x + i + kReadAheadBytes / sizeof(float));
    largest = hn::Max(largest, hn::Abs(hn::LoadU(d, x + i)));
  }
  float result = hn::GetLane(hn::MaxOfLanes(d, largest));
  for (; i < n; ++i) result = std::max(result, std::abs(x[i]));
  return result;
}

template <class Code>
HWY_INLINE CodeSums EncodeOf(const float* HWY_RESTRICT x, size_t n, double scale, float inverse_scale,
                             int limit, int zero, Code* HWY_RESTRICT codes) {
  const hn::ScalableTag<double> d;
  const hn::Rebind<float, decltype(d)> d32;
  const hn::Rebind<int32_t, decltype(d)> di;
  const hn::Rebind<Code, decltype(d)> dc;
  const size_t lanes = hn::Lanes(d);
  auto code_sum = hn::Zero(di);
  auto error = hn::Zero(d), decoded = hn::Zero(d), squares = hn::Zero(d);
  const auto add = [&](hn::Vec<decltype(d32)> y) HWY_ATTR {
    const auto rounded = hn::NearestInt(hn::Mul(y, hn::Set(d32, inverse_scale)));
    const auto code = hn::Min(hn::Max(rounded, hn::Set(di, -limit)), hn::Set(di, limit));
    const auto wide = hn::PromoteTo(d, y);
    const auto back = hn::Mul(hn::PromoteTo(d, code), hn::Set(d, scale));
    const auto rest = hn::Sub(wide, back);
    code_sum = hn::Add(code_sum, code);
    error = hn::Add(error, hn::Mul(rest, rest));
    decoded = hn::Add(decoded, hn::Mul(back, back));
    squares = hn::Add(squares, hn::Mul(wide, wide));
    return hn::DemoteTo(dc, hn::Add(code, hn::Set(di, zero)));
  };
  size_t i = 0;
  for (; i + lanes <= n; i += lanes) hn::StoreU(add(hn::LoadU(d32, x + i)), dc, codes + i);
  if (i < n) {  // zeros are coded as zero, and add nothing
    HWY_ALIGN float rest[HWY_MAX_BYTES / sizeof(double)] = {};
    HWY_ALIGN Code rest_codes[HWY_MAX_BYTES];
    std::copy(x + i, x + n, rest);
    hn::Store(add(hn::Load(d32, rest)), dc, rest_codes);
    std::copy_n(rest_codes, n - i, codes + i);
  }
  return {hn::GetLane(hn::SumOfLanes(di, code_sum)), hn::GetLane(hn::SumOfLanes(d, error)),
          hn::GetLane(hn::SumOfLanes(d, decoded)), hn::GetLane(hn::SumOfLanes(d, squares))};
}

CodeSums EncodeS8(const float* x, size_t n, double scale, float inverse_scale, int limit, int8_t* codes) {
  return EncodeOf(x, n, scale, inverse_scale, limit, 0, codes);
}
CodeSums EncodeU8(const float* x, size_t n, double scale, float inverse_scale, int limit, int zero,
                  uint8_t* codes) {
  return EncodeOf(x, n, scale, inverse_scale, limit, zero, codes);
}

// The low bits of a number to which 1.5·2^23 was added hold it, rounded to an integer.
HWY_INLINE PlainSums EncodePlainOf(const float* HWY_RESTRICT x, size_t n, float inverse_scale, int zero,
                                   uint8_t* HWY_RESTRICT codes) {
  const hn::ScalableTag<float> d;
  const hn::RebindToUnsigned<decltype(d)> du;
  const hn::Rebind<uint8_t, decltype(d)> d8;
  const size_t lanes = hn::Lanes(d);
  const float rounds = 0x1.8p23f + static_cast<float>(zero);
  auto code_sum = hn::Zero(du);
  const auto encode = [&](hn::Vec<decltype(d)> y, uint8_t* to) HWY_ATTR {
    const auto bits = hn::BitCast(du, hn::MulAdd(y, hn::Set(d, inverse_scale), hn::Set(d, rounds)));
    code_sum = hn::Add(code_sum, bits);
    hn::StoreU(hn::TruncateTo(d8, bits), d8, to);
  };
  auto even = hn::Zero(d), odd = hn::Zero(d);  // two sums, as each waits for the one before
  size_t i = 0;
  for (; i + 2 * lanes <= n; i += 2 * lanes) {
    const auto y0 = hn::LoadU(d, x + i), y1 = hn::LoadU(d, x + i + lanes);
    encode(y0, codes + i);
    encode(y1, codes + i + lanes);
    even = hn::MulAdd(y0, y0, even);
    odd = hn::MulAdd(y1, y1, odd);
  }
  for (; i < n; i += lanes) {
    HWY_ALIGN float rest[HWY_MAX_BYTES / sizeof(float)] = {};
    HWY_ALIGN uint8_t rest_codes[HWY_MAX_BYTES];
    const size_t count = std::min(lanes, n - i);
    std::copy_n(x + i, count, rest);
    const auto y = hn::Load(d, rest);
    encode(y, rest_codes);
    even = hn::MulAdd(y, y, even);
    std::copy_n(rest_codes, count, codes + i);
  }
  const float sum = hn::GetLane(hn::SumOfLanes(d, hn::Add(even, odd)));
  const auto zeros = static_cast<uint32_t>((n + lanes - 1) / lanes) * std::bit_cast<uint32_t>(rounds);
  const hn::RebindToSigned<decltype(d)> di;
  const auto codes_of_lanes = hn::BitCast(di, hn::Sub(code_sum, hn::Set(du, zeros)));
  return {hn::GetLane(hn::SumOfLanes(di, codes_of_lanes)), sum};
}

PlainSums EncodePlainS8(const float* x, size_t n, float inverse_scale, int8_t* codes) {
  return EncodePlainOf(x, n, inverse_scale, 0, reinterpret_cast<uint8_t*>(codes));
}

PlainSquares EncodePlainU8(const float* x, size_t rows, size_t dim, float inverse_scale, int zero,
                           size_t stride, uint8_t* codes) {
  PlainSquares squares = {std::numeric_limits<float>::infinity(), 0.0f};
  for (size_t r = 0; r < rows; ++r, x += dim, codes += stride) {
    const float row = EncodePlainOf(x, dim, inverse_scale, zero, codes).squares;
    std::fill(codes + dim, codes + stride, uint8_t{0});
    squares = {std::min(squares.least, row), std::max(squares.most, row)};
  }
  return squares;
}

double ScaleRow(const double* HWY_RESTRICT x, size_t n, double factor, float* HWY_RESTRICT to) {
  const hn::ScalableTag<double> d;
  const hn::Rebind<float, decltype(d)> d32;
  const size_t lanes = hn::Lanes(d);
  auto even = hn::Zero(d), odd = hn::Zero(d);  // two sums, as each waits for the one before
  const auto squares = [&](size_t i) HWY_ATTR {
    const auto scaled = hn::Mul(hn::LoadU(d, x + i), hn::Set(d, factor));
    hn::StoreU(hn::DemoteTo(d32, scaled), d32, to + i);
    return hn::Mul(scaled, scaled);
  };
  size_t i = 0;
  for (; i + 2 * lanes <= n; i += 2 * lanes) {
    even = hn::Add(even, squares(i));
    odd = hn::Add(odd, squares(i + lanes));
  }
  for (; i + lanes <= n; i += lanes) even = hn::Add(even, squares(i));
  double sum = hn::GetLane(hn::SumOfLanes(d, hn::Add(even, odd)));
  for (; i < n; ++i) {
    const double scaled = x[i] * factor;
    sum += scaled * scaled;
    to[i] = static_cast<float>(scaled);
  }
  return sum;
}

void SubtractMultipleOf(const float* HWY_RESTRICT x, const float* HWY_RESTRICT y, double factor, size_t n,
                        float* HWY_RESTRICT to) {
  const hn::ScalableTag<double> d;
  const hn::Rebind<float, decltype(d)> d32;
  const size_t lanes = hn::Lanes(d);
  size_t i = 0;
  for (; i + lanes <= n; i += lanes) {
    const auto a = hn::PromoteTo(d, hn::LoadU(d32, x + i)), b = hn::PromoteTo(d, hn::LoadU(d32, y + i));
    hn::StoreU(hn::DemoteTo(d32, hn::NegMulAdd(b, hn::Set(d, factor), a)), d32, to + i);
  }
  for (; i < n; ++i) to[i] = static_cast<float>(x[i] - factor * y[i]);
}

void AddSquares(const double* HWY_RESTRICT rows, size_t count, size_t dim, double* HWY_RESTRICT squares) {
  const hn::ScalableTag<double> d;
  const size_t lanes = hn::Lanes(d);
  for (size_t r = 0; r < count; ++r, rows += dim) {
    auto sums = hn::Zero(d);
    size_t i = 0;
    for (; i + lanes <= dim; i += lanes) {
      const auto x = hn::LoadU(d, rows + i);
      sums = hn::MulAdd(x, x, sums);
    }
    double sum = i > 0 ? hn::GetLane(hn::SumOfLanes(d, sums)) : 0.0;
    for (; i < dim; ++i) sum += rows[i] * rows[i];
    squares[r] = sum;
  }
}

// Appends those of one row, of some columns.
template <class D, class M>
HWY_INLINE void AppendReaching(D d, M mask, size_t row, size_t column, Survivor* HWY_RESTRICT& end) {
  uint8_t bytes[8] = {};  // one of them is used
  hn::StoreMaskBits(d, mask, bytes);
  for (unsigned bits = bytes[0]; bits != 0; bits &= bits - 1) {
    *end++ = {static_cast<uint16_t>(column + std::countr_zero(bits)), static_cast<uint16_t>(row)};
  }
}

// Eight sums at once hide how long each waits for its own.
size_t CollectRows(const double* HWY_RESTRICT rows, const double* HWY_RESTRICT terms, size_t first_row,
                   size_t count, size_t dim, const PackedColumns& columns, size_t first_column,
                   Survivor* HWY_RESTRICT survivors) {
  const hn::CappedTag<double, 8> d;
  const size_t lanes = hn::Lanes(d), width = columns.width;
  const double* HWY_RESTRICT packed = columns.packed;
  Survivor* HWY_RESTRICT end = survivors;
  for (size_t first = 0; first < count; first += 8) {
    // Should there be fewer rows, the last one is scored several times.
    const auto at = [&](size_t i) { return std::min(first + i, count - 1); };
    const double *const x0 = rows + at(0) * dim, *const x1 = rows + at(1) * dim;
    const double *const x2 = rows + at(2) * dim, *const x3 = rows + at(3) * dim;
    const double *const x4 = rows + at(4) * dim, *const x5 = rows + at(5) * dim;
    const double *const x6 = rows + at(6) * dim, *const x7 = rows + at(7) * dim;
    for (size_t c = 0; c < width; c += lanes) {
      auto s0 = hn::Zero(d), s1 = s0, s2 = s0, s3 = s0, s4 = s0, s5 = s0, s6 = s0, s7 = s0;
      for (size_t i = 0; i < dim; ++i) {
        const auto y = hn::LoadU(d, packed + i * width + c);
        s0 = hn::MulAdd(hn::Set(d, x0[i]), y, s0);
        s1 = hn::MulAdd(hn::Set(d, x1[i]), y, s1);
        s2 = hn::MulAdd(hn::Set(d, x2[i]), y, s2);
        s3 = hn::MulAdd(hn::Set(d, x3[i]), y, s3);
        s4 = hn::MulAdd(hn::Set(d, x4[i]), y, s4);
        s5 = hn::MulAdd(hn::Set(d, x5[i]), y, s5);
        s6 = hn::MulAdd(hn::Set(d, x6[i]), y, s6);
        s7 = hn::MulAdd(hn::Set(d, x7[i]), y, s7);
      }
      const auto base = hn::LoadU(d, columns.base + c), slopes = hn::LoadU(d, columns.slopes + c);
      const auto reaches = [&](hn::Vec<decltype(d)> sum, size_t i) HWY_ATTR {
        return hn::Ge(sum, hn::MulAdd(slopes, hn::Set(d, terms[at(i)]), base));
      };
      const auto m0 = reaches(s0, 0), m1 = reaches(s1, 1), m2 = reaches(s2, 2), m3 = reaches(s3, 3);
      const auto m4 = reaches(s4, 4), m5 = reaches(s5, 5), m6 = reaches(s6, 6), m7 = reaches(s7, 7);
      const auto any = hn::Or(hn::Or(hn::Or(m0, m1), hn::Or(m2, m3)), hn::Or(hn::Or(m4, m5), hn::Or(m6, m7)));
      if (HWY_LIKELY(hn::AllFalse(d, any))) continue;
      const size_t left = count - first, row = first_row + first, column = first_column + c;
      AppendReaching(d, m0, row, column, end);
      if (left > 1) AppendReaching(d, m1, row + 1, column, end);
      if (left > 2) AppendReaching(d, m2, row + 2, column, end);
      if (left > 3) AppendReaching(d, m3, row + 3, column, end);
      if (left > 4) AppendReaching(d, m4, row + 4, column, end);
      if (left > 5) AppendReaching(d, m5, row + 5, column, end);
      if (left > 6) AppendReaching(d, m6, row + 6, column, end);
      if (left > 7) AppendReaching(d, m7, row + 7, column, end);
    }
  }
  return end - survivors;
}

}  // namespace HWY_NAMESPACE
}  // namespace dotmax
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace dotmax {

HWY_EXPORT(LargestAbs);
HWY_EXPORT(EncodeS8);
HWY_EXPORT(EncodeU8);
HWY_EXPORT(EncodePlainS8);
HWY_EXPORT(EncodePlainU8);
HWY_EXPORT(ScaleRow);
HWY_EXPORT(SubtractMultipleOf);
HWY_EXPORT(AddSquares);
HWY_EXPORT(CollectRows);

float MaxAbs(const float* x, size_t n) { return HWY_DYNAMIC_DISPATCH(LargestAbs)(x, n); }

CodeSums EncodeSigned(const float* x, size_t n, double scale, float inverse_scale, int limit, int8_t* codes) {
  return HWY_DYNAMIC_DISPATCH(EncodeS8)(x, n, scale, inverse_scale, limit, codes);
}
CodeSums EncodeUnsigned(const float* x, size_t n, double scale, float inverse_scale, int limit, int zero,
                        uint8_t* codes) {
  return HWY_DYNAMIC_DISPATCH(EncodeU8)(x, n, scale, inverse_scale, limit, zero, codes);
}

PlainSums EncodePlainSigned(const float* x, size_t n, float inverse_scale, int8_t* codes) {
  return HWY_DYNAMIC_DISPATCH(EncodePlainS8)(x, n, inverse_scale, codes);
}
PlainSquares EncodePlainUnsigned(const float* x, size_t rows, size_t dim, float inverse_scale, int zero,
                                 size_t stride, uint8_t* codes) {
  return HWY_DYNAMIC_DISPATCH(EncodePlainU8)(x, rows, dim, inverse_scale, zero, stride, codes);
}

double ScaleToFloat32(const double* x, size_t n, double factor, float* to) {
  return HWY_DYNAMIC_DISPATCH(ScaleRow)(x, n, factor, to);
}

void SubtractMultiple(const float* x, const float* y, double factor, size_t n, float* to) {
  HWY_DYNAMIC_DISPATCH(SubtractMultipleOf)(x, y, factor, n, to);
}

void SquaresOfRows(const double* rows, size_t count, size_t dim, double* squares) {
  HWY_DYNAMIC_DISPATCH(AddSquares)(rows, count, dim, squares);
}

size_t CollectReaching(const double* rows, const double* terms, size_t first_row, size_t count, size_t dim,
                       const PackedColumns& columns, size_t first_column, Survivor* survivors) {
  return HWY_DYNAMIC_DISPATCH(CollectRows)(rows, terms, first_row, count, dim, columns, first_column,
                                           survivors);
}

}  // namespace dotmax
#endif  // HWY_ONCE
