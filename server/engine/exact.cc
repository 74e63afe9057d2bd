#include "server/engine/exact.h"

#include <array>
#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <optional>
#include <vector>

#include "server/base/dtype.h"
#include "server/engine/bound.h"
#include "server/engine/reduce.h"

namespace dotmax {
namespace {

// Fixed point over the whole range of float64 products: bit 0 weighs 2^-2148 = (2^-1074)². The largest
// product stays below 2^2048, and 2^16 of them below 2^2064, which is bit 4212.
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
    // The product has at most 106 bits; its low 64 bits and the rest are shifted apart, so that none drop.
    const unsigned __int128 low = static_cast<unsigned __int128>(static_cast<uint64_t>(product)) << shift;
    const unsigned __int128 high = ((product >> 64) << shift) + (low >> 64);
    digits_[digit] += sign * static_cast<int64_t>(static_cast<uint32_t>(low));
    digits_[++digit] += sign * static_cast<int64_t>(static_cast<uint32_t>(low >> 32));
    for (unsigned __int128 rest = high; rest != 0; rest >>= kDigitBits) {
      digits_[++digit] += sign * static_cast<int64_t>(static_cast<uint32_t>(rest));
    }
  }

  // The sum rounded once.
  double Round() {
    const bool negative = Normalise();
    int top = kDigits - 1;
    while (top >= 0 && digits_[top] == 0) --top;
    if (top < 0) return 0.0;
    // Gather 64 bits from the leading one down; whatever lies below only matters as "not zero".
    const int lead_bit = top * kDigitBits + 31 - std::countl_zero(static_cast<uint32_t>(digits_[top]));
    const int low_bit = lead_bit - 63;
    uint64_t window = 0;
    bool sticky = false;
    for (int digit = top; digit >= 0; --digit) {
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
    if (digits_[kDigits - 1] >= 0) return false;
    for (int64_t& digit : digits_) digit = -digit;
    Carry();
    return true;
  }

  // The top digit keeps the sign.
  void Carry() {
    for (int i = 0; i + 1 < kDigits; ++i) {
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

  // Each of up to 2^16 additions moves a digit by less than 2^32: no int64 overflows.
  std::array<int64_t, kDigits> digits_ = {};
};

// The rounded sum if the double-double result proves what it is.
std::optional<double> Certified(const DoubleDoubleSums& sums, size_t dim) {
  const auto [hi, lo, sum_abs] = sums;
  // Far from overflow, every step was exact or counted. NaN fails this, too.
  if (!(sum_abs < 0x1p1000)) return std::nullopt;
  const double rounded = hi + lo;
  const double rest = (hi - rounded) + lo;  // FastTwoSum, exact unless |lo| > |hi|, which is then caught
  if (std::abs(lo) > std::abs(hi)) return std::nullopt;
  const double margin = DoubleDoubleDotError(static_cast<uint32_t>(dim), sum_abs);
  if (rounded + (rest - margin) != rounded || rounded + (rest + margin) != rounded) return std::nullopt;
  return rounded + 0.0;
}

bool IsNarrow(DType dtype) { return dtype != DType::kFloat64; }

}  // namespace

double AccumulatedDot(absl::Span<const double> a, absl::Span<const double> b) {
  ProductAccumulator sum;
  for (size_t i = 0; i < a.size(); ++i) sum.Add(a[i], b[i]);
  return sum.Round();
}

double CorrectlyRoundedDot(absl::Span<const double> a, absl::Span<const double> b) {
  return CorrectlyRoundedDot(a, DType::kFloat64, reinterpret_cast<const std::byte*>(b.data()),
                             DType::kFloat64);
}

double CorrectlyRoundedDot(absl::Span<const double> a, DType a_dtype, const std::byte* b, DType b_dtype) {
  const DoubleDoubleSums sums = DoubleDoubleDot(a.data(), IsNarrow(a_dtype), b, b_dtype, a.size());
  if (const std::optional<double> certified = Certified(sums, a.size())) return *certified;
  std::vector<double> wide(a.size());
  ToFloat64(b, b_dtype, a.size(), wide.data());
  return AccumulatedDot(a, wide);
}

}  // namespace dotmax
