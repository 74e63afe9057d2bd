#include "server/engine/centring.h"

#include <algorithm>
#include <cmath>

#include "server/base/dtype.h"
#include "server/engine/bound.h"
#include "server/engine/pair_sums.h"
#include "server/engine/row_loops.h"

namespace dotmax {
namespace {

constexpr uint64_t kSampleRows = 4096;
constexpr uint32_t kDimMultiple = 4;   // of what kernels multiply at once
constexpr double kMostCopies = 0.125;  // per dimension
constexpr double kRare = 0.9;          // of a sample's largest coordinates, those beyond are outliers
constexpr int kMostExponent = 8;       // of the scale, which multiplies float32 errors
// αu is about a query's part along u, and so no longer than the query but for roundings.
constexpr double kLongest = 1.0 + 0x1p-10;

const std::byte* Bytes(const float* x) { return reinterpret_cast<const std::byte*>(x); }

double NormOf(const std::vector<float>& x) {
  double squares = 0.0;
  for (const float value : x) squares += static_cast<double>(value) * value;
  return NormUpperBound(static_cast<uint32_t>(x.size()), squares);
}

double Quantile(std::vector<double>& values, double share) {
  const auto at = values.begin() + static_cast<ptrdiff_t>(share * (values.size() - 1));
  std::nth_element(values.begin(), at, values.end());
  return *at;
}

}  // namespace

Centring Centring::Of(const MatrixView& rows) {
  const uint32_t dim = rows.dim;
  const uint64_t count = std::min(rows.rows, kSampleRows);
  std::vector<float> sample(count * dim);
  std::vector<double> mean(dim);
  double squares = 0.0;
  for (uint64_t i = 0; i < count; ++i) {
    float* const row = sample.data() + i * dim;
    ToFloat32(rows.row(i * rows.rows / count), rows.dtype, dim, row);
    for (uint32_t j = 0; j < dim; ++j) {
      mean[j] += row[j];
      squares += static_cast<double>(row[j]) * row[j];
    }
  }
  Centring centring;
  for (const double sum : mean) centring.centre_.push_back(static_cast<float>(sum / count));
  centring.centre_norm_ = NormOf(centring.centre_);
  const double norm = centring.centre_norm_;
  if (squares > 0.0) centring.share_ = norm * norm * count / squares;
  for (const float x : centring.centre_) {
    centring.direction_.push_back(norm > 0.0 ? static_cast<float>(x / norm) : 0.0f);
  }
  centring.direction_norm_ = NormOf(centring.direction_);
  centring.wide_direction_.assign(centring.direction_.begin(), centring.direction_.end());
  const auto along = [&](const float* x) {
    return CheckDot(centring.wide_direction_.data(), Bytes(x), DType::kFloat32, dim).sum;
  };
  centring.along_ = along(centring.centre_.data());

  // What the coordinates of rows, of queries like them, and of both along the mean are.
  std::vector<double> of_rows, of_queries, shifts, alphas;
  std::vector<float> rest(dim);
  for (uint64_t i = 0; i < count; ++i) {
    const float* const row = sample.data() + i * dim;
    const double alpha = along(row);
    alphas.push_back(std::abs(alpha));
    shifts.push_back(std::abs(alpha - centring.along_));
    SubtractMultiple(row, centring.centre_.data(), 1.0, dim, rest.data());
    of_rows.push_back(MaxAbs(rest.data(), dim));
    SubtractMultiple(row, centring.direction_.data(), alpha, dim, rest.data());
    of_queries.push_back(MaxAbs(rest.data(), dim));
  }
  const double largest_of_rows = Quantile(of_rows, kRare), shift = Quantile(shifts, 1.0);
  const double largest_of_queries = Quantile(of_queries, 0.5), alpha = Quantile(alphas, kRare);
  const int exponent = shift > 0.0 && largest_of_rows > 0.0
                           ? static_cast<int>(std::floor(std::log2(largest_of_rows / shift)))
                           : 0;
  centring.scale_ = std::ldexp(1.0, std::clamp(exponent, -kMostExponent, kMostExponent));
  const double wanted =
      largest_of_queries > 0.0 ? std::ceil(alpha / (centring.scale_ * largest_of_queries)) : 1.0;
  const uint32_t copies =
      static_cast<uint32_t>(std::clamp(wanted, 1.0, std::max(1.0, std::floor(kMostCopies * dim))));
  centring.copies_ = (dim + copies + kDimMultiple - 1) / kDimMultiple * kDimMultiple - dim;
  return centring;
}

void Centring::LiftRow(const float* row, float* to) const {
  SubtractMultiple(row, centre_.data(), 1.0, dim(), to);
  const double along = CheckDot(wide_direction_.data(), Bytes(row), DType::kFloat32, dim()).sum;
  std::fill_n(to + dim(), copies_, static_cast<float>((along - along_) * scale_));
}

void Centring::LiftQuery(const float* query, float* to) const {
  const DotSums along = CheckDot(wide_direction_.data(), Bytes(query), DType::kFloat32, dim());
  const float z = static_cast<float>(along.sum / (copies_ * scale_));
  SubtractMultiple(query, direction_.data(), copies_ * scale_ * z, dim(), to);  // n·z·k is exact
  std::fill_n(to + dim(), copies_, z);
}

double Centring::RowError(double norm) const {
  const double by_copies = std::sqrt(1.0 * copies_) * scale_ * direction_norm_;
  return LiftError(dim(), norm, centre_norm_) * (1.0 + Term("lift copies", by_copies)) * kOutward;
}

double Centring::QueryError(double norm) const { return LiftError(dim(), norm, norm * kLongest); }

}  // namespace dotmax
