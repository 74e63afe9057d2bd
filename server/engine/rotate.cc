#include "server/engine/rotate.h"

#include <algorithm>
#include <cmath>
#include <random>
#include <utility>

#include "server/base/dtype.h"
#include "server/engine/bound.h"
#include "server/engine/pair_sums.h"

namespace dotmax {
namespace {

constexpr uint64_t kMinSampleRows = 4096;
constexpr uint64_t kSampleRowsPerDim = 8;
constexpr uint64_t kMostSampleProducts = 15'000'000'000;  // for the second moment: less than half a second
// The axes need not converge, only hold most of the length: more rounds gained nothing on word and image
// vectors.
constexpr int kIterations = 12;

// c = a · bᵀ in float32: a is m × k, b is n × k.
absl::Status Multiply(const std::vector<float>& a, const std::vector<float>& b, int m, int k, int n,
                      std::vector<float>& c) {
  const auto matmul = TileMatmul::Create(TileKind::kFloat32, m, k, n);
  if (!matmul.ok()) return matmul.status();
  AlignedArray<std::byte> packed, scratch;
  AlignedArray<float> tile, product;
  std::copy(a.begin(), a.end(), tile.Reserve(a.size()));
  (*matmul)->Pack(b.data(), packed.Reserve((*matmul)->packed_bytes()));
  TileRunner(**matmul, packed.data(), scratch.Reserve((*matmul)->scratch_bytes()),
             product.Reserve(static_cast<size_t>(m) * n))
      .Run(tile.data());
  c.assign(product.data(), product.data() + static_cast<size_t>(m) * n);
  return absl::OkStatus();
}

// Makes the rows of `v` (count × dim) orthonormal, in order; a row that the earlier ones span becomes zero.
// One pass does roughly, twice is enough (Giraud, Langou, Rozložník, 2005).
void Orthonormalise(std::vector<double>& v, uint32_t count, uint32_t dim, int passes) {
  for (uint32_t i = 0; i < count; ++i) {
    double* const row = v.data() + size_t{i} * dim;
    double before = 0.0;
    for (uint32_t c = 0; c < dim; ++c) before += row[c] * row[c];
    for (int pass = 0; pass < passes; ++pass) {
      for (uint32_t j = 0; j < i; ++j) {
        const double* const other = v.data() + size_t{j} * dim;
        const double dot = CheckDot(row, reinterpret_cast<const std::byte*>(other), DType::kFloat64, dim).sum;
        for (uint32_t c = 0; c < dim; ++c) row[c] -= dot * other[c];
      }
    }
    double squares = 0.0;
    for (uint32_t c = 0; c < dim; ++c) squares += row[c] * row[c];
    const double scale = squares > before * 1e-20 ? 1.0 / std::sqrt(squares) : 0.0;
    for (uint32_t c = 0; c < dim; ++c) row[c] *= scale;
  }
}

// An upper bound of ‖P‖² = the largest eigenvalue of PPᵀ, by its largest absolute row sum.
double SquaredNormBound(const Axes& axes) {
  const Float64DotError error(axes.dim);
  std::vector<double> sums(axes.count), wide(axes.dim);
  for (uint32_t i = 0; i < axes.count; ++i) {
    const float* const x = axes.directions.data() + size_t{i} * axes.dim;
    std::copy_n(x, axes.dim, wide.begin());
    for (uint32_t j = 0; j <= i; ++j) {
      const float* const y = axes.directions.data() + size_t{j} * axes.dim;
      const DotSums dot =
          CheckDot(wide.data(), reinterpret_cast<const std::byte*>(y), DType::kFloat32, axes.dim);
      const double magnitude = std::abs(dot.sum) + error(dot.sum_abs);
      sums[i] += magnitude;
      if (j < i) sums[j] += magnitude;
    }
  }
  return *std::max_element(sums.begin(), sums.end()) * kOutward;
}

// The axes of `directions`, count × dim and nearly orthonormal, shrunk until they are a contraction.
absl::StatusOr<Axes> Contraction(uint32_t dim, uint32_t count, const std::vector<double>& directions) {
  Axes axes = {dim, count, false, {directions.begin(), directions.end()}};
  for (double squared = SquaredNormBound(axes); !(squared <= 1.0); squared = SquaredNormBound(axes)) {
    const double shrink = (1.0 - 0x1p-20) / std::sqrt(squared);
    if (!(shrink > 0.5)) return absl::InternalError("the axes are not nearly orthonormal");
    for (float& x : axes.directions) x = static_cast<float>(x * shrink);
  }
  return axes;
}

}  // namespace

Axes IdentityAxes(uint32_t dim) { return {dim, dim, true, {}}; }

absl::StatusOr<Axes> MixedAxes(const Axes& axes, uint32_t count, uint32_t head) {
  const size_t dim = axes.dim;
  std::mt19937_64 random(1);
  std::normal_distribution<double> normal;
  std::vector<double> mixed(count * dim);
  const auto mix_axes = [&](uint32_t first, uint32_t end) {
    const uint32_t n = end - first;
    std::vector<double> mix(size_t{n} * n);
    for (double& x : mix) x = normal(random);
    Orthonormalise(mix, n, n, 2);
    for (uint32_t i = 0; i < n; ++i) {
      for (uint32_t j = 0; j < n; ++j) {
        const double share = mix[size_t{i} * n + j];
        for (size_t c = 0; c < dim; ++c) {
          mixed[(first + i) * dim + c] += share * axes.directions[(first + j) * dim + c];
        }
      }
    }
  };
  if (head > 0) mix_axes(0, head);
  mix_axes(head, count);
  absl::StatusOr<Axes> result = Contraction(axes.dim, count, mixed);
  if (result.ok()) result->head = head;
  return result;
}

absl::StatusOr<Axes> PrincipalAxes(const MatrixView& rows, uint32_t count) {
  const uint32_t dim = rows.dim;
  const uint64_t affordable = std::max<uint64_t>(kMostSampleProducts / (uint64_t{dim} * dim), 2 * count);
  const uint64_t samples =
      std::min({rows.rows, std::max(kMinSampleRows, kSampleRowsPerDim * dim), affordable});
  // The sample, transposed: its product with itself is the second moment.
  std::vector<float> transposed(samples * dim), row(dim), moment, product;
  for (uint64_t s = 0; s < samples; ++s) {
    ToFloat32(rows.row(s * rows.rows / samples), rows.dtype, dim, row.data());
    for (uint32_t c = 0; c < dim; ++c) transposed[c * samples + s] = row[c];
  }
  const int n = static_cast<int>(dim);
  if (absl::Status s = Multiply(transposed, transposed, n, static_cast<int>(samples), n, moment); !s.ok())
    return s;

  // Start from the coordinate axes of the largest moments, spread a little so that none is orthogonal to what
  // it should find.
  std::vector<uint32_t> order(dim);
  for (uint32_t c = 0; c < dim; ++c) order[c] = c;
  std::stable_sort(order.begin(), order.end(), [&](uint32_t a, uint32_t b) {
    return moment[size_t{a} * dim + a] > moment[size_t{b} * dim + b];
  });
  std::vector<double> v(size_t{count} * dim, 1e-3);
  for (uint32_t i = 0; i < count; ++i) {
    for (uint32_t c = 0; c < dim; ++c) v[size_t{i} * dim + c] *= (i * 31 + c * 17) % 7 - 3.0;
    v[size_t{i} * dim + order[i]] += 1.0;
  }
  Orthonormalise(v, count, dim, 1);
  std::vector<float> narrow;
  for (int iteration = 0; iteration < kIterations; ++iteration) {
    narrow.assign(v.begin(), v.end());
    if (absl::Status s = Multiply(narrow, moment, static_cast<int>(count), n, n, product); !s.ok()) return s;
    v.assign(product.begin(), product.end());
    Orthonormalise(v, count, dim, iteration + 1 < kIterations ? 1 : 2);
  }

  return Contraction(dim, count, v);
}

absl::StatusOr<Projector> Projector::Create(const Axes& axes, int tile_rows) {
  Projector projector;
  if (axes.identity) return projector;
  auto matmul = TileMatmul::Create(TileKind::kFloat32, tile_rows, static_cast<int>(axes.dim),
                                   static_cast<int>(axes.count));
  if (!matmul.ok()) return matmul.status();
  projector.matmul_ = *std::move(matmul);
  const TileMatmul& kernel = *projector.matmul_;
  kernel.Pack(axes.directions.data(), projector.packed_.Reserve(kernel.packed_bytes()));
  projector.runner_ = std::make_unique<TileRunner>(
      kernel, projector.packed_.data(), projector.scratch_.Reserve(kernel.scratch_bytes()),
      projector.projected_.Reserve(static_cast<size_t>(tile_rows) * axes.count));
  return projector;
}

const float* Projector::Project(const float* from) {
  if (runner_ == nullptr) return from;
  runner_->Run(from);
  return projected_.data();
}

}  // namespace dotmax
