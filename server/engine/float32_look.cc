#include "server/engine/float32_look.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "server/base/dtype.h"
#include "server/engine/aligned.h"
#include "server/engine/matrix.h"
#include "server/engine/pair_sums.h"
#include "server/engine/quantize.h"
#include "server/engine/survivors.h"

namespace dotmax {
namespace {

// Of shorter rows, or fewer survivors, float64 takes little more, and several rows wait for memory at once.
constexpr uint32_t kFewestDims = 256;
constexpr size_t kFewestSurvivors = 32;
constexpr size_t kRowsTogether = 16;
constexpr size_t kRowsOfTiles = kTilesPerClaim * Int8Codes::kTileRows;

}  // namespace

bool Float32Look::Serves(size_t survivors) const {
  return base_.dim >= kFewestDims && survivors >= kFewestSurvivors;
}

size_t Float32Look::Keep(absl::Span<Survivor> survivors, absl::Span<const uint32_t> queries, double norm,
                         absl::FunctionRef<uint64_t(int row)> id,
                         absl::FunctionRef<double(uint32_t q, int row)> score, Scratch& scratch) const {
  SortSurvivors<kRowsOfTiles>(survivors, scratch.sorted, [](const Survivor& s) { return s.row; });
  const size_t dim = base_.dim;
  std::array<const float*, kMaxColumns> of_row;
  std::array<float, kMaxColumns> dots;
  size_t kept = 0;
  for (size_t first = 0, end; first < survivors.size(); first = end) {
    const uint16_t row = survivors[first].row;
    for (end = first; end < survivors.size() && survivors[end].row == row; ++end) {
      of_row[end - first] = block_.scaled + queries[survivors[end].column] * dim;
    }
    if (end < survivors.size()) Prefetch(base_.row(id(survivors[end].row)), base_.row_bytes());
    const float* values = InPlace(id(row));
    if (values == nullptr) {
      float* const converted = scratch.tile.Reserve(dim);
      ToFloat32(base_.row(id(row)), base_.dtype, dim, converted);
      values = converted;
    }
    Float32Dots(values, dim, {of_row.data(), end - first}, dots.data());
    for (size_t i = first; i < end; ++i) {
      const uint32_t q = queries[survivors[i].column];
      const bool may_reach = dots[i - first] > ScreenThreshold(score(q, row), error_(block_.norms[q], norm));
      survivors[kept] = survivors[i];
      kept += may_reach ? 1 : 0;
    }
  }
  return kept;
}

double Float32Look::LeastScore(uint32_t q, size_t count, absl::FunctionRef<uint64_t(size_t i)> id,
                               double norm) const {
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  std::array<const float*, kRowsTogether> rows;
  std::array<float, kRowsTogether> dots;
  float least = std::numeric_limits<float>::infinity();
  for (size_t first = 0; first < count; first += kRowsTogether) {
    const size_t together = std::min(kRowsTogether, count - first);
    for (size_t i = 0; i < together; ++i) {
      rows[i] = InPlace(id(first + i));
      if (rows[i] == nullptr) return -kInfinity;
    }
    Float32Dots(block_.scaled + size_t{q} * base_.dim, base_.dim, {rows.data(), together}, dots.data());
    least = std::min(least, *std::min_element(dots.begin(), dots.begin() + together));
  }
  const double bound = double{least} - error_(block_.norms[q], norm);
  const double score = ScaleByPowerOfTwo(bound - std::abs(bound) * 0x1p-50, block_.exponents[q]);
  // Where the power of two is exact.
  return 0x1p-1000 < std::abs(score) && std::abs(score) < 0x1p1000 ? score : -kInfinity;
}

const float* Float32Look::InPlace(uint64_t id) const {
  const std::byte* const row = base_.row(id);
  const bool is_float32 =
      base_.dtype == DType::kFloat32 && reinterpret_cast<uintptr_t>(row) % alignof(float) == 0;
  return is_float32 ? reinterpret_cast<const float*>(row) : nullptr;
}

}  // namespace dotmax
