// Reading elements of any dtype. All conversions here are exact unless said otherwise.
#ifndef DOTMAX_SERVER_BASE_DTYPE_H_
#define DOTMAX_SERVER_BASE_DTYPE_H_

#include <bit>
#include <cstddef>
#include <cstdint>
#include <optional>

#include "server/base/types.h"

namespace dotmax {

inline float BFloat16ToFloat32(uint16_t bits) { return std::bit_cast<float>(uint32_t{bits} << 16); }

// IEEE 754 binary16 bits to binary32. Exact; denormals, infinities and NaN included.
float Float16ToFloat32(uint16_t bits);

// float32 to binary16 bits, rounded to nearest even; beyond 65,504 + half a unit gives infinity.
uint16_t Float32ToFloat16(float value);

// Writes the `count` elements at `from` (any alignment) to `to` as float64. Exact.
void ToFloat64(const std::byte* from, DType dtype, size_t count, double* to);

// Writes them as float32. Exact for every dtype but kFloat64, which rounds to nearest even (and to
// infinity beyond float32's range).
void ToFloat32(const std::byte* from, DType dtype, size_t count, float* to);

// Whether all `count` elements at `from` (any alignment) are zero, of either sign. Nearly always looks at
// one.
bool IsZero(const std::byte* from, DType dtype, size_t count);

struct ElementPosition {
  uint64_t row = 0;
  uint32_t column = 0;
  double value = 0.0;  // NaN or an infinity
};

// The first NaN or infinity in row-major order, if there is one.
std::optional<ElementPosition> FirstNonFinite(const MatrixView& matrix);

}  // namespace dotmax

#endif  // DOTMAX_SERVER_BASE_DTYPE_H_
