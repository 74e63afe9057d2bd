#include "server/base/dtype.h"

#include <bit>
#include <cmath>
#include <cstring>
#include <limits>

namespace dotmax {
namespace {

template <typename T>
T Load(const std::byte* from, size_t i) {
  T value;
  std::memcpy(&value, from + i * sizeof(T), sizeof(T));
  return value;
}

template <typename To>
void Widen(const std::byte* from, DType dtype, size_t count, To* to) {
  switch (dtype) {
    case DType::kFloat32:
      for (size_t i = 0; i < count; ++i) to[i] = static_cast<To>(Load<float>(from, i));
      return;
    case DType::kFloat64:
      for (size_t i = 0; i < count; ++i) to[i] = static_cast<To>(Load<double>(from, i));
      return;
    case DType::kFloat16:
      for (size_t i = 0; i < count; ++i) to[i] = static_cast<To>(Float16ToFloat32(Load<uint16_t>(from, i)));
      return;
    case DType::kBFloat16:
      for (size_t i = 0; i < count; ++i) to[i] = static_cast<To>(BFloat16ToFloat32(Load<uint16_t>(from, i)));
      return;
    case DType::kInt8:
      for (size_t i = 0; i < count; ++i) to[i] = static_cast<To>(Load<int8_t>(from, i));
      return;
  }
}

// Whether any of `count` elements has all bits of `exponent_mask` set, which is what makes an IEEE number
// of any width non-finite. Branch-free, so that compilers vectorise it.
template <typename Bits>
bool AnyNonFinite(const std::byte* from, size_t count, Bits exponent_mask) {
  Bits found = 0;
  for (size_t i = 0; i < count; ++i) {
    found |= static_cast<Bits>((Load<Bits>(from, i) & exponent_mask) == exponent_mask);
  }
  return found != 0;
}

template <typename Bits>
bool AllZero(const std::byte* from, size_t count, Bits but_sign) {
  for (size_t i = 0; i < count; ++i) {
    if ((Load<Bits>(from, i) & but_sign) != 0) return false;
  }
  return true;
}

bool AnyNonFinite(const std::byte* from, DType dtype, size_t count) {
  switch (dtype) {
    case DType::kFloat32:
      return AnyNonFinite<uint32_t>(from, count, 0x7f800000u);
    case DType::kFloat16:
      return AnyNonFinite<uint16_t>(from, count, 0x7c00u);
    case DType::kBFloat16:
      return AnyNonFinite<uint16_t>(from, count, 0x7f80u);
    case DType::kFloat64:
      return AnyNonFinite<uint64_t>(from, count, 0x7ff0000000000000u);
    case DType::kInt8:
      return false;
  }
  return false;
}

}  // namespace

float Float16ToFloat32(uint16_t bits) {
  // Moves the fields into place, then lets one exact multiplication re-bias the exponent: it turns
  // denormals into normals by itself, and only the all-ones exponent needs care.
  const uint32_t sign = uint32_t{bits} >> 15 << 31;
  const uint32_t magnitude = (uint32_t{bits} & 0x7fffu) << 13;
  if (magnitude >= 0x7c00u << 13) return std::bit_cast<float>(sign | 0x7f800000u | (magnitude & 0x7fffffu));
  constexpr float kRebias = 0x1p112f;  // 2^(127 - 15)
  return std::bit_cast<float>(sign | std::bit_cast<uint32_t>(std::bit_cast<float>(magnitude) * kRebias));
}

uint16_t Float32ToFloat16(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  const uint16_t sign = static_cast<uint16_t>(bits >> 16 & 0x8000u);
  const uint32_t magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return sign | 0x7e00u;   // NaN
  if (magnitude >= 0x477ff000u) return sign | 0x7c00u;  // rounds to 2^16 or more
  if (magnitude < 0x38800000u) {
    // Denormal: in units of 2^-24. Adding 0.5 (unit in the last place 2^-24) rounds to nearest even.
    const float shifted = std::bit_cast<float>(magnitude) + 0.5f;
    return sign | static_cast<uint16_t>(std::bit_cast<uint32_t>(shifted) - std::bit_cast<uint32_t>(0.5f));
  }
  const uint32_t rounded = magnitude + 0xfffu + (magnitude >> 13 & 1u);
  return sign | static_cast<uint16_t>((rounded - (112u << 23)) >> 13);
}

void ToFloat64(const std::byte* from, DType dtype, size_t count, double* to) {
  Widen(from, dtype, count, to);
}

void ToFloat32(const std::byte* from, DType dtype, size_t count, float* to) { Widen(from, dtype, count, to); }

bool IsZero(const std::byte* from, DType dtype, size_t count) {
  switch (dtype) {
    case DType::kFloat32:
      return AllZero<uint32_t>(from, count, 0x7fffffffu);
    case DType::kFloat64:
      return AllZero<uint64_t>(from, count, 0x7fffffffffffffffu);
    case DType::kFloat16:
    case DType::kBFloat16:
      return AllZero<uint16_t>(from, count, 0x7fffu);
    case DType::kInt8:
      return AllZero<uint8_t>(from, count, 0xffu);
  }
  return false;
}

std::optional<ElementPosition> FirstNonFinite(const MatrixView& matrix) {
  for (uint64_t row = 0; row < matrix.rows; ++row) {
    if (!AnyNonFinite(matrix.row(row), matrix.dtype, matrix.dim)) continue;
    for (uint32_t column = 0; column < matrix.dim; ++column) {
      double value;
      ToFloat64(matrix.row(row) + column * ByteWidth(matrix.dtype), matrix.dtype, 1, &value);
      if (!std::isfinite(value)) return ElementPosition{row, column, value};
    }
  }
  return std::nullopt;
}

}  // namespace dotmax
