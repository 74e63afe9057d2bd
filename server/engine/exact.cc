#include "server/engine/exact.h"

#include <mpfr.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <optional>
#include <vector>

#include "server/base/dtype.h"
#include "server/engine/bound.h"
#include "server/engine/pair_sums.h"

namespace dotmax {
namespace {

// Fixed point over the whole range of float64 products: bit 0 weighs 2^-2148 = (2^-1074)². The largest
// product stays below 2^2048, and 4·2^16 of them (of a squared distance) below 2^2066, which is bit 4214.
class ProductAccumulator {
 public:
  void Add(double a, double b) {
    if (a == 0.0 || b == 0.0) return;
    const Parts x = Split(a);
    const Parts y = Split(b);
    const unsigned __int128 product = static_cast<unsigned __int128>(x.mantissa) * y.mantissa;
    const int bit = x.exponent + y.exponent;
    const int64_t sign = x.negative != y.negative ? -1 : 1;
    int digit = bit / kDigitBits;
    const int shift = bit % kDigitBits;
    first_ = std::min(first_, digit);
    // The product has at most 106 bits; its low 64 bits and the rest are shifted apart, so that none drop.
    const unsigned __int128 low = static_cast<unsigned __int128>(static_cast<uint64_t>(product)) << shift;
    const unsigned __int128 high = ((product >> 64) << shift) + (low >> 64);
    digits_[digit] += sign * static_cast<int64_t>(static_cast<uint32_t>(low));
    digits_[++digit] += sign * static_cast<int64_t>(static_cast<uint32_t>(low >> 32));
    for (unsigned __int128 rest = high; rest != 0; rest >>= kDigitBits) {
      digits_[++digit] += sign * static_cast<int64_t>(static_cast<uint32_t>(rest));
    }
    last_ = std::max(last_, digit);
  }

  // The sum itself.
  void Move(mpfr_t to) {
    const bool negative = Normalise();
    size_t first = std::min(first_, last_ + 1), end = last_ + 2;
    while (end > first && digits_[end - 1] == 0) --end;
    while (first < end && digits_[first] == 0) ++first;
    mpz_t integer;
    mpz_init(integer);
    // Digits are the lower halves of their int64.
    mpz_import(integer, end - first, -1, sizeof(int64_t), 0, 8 * sizeof(int64_t) - kDigitBits,
               digits_.data() + first);
    if (negative) mpz_neg(integer, integer);
    mpfr_set_prec(to, std::max<mpfr_prec_t>(kDigitBits * (end - first), MPFR_PREC_MIN));
    mpfr_set_z_2exp(to, integer, static_cast<mpfr_exp_t>(first * kDigitBits) + kLowestExponent, MPFR_RNDZ);
    mpz_clear(integer);
  }

  // The sum rounded once.
  double Round() {
    const bool negative = Normalise();
    int top = last_ + 1;
    while (top >= first_ && digits_[top] == 0) --top;
    if (top < first_) return 0.0;
    // Gather 64 bits from the leading one down; whatever lies below only matters as "not zero".
    const int lead_bit = top * kDigitBits + 31 - std::countl_zero(static_cast<uint32_t>(digits_[top]));
    const int low_bit = lead_bit - 63;
    uint64_t window = 0;
    bool sticky = false;
    for (int digit = top; digit >= first_; --digit) {
      const int position = digit * kDigitBits - low_bit;  // of the digit's lowest bit in the window
      const uint64_t value = static_cast<uint64_t>(digits_[digit]);
      if (position >= 0) {
        window |= value << position;
      } else if (position > -kDigitBits) {
        window |= value >> -position;
        sticky |= (value & ((uint64_t{1} << -position) - 1)) != 0;
      } else {
        sticky |= value != 0;
      }
    }
    // 64 bits are more than float64 keeps, so the rest can be folded into the last one. A denormal result
    // keeps fewer bits, and must be rounded there at once.
    const int lead_exponent = lead_bit + kLowestExponent;
    const int kept = lead_exponent >= -1022 ? 53 : 53 - (-1022 - lead_exponent);
    const double magnitude =
        RoundWindow(window | static_cast<uint64_t>(sticky), kept, low_bit + kLowestExponent);
    return (negative ? -magnitude : magnitude) + 0.0;  // a negative sum that rounds to zero is +0.0
  }

 private:
  static constexpr int kDigitBits = 32;
  static constexpr int kLowestExponent = -2148;
  static constexpr int kDigits = 4256 / kDigitBits;

  struct Parts {
    uint64_t mantissa;
    int exponent;  // of the mantissa's lowest bit, in units of 2^-1074: ≥ 0
    bool negative;
  };

  static Parts Split(double x) {
    const uint64_t bits = std::bit_cast<uint64_t>(x);
    const uint64_t fraction = bits & 0xfffffffffffffu;
    const int biased = static_cast<int>(bits >> 52 & 0x7ff);
    const bool negative = bits >> 63 != 0;
    if (biased == 0) return {fraction, 0, negative};
    return {fraction | uint64_t{1} << 52, biased - 1, negative};
  }

  // Brings every digit of the sum's magnitude into [0, 2^32); returns whether the sum was negative.
  bool Normalise() {
    Carry();
    if (digits_[last_ + 1] >= 0) return false;
    for (int i = first_; i <= last_ + 1; ++i) digits_[i] = -digits_[i];
    Carry();
    return true;
  }

  // The digit above the last keeps what is carried there, which is less than 2^32, and the sign.
  void Carry() {
    for (int i = first_; i <= last_; ++i) {
      digits_[i + 1] += digits_[i] >> kDigitBits;
      digits_[i] &= 0xffffffff;
    }
  }

  // window · 2^exponent rounded to `kept` bits from its leading one (bit 63) down.
  static double RoundWindow(uint64_t window, int kept, int exponent) {
    if (kept < 0) return 0.0;  // below half of the smallest denormal
    const int dropped = 64 - kept;
    uint64_t mantissa = dropped < 64 ? window >> dropped : 0;
    const uint64_t rest = dropped < 64 ? window & ((uint64_t{1} << dropped) - 1) : window;
    const uint64_t half = uint64_t{1} << (dropped - 1);
    if (rest > half || (rest == half && (mantissa & 1) != 0)) ++mantissa;
    return std::ldexp(static_cast<double>(mantissa), exponent + dropped);
  }

  // Each of up to 4·2^16 additions moves a digit by less than 2^32: no int64 overflows.
  std::array<int64_t, kDigits> digits_ = {};
  int first_ = kDigits - 1, last_ = -1;  // of those that may not be zero
};

// x + y rounded, and the rest (Knuth's TwoSum).
DoubleDouble SumOf(double x, double y) {
  const double sum = x + y, back = sum - x;
  return {sum, (x - (sum - back)) + (y - back)};
}

// hi + lo rounded, if that is what every number within `error` of it rounds to.
std::optional<double> Certified(double hi, double lo, double error) {
  const auto [rounded, rest] = SumOf(hi, lo);
  if (rounded + (rest - error) != rounded || rounded + (rest + error) != rounded) return std::nullopt;
  return rounded + 0.0;
}

// Far from overflow, every step of a double-double sum was exact or counted. NaN fails this, too.
constexpr double kNoOverflow = 0x1p1000;

constexpr int kLeastUnitExponent = -500;

bool CanBeAnchored(double most) { return kLeastAnchored <= most && most <= kMostAnchored; }

DoubleDouble Normalised(DoubleDouble x) { return SumOf(x.hi, x.lo); }

// From sums that were anchored for ‖a‖·longest and longest².
std::optional<double> CertifiedCosine(const ExactQuery& a, const AnchoredDots& sums, double longest) {
  constexpr double kMostRelativeError = 0x1p-60;  // so that the product of two does not count
  const uint32_t dim = static_cast<uint32_t>(a.elements.size());
  const double a_squares = a.squares.hi + a.squares.lo, b_squares = sums.squares.hi + sums.squares.lo;
  if (!(std::min(a_squares, b_squares) >= 0x1p-400 && std::max(a_squares, b_squares) <= 0x1p400)) {
    return std::nullopt;
  }
  const double a_relative = AnchoredDotError(dim, a.length * a.length) / a_squares;
  const double b_relative = AnchoredDotError(dim, longest * longest) / b_squares;
  if (std::max(a_relative, b_relative) > kMostRelativeError) return std::nullopt;
  const auto [cosine, lengths] = DoubleDoubleCosine(sums.dot, a.squares, sums.squares);
  if (!(std::abs(cosine.hi) >= 0x1p-200)) return std::nullopt;
  const double dot_error = AnchoredDotError(dim, a.length * longest);
  return Certified(cosine.hi, cosine.lo,
                   DoubleDoubleCosineError(cosine.hi, dot_error, lengths, a_relative, b_relative));
}

// Where all that the first anchors lose is held by second ones. `most` as for AnchoredDistanceError; the
// elements of both came from narrow dtypes.
std::optional<double> ExactSquaredDistance(absl::Span<const double> a, absl::Span<const double> b,
                                           double most) {
  const uint32_t dim = static_cast<uint32_t>(a.size());
  const double anchor = AnchorOf(most), second_anchor = AnchorOf(SecondAnchored(dim, most));
  const auto dot = [&](absl::Span<const double> x, absl::Span<const double> y) {
    return AnchoredDotTwice(x.data(), reinterpret_cast<const std::byte*>(y.data()), DType::kFloat64, dim,
                            anchor, second_anchor);
  };
  const AnchoredSums aa = dot(a, a), bb = dot(b, b), ab = dot(a, b);
  if (aa.lo_abs != 0.0 || bb.lo_abs != 0.0 || ab.lo_abs != 0.0) return std::nullopt;
  // Multiples of the anchors' units, and less than 2^52 of these: exact.
  return ((aa.hi + bb.hi) - 2.0 * ab.hi) + ((aa.middle + bb.middle) - 2.0 * ab.middle) + 0.0;
}

// An MPFR number, 0 to begin with.
class Real {
 public:
  explicit Real(mpfr_prec_t bits = MPFR_PREC_MIN) {
    mpfr_init2(value_, bits);
    mpfr_set_zero(value_, 1);
  }
  ~Real() { mpfr_clear(value_); }
  Real(const Real&) = delete;
  Real& operator=(const Real&) = delete;

  mpfr_ptr get() { return value_; }
  mpfr_prec_t bits() const { return mpfr_get_prec(value_); }

 private:
  mpfr_t value_;
};

// |P| / √T rounded to nearest even, for P ≠ 0 and T > 0 as they are, |P| ≤ √T.
double RoundedQuotient(Real& p, Real& t) {
  constexpr mpfr_prec_t kGuessBits = 128;
  // Off by less than 2^-120 of itself, so that the rounded cosine is the float64 below or the one above.
  Real guess(kGuessBits);
  mpfr_sqrt(guess.get(), t.get(), MPFR_RNDN);
  mpfr_div(guess.get(), p.get(), guess.get(), MPFR_RNDN);
  mpfr_abs(guess.get(), guess.get(), MPFR_RNDN);
  const double below = mpfr_get_d(guess.get(), MPFR_RNDZ);
  const double above = std::nextafter(below, 2.0);
  constexpr mpfr_prec_t kFloat64Bits = 53;
  Real middle(kFloat64Bits + 1);
  mpfr_set_d(middle.get(), below, MPFR_RNDN);
  mpfr_add_d(middle.get(), middle.get(), above, MPFR_RNDN);
  mpfr_div_2ui(middle.get(), middle.get(), 1, MPFR_RNDN);
  // |P| / √T against the midpoint, both squared and times T; every product has the bits that it needs.
  Real left(2 * p.bits()), middle_squared(2 * middle.bits()), right(2 * middle.bits() + t.bits());
  mpfr_sqr(left.get(), p.get(), MPFR_RNDN);
  mpfr_sqr(middle_squared.get(), middle.get(), MPFR_RNDN);
  mpfr_mul(right.get(), middle_squared.get(), t.get(), MPFR_RNDN);
  const int order = mpfr_cmp(left.get(), right.get());
  if (order != 0) return order < 0 ? below : above;
  return (std::bit_cast<uint64_t>(below) & 1) == 0 ? below : above;
}

bool IsNarrow(DType dtype) { return dtype != DType::kFloat64; }

std::vector<double> Widened(const std::byte* row, DType dtype, size_t dim) {
  std::vector<double> wide(dim);
  ToFloat64(row, dtype, dim, wide.data());
  return wide;
}

}  // namespace

double AccumulatedDot(absl::Span<const double> a, absl::Span<const double> b) {
  ProductAccumulator sum;
  for (size_t i = 0; i < a.size(); ++i) sum.Add(a[i], b[i]);
  return sum.Round();
}

double LengthOf(absl::Span<const double> x) {
  const DotSums squares =
      CheckDot(x.data(), reinterpret_cast<const std::byte*>(x.data()), DType::kFloat64, x.size());
  return NormUpperBound(static_cast<uint32_t>(x.size()), squares.sum);
}

double CommonUnit(absl::Span<const double> x, double unit) {
  // Most often it is `unit` still. What is no integer is not left as it is by 1.5·2^52, unless it underflows.
  constexpr double kRoundsToIntegers = 0x1.8p52;
  const double inverse = 1.0 / unit;
  uint64_t rests = 0;
  for (const double element : x) {
    const double units = element * inverse;
    rests |= std::bit_cast<uint64_t>(units - ((units + kRoundsToIntegers) - kRoundsToIntegers));
    rests |= static_cast<uint64_t>((units == 0.0) & (element != 0.0));
  }
  if (rests == 0) return unit;
  int exponent = std::ilogb(unit);
  for (const double element : x) {
    if (element == 0.0) continue;
    const uint64_t bits = std::bit_cast<uint64_t>(element);
    const int zeros = std::countr_zero(bits | uint64_t{1} << 52);
    exponent = std::min(exponent, static_cast<int>(bits >> 52 & 0x7ff) - 1075 + zeros);  // denormals: less
  }
  return exponent < kLeastUnitExponent ? 0.0 : std::ldexp(1.0, exponent);
}

ExactQuery::ExactQuery(absl::Span<const double> its_elements, DType its_dtype)
    : ExactQuery(its_elements, its_dtype, LengthOf(its_elements), /*has_squares=*/true) {}

ExactQuery::ExactQuery(absl::Span<const double> its_elements, DType its_dtype, double its_length,
                       bool has_squares)
    : elements(its_elements), dtype(its_dtype), length(its_length) {
  const double most = length * length;
  if (!has_squares || !CanBeAnchored(most)) return;
  squares = AnchoredDot(elements.data(), IsNarrow(dtype), reinterpret_cast<const std::byte*>(elements.data()),
                        DType::kFloat64, elements.size(), AnchorOf(most));
}

bool AddsUpExactly(Metric metric, const ExactQuery& a, double longest) {
  if (a.unit == 0.0 || metric == Metric::kCosine) return false;
  const double longer = std::max(a.length, longest);
  // Σ(aᵢ − bᵢ)² ≤ (‖a‖ + ‖b‖)²
  return SumsAreExact(metric == Metric::kInnerProduct ? a.length * longest : 4.0 * longer * longer, a.unit);
}

double CorrectlyRoundedDot(const ExactQuery& a, const std::byte* b, DType dtype, double longest) {
  const uint32_t dim = static_cast<uint32_t>(a.elements.size());
  if (AddsUpExactly(Metric::kInnerProduct, a, longest)) {
    return CheckDot(a.elements.data(), b, dtype, dim).sum + 0.0;
  }
  if (std::isinf(longest)) longest = LengthOf(Widened(b, dtype, dim));
  const double most = a.length * longest;
  if (CanBeAnchored(most)) {
    const double anchor = AnchorOf(most);
    const auto [hi, lo] = AnchoredDot(a.elements.data(), IsNarrow(a.dtype), b, dtype, dim, anchor);
    if (const auto certified = Certified(hi, lo, AnchoredDotError(dim, most))) return *certified;
    if (IsNarrow(a.dtype) && IsNarrow(dtype)) {
      const double second_anchor = AnchorOf(SecondAnchored(dim, most));
      const AnchoredSums sums = AnchoredDotTwice(a.elements.data(), b, dtype, dim, anchor, second_anchor);
      const auto [h, t] = SumOf(sums.hi, sums.middle);
      const double error = SecondAnchoredError(dim, h, sums.lo_abs);
      if (const auto certified = Certified(h, t + sums.lo, error)) return *certified;
    }
  }
  return AccumulatedDot(a.elements, Widened(b, dtype, dim));
}

double AccumulatedSquaredDistance(absl::Span<const double> a, absl::Span<const double> b) {
  if (std::equal(a.begin(), a.end(), b.begin())) return 0.0;  // what no error bound certifies
  ProductAccumulator sum;
  for (size_t i = 0; i < a.size(); ++i) {
    sum.Add(a[i], a[i]);
    sum.Add(a[i], -b[i]);
    sum.Add(a[i], -b[i]);
    sum.Add(b[i], b[i]);
  }
  return sum.Round();
}

double CorrectlyRoundedSquaredDistance(const ExactQuery& a, const std::byte* b, DType dtype, double longest) {
  const uint32_t dim = static_cast<uint32_t>(a.elements.size());
  if (AddsUpExactly(Metric::kSquaredEuclidean, a, longest)) {
    return CheckSquaredDistance(a.elements.data(), b, dtype, dim);
  }
  if (std::isinf(longest)) longest = LengthOf(Widened(b, dtype, dim));
  const double most = std::max(a.length, longest) * std::max(a.length, longest);
  const bool is_anchored = CanBeAnchored(most) && CanBeAnchored(a.length * a.length);
  if (is_anchored) {
    const double anchor = AnchorOf(most);
    const auto [dot, squares] =
        AnchoredDotAndSquares(a.elements.data(), IsNarrow(a.dtype), b, dtype, dim, anchor, anchor);
    const auto [both, both_rest] = SumOf(a.squares.hi, squares.hi);
    const auto [hi, rest] = SumOf(both, -2.0 * dot.hi);
    const double lo = (both_rest + rest) + ((a.squares.lo + squares.lo) - 2.0 * dot.lo);
    if (const auto certified = Certified(hi, lo, AnchoredDistanceError(dim, most))) return *certified;
  }
  const auto [hi, lo] = DoubleDoubleSquaredDistance(a.elements.data(), b, dtype, dim);
  if (hi < kNoOverflow) {
    if (const auto certified = Certified(hi, lo, DoubleDoubleDistanceError(dim, hi))) return *certified;
  }
  const std::vector<double> wide = Widened(b, dtype, dim);
  if (is_anchored && IsNarrow(a.dtype) && IsNarrow(dtype)) {
    if (const auto exact = ExactSquaredDistance(a.elements, wide, most)) return *exact;
  }
  return AccumulatedSquaredDistance(a.elements, wide);
}

DoubleDoubleQuotient DoubleDoubleCosine(DoubleDouble p, DoubleDouble q, DoubleDouble r) {
  p = Normalised(p);
  q = Normalised(q);
  r = Normalised(r);
  DoubleDouble t;
  t.hi = q.hi * r.hi;
  t.lo = std::fma(q.hi, r.hi, -t.hi) + (q.hi * r.lo + q.lo * r.hi);
  t = Normalised(t);
  const double s = std::sqrt(t.hi);
  const double s_rest = (std::fma(-s, s, t.hi) + t.lo) / (2.0 * s);
  const double c = p.hi / s;
  const double c_rest = ((std::fma(-c, s, p.hi) - c * s_rest) + p.lo) / s;
  return {Normalised({c, c_rest}), s};
}

double AccumulatedCosine(absl::Span<const double> a, absl::Span<const double> b) {
  const auto accumulate = [](absl::Span<const double> x, absl::Span<const double> y, Real& to) {
    ProductAccumulator sum;
    for (size_t i = 0; i < x.size(); ++i) sum.Add(x[i], y[i]);
    sum.Move(to.get());
    return mpfr_sgn(to.get());
  };
  Real p, q, r;
  const int sign = accumulate(a, b, p);
  if (sign == 0) return 0.0;  // zero rows, too
  accumulate(a, a, q);
  accumulate(b, b, r);
  Real t(q.bits() + r.bits());
  mpfr_mul(t.get(), q.get(), r.get(), MPFR_RNDN);  // exact
  return sign * RoundedQuotient(p, t) + 0.0;       // a negative cosine that rounds to zero is +0.0
}

double CorrectlyRoundedCosine(const ExactQuery& a, const std::byte* b, DType dtype, double longest) {
  const uint32_t dim = static_cast<uint32_t>(a.elements.size());
  const bool narrow = IsNarrow(a.dtype) && IsNarrow(dtype);
  if (std::isinf(longest)) longest = LengthOf(Widened(b, dtype, dim));
  // The second time by the row's own length.
  for (int attempt = 0; attempt < 2; ++attempt) {
    if (!CanBeAnchored(a.length * a.length) || !CanBeAnchored(a.length * longest) ||
        !CanBeAnchored(longest * longest)) {
      break;
    }
    const AnchoredDots sums =
        AnchoredDotAndSquares(a.elements.data(), IsNarrow(a.dtype), b, dtype, dim,
                              AnchorOf(a.length * longest), AnchorOf(longest * longest));
    if (const auto certified = CertifiedCosine(a, sums, longest)) return *certified;
    const bool may_be_zero = narrow && sums.dot.hi == 0.0 && sums.dot.lo == 0.0;
    if (may_be_zero && CorrectlyRoundedDot(a, b, dtype, longest) == 0.0) return 0.0;
    longest =
        NormUpperBound(dim, (sums.squares.hi + sums.squares.lo) + AnchoredDotError(dim, longest * longest));
  }
  return AccumulatedCosine(a.elements, Widened(b, dtype, dim));
}

}  // namespace dotmax
