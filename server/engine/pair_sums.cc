#include "server/engine/pair_sums.h"

#include <cmath>
#include <cstring>
#include <type_traits>
#include <vector>

#include "server/base/dtype.h"
#include "server/engine/aligned.h"

// Vectors of unknown length can't be members or elements, as they are here: arm64 gets NEON.
#define HWY_DISABLED_TARGETS (HWY_SVE | HWY_SVE2 | HWY_SVE_256 | HWY_SVE2_128)
// Compiles the rest of this file once per instruction set.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "server/engine/pair_sums.cc"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace dotmax {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

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

// The first n < Lanes(double) elements, and zeros. Only AVX masks loads from any address; others read it all.
template <class Loader, class D>
HWY_INLINE hn::Vec<D> LoadFirst(D d, const typename Loader::Element* from, size_t n) {
  using Element = typename Loader::Element;
#if HWY_ARCH_X86 && HWY_TARGET <= HWY_AVX2
  if constexpr (std::is_same_v<Element, double>) return hn::MaskedLoad(hn::FirstN(d, n), d, from);
  if constexpr (std::is_same_v<Element, float>) {
    const hn::Rebind<float, D> d32;
    return hn::PromoteTo(d, hn::MaskedLoad(hn::FirstN(d32, n), d32, from));
  }
#endif
  HWY_ALIGN Element first[HWY_MAX_BYTES / sizeof(double)] = {};
  std::memcpy(first, from, n * sizeof(Element));
  return Loader::Load(d, first);
}

// Calls step(accumulator, a, b) with all elements of two rows, a vector at a time, zeros at the end. Two
// accumulators in turn (0 and 1) hide latencies.
template <class Loader, class Step>
HWY_INLINE void ForEachPair(const double* HWY_RESTRICT a, const std::byte* HWY_RESTRICT bytes, size_t dim,
                            const Step& step) {
  const hn::ScalableTag<double> d;
  const size_t lanes = hn::Lanes(d);
  const auto* b = reinterpret_cast<const typename Loader::Element*>(bytes);
  size_t i = 0;
  for (; i + 2 * lanes <= dim; i += 2 * lanes) {
    step(0, hn::LoadU(d, a + i), Loader::Load(d, b + i));
    step(1, hn::LoadU(d, a + i + lanes), Loader::Load(d, b + i + lanes));
  }
  for (; i + lanes <= dim; i += lanes) step(0, hn::LoadU(d, a + i), Loader::Load(d, b + i));
  if (i < dim) step(1, LoadFirst<LoadFloat64>(d, a + i, dim - i), LoadFirst<Loader>(d, b + i, dim - i));
}

// sums_of(loader) for the loader of a dtype.
template <class SumsOf>
HWY_INLINE auto WithLoader(DType dtype, const SumsOf& sums_of) {
  switch (dtype) {
    case DType::kFloat64:
      break;
    case DType::kFloat32:
      return sums_of(LoadFloat32());
    case DType::kFloat16:
      return sums_of(LoadFloat16());
    case DType::kBFloat16:
      return sums_of(LoadBFloat16());
    case DType::kInt8:
      return sums_of(LoadInt8());
  }
  return sums_of(LoadFloat64());
}

template <class V>
HWY_INLINE double SumOf(const V* two) {
  const hn::ScalableTag<double> d;
  return hn::GetLane(hn::SumOfLanes(d, hn::Add(two[0], two[1])));
}

template <class Loader>
HWY_INLINE DotSums CheckDotOf(const double* HWY_RESTRICT a, const std::byte* HWY_RESTRICT b, size_t dim) {
  const hn::ScalableTag<double> d;
  using V = hn::Vec<decltype(d)>;
  V sum[2] = {hn::Zero(d), hn::Zero(d)}, sum_abs[2] = {hn::Zero(d), hn::Zero(d)};
  ForEachPair<Loader>(a, b, dim, [&](int i, V x, V y) HWY_ATTR {
    const V product = hn::Mul(x, y);
    sum[i] = hn::Add(sum[i], product);
    sum_abs[i] = hn::Add(sum_abs[i], hn::Abs(product));
  });
  return {SumOf(sum), SumOf(sum_abs)};
}

template <class Loader>
HWY_INLINE DotAndSquares CheckDotAndSquaresOf(const double* HWY_RESTRICT a, const std::byte* HWY_RESTRICT b,
                                              size_t dim) {
  const hn::ScalableTag<double> d;
  using V = hn::Vec<decltype(d)>;
  V sum[2] = {hn::Zero(d), hn::Zero(d)}, sum_abs[2] = {hn::Zero(d), hn::Zero(d)};
  V squares[2] = {hn::Zero(d), hn::Zero(d)};
  ForEachPair<Loader>(a, b, dim, [&](int i, V x, V y) HWY_ATTR {
    const V product = hn::Mul(x, y);
    sum[i] = hn::Add(sum[i], product);
    sum_abs[i] = hn::Add(sum_abs[i], hn::Abs(product));
    squares[i] = hn::MulAdd(y, y, squares[i]);
  });
  return {SumOf(sum), SumOf(sum_abs), SumOf(squares)};
}

template <class Loader>
HWY_INLINE double CheckSquaredDistanceOf(const double* HWY_RESTRICT a, const std::byte* HWY_RESTRICT b,
                                         size_t dim) {
  const hn::ScalableTag<double> d;
  using V = hn::Vec<decltype(d)>;
  V sum[2] = {hn::Zero(d), hn::Zero(d)};
  ForEachPair<Loader>(a, b, dim, [&](int i, V x, V y) HWY_ATTR {
    const V difference = hn::Sub(x, y);
    sum[i] = hn::MulAdd(difference, difference, sum[i]);
  });
  return SumOf(sum);
}

DotSums CheckDot(const double* a, const std::byte* b, DType dtype, size_t dim) {
  return WithLoader(dtype, [&](auto loader) HWY_ATTR { return CheckDotOf<decltype(loader)>(a, b, dim); });
}

DotAndSquares CheckDotAndSquares(const double* a, const std::byte* b, DType dtype, size_t dim) {
  return WithLoader(dtype,
                    [&](auto loader) HWY_ATTR { return CheckDotAndSquaresOf<decltype(loader)>(a, b, dim); });
}

double CheckSquaredDistance(const double* a, const std::byte* b, DType dtype, size_t dim) {
  return WithLoader(
      dtype, [&](auto loader) HWY_ATTR { return CheckSquaredDistanceOf<decltype(loader)>(a, b, dim); });
}

// Each of kSums sums per query waits for the one before it.
template <size_t kQueries, size_t kSums>
HWY_INLINE void Float32DotsOf(const float* HWY_RESTRICT row, size_t dim, const float* const* queries,
                              float* HWY_RESTRICT dots) {
  const hn::ScalableTag<float> d;
  using V = hn::Vec<decltype(d)>;
  const size_t lanes = hn::Lanes(d);
  V sums[kQueries][kSums];
  for (auto& of_query : sums) {
    for (V& sum : of_query) sum = hn::Zero(d);
  }
  size_t i = 0;
  for (; i + kSums * lanes <= dim; i += kSums * lanes) {
    for (size_t s = 0; s < kSums; ++s) {
      const V x = hn::LoadU(d, row + i + s * lanes);
      for (size_t q = 0; q < kQueries; ++q) {
        sums[q][s] = hn::MulAdd(x, hn::LoadU(d, queries[q] + i + s * lanes), sums[q][s]);
      }
    }
  }
  for (; i + lanes <= dim; i += lanes) {
    const V x = hn::LoadU(d, row + i);
    for (size_t q = 0; q < kQueries; ++q) {
      sums[q][0] = hn::MulAdd(x, hn::LoadU(d, queries[q] + i), sums[q][0]);
    }
  }
  for (size_t q = 0; q < kQueries; ++q) {
    V sum = sums[q][0];
    for (size_t s = 1; s < kSums; ++s) sum = hn::Add(sum, sums[q][s]);
    dots[q] = hn::GetLane(hn::SumOfLanes(d, sum));
    for (size_t j = i; j < dim; ++j) dots[q] += row[j] * queries[q][j];
  }
}

void Float32Dots(const float* row, size_t dim, absl::Span<const float* const> queries, float* dots) {
  constexpr size_t kTogether = 4;
  size_t q = 0;
  for (; q + kTogether <= queries.size(); q += kTogether) {
    Float32DotsOf<kTogether, 2>(row, dim, queries.data() + q, dots + q);
  }
  for (; q < queries.size(); ++q) Float32DotsOf<1, 4>(row, dim, queries.data() + q, dots + q);
}

template <class Loader>
HWY_INLINE double WidenOf(const std::byte* HWY_RESTRICT bytes, size_t dim, double* HWY_RESTRICT to) {
  const hn::ScalableTag<double> d;
  const size_t lanes = hn::Lanes(d);
  const auto* row = reinterpret_cast<const typename Loader::Element*>(bytes);
  auto largest = hn::Zero(d);
  size_t i = 0;
  for (; i + lanes <= dim; i += lanes) {
    const auto x = Loader::Load(d, row + i);
    __builtin_prefetch(bytes + i * sizeof(*row) + kReadAheadBytes);
    largest = hn::Max(largest, hn::Abs(x));
    hn::StoreU(x, d, to + i);
  }
  if (i < dim) {
    const auto x = LoadFirst<Loader>(d, row + i, dim - i);
    largest = hn::Max(largest, hn::Abs(x));
    HWY_ALIGN double rest[HWY_MAX_BYTES / sizeof(double)];
    hn::Store(x, d, rest);
    std::memcpy(to + i, rest, (dim - i) * sizeof(double));
  }
  return hn::GetLane(hn::MaxOfLanes(d, largest));
}

double Widen(const std::byte* row, DType dtype, size_t dim, double* to) {
  return WithLoader(dtype, [&](auto loader) HWY_ATTR { return WidenOf<decltype(loader)>(row, dim, to); });
}

// What rounding x + y to `sum` lost (Knuth's TwoSum).
template <class V>
HWY_INLINE V SumError(V x, V y, V sum) {
  const V back = hn::Sub(sum, x);
  return hn::Add(hn::Sub(x, hn::Sub(sum, back)), hn::Sub(y, back));
}

// What rounding x·y to `product` lost, exact down to 2^-1074.
template <class D, class V>
HWY_INLINE V ProductError(D d, V x, V y, V product) {
#if HWY_NATIVE_FMA
  (void)d;
  return hn::MulSub(x, y, product);
#else
  constexpr size_t kLanes = HWY_MAX_BYTES / sizeof(double);
  HWY_ALIGN double xs[kLanes], ys[kLanes], products[kLanes];
  hn::Store(x, d, xs);
  hn::Store(y, d, ys);
  hn::Store(product, d, products);
  for (size_t i = 0; i < hn::Lanes(d); ++i) xs[i] = std::fma(xs[i], ys[i], -products[i]);
  return hn::Load(d, xs);
#endif
}

// A running sum per lane, and what its additions (and whoever else) lost.
template <class D>
struct PreciseSum {
  using V = hn::Vec<D>;
  V hi, lo;

  HWY_INLINE void Add(V x) {
    const V sum = hn::Add(hi, x);
    lo = hn::Add(lo, SumError(hi, x, sum));
    hi = sum;
  }

  // Over all lanes.
  HWY_INLINE DoubleDouble Total() const {
    HWY_ALIGN double lanes[HWY_MAX_BYTES / sizeof(double)];
    hn::Store(hi, D(), lanes);
    double sum = lanes[0], rest = 0.0;
    for (size_t i = 1; i < hn::Lanes(D()); ++i) {
      const double next = sum + lanes[i], back = next - sum;
      rest += (sum - (next - back)) + (lanes[i] - back);
      sum = next;
    }
    return {sum, hn::GetLane(hn::SumOfLanes(D(), lo)) + rest};
  }
};

template <class D>
HWY_INLINE PreciseSum<D> NoSum(D d) {
  return {hn::Zero(d), hn::Zero(d)};
}

// The sum of two.
template <class D>
HWY_INLINE DoubleDouble TotalOf(PreciseSum<D>* two) {
  two[0].Add(two[1].hi);
  two[0].lo = hn::Add(two[0].lo, two[1].lo);
  return two[0].Total();
}

// Two running sums that began with an anchor.
template <class D>
struct Anchored {
  using V = hn::Vec<D>;

  HWY_INLINE explicit Anchored(double its_anchor) : anchor(hn::Set(D(), its_anchor)), sums{anchor, anchor} {}

  // Adds x·y to one of them; returns what that lost. kExact: x·y is a float64.
  template <bool kExact>
  HWY_INLINE V AddProduct(int i, V x, V y) {
#if HWY_NATIVE_FMA
    const V next = hn::MulAdd(x, y, sums[i]);
    const V lost = hn::MulSub(x, y, hn::Sub(next, sums[i]));
    sums[i] = next;
    return lost;
#else
    const V product = hn::Mul(x, y), lost = Add(i, product);
    return kExact ? lost : hn::Add(lost, ProductError(D(), x, y, product));
#endif
  }
  HWY_INLINE V Add(int i, V x) {
    const V next = hn::Add(sums[i], x);
    const V lost = hn::Sub(x, hn::Sub(next, sums[i]));
    sums[i] = next;
    return lost;
  }

  // Exact: sums of some of the terms, of all lanes or some, stay far below the anchor.
  HWY_INLINE double Total() const {
    const V all = hn::Add(hn::Sub(sums[0], anchor), hn::Sub(sums[1], anchor));
    return hn::GetLane(hn::SumOfLanes(D(), all));
  }

  V anchor;
  V sums[2];
};

// The same, with what they lose summed up.
template <class D>
struct AnchoredSum {
  HWY_INLINE explicit AnchoredSum(double anchor) : hi(anchor), lo{hn::Zero(D()), hn::Zero(D())} {}

  template <bool kExact, class V>
  HWY_INLINE void AddProduct(int i, V x, V y) {
    lo[i] = hn::Add(lo[i], hi.template AddProduct<kExact>(i, x, y));
  }
  HWY_INLINE DoubleDouble Total() const { return {hi.Total(), SumOf(lo)}; }

  Anchored<D> hi;
  hn::Vec<D> lo[2];
};

template <class Loader, bool kExact>
HWY_INLINE DoubleDouble AnchoredDotOf(const double* HWY_RESTRICT a, const std::byte* HWY_RESTRICT b,
                                      size_t dim, double anchor) {
  AnchoredSum<hn::ScalableTag<double>> dot(anchor);
  ForEachPair<Loader>(a, b, dim,
                      [&](int i, auto x, auto y) HWY_ATTR { dot.template AddProduct<kExact>(i, x, y); });
  return dot.Total();
}

template <class Loader, bool kExact>
HWY_INLINE AnchoredDots AnchoredDotsOf(const double* HWY_RESTRICT a, const std::byte* HWY_RESTRICT b,
                                       size_t dim, double dot_anchor, double squares_anchor) {
  AnchoredSum<hn::ScalableTag<double>> dot(dot_anchor), squares(squares_anchor);
  ForEachPair<Loader>(a, b, dim, [&](int i, auto x, auto y) HWY_ATTR {
    dot.template AddProduct<kExact>(i, x, y);
    squares.template AddProduct<kExact>(i, y, y);
  });
  return {dot.Total(), squares.Total()};
}

template <class Loader>
HWY_INLINE AnchoredSums AnchoredDotTwiceOf(const double* HWY_RESTRICT a, const std::byte* HWY_RESTRICT b,
                                           size_t dim, double anchor, double second_anchor) {
  const hn::ScalableTag<double> d;
  using D = hn::ScalableTag<double>;
  using V = hn::Vec<D>;
  Anchored<D> hi(anchor), middle(second_anchor);
  V lo[2] = {hn::Zero(d), hn::Zero(d)}, lo_abs[2] = {hn::Zero(d), hn::Zero(d)};
  ForEachPair<Loader>(a, b, dim, [&](int i, V x, V y) HWY_ATTR {
    const V lost = middle.Add(i, hi.template AddProduct<true>(i, x, y));
    lo[i] = hn::Add(lo[i], lost);
    lo_abs[i] = hn::Add(lo_abs[i], hn::Abs(lost));
  });
  return {hi.Total(), middle.Total(), SumOf(lo), SumOf(lo_abs)};
}

// sums_of(loader, exact) for a dtype's loader; `exact` is a constant: whether products with narrow elements,
// if they are, are float64.
template <class SumsOf>
HWY_INLINE auto WithProducts(DType dtype, bool narrow, const SumsOf& sums_of) {
  return WithLoader(dtype, [&](auto loader) HWY_ATTR {
    constexpr bool kNarrow = !std::is_same_v<decltype(loader), LoadFloat64>;
    return kNarrow && narrow ? sums_of(loader, std::bool_constant<kNarrow>())
                             : sums_of(loader, std::false_type());
  });
}

DoubleDouble AnchoredDot(const double* a, bool narrow, const std::byte* b, DType dtype, size_t dim,
                         double anchor) {
  return WithProducts(dtype, narrow, [&](auto loader, auto exact) HWY_ATTR {
    return AnchoredDotOf<decltype(loader), decltype(exact)::value>(a, b, dim, anchor);
  });
}

AnchoredDots AnchoredDotAndSquares(const double* a, bool narrow, const std::byte* b, DType dtype, size_t dim,
                                   double dot_anchor, double squares_anchor) {
  return WithProducts(dtype, narrow, [&](auto loader, auto exact) HWY_ATTR {
    return AnchoredDotsOf<decltype(loader), decltype(exact)::value>(a, b, dim, dot_anchor, squares_anchor);
  });
}

AnchoredSums AnchoredDotTwice(const double* a, const std::byte* b, DType dtype, size_t dim, double anchor,
                              double second_anchor) {
  return WithLoader(dtype, [&](auto loader) HWY_ATTR {
    return AnchoredDotTwiceOf<decltype(loader)>(a, b, dim, anchor, second_anchor);
  });
}

// (h + l)² = h² + 2hl + l², where h + l = x - y exactly; l² is left to the bound.
template <class Loader>
HWY_INLINE DoubleDouble DoubleDoubleDistanceOf(const double* HWY_RESTRICT a, const std::byte* HWY_RESTRICT b,
                                               size_t dim) {
  const hn::ScalableTag<double> d;
  using D = hn::ScalableTag<double>;
  using V = hn::Vec<D>;
  PreciseSum<D> sum[2] = {NoSum(d), NoSum(d)};
  ForEachPair<Loader>(a, b, dim, [&](int i, V x, V y) HWY_ATTR {
    const V h = hn::Sub(x, y);
    const V l = SumError(x, hn::Neg(y), h);
    const V square = hn::Mul(h, h);
    const V rest = hn::MulAdd(hn::Add(h, h), l, ProductError(d, h, h, square));
    sum[i].Add(square);
    sum[i].lo = hn::Add(sum[i].lo, rest);
  });
  return TotalOf(sum);
}

// Of the other dtypes rows are made float64 first.
DoubleDouble DoubleDoubleSquaredDistance(const double* a, const std::byte* b, DType dtype, size_t dim) {
  if (dtype == DType::kFloat32) return DoubleDoubleDistanceOf<LoadFloat32>(a, b, dim);
  if (dtype == DType::kFloat64) return DoubleDoubleDistanceOf<LoadFloat64>(a, b, dim);
  std::vector<double> wide(dim);
  ToFloat64(b, dtype, dim, wide.data());
  return DoubleDoubleDistanceOf<LoadFloat64>(a, reinterpret_cast<const std::byte*>(wide.data()), dim);
}

}  // namespace HWY_NAMESPACE
}  // namespace dotmax
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace dotmax {

HWY_EXPORT(CheckDot);
HWY_EXPORT(CheckDotAndSquares);
HWY_EXPORT(CheckSquaredDistance);
HWY_EXPORT(Float32Dots);
HWY_EXPORT(Widen);
HWY_EXPORT(AnchoredDot);
HWY_EXPORT(AnchoredDotTwice);
HWY_EXPORT(AnchoredDotAndSquares);
HWY_EXPORT(DoubleDoubleSquaredDistance);

DotSums CheckDot(const double* a, const std::byte* b, DType dtype, size_t dim) {
  return HWY_DYNAMIC_DISPATCH(CheckDot)(a, b, dtype, dim);
}

DotAndSquares CheckDotAndSquares(const double* a, const std::byte* b, DType dtype, size_t dim) {
  return HWY_DYNAMIC_DISPATCH(CheckDotAndSquares)(a, b, dtype, dim);
}

double CheckSquaredDistance(const double* a, const std::byte* b, DType dtype, size_t dim) {
  return HWY_DYNAMIC_DISPATCH(CheckSquaredDistance)(a, b, dtype, dim);
}

void Float32Dots(const float* row, size_t dim, absl::Span<const float* const> queries, float* dots) {
  HWY_DYNAMIC_DISPATCH(Float32Dots)(row, dim, queries, dots);
}

double Widen(const std::byte* row, DType dtype, size_t dim, double* to) {
  return HWY_DYNAMIC_DISPATCH(Widen)(row, dtype, dim, to);
}

DoubleDouble AnchoredDot(const double* a, bool narrow, const std::byte* b, DType dtype, size_t dim,
                         double anchor) {
  return HWY_DYNAMIC_DISPATCH(AnchoredDot)(a, narrow, b, dtype, dim, anchor);
}

AnchoredSums AnchoredDotTwice(const double* a, const std::byte* b, DType dtype, size_t dim, double anchor,
                              double second_anchor) {
  return HWY_DYNAMIC_DISPATCH(AnchoredDotTwice)(a, b, dtype, dim, anchor, second_anchor);
}

AnchoredDots AnchoredDotAndSquares(const double* a, bool narrow, const std::byte* b, DType dtype, size_t dim,
                                   double dot_anchor, double squares_anchor) {
  return HWY_DYNAMIC_DISPATCH(AnchoredDotAndSquares)(a, narrow, b, dtype, dim, dot_anchor, squares_anchor);
}

DoubleDouble DoubleDoubleSquaredDistance(const double* a, const std::byte* b, DType dtype, size_t dim) {
  return HWY_DYNAMIC_DISPATCH(DoubleDoubleSquaredDistance)(a, b, dtype, dim);
}

}  // namespace dotmax
#endif  // HWY_ONCE
