// The correctly rounded inner product: the definition of a score.
#ifndef DOTMAX_SERVER_ENGINE_EXACT_H_
#define DOTMAX_SERVER_ENGINE_EXACT_H_

#include <cstddef>

#include "absl/types/span.h"
#include "server/base/types.h"

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

// The accumulator alone; for tests.
double AccumulatedDot(absl::Span<const double> a, absl::Span<const double> b);

}  // namespace dotmax

#endif  // DOTMAX_SERVER_ENGINE_EXACT_H_
