// The SIMD sums over pairs of rows, for every instruction set, chosen at run time (Highway).
#ifndef DOTMAX_SERVER_ENGINE_PAIR_SUMS_H_
#define DOTMAX_SERVER_ENGINE_PAIR_SUMS_H_

#include <cstddef>

#include "absl/types/span.h"
#include "server/base/types.h"

namespace dotmax {

// dots[i] = Σ row[j] · queries[i][j] in float32, in some order, each operation rounded, the additions perhaps
// fused. Reads the row once for four queries: a vector of each query per product.
void Float32Dots(const float* row, size_t dim, absl::Span<const float* const> queries, float* dots);

struct DotSums {
  double sum;      // Σ aᵢ·bᵢ in float64, in some order, each operation rounded
  double sum_abs;  // Σ |aᵢ·bᵢ| likewise
};

// The float64 check: `a` in float64 against one row of any dtype (any alignment) where it lies. Its error is
// Float64DotError(dim)(sum_abs); not finite when something overflowed. Memory-bound on scattered rows.
DotSums CheckDot(const double* a, const std::byte* b, DType dtype, size_t dim);

struct DotAndSquares {
  double sum;      // Σ aᵢ·bᵢ, as above
  double sum_abs;  // Σ |aᵢ·bᵢ|
  double squares;  // Σ bᵢ²
};

// The same for a cosine (Float64CosineInterval), reading the row once.
DotAndSquares CheckDotAndSquares(const double* a, const std::byte* b, DType dtype, size_t dim);

// Σ (aᵢ − bᵢ)² in float64, in some order, each operation rounded, the additions perhaps fused. Its error is
// Float64DistanceError(dim)(of itself); infinite when something overflowed.
double CheckSquaredDistance(const double* a, const std::byte* b, DType dtype, size_t dim);

// The number hi + lo.
struct DoubleDouble {
  double hi, lo;
};

// Σ aᵢ·bᵢ with an error of AnchoredDotError (bound.h). `narrow` says that a's elements have at most 24
// bits, as float32's have: then products with rows of such dtypes are exact. REQUIRES: an anchor for at
// least ‖a‖‖b‖.
//
// With fused multiply-adds four operations per vector of float64, no more than CheckDot.
DoubleDouble AnchoredDot(const double* a, bool narrow, const std::byte* b, DType dtype, size_t dim,
                         double anchor);

struct AnchoredDots {
  DoubleDouble dot, squares;  // Σ aᵢ·bᵢ, Σ bᵢ²
};

// The same of both sums, reading the row once.
AnchoredDots AnchoredDotAndSquares(const double* a, bool narrow, const std::byte* b, DType dtype, size_t dim,
                                   double dot_anchor, double squares_anchor);

struct AnchoredSums {
  double hi, middle, lo;  // their sum is Σ aᵢ·bᵢ, but for the rounding of lo
  double lo_abs;          // Σ |lo's terms|, rounded: 0 if the sum is exact
};

// AnchoredDot for narrow a and b, of which a second anchor, for SecondAnchored, holds what the first one
// loses.
AnchoredSums AnchoredDotTwice(const double* a, const std::byte* b, DType dtype, size_t dim, double anchor,
                              double second_anchor);

// Σ (aᵢ − bᵢ)² in double-double: its error is DoubleDoubleDistanceError(dim, hi) unless something overflowed.
DoubleDouble DoubleDoubleSquaredDistance(const double* a, const std::byte* b, DType dtype, size_t dim);

// A row of any dtype (any alignment) in float64; returns its largest magnitude.
double Widen(const std::byte* row, DType dtype, size_t dim, double* to);

}  // namespace dotmax

#endif  // DOTMAX_SERVER_ENGINE_PAIR_SUMS_H_
