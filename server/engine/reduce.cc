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

// The survivors among columns [column, column + lanes) of one row, from the mask of a compare.
template <class D>
HWY_INLINE size_t AppendSurvivors(D d, hn::Mask<D> mask, int row, size_t column, Survivor* out) {
  uint8_t bits[HWY_MAX_BYTES / 8] = {};
  const size_t bytes = hn::StoreMaskBits(d, mask, bits);
  size_t count = 0;
  for (size_t byte = 0; byte < bytes; ++byte) {
    for (uint32_t rest = bits[byte]; rest != 0; rest &= rest - 1) {
      const size_t lane = byte * 8 + hwy::Num0BitsBelowLS1Bit_Nonzero32(rest);
      out[count++] = {static_cast<uint16_t>(row), static_cast<uint16_t>(column + lane)};
    }
  }
  return count;
}

size_t CollectSurvivors(const float* HWY_RESTRICT scores, int rows, int columns,
                        const float* HWY_RESTRICT thresholds, Survivor* HWY_RESTRICT survivors) {
  const hn::ScalableTag<float> d;
  const size_t lanes = hn::Lanes(d);
  const size_t n = static_cast<size_t>(columns);
  size_t count = 0;
  for (int row = 0; row < rows; ++row) {
    const float* HWY_RESTRICT line = scores + row * n;
    size_t column = 0;
    // Four vectors share one branch.
    for (; column + 4 * lanes <= n; column += 4 * lanes) {
      const auto m0 = hn::Ge(hn::LoadU(d, line + column), hn::LoadU(d, thresholds + column));
      const auto m1 = hn::Ge(hn::LoadU(d, line + column + lanes), hn::LoadU(d, thresholds + column + lanes));
      const auto m2 =
          hn::Ge(hn::LoadU(d, line + column + 2 * lanes), hn::LoadU(d, thresholds + column + 2 * lanes));
      const auto m3 =
          hn::Ge(hn::LoadU(d, line + column + 3 * lanes), hn::LoadU(d, thresholds + column + 3 * lanes));
      if (HWY_LIKELY(hn::AllFalse(d, hn::Or(hn::Or(m0, m1), hn::Or(m2, m3))))) continue;
      count += AppendSurvivors(d, m0, row, column, survivors + count);
      count += AppendSurvivors(d, m1, row, column + lanes, survivors + count);
      count += AppendSurvivors(d, m2, row, column + 2 * lanes, survivors + count);
      count += AppendSurvivors(d, m3, row, column + 3 * lanes, survivors + count);
    }
    for (; column < n; ++column) {
      if (line[column] >= thresholds[column]) {
        survivors[count++] = {static_cast<uint16_t>(row), static_cast<uint16_t>(column)};
      }
    }
  }
  return count;
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

const char* SimdTarget() { return hwy::TargetName(HWY_TARGET); }

}  // namespace HWY_NAMESPACE
}  // namespace dotmax
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace dotmax {

HWY_EXPORT(CollectSurvivors);
HWY_EXPORT(CheckDot);
HWY_EXPORT(SimdTarget);

size_t CollectSurvivors(const float* scores, int rows, int columns, const float* thresholds,
                        Survivor* survivors) {
  return HWY_DYNAMIC_DISPATCH(CollectSurvivors)(scores, rows, columns, thresholds, survivors);
}

DotSums CheckDot(const double* a, const std::byte* b, DType dtype, size_t dim) {
  return HWY_DYNAMIC_DISPATCH(CheckDot)(a, b, dtype, dim);
}

std::string SimdTarget() { return HWY_DYNAMIC_DISPATCH(SimdTarget)(); }

}  // namespace dotmax
#endif  // HWY_ONCE
