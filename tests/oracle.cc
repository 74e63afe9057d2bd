#include "tests/oracle.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>

namespace dotmax::testing {
namespace {

// An element as sign · mantissa · 2^exponent, taken from its bits.
struct Number {
  bool negative = false;
  uint64_t mantissa = 0;
  int exponent = 0;
};

// Decodes IEEE-like bits of `exponent_bits` and `fraction_bits`.
Number Decode(uint64_t bits, int exponent_bits, int fraction_bits) {
  const int bias = (1 << (exponent_bits - 1)) - 1;
  const int biased = static_cast<int>(bits >> fraction_bits & ((uint64_t{1} << exponent_bits) - 1));
  Number n;
  n.negative = (bits >> (exponent_bits + fraction_bits) & 1) != 0;
  n.mantissa = bits & ((uint64_t{1} << fraction_bits) - 1);
  if (biased != 0) n.mantissa |= uint64_t{1} << fraction_bits;
  n.exponent = std::max(biased, 1) - bias - fraction_bits;
  return n;
}

Number Element(const MatrixView& m, uint64_t row, uint32_t column) {
  const std::byte* at = m.row(row) + column * ByteWidth(m.dtype);
  uint64_t bits = 0;
  std::memcpy(&bits, at, ByteWidth(m.dtype));  // little-endian
  switch (m.dtype) {
    case DType::kFloat64:
      return Decode(bits, 11, 52);
    case DType::kFloat32:
      return Decode(bits, 8, 23);
    case DType::kFloat16:
      return Decode(bits, 5, 10);
    case DType::kBFloat16:
      return Decode(bits, 8, 7);
    case DType::kInt8: {
      const int value = static_cast<int8_t>(bits);
      return {value < 0, static_cast<uint64_t>(std::abs(value)), 0};
    }
  }
  return {};
}

// A non-negative integer in units of 2^-2148, little-endian 32-bit digits: holds any sum of 2^18 products.
using Natural = std::vector<uint32_t>;
constexpr int kUnit = -2148;
constexpr size_t kDigits = 136;

void AddProduct(Natural& sum, const Number& a, const Number& b) {
  const int shift = a.exponent + b.exponent - kUnit;
  // Four 32×32-bit products, each added with its carry rippling up.
  for (int i = 0; i < 2; ++i) {
    for (int j = 0; j < 2; ++j) {
      const uint64_t product = (a.mantissa >> 32 * i & 0xffffffff) * (b.mantissa >> 32 * j & 0xffffffff);
      const int bit = shift + 32 * (i + j);
      unsigned __int128 carry = static_cast<unsigned __int128>(product) << bit % 32;
      for (size_t digit = bit / 32; carry != 0; ++digit) {
        carry += sum[digit];
        sum[digit] = static_cast<uint32_t>(carry);
        carry >>= 32;
      }
    }
  }
}

// a − b for a ≥ b.
Natural Subtract(const Natural& a, const Natural& b) {
  Natural difference(kDigits);
  int64_t borrow = 0;
  for (size_t i = 0; i < kDigits; ++i) {
    const int64_t d = int64_t{a[i]} - int64_t{b[i]} - borrow;
    borrow = d < 0;
    difference[i] = static_cast<uint32_t>(d);
  }
  return difference;
}

bool Bit(const Natural& n, int bit) { return bit >= 0 && (n[bit / 32] >> bit % 32 & 1) != 0; }

// n · 2^kUnit rounded to nearest even.
double Round(const Natural& n) {
  int lead = static_cast<int>(kDigits) * 32 - 1;
  while (lead >= 0 && !Bit(n, lead)) --lead;
  if (lead < 0) return 0.0;
  // The unit in the last place: 52 below the leading bit, but never below 2^-1074.
  const int last = std::max(lead - 52, -1074 - kUnit);
  uint64_t mantissa = 0;
  for (int bit = lead; bit >= last; --bit) mantissa = mantissa << 1 | Bit(n, bit);
  bool below = false;
  for (int bit = last - 2; bit >= 0; --bit) below |= Bit(n, bit);
  if (Bit(n, last - 1) && (below || (mantissa & 1))) ++mantissa;
  return std::ldexp(static_cast<double>(mantissa), last + kUnit);
}

// Adds x·y to the one of the sign of the product, or of its negative.
void AddSigned(Natural& positive, Natural& negative, const Number& x, const Number& y, bool negate = false) {
  AddProduct((x.negative != y.negative) == negate ? positive : negative, x, y);
}

// positive − negative: the magnitude, and whether it is below zero.
struct Difference {
  Natural magnitude;
  bool negative;
};
Difference Minus(const Natural& positive, const Natural& negative) {
  const bool is_negative =
      std::lexicographical_compare(positive.rbegin(), positive.rend(), negative.rbegin(), negative.rend());
  return {is_negative ? Subtract(negative, positive) : Subtract(positive, negative), is_negative};
}

double Signed(double magnitude, bool negative) {
  return negative && magnitude != 0.0 ? -magnitude : magnitude;
}

// The rest is of naturals of any length, without leading zero digits; zero has none.
void Trim(Natural& n) {
  while (!n.empty() && n.back() == 0) n.pop_back();
}

Natural Product(const Natural& a, const Natural& b) {
  Natural product(a.size() + b.size());
  for (size_t i = 0; i < a.size(); ++i) {
    uint64_t carry = 0;
    for (size_t j = 0; j < b.size(); ++j) {
      carry += uint64_t{a[i]} * b[j] + product[i + j];
      product[i + j] = static_cast<uint32_t>(carry);
      carry >>= 32;
    }
    product[i + b.size()] = static_cast<uint32_t>(carry);
  }
  Trim(product);
  return product;
}

// n · 2^bits
Natural Shifted(const Natural& n, size_t bits) {
  Natural shifted(bits / 32 + n.size() + 1);
  for (size_t i = 0; i < n.size(); ++i) {
    const uint64_t digit = uint64_t{n[i]} << bits % 32;
    shifted[bits / 32 + i] |= static_cast<uint32_t>(digit);
    shifted[bits / 32 + i + 1] |= static_cast<uint32_t>(digit >> 32);
  }
  Trim(shifted);
  return shifted;
}

bool Less(const Natural& a, const Natural& b) {
  if (a.size() != b.size()) return a.size() < b.size();
  return std::lexicographical_compare(a.rbegin(), a.rend(), b.rbegin(), b.rend());
}

// √(p² / t) rounded to nearest even, for 0 < p² ≤ t: the largest float64 c with c²·t ≤ p², by bisection over
// the bits of all float64 numbers in [0, 1], which are ordered as they are; then the midpoint above it
// decides.
double RoundedRoot(const Natural& p, const Natural& t) {
  const Natural squared = Product(p, p);
  // (mantissa · 2^exponent)² · t against p², exponent ≤ 0.
  const auto order = [&](uint64_t mantissa, int exponent) {
    const Natural m = {static_cast<uint32_t>(mantissa), static_cast<uint32_t>(mantissa >> 32)};
    const Natural left = Product(Product(m, m), t), right = Shifted(squared, 2 * -exponent);
    return Less(left, right) ? -1 : Less(right, left) ? 1 : 0;
  };
  uint64_t least = 0, most = std::bit_cast<uint64_t>(1.0);
  while (least < most) {
    const uint64_t middle = least + (most - least + 1) / 2;
    const Number c = Decode(middle, 11, 52);
    if (order(c.mantissa, c.exponent) <= 0) {
      least = middle;
    } else {
      most = middle - 1;
    }
  }
  const Number c = Decode(least, 11, 52);
  const int above = order(2 * c.mantissa + 1, c.exponent - 1);
  return std::bit_cast<double>(least + (above < 0 || (above == 0 && (least & 1) != 0)));
}

double ExactCosine(const MatrixView& a, uint64_t i, const MatrixView& b, uint64_t j) {
  Natural positive(kDigits), negative(kDigits), aa(kDigits), bb(kDigits);
  for (uint32_t column = 0; column < a.dim; ++column) {
    const Number x = Element(a, i, column), y = Element(b, j, column);
    AddSigned(positive, negative, x, y);
    AddProduct(aa, x, x);
    AddProduct(bb, y, y);
  }
  auto [dot, is_negative] = Minus(positive, negative);
  Trim(dot);
  Trim(aa);
  Trim(bb);
  if (dot.empty()) return 0.0;
  return Signed(RoundedRoot(dot, Product(aa, bb)), is_negative);
}

double ExactSquaredDistance(const MatrixView& a, uint64_t i, const MatrixView& b, uint64_t j) {
  Natural positive(kDigits), negative(kDigits);
  for (uint32_t column = 0; column < a.dim; ++column) {
    const Number x = Element(a, i, column), y = Element(b, j, column);
    AddProduct(positive, x, x);
    AddProduct(positive, y, y);
    for (int twice = 0; twice < 2; ++twice) AddSigned(positive, negative, x, y, true);
  }
  return Round(Minus(positive, negative).magnitude);
}

double ExactInnerProduct(const MatrixView& a, uint64_t i, const MatrixView& b, uint64_t j) {
  Natural positive(kDigits), negative(kDigits);
  for (uint32_t column = 0; column < a.dim; ++column) {
    AddSigned(positive, negative, Element(a, i, column), Element(b, j, column));
  }
  const auto [magnitude, is_negative] = Minus(positive, negative);
  return Signed(Round(magnitude), is_negative);
}

}  // namespace

double ExactScore(const MatrixView& a, uint64_t i, const MatrixView& b, uint64_t j, Metric metric) {
  switch (metric) {
    case Metric::kInnerProduct:
      return ExactInnerProduct(a, i, b, j);
    case Metric::kCosine:
      return ExactCosine(a, i, b, j);
    case Metric::kSquaredEuclidean:
      return ExactSquaredDistance(a, i, b, j);
  }
  return 0.0;
}

std::vector<Hit> ExactTopK(const MatrixView& a, const MatrixView& b, uint32_t top_k, Reduction reduction,
                           Metric metric) {
  const auto better = [metric](const Hit& x, const Hit& y) { return BetterBy(metric, x, y); };
  std::vector<Hit> best, pool;
  const auto take = [&] {
    const size_t k = std::min<size_t>(top_k, pool.size());
    std::partial_sort(pool.begin(), pool.begin() + k, pool.end(), better);
    best.insert(best.end(), pool.begin(), pool.begin() + k);
    pool.clear();
  };
  for (uint64_t i = 0; i < a.rows; ++i) {
    for (uint64_t j = 0; j < b.rows; ++j) pool.push_back({ExactScore(a, i, b, j, metric), i, j});
    if (reduction == Reduction::kPerRow) take();
  }
  if (reduction == Reduction::kGlobal) take();
  return best;
}

}  // namespace dotmax::testing
