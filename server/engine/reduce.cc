#include "server/engine/reduce.h"

#include <cstring>

#include "server/base/dtype.h"

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

template <class T>
HWY_INLINE size_t CollectSurvivorsOf(const T* HWY_RESTRICT scores, int rows, int columns,
                                     const T* HWY_RESTRICT thresholds, Survivor* HWY_RESTRICT survivors) {
  static_assert(sizeof(Survivor) == sizeof(uint32_t));
  const hn::ScalableTag<T> d;
  const size_t lanes = hn::Lanes(d);
  const size_t n = static_cast<size_t>(columns);
  uint32_t* out = reinterpret_cast<uint32_t*>(survivors);
  for (int row = 0; row < rows; ++row) {
    const T* HWY_RESTRICT line = scores + row * n;
    const uint32_t row_bits = static_cast<uint32_t>(row) << 16;  // little-endian: the row is the upper half
    size_t column = 0;
    const auto exceeds = [&](size_t c) HWY_ATTR {
      return hn::Gt(hn::LoadU(d, line + c), hn::LoadU(d, thresholds + c));
    };
    // Four vectors share one branch.
    for (; column + 4 * lanes <= n; column += 4 * lanes) {
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
    for (; column + lanes <= n; column += lanes) {
      const auto m = exceeds(column);
      if (HWY_LIKELY(hn::AllFalse(d, m))) continue;
      out += AppendSurvivors(d, m, row_bits + static_cast<uint32_t>(column), out);
    }
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

// Element formats: each loads Lanes(double) elements from any address as float64, exactly.
struct LoadFloat64 {
  using Element = double;
  template <class D>
  static HWY_INLINE hn::Vec<D> Load(D d, const double* from) {
    return hn::LoadU(d, from);
  }
};
struct LoadFloat32 {
  using Element = float;
  template <class D>
  static HWY_INLINE hn::Vec<D> Load(D d, const float* from) {
    return hn::PromoteTo(d, hn::LoadU(hn::Rebind<float, D>(), from));
  }
};
struct LoadFloat16 {
  using Element = hwy::float16_t;
  template <class D>
  static HWY_INLINE hn::Vec<D> Load(D d, const hwy::float16_t* from) {
    const hn::Rebind<float, D> d32;
    return hn::PromoteTo(d, hn::PromoteTo(d32, hn::LoadU(hn::Rebind<hwy::float16_t, D>(), from)));
  }
};
struct LoadBFloat16 {
  using Element = hwy::bfloat16_t;
  template <class D>
  static HWY_INLINE hn::Vec<D> Load(D d, const hwy::bfloat16_t* from) {
    const hn::Rebind<float, D> d32;
    return hn::PromoteTo(d, hn::PromoteTo(d32, hn::LoadU(hn::Rebind<hwy::bfloat16_t, D>(), from)));
  }
};
struct LoadInt8 {
  using Element = int8_t;
  template <class D>
  static HWY_INLINE hn::Vec<D> Load(D d, const int8_t* from) {
    const hn::Rebind<int32_t, D> d32;
    return hn::PromoteTo(d, hn::PromoteTo(d32, hn::LoadU(hn::Rebind<int8_t, D>(), from)));
  }
};

template <class Loader>
HWY_INLINE DotSums CheckDotOf(const double* HWY_RESTRICT a, const std::byte* HWY_RESTRICT bytes, DType dtype,
                              size_t dim) {
  const hn::ScalableTag<double> d;
  using V = hn::Vec<decltype(d)>;
  const size_t lanes = hn::Lanes(d);
  const auto* b = reinterpret_cast<const typename Loader::Element*>(bytes);
  V sum0 = hn::Zero(d), sum1 = hn::Zero(d), abs0 = hn::Zero(d), abs1 = hn::Zero(d);
  size_t i = 0;
  for (; i + 2 * lanes <= dim; i += 2 * lanes) {
    const V product0 = hn::Mul(hn::LoadU(d, a + i), Loader::Load(d, b + i));
    const V product1 = hn::Mul(hn::LoadU(d, a + i + lanes), Loader::Load(d, b + i + lanes));
    sum0 = hn::Add(sum0, product0);
    sum1 = hn::Add(sum1, product1);
    abs0 = hn::Add(abs0, hn::Abs(product0));
    abs1 = hn::Add(abs1, hn::Abs(product1));
  }
  DotSums sums = {hn::GetLane(hn::SumOfLanes(d, hn::Add(sum0, sum1))),
                  hn::GetLane(hn::SumOfLanes(d, hn::Add(abs0, abs1)))};
  // The rest, less than two vectors, one by one.
  double rest[2 * HWY_MAX_BYTES / sizeof(double)];
  ToFloat64(bytes + i * ByteWidth(dtype), dtype, dim - i, rest);
  for (size_t j = 0; i + j < dim; ++j) {
    const double product = a[i + j] * rest[j];
    sums.sum += product;
    sums.sum_abs += product < 0 ? -product : product;
  }
  return sums;
}

DotSums CheckDot(const double* a, const std::byte* b, DType dtype, size_t dim) {
  switch (dtype) {
    case DType::kFloat64:
      return CheckDotOf<LoadFloat64>(a, b, dtype, dim);
    case DType::kFloat32:
      return CheckDotOf<LoadFloat32>(a, b, dtype, dim);
    case DType::kFloat16:
      return CheckDotOf<LoadFloat16>(a, b, dtype, dim);
    case DType::kBFloat16:
      return CheckDotOf<LoadBFloat16>(a, b, dtype, dim);
    case DType::kInt8:
      return CheckDotOf<LoadInt8>(a, b, dtype, dim);
  }
  return {};
}

}  // namespace HWY_NAMESPACE
}  // namespace dotmax
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace dotmax {

HWY_EXPORT(CollectFloats);
HWY_EXPORT(CollectInts);
HWY_EXPORT(CheckDot);

size_t CollectSurvivors(const float* scores, int rows, int columns, const float* thresholds,
                        Survivor* survivors) {
  return HWY_DYNAMIC_DISPATCH(CollectFloats)(scores, rows, columns, thresholds, survivors);
}

size_t CollectSurvivors(const int32_t* scores, int rows, int columns, const int32_t* thresholds,
                        Survivor* survivors) {
  return HWY_DYNAMIC_DISPATCH(CollectInts)(scores, rows, columns, thresholds, survivors);
}

DotSums CheckDot(const double* a, const std::byte* b, DType dtype, size_t dim) {
  return HWY_DYNAMIC_DISPATCH(CheckDot)(a, b, dtype, dim);
}

}  // namespace dotmax
#endif  // HWY_ONCE
