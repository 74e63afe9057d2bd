#include "server/engine/spread.h"

#include <algorithm>
#include <cmath>
#include <random>

#include "server/base/dtype.h"
#include "server/engine/bound.h"
#include "server/engine/row_code.h"
#include "server/engine/row_loops.h"

namespace dotmax {
namespace {

constexpr uint32_t kLargestBlock = 1024;
constexpr int kMostDoublings = 10;  // of its size

// Neighbours by norm share a scale, as in a tile; so many of these, of so many rows, are looked at.
constexpr size_t kSampleGroups = 8, kGroupRows = 32;
// Of what codes err by without.
constexpr double kLeastGain = 0.8;

// Two steps of the transform, of `count` fours side by side.
void AddUpFours(float* __restrict a, float* __restrict b, float* __restrict c, float* __restrict d,
                size_t count) {
  for (size_t i = 0; i < count; ++i) {
    const float s = a[i] + b[i], t = a[i] - b[i], u = c[i] + d[i], v = c[i] - d[i];
    a[i] = s + u;
    b[i] = t + v;
    c[i] = s - u;
    d[i] = t - v;
  }
}

// Four steps for sixteen; of the last two, neighbours come side by side by transposing, and stay so.
void AddUpSixteen(float* x) {
  AddUpFours(x, x + 4, x + 8, x + 12, 4);
  float transposed[16];
  for (int i = 0; i < 4; ++i) {
    for (int j = 0; j < 4; ++j) transposed[4 * j + i] = x[4 * i + j];
  }
  AddUpFours(transposed, transposed + 4, transposed + 8, transposed + 12, 4);
  std::copy_n(transposed, 16, x);
}

// The sum of what codes of some rows err by: with one scale for all, as a tile's, and with one each, as
// queries'.
double CodeErrors(const std::vector<float>& rows, uint32_t dim) {
  std::vector<uint8_t> codes(dim);
  const auto error = [&](const float* row, float largest) {
    const double scale = CodeScale(largest, 0.0);
    const float inverse_scale = static_cast<float>(1.0 / scale);
    return std::sqrt(EncodeUnsigned(row, dim, scale, inverse_scale, kMaxCode, kZeroCode, codes.data()).error);
  };
  const float largest = MaxAbs(rows.data(), rows.size());
  double sum = 0.0;
  for (const float* row = rows.data(); row < rows.data() + rows.size(); row += dim) {
    sum += error(row, largest) + error(row, MaxAbs(row, dim));
  }
  return sum;
}

}  // namespace

Spread::Spread(uint32_t dim) {
  std::mt19937_64 random(1);
  factors_.reserve(dim);
  for (uint32_t left = dim, block = kLargestBlock; left > 0; left -= block) {
    while (block > left) block /= 4;
    blocks_.push_back(block);
    const float factor = 1.0f / std::sqrt(static_cast<float>(block));  // 2^-m
    for (uint32_t i = 0; i < block; ++i) factors_.push_back(random() % 2 == 0 ? factor : -factor);
  }
}

std::shared_ptr<const Spread> Spread::IfCloser(const MatrixView& rows, absl::Span<const uint32_t> ids,
                                               const Deflation* deflation) {
  const uint32_t dim = rows.dim;
  auto spread = std::make_shared<const Spread>(dim);
  const size_t of_group = std::min(kGroupRows, ids.size());
  std::vector<float> group(of_group * dim);
  double before = 0.0, after = 0.0;
  for (size_t g = 0; g < kSampleGroups; ++g) {
    const size_t first = (ids.size() - of_group) * g / (kSampleGroups - 1);
    for (size_t r = 0; r < of_group; ++r) {
      float* const to = group.data() + r * dim;
      const std::byte* const row = rows.row(ids[first + r]);
      deflation != nullptr ? void(deflation->SplitRow(row, rows.dtype, to))
                           : ToFloat32(row, rows.dtype, dim, to);
    }
    before += CodeErrors(group, dim);
    for (size_t r = 0; r < of_group; ++r) spread->Apply(group.data() + r * dim);
    after += CodeErrors(group, dim);
  }
  return after < kLeastGain * before ? spread : nullptr;
}

void Spread::Apply(float* x) const {
  for (size_t i = 0; i < factors_.size(); ++i) x[i] *= factors_[i];
  for (const uint32_t block : blocks_) {
    float* const end = x + block;
    if (block == 4) AddUpFours(x, x + 1, x + 2, x + 3, 1);
    for (float* a = x; block >= 16 && a < end; a += 16) AddUpSixteen(a);
    for (uint32_t h = 16; h < block; h *= 4) {
      for (float* a = x; a < end; a += 4 * h) AddUpFours(a, a + h, a + 2 * h, a + 3 * h, h);
    }
    x = end;
  }
}

double Spread::Error(double length) const { return SpreadError(dim(), kMostDoublings, length); }

}  // namespace dotmax
