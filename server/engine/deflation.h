// Rows that lie about one direction, as those of embeddings, pictures, prices and counts do: what they are
// without their part along it is short, and 8-bit steps of it are small.
#ifndef DOTMAX_SERVER_ENGINE_DEFLATION_H_
#define DOTMAX_SERVER_ENGINE_DEFLATION_H_

#include <cstddef>
#include <cstdint>
#include <vector>

#include "absl/types/span.h"
#include "server/base/types.h"

namespace dotmax {

// τ of some rows (below): `least`, and `more` of each, rounded to float32, up to `most` in all.
struct RowsAlong {
  double least, most;
  absl::Span<const float> more;
};

// Takes from `scores`, which inner products of `count` queries must reach, what is added to those of rows for
// their parts along a direction, for τ = rows.least, and what that may be off by for any of these.
// along[q]: α·‖u‖²; norms[q] ≥ ‖query‖; row_norm ≥ ‖row‖.
void LessAlong(const double* along, const double* norms, size_t count, const RowsAlong& rows, uint32_t dim,
               double row_norm, double* scores);

// For any vector u, and a = αu + a', b = τu + b' with any α and τ,
//
//   a·b = a'·b' + α·τ·‖u‖² + α·(u·b') + τ·(u·a')
//
// where the last two vanish, but for roundings, if α and τ are a's and b's parts along u. So queries and rows
// are encoded as a' and b', and α‖u‖²·τ, one number per query times one per row, is added to their score. u
// is about the first principal direction of the rows about the origin, which is that of their mean where this
// is long. (Removing a principal direction is called deflation: Mackey, Deflation Methods for Sparse PCA,
// 2008.) Immutable.
class Deflation {
 public:
  // By a sample of the rows. Any rows will do. REQUIRES: rows.rows ≥ 1; magnitudes as Int8Codes wants them.
  static Deflation Of(const MatrixView& rows);

  uint32_t dim() const { return static_cast<uint32_t>(direction_.size()); }
  // Of the sample's squares, those along u.
  double share() const { return share_; }
  // About how much smaller the errors of codes' products are without what is along u, in the sample.
  double remaining_error() const { return remaining_error_; }

  // Writes b', in float32, of a row, and returns τ.
  double SplitRow(const std::byte* row, DType dtype, float* rest) const;
  // The same of a query, whose elements are multiplied by a power of two; returns α·‖u‖².
  double SplitQuery(const double* query, double scale, float* rest) const;
  // How far that is from a' and b', of about this length, at most, for a row or query of length ≤ norm.
  double Error(double norm, double length) const;

  uint64_t bytes() const { return dim() * sizeof(double); }

 private:
  Deflation() = default;

  // Of x, about its part along u, and the rest.
  double Split(const double* x, float* rest) const;

  std::vector<double> direction_;  // u, in float32's numbers
  double squares_ = 0.0;           // about ‖u‖²
  double share_ = 0.0;
  double remaining_error_ = 1.0;
};

}  // namespace dotmax

#endif  // DOTMAX_SERVER_ENGINE_DEFLATION_H_
