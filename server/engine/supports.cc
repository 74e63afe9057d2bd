#include "server/engine/supports.h"

#include <algorithm>

#include "server/base/dtype.h"
#include "server/engine/row_loops.h"

namespace dotmax {
namespace {

constexpr int kWordBits = 64;
// Shorter rows are scored nearly as fast.
constexpr uint32_t kMinDim = 256;
// Rows with n of dim elements have n²/dim in common, where elements are alike; and none, where that is m, of
// e^-m pairs.
constexpr uint64_t kMostInCommon = 3;
constexpr uint64_t kSampleRows = 64;

}  // namespace

Supports Supports::Of(const MatrixView& rows) {
  Supports supports;
  if (rows.dim < kMinDim || rows.rows == 0) return supports;
  std::vector<double> row(rows.dim);
  const auto read = [&](uint64_t id) { ToFloat64(rows.row(id), rows.dtype, rows.dim, row.data()); };
  const uint64_t sample = std::min(kSampleRows, rows.rows);
  uint64_t count = 0;
  for (uint64_t i = 0; i < sample; ++i) {
    read(i * rows.rows / sample);
    count += rows.dim - std::count(row.begin(), row.end(), 0.0);
  }
  if (count * count > kMostInCommon * rows.dim * sample * sample) return supports;
  supports.words_ = (rows.dim + kWordBits - 1) / kWordBits;
  supports.bits_.resize(rows.rows * supports.words_);
  supports.squares_.resize(rows.rows);
  for (uint64_t id = 0; id < rows.rows; ++id) {
    read(id);
    Find(row, supports.bits_.data() + id * supports.words_);
    SquaresOfRows(row.data(), 1, rows.dim, &supports.squares_[id]);
  }
  return supports;
}

void Supports::Find(absl::Span<const double> row, uint64_t* bits) {
  for (size_t first = 0; first < row.size(); first += kWordBits) {
    uint64_t word = 0;
    const size_t count = std::min<size_t>(kWordBits, row.size() - first);
    for (size_t i = 0; i < count; ++i) word |= uint64_t{row[first + i] != 0.0} << i;
    *bits++ = word;
  }
}

}  // namespace dotmax
