// Correctly rounded inner products, squared distances and cosines: the definition of a score. Pure functions,
// thread-safe.
#ifndef DOTMAX_SERVER_ENGINE_EXACT_H_
#define DOTMAX_SERVER_ENGINE_EXACT_H_

#include <cstddef>

#include "absl/types/span.h"
#include "server/base/types.h"
#include "server/engine/reduce.h"

namespace dotmax {

// Σ a[i]·b[i] over [0, a.size()), the true real number rounded once to nearest even; +0.0 for zero (and for
// an empty range); ±infinity when it rounds beyond float64. Neither products nor sums overflow or underflow
// on the way. All of float64 is allowed, denormals too. REQUIRES: equal sizes ≤ kMaxDim, all finite.
//
// A double-double sum whose error bound (DoubleDoubleDotError) certifies the rounding answers nearly
// always, at about 10 operations per element; otherwise (ties, cancellation, extreme exponents) an integer
// accumulator of the full float64 product range does (Kulisch), some hundred times slower.
double CorrectlyRoundedDot(absl::Span<const double> a, absl::Span<const double> b);

// The same of `a`, whose elements are of `a_dtype`, and a row of any dtype where it lies.
double CorrectlyRoundedDot(absl::Span<const double> a, DType a_dtype, const std::byte* b, DType b_dtype);

// Σ (a[i] − b[i])², the true real number rounded once to nearest even; +0.0 for equal rows (and for an empty
// range), +infinity when it rounds beyond float64. REQUIRES: as above, `b` holds a.size() elements.
//
// By the same two ways: double-double at about 20 operations per element, certified by
// DoubleDoubleDistanceError (a sum of squares does not cancel, so it nearly always is), or the accumulator on
// a² − 2ab + b².
double CorrectlyRoundedSquaredDistance(absl::Span<const double> a, DType a_dtype, const std::byte* b,
                                       DType b_dtype);

// a·b / (√Σ a[i]² · √Σ b[i]²), the true real number rounded once to nearest even; +0.0 if a row is zero, or
// their product; never -0.0; within [-1, 1], and ±1 of parallel rows. REQUIRES: as above.
//
// Three sums, a root and a quotient in double-double, certified by DoubleDoubleCosineError, answer nearly
// always, parallel rows included, at about 30 operations per element. Otherwise (orthogonal rows, ties,
// cancellation, norms beyond [2^-200, 2^200]) three accumulators hold the sums P, Q, R exactly, and MPFR
// compares P² with m²·Q·R, exactly, for the midpoint m of the two float64 numbers around the cosine. That
// always ends: no precision has to be guessed.
double CorrectlyRoundedCosine(absl::Span<const double> a, DType a_dtype, const std::byte* b, DType b_dtype);

// The exact ways alone; for tests.
double AccumulatedDot(absl::Span<const double> a, absl::Span<const double> b);
double AccumulatedSquaredDistance(absl::Span<const double> a, absl::Span<const double> b);
double AccumulatedCosine(absl::Span<const double> a, absl::Span<const double> b);

// P / √(Q·R) in double-double, as DoubleDoubleCosineError says, and √(Q·R) in float64; for tests.
struct DoubleDoubleQuotient {
  DoubleDouble cosine;
  double lengths;
};
DoubleDoubleQuotient DoubleDoubleCosine(DoubleDouble p, DoubleDouble q, DoubleDouble r);

}  // namespace dotmax

#endif  // DOTMAX_SERVER_ENGINE_EXACT_H_
