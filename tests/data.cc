#include "tests/data.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <numbers>
#include <utility>

#include "server/base/dtype.h"

namespace dotmax::testing {
namespace {

void Store(double value, DType dtype, std::byte* to) {
  switch (dtype) {
    case DType::kFloat64:
      std::memcpy(to, &value, 8);
      return;
    case DType::kFloat32: {
      const float narrow = static_cast<float>(value);
      std::memcpy(to, &narrow, 4);
      return;
    }
    case DType::kFloat16: {
      const uint16_t bits = Float32ToFloat16(static_cast<float>(value));
      std::memcpy(to, &bits, 2);
      return;
    }
    case DType::kBFloat16: {
      const uint32_t wide = std::bit_cast<uint32_t>(static_cast<float>(value));
      const uint16_t bits = static_cast<uint16_t>((wide + 0x7fff + (wide >> 16 & 1)) >> 16);
      std::memcpy(to, &bits, 2);
      return;
    }
    case DType::kInt8: {
      const int8_t byte = static_cast<int8_t>(std::clamp(std::nearbyint(value), -128.0, 127.0));
      std::memcpy(to, &byte, 1);
      return;
    }
  }
}

}  // namespace

double Random::Uniform() { return static_cast<double>(Next() >> 11) * 0x1p-53; }

// SplitMix64 (Steele, Lea, Flood, 2014): the standard library's distributions differ between versions.
uint64_t Random::Next() {
  uint64_t z = (state_ += 0x9e3779b97f4a7c15u);
  z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
  z = (z ^ z >> 27) * 0x94d049bb133111ebu;
  return z ^ z >> 31;
}

double Random::Normal() {  // Box and Muller
  const double radius = std::sqrt(-2.0 * std::log(1.0 - Uniform()));
  return radius * std::cos(2.0 * std::numbers::pi * Uniform());
}

SharedMatrix MakeMatrix(const std::vector<double>& values, uint32_t dim, DType dtype) {
  const size_t width = ByteWidth(dtype);
  auto bytes = std::make_shared<std::vector<std::byte>>(values.size() * width);
  for (size_t i = 0; i < values.size(); ++i) Store(values[i], dtype, bytes->data() + i * width);
  return {{bytes->data(), dim == 0 ? 0 : values.size() / dim, dim, dtype}, bytes};
}

SharedMatrix RandomNormal(uint64_t rows, uint32_t dim, uint64_t seed, DType dtype) {
  Random random(seed);
  const double scale = dtype == DType::kInt8 ? 40.0 : 1.0;
  std::vector<double> values(rows * dim);
  for (double& x : values) x = random.Normal() * scale;
  SharedMatrix matrix = MakeMatrix(values, dim, dtype);
  matrix.view.rows = rows;
  return matrix;
}

SharedMatrix RandomClustered(uint64_t rows, uint32_t dim, uint64_t clusters, double spread, uint64_t seed) {
  Random random(seed);
  std::vector<double> centres(clusters * dim), values;
  for (double& x : centres) x = random.Normal();
  for (uint64_t i = 0; i < rows * dim; ++i) {
    values.push_back(centres[i / dim % clusters * dim + i % dim] + spread * random.Normal());
  }
  return MakeMatrix(values, dim);
}

SharedMatrix RandomOfLengths(uint64_t rows, uint32_t dim, double spread, uint64_t seed) {
  Random random(seed);
  std::vector<double> values;
  for (uint64_t row = 0; row < rows; ++row) {
    const double length = row % 100 == 7 && spread > 0.0 ? 0.0 : std::exp(spread * random.Normal());
    for (uint32_t i = 0; i < dim; ++i) values.push_back(length * random.Normal());
  }
  return MakeMatrix(values, dim);
}

SharedMatrix Slice(const SharedMatrix& matrix, uint64_t first, uint64_t rows) {
  SharedMatrix slice = matrix;
  slice.view = matrix.view.slice(first, rows);
  return slice;
}

}  // namespace dotmax::testing
