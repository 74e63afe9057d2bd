// Correctly rounded inner products, squared distances and cosines: the definition of a score. Pure functions,
// thread-safe.
#ifndef DOTMAX_SERVER_ENGINE_EXACT_H_
#define DOTMAX_SERVER_ENGINE_EXACT_H_

#include <cstddef>
#include <limits>

#include "absl/types/span.h"
#include "server/base/types.h"
#include "server/engine/pair_sums.h"

namespace dotmax {

// ≥ ‖x‖; infinite where its square may be.
double LengthOf(absl::Span<const double> x);

// The largest power of two that divides `unit`, itself one, and all of `x`; 0 if it is below 2^-500.
inline constexpr double kAnyUnit = 0x1p500;
double CommonUnit(absl::Span<const double> x, double unit);

// A row, and what its scores with many others take of it.
struct ExactQuery {
  ExactQuery() = default;
  // `elements` outlive this, and are of `dtype`. REQUIRES: at most kMaxDim, all finite.
  ExactQuery(absl::Span<const double> its_elements, DType its_dtype);
  // The same of what is known to be no longer than `its_length`; without squares, which inner products do not
  // take, for these alone.
  ExactQuery(absl::Span<const double> its_elements, DType its_dtype, double its_length, bool has_squares);

  absl::Span<const double> elements;
  DType dtype = DType::kFloat64;
  double length = 0.0;                // ≥ ‖a‖
  double unit = 0.0;                  // CommonUnit of its elements and those of all b, if known
  DoubleDouble squares = {0.0, 0.0};  // Σ a[i]² within AnchoredDotError, if that can be
};

// Scores of `a` and a row of any dtype where it lies, of as many elements, all finite. Nothing overflows or
// underflows on the way, and all of float64 is allowed, denormals too. `longest` ≥ ‖b‖: the closer, the surer
// the sums. Infinite: not known, and then the row is read twice.
inline constexpr double kUnknownLength = std::numeric_limits<double>::infinity();

// Whether inner products or squared distances are as float64 adds them up: those of integers, mostly.
bool AddsUpExactly(Metric metric, const ExactQuery& a, double longest);

// Σ a[i]·b[i], the true real number rounded once to nearest even; +0.0 for zero (and for an empty range);
// ±infinity when it rounds beyond float64.
//
// A sum whose error bound (AnchoredDotError) certifies the rounding answers nearly always, at four operations
// per element; otherwise (ties, cancellation), where neither is FLOAT64, the same with twice the bits, which
// is exact for most rows; and else an integer accumulator of the full float64 product range (Kulisch), some
// hundred times slower.
double CorrectlyRoundedDot(const ExactQuery& a, const std::byte* b, DType dtype,
                           double longest = kUnknownLength);

// Σ (a[i] − b[i])², the true real number rounded once to nearest even; +0.0 for equal rows (and for an empty
// range), +infinity when it rounds beyond float64.
//
// From two such sums, certified by AnchoredDistanceError, at eight operations per element; for rows that are
// near each other in double-double (DoubleDoubleDistanceError: a sum of squares does not cancel), at about
// 20; or the accumulator on a² − 2ab + b².
double CorrectlyRoundedSquaredDistance(const ExactQuery& a, const std::byte* b, DType dtype,
                                       double longest = kUnknownLength);

// a·b / (√Σ a[i]² · √Σ b[i]²), the true real number rounded once to nearest even; +0.0 if a row is zero, or
// their product; never -0.0; within [-1, 1], and ±1 of parallel rows.
//
// Two such sums, a root and a quotient in double-double, certified by DoubleDoubleCosineError, answer nearly
// always, parallel rows included, at eight operations per element, or twice that for rows that are much
// shorter than the longest. Otherwise (orthogonal rows, ties, cancellation, norms beyond [2^-200, 2^200])
// three accumulators hold the sums P, Q, R exactly, and MPFR compares P² with m²·Q·R, exactly, for the
// midpoint m of the two float64 numbers around the cosine. That always ends: no precision has to be guessed.
double CorrectlyRoundedCosine(const ExactQuery& a, const std::byte* b, DType dtype,
                              double longest = kUnknownLength);

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
