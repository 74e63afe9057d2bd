#include "server/engine/deflation.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "server/engine/bound.h"
#include "server/engine/pair_sums.h"
#include "server/engine/row_loops.h"

namespace dotmax {
namespace {

constexpr uint64_t kSampleRows = 1024, kSampleElements = uint64_t{1} << 22;
// A direction that matters is far ahead of others: it takes few.
constexpr int kPowerIterations = 8;

double DotOf(const double* x, const double* y, size_t dim) {
  return CheckDot(x, reinterpret_cast<const std::byte*>(y), DType::kFloat64, dim).sum;
}

}  // namespace

void LessAlong(const double* along, const double* norms, size_t count, const RowsAlong& rows, uint32_t dim,
               double row_norm, double* scores) {
  const double of_rows = AlongError(dim, 1.0, row_norm);
  const double rounded =
      Term("along row rounding", kUnitFloat32 * (rows.most - rows.least)) * kOutward + 0x1p-149;
  for (size_t q = 0; q < count; ++q) {
    if (scores[q] == std::numeric_limits<double>::infinity()) continue;
    scores[q] -= along[q] * rows.least + of_rows * norms[q] + std::abs(along[q]) * rounded;
  }
}

Deflation Deflation::Of(const MatrixView& rows) {
  const size_t dim = rows.dim;
  const uint64_t count = std::min({rows.rows, kSampleRows, kSampleElements / dim});
  std::vector<double> sample(count * dim), largest, squares;
  for (uint64_t i = 0; i < count; ++i) {
    double* const row = sample.data() + i * dim;
    largest.push_back(Widen(rows.row(i * rows.rows / count), rows.dtype, dim, row));
    squares.push_back(DotOf(row, row, dim));
  }
  const auto longest = std::max_element(squares.begin(), squares.end());

  // Sums of the rows, each as often as it points where they do: at first, where the longest one does.
  Deflation deflation;
  std::vector<double>& u = deflation.direction_;
  const auto first = sample.begin() + static_cast<ptrdiff_t>((longest - squares.begin()) * dim);
  u.assign(first, first + static_cast<ptrdiff_t>(dim));
  const int steps = *longest > 0.0 ? kPowerIterations : 0;
  for (int step = 0; step < steps; ++step) {
    const double inverse = 1.0 / std::sqrt(DotOf(u.data(), u.data(), dim));
    std::vector<double> next(dim);
    for (uint64_t i = 0; i < count; ++i) {
      const double* const row = sample.data() + i * dim;
      const double along = DotOf(u.data(), row, dim) * inverse;
      for (size_t j = 0; j < dim; ++j) next[j] += along * row[j];
    }
    u = std::move(next);
  }
  const double norm = std::sqrt(DotOf(u.data(), u.data(), dim));
  for (double& x : u) x = norm > 0.0 ? static_cast<float>(x / norm) : 0.0;
  deflation.squares_ = DotOf(u.data(), u.data(), dim);

  // An error of codes is about the length of one side times a step, the largest element's, of the other.
  std::vector<float> rest(dim);
  double all_along = 0.0, before = 0.0, after = 0.0;
  for (uint64_t i = 0; i < count; ++i) {
    if (squares[i] == 0.0) continue;
    const double along = deflation.Split(sample.data() + i * dim, rest.data());
    const double squares_along = along * along * deflation.squares_;
    all_along += squares_along;
    before += largest[i] / std::sqrt(squares[i]);
    after += std::sqrt(std::max(squares[i] - squares_along, 0.0)) * MaxAbs(rest.data(), dim) / squares[i];
  }
  const double all_squares = std::accumulate(squares.begin(), squares.end(), 0.0);
  if (all_squares > 0.0) deflation.share_ = all_along / all_squares;
  if (before > 0.0) deflation.remaining_error_ = after / before;
  return deflation;
}

double Deflation::Split(const double* x, float* rest) const {
  const double along = squares_ > 0.0 ? DotOf(direction_.data(), x, direction_.size()) / squares_ : 0.0;
  for (size_t i = 0; i < direction_.size(); ++i) rest[i] = static_cast<float>(x[i] - along * direction_[i]);
  return along;
}

double Deflation::SplitRow(const std::byte* row, DType dtype, float* rest) const {
  std::vector<double> wide(dim());
  Widen(row, dtype, dim(), wide.data());
  return Split(wide.data(), rest);
}

double Deflation::SplitQuery(const double* query, double scale, float* rest) const {
  std::vector<double> scaled(query, query + dim());
  for (double& x : scaled) x *= scale;
  return Split(scaled.data(), rest) * squares_;
}

double Deflation::Error(double norm, double length) const { return DeflationError(dim(), norm, length); }

}  // namespace dotmax
