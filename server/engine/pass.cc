#include "server/engine/pass.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "server/base/dtype.h"
#include "server/engine/bound.h"
#include "server/engine/exact.h"

namespace dotmax {
int PaddedColumns(size_t queries) {
  return *std::lower_bound(kBlockColumns.begin(), kBlockColumns.end(), static_cast<int>(queries));
}

absl::StatusOr<const TileMatmul*> Kernels::Get(TileKind kind, int rows, int dim, int columns) {
  std::unique_ptr<const TileMatmul>& matmul = made_[{kind, rows, dim, columns}];
  if (matmul == nullptr) {
    auto made = TileMatmul::Create(kind, rows, dim, columns);
    if (!made.ok()) return made.status();
    matmul = *std::move(made);
  }
  return matmul.get();
}

PairScorer::PairScorer(const MatrixView& queries, const MatrixView& base)
    : queries_(queries), base_(base), query_row_(queries.dim), base_row_(base.dim) {}

double PairScorer::operator()(uint64_t query_row, uint64_t id) const {
  ToFloat64(queries_.row(query_row), queries_.dtype, queries_.dim, query_row_.data());
  ToFloat64(base_.row(id), base_.dtype, base_.dim, base_row_.data());
  return CorrectlyRoundedDot(query_row_, base_row_);
}

QueryBlock PassBuffers::Prepare(const MatrixView& queries, uint64_t first, absl::Span<TopK* const> best,
                                uint32_t top_k) {
  const size_t dim = queries.dim;
  wide_.Reserve(best.size() * dim);
  scaled_.Reserve(best.size() * dim);
  ToFloat64(queries.row(first), queries.dtype, best.size() * dim, wide_.data());
  exponents_.clear();
  norms_.clear();
  for (size_t i = 0; i < best.size(); ++i) {
    const absl::Span<const double> row(wide_.data() + i * dim, dim);
    double max_abs = 0.0;
    for (const double x : row) max_abs = std::max(max_abs, std::abs(x));
    const int exponent = ScreenExponent(max_abs);
    double squares = 0.0;
    for (size_t j = 0; j < dim; ++j) {
      const double x = ScaleByPowerOfTwo(row[j], -exponent);
      squares += x * x;
      scaled_.data()[i * dim + j] = static_cast<float>(x);
    }
    exponents_.push_back(exponent);
    norms_.push_back(NormUpperBound(queries.dim, squares));
  }
  return {&queries, first, best, top_k, wide_.data(), scaled_.data(), exponents_, norms_};
}

void Pass::Work(Scratch& scratch, absl::FunctionRef<absl::Status()> stop) {
  const PairScorer scorer(*block_.queries, base_);
  const std::unique_ptr<Worker> worker = MakeWorker(scratch, scorer);
  while (!stopped_.load(std::memory_order_relaxed)) {
    const uint64_t claimed = next_tile_.fetch_add(kTilesPerClaim, std::memory_order_relaxed);
    if (claimed >= tiles()) return;
    if (absl::Status status = stop(); !status.ok()) {
      absl::MutexLock lock(&mutex_);
      status_.Update(status);
      stopped_.store(true, std::memory_order_relaxed);
      return;
    }
    if (!worker->Search(claimed, std::min(claimed + kTilesPerClaim, tiles()))) return;
  }
}

absl::Status Pass::status() {
  absl::MutexLock lock(&mutex_);
  return status_;
}

Candidate Pass::Check(size_t q, uint64_t id) const {
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  const DotSums dot = CheckDot(block_.wide + q * base_.dim, base_.row(id), base_.dtype, base_.dim);
  // Rounding is monotonic: the rounded ends of an interval around the product bound its rounded score.
  const double error = Float64DotError(base_.dim, dot.sum_abs);
  const Candidate candidate = {dot.sum - error, dot.sum + error, block_.first + q, id};
  if (std::isfinite(candidate.lower) && std::isfinite(candidate.upper)) return candidate;
  return {-kInfinity, kInfinity, block_.first + q, id};
}

}  // namespace dotmax
