#include "server/engine/float32_look.h"

#include <algorithm>

#include "server/base/dtype.h"
#include "server/engine/quantize.h"

namespace dotmax {
namespace {

// Of shorter rows, or fewer survivors, float64 takes little more, and several rows wait for memory at once.
constexpr uint32_t kFewestDims = 256;
constexpr size_t kFewestSurvivors = 32;
constexpr size_t kCacheLineBytes = 64;
constexpr size_t kRowsOfTiles = kTilesPerClaim * Int8Codes::kTileRows;

void SortByRow(absl::Span<Survivor> survivors, AlignedArray<Survivor>& scratch) {
  std::array<uint32_t, kRowsOfTiles + 1> ends = {};
  for (const Survivor& s : survivors) ++ends[s.row + 1];
  for (size_t row = 1; row < ends.size(); ++row) ends[row] += ends[row - 1];
  Survivor* const sorted = scratch.Reserve(survivors.size());
  for (const Survivor& s : survivors) sorted[ends[s.row]++] = s;
  std::copy_n(sorted, survivors.size(), survivors.begin());
}

}  // namespace

bool Float32Look::Serves(size_t survivors) const {
  return base_.dim >= kFewestDims && survivors >= kFewestSurvivors;
}

size_t Float32Look::Keep(absl::Span<Survivor> survivors, absl::Span<const uint32_t> queries, double norm,
                         absl::FunctionRef<uint64_t(int row)> id, absl::FunctionRef<double(uint32_t q)> score,
                         Scratch& scratch) const {
  SortByRow(survivors, scratch.survivors_by_row);
  const size_t dim = base_.dim, row_bytes = base_.row_bytes();
  std::array<const float*, kMaxColumns> of_row;
  std::array<float, kMaxColumns> dots;
  size_t kept = 0;
  for (size_t first = 0, end; first < survivors.size(); first = end) {
    const uint16_t row = survivors[first].row;
    for (end = first; end < survivors.size() && survivors[end].row == row; ++end) {
      of_row[end - first] = block_.scaled + queries[survivors[end].column] * dim;
    }
    if (end < survivors.size()) {
      const std::byte* const next = base_.row(id(survivors[end].row));
      for (size_t byte = 0; byte < row_bytes; byte += kCacheLineBytes) __builtin_prefetch(next + byte);
    }
    const std::byte* const bytes = base_.row(id(row));
    const float* values = reinterpret_cast<const float*>(bytes);
    if (base_.dtype != DType::kFloat32 || reinterpret_cast<uintptr_t>(bytes) % alignof(float) != 0) {
      float* const converted = scratch.tile.Reserve(dim);
      ToFloat32(bytes, base_.dtype, dim, converted);
      values = converted;
    }
    Float32Dots(values, dim, {of_row.data(), end - first}, dots.data());
    for (size_t i = first; i < end; ++i) {
      const uint32_t q = queries[survivors[i].column];
      const bool may_reach = dots[i - first] > ScreenThreshold(score(q), error_(block_.norms[q], norm));
      survivors[kept] = survivors[i];
      kept += may_reach ? 1 : 0;
    }
  }
  return kept;
}

}  // namespace dotmax
