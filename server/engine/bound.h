// Every error bound that the engine's exactness rests on. ARCHITECTURE.md, "Exactness", puts them together.
//
// Notation: u₃₂ = 2^-24 and u₆₄ = 2^-53 are the unit roundoffs, γₙ(u) = n·u / (1 − n·u). A sum of n terms
// in any order, each operation rounded to nearest (fused multiply-adds allowed), differs from the true sum
// by at most γₙ(u)·Σ|termᵢ| (Higham, Accuracy and Stability of Numerical Algorithms, 2nd ed., §3.1 and
// §4.2), plus what underflow adds. All functions round their results outward: the few roundings inside
// them, each relative 2^-53, are covered by the factor kOutward. Each Term(...) has a test that fails without
// it (mutation.h).
#ifndef DOTMAX_SERVER_ENGINE_BOUND_H_
#define DOTMAX_SERVER_ENGINE_BOUND_H_

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>

#include "server/base/types.h"
#include "server/engine/mutation.h"

namespace dotmax {

inline constexpr double kUnitFloat32 = 0x1p-24;
inline constexpr double kUnitFloat64 = 0x1p-53;
// What bounds take for 2^-1074, the most that a product loses by underflow: the least normal number, as
// arithmetic on what is below it takes a hundred times as long on some processors.
inline constexpr double kUnderflow = 0x1p-1022;
inline const double kOutward = 1.0 + Term("outward", 0x1p-48);  // 32 roundings' worth

// A float32 above x ≥ 0.
inline float NextFloat32(double x) {
  return std::nextafterf(static_cast<float>(x), std::numeric_limits<float>::infinity());
}

inline double Gamma(double n, double unit) { return n * unit / (1.0 - n * unit) * kOutward; }

// Whether rows whose largest magnitude is this are screened as they lie. Elements in [2^-40, 2^60]: products
// of one with a query's (below 2) and sums of 2^16 such stay below 2^78, and float32's underflow (2^-126) is
// nothing beside them.
inline bool IsOrdinary(double max_abs) { return max_abs == 0.0 || (0x1p-40 <= max_abs && max_abs <= 0x1p60); }

// The float32 screen. `S` is a float32 dot product, in any order, of dim elements of the rows a and b, each
// rounded to float32 first (relative u₃₂ per element; nothing for sources that are float32 or narrower).
// Returns E with |S − a·b| ≤ E:
//
//   rounding two factors and summing:     γ_{dim + 2}(u₃₂)·Σ|aᵢ||bᵢ| ≤ γ_{dim + 2}(u₃₂)·‖a‖‖b‖
//                                         (Cauchy–Schwarz; a factor (1 + δ)² is two more terms of γ)
//   underflow, flushed to zero or not:    at most 2^-126 for an element, so 2^-126·(|aᵢ| + |bᵢ| + 2^-126)
//                                         for its product, and 2^-126 for each product and each sum:
//                                         2^-126·(dim·(3 + 2^-126) + √dim·(‖a‖ + ‖b‖))
//                                         ≤ 2^-124·dim·(1 + ‖a‖ + ‖b‖)
//
// Rounding errs by at most u₃₂ / (1 + u₃₂), not u₃₂, so E exceeds the error by 2^-47·‖a‖‖b‖: it holds for a·b
// rounded to float64, too, which is what scores are.
//
// REQUIRES: no overflow, which 2·dim·max|aᵢ|·max|bᵢ| < 2^127 rules out; dim ≤ 2^16 keeps γ's denominator
// above 1 − 2^-7.
class Float32ScreenError {
 public:
  explicit Float32ScreenError(uint32_t dim)
      : relative_(Term("float32 rounding", Gamma(dim + Term("float32 sources", 2.0), kUnitFloat32)) *
                  kOutward),
        underflow_(0x1p-124 * dim * kOutward) {}

  double operator()(double a_norm, double b_norm) const {
    return relative_ * a_norm * b_norm +
           underflow_ * (Term("float32 underflow of products", 1.0) + Term("float32 underflow of b", a_norm) +
                         Term("float32 underflow of a", b_norm));
  }

 private:
  const double relative_, underflow_;
};

// The int8 screen. P is a contraction (rotate.h), y the float32 value of Px, with ‖Px − y‖ ≤ ProjectionError:
// each coordinate is a float32 dot product with an axis of length ≤ 1, so it errs by at most the screen error
// above for norms ‖x‖ and 1, and there are `axes` of them.
inline double ProjectionError(uint32_t dim, uint32_t axes, double norm) {
  return std::sqrt(Term("projection axes", axes, 1.0)) *
         Term("projection rounding", Float32ScreenError(dim)(norm, 1.0)) * kOutward;
}

// The float64 sum of n ≤ 2^16 squares, and so twice its root, is off by at most γ_{n + 1}(u₆₄) < 2^-36 of
// itself: this and as much again.
inline const double kLengthRounding = Term("length rounding", 0x1p-36);

// √(‖x‖² − ‖Px‖²) ≤ the result, from norm ≥ ‖x‖, projected ≤ ‖y‖ but for kLengthRounding / 2, and
// error ≥ ‖Px − y‖. The other half of kLengthRounding covers the roundings of norm² − least² where they
// cancel, kOutward where they don't.
inline double TailBound(double norm, double projected, double error) {
  const double least =
      std::max(0.0, projected * (1.0 - kLengthRounding) - Term("tail projection error", error));
  return std::sqrt(std::max(0.0, norm * norm - least * least)) * kOutward;
}

// What is left of a row or query x, of length ≤ norm, less τu (deflation.h), in float32, about `length` long:
// each coordinate errs by 2^-53 of τu's and of the difference, in float64, and by u₃₂ of itself; ‖τu‖ ≤
// norm·(1 + 2^-30). Where float32 underflows, by 2^-150.
inline double DeflationError(uint32_t dim, double norm, double length) {
  return (Term("deflation rounding", kUnitFloat32 * (1.0 + 0x1p-10) * length) + 0x1p-50 * norm +
          Term("deflation underflow", dim * 0x1p-126)) *
         kOutward;
}

// How far α·τ·‖u‖², as it is computed, and a'·b' are from a·b together, at most (deflation.h). With γ =
// γ_{dim + 4}(u₆₄), the sums for u·a, u·b and ‖u‖² err by γ‖u‖‖a‖, γ‖u‖‖b‖ and γ‖u‖², so that what α and τ
// miss, |α|·|u·b'| and |τ|·|u·a'|, are 2γ‖a‖‖b‖ at most each, and the roundings of α‖u‖² another 2γ of that.
inline double AlongError(uint32_t dim, double query_norm, double row_norm) {
  return (Term("along rounding", 8.0 * Gamma(dim + 4.0, kUnitFloat64) * row_norm) + dim * 0x1p-1000) *
         query_norm;
}

// What float32 makes of Sx (spread.h), of about this length: each of `doublings` steps adds or subtracts
// pairs, which is √2 times an orthogonal map, and errs by u₃₂ of each result, so by u₃₂ of the length, which
// the later steps keep: (1 + u₃₂)^doublings − 1 of the length in all. The factors 2^-m are exact, underflow
// aside: of each number, 2^-126 by these and in each step.
inline double SpreadError(uint32_t dim, int doublings, double length) {
  return (Term("spread rounding", doublings * kUnitFloat32 * (1.0 + 0x1p-10) * length) + dim * 0x1p-120) *
         kOutward;
}

// With codes q of the query and c of the row, scales s and t, q·s ≈ Pa and c·t ≈ Pb, and for the tails codes
// V·s/ρ ≥ √(‖a‖² − ‖Pa‖²) and u·ρ·t ≥ √(‖b‖² − ‖Pb‖²):
//
//   a·b = (Pa)·(Pb) + aᵀ(I − PᵀP)b
//       ≤ s·t·(Σqᵢcᵢ) + (Pa − qs)·(ct) + Pa·(Pb − ct) + (tail of a)·(tail of b)
//       ≤ s·t·(Σqᵢcᵢ + V·u) + ‖Pa − qs‖·‖ct‖ + ‖Pa‖·‖Pb − ct‖
//
// so the integer I = Σqᵢcᵢ + V·u, with V·u carried as further dimensions of the product, is the screen's
// score, and the last two terms (the row's norms replaced by the tile's largest) its error E. A pair with
// a·b ≥ score has I ≥ (score − E)/(s·t). Int8Threshold returns an integer < that plus `offset`, the integer
// that the kernel's unsigned codes add to I: the float64 steps here, and the rounding of a·b to a score, err
// by less than 2^-7 as long as the result is within ±2^40, and beyond int32 it does not matter.
inline int32_t Int8Threshold(double score, double error, double inverse_scales, double offset) {
  const double exact = (score - error) * inverse_scales + offset - Term("int8 threshold", 0x1p-7);
  const double clamped = std::min(std::max(exact, -2147483647.0), 2147483647.0);
  const int32_t truncated = static_cast<int32_t>(clamped);
  return truncated - (static_cast<double>(truncated) > clamped);
}

// The same where rows of a tile differ in what is asked of them: a pair has I + offset > base + by_length·x +
// by_along·y in float32 (reduce.h), whenever a·b ≥ score + length_slope·x' + along_slope·y, for x and y of
// its row, of which x may be rounded down from x'; length_slope ≥ 0, 0 ≤ x ≤ most_x, 0 ≤ y ≤ most_y. Float32
// errs by u₃₂ of each of the three and of the integer, and of two sums, or four where products are not fused:
// less than 16 times of all terms together.
struct RowThreshold {
  float base, by_length, by_along;
};
inline RowThreshold ThresholdByRow(double score, double error, double inverse_scales, double offset,
                                   double length_slope, double most_x, double along_slope, double most_y) {
  constexpr double kMost = 0x1p120;
  constexpr float kInfinity = std::numeric_limits<float>::infinity(),
                  kLeast = -std::numeric_limits<float>::max();
  const double base = (score - error) * inverse_scales + offset - 0x1p-7;
  const double by_length = length_slope * inverse_scales, by_along = along_slope * inverse_scales;
  const double terms = std::abs(base) + by_length * most_x + std::abs(by_along) * most_y;
  // Beyond, all or nothing; without a branch, for vectors.
  const bool fits = (terms < kMost) & (by_length < kMost) & (std::abs(by_along) < kMost);
  const float rest = score > std::numeric_limits<double>::max() ? kInfinity : kLeast;
  const double margin = Term("row threshold", terms * 16.0 * kUnitFloat32);
  return {fits ? static_cast<float>(base - margin) : rest, fits ? static_cast<float>(by_length) : 0.0f,
          fits ? static_cast<float>(by_along) : 0.0f};
}

// `tail_excess` · t is what of V·u's bound did not fit into V.
inline double CodeError(double query_error, double query_norm, double tail_excess, double row_norm,
                        double row_error, double row_scale) {
  return (Term("query code error", query_error * row_norm) + Term("row code error", query_norm * row_error) +
          Term("tail excess", tail_excess * row_scale)) *
         kOutward;
}

// With a second code r of the query, Pa ≈ qs + r·s₂, only the row's codes err by much: where `first` and
// `rest` are s·t·I and s₂·t·(Σrᵢcᵢ), but for a few roundings, and E is as above for ‖Pa − qs − r·s₂‖,
//
//   a·b ≤ first + rest + E
//
// and the result leaves room for the rounding of a·b to a score, too.
inline double RefinedBound(double first, double rest, double error) {
  return first + rest + (error + (std::abs(first) + std::abs(rest)) * 0x1p-49) * kOutward;
}

// Codes that were only rounded, of n numbers x with |x|·inverse_scale ≤ 127·(1 + 2^-22): the product and the
// inverse of scale err by 2^-24 each, so |x/scale − code| ≤ 1/2 + 127·2^-22.9 < 1/2 + 2^-15. Returns a bound
// of ‖x − code·scale‖.
inline double PlainCodeError(uint32_t n, double scale) {
  return Term("plain code rounding", std::sqrt(1.0 * n) * scale * (0.5 + 0x1p-15)) * kOutward;
}

// ‖x‖² from a float32 sum of n squares, in any order, fused or not: off by γ_n of itself, and 2^-126 for each
// that underflows. REQUIRES: n ≤ 2^16, no overflow.
inline double LargestSquares(uint32_t n, double squares) {
  return (squares * (1.0 + Term("plain norm rounding", 2.0 * Gamma(n, kUnitFloat32))) + n * 0x1p-125) *
         kOutward;
}
inline double LeastSquares(uint32_t n, double squares) {
  return std::max(0.0,
                  squares * (1.0 - Term("plain norm rounding", 2.0 * Gamma(n, kUnitFloat32))) - n * 0x1p-125);
}

// All rows of a tile at once. With centre c and radius r ≥ ‖b − c‖ for each row b, and any pivot p, α ≥ 0 and
// m ≥ p·(b − c) for each row,
//
//   a·b = a·c + a·(b − c) ≤ a·c + ‖a‖·r
//   a·b = a·c + αp·(b − c) + (a − αp)·(b − c) ≤ a·c + α·m + ‖a − αp‖·r,
//
// where a·c ≤ `centre` + E, its screen's score and error (above, c in place of b). The terms relative 2^-50
// and kOutward leave room for the rounding of a·b to a score, too.
inline double BallBound(double centre, double error, double spread) {
  return centre +
         (std::abs(centre) * 0x1p-50 + Term("ball centre error", error) + Term("ball spread", spread)) *
             kOutward;
}

// What a·(b − centre) must reach for a·b to reach `score`, which may be infinite, if `centre` ≥ a·centre.
inline double LessCentre(double score, double centre) {
  return score == std::numeric_limits<double>::infinity() ? score : score - centre;
}

// The smaller one of ‖a‖·r and α·m + ‖a − αp‖·r. REQUIRES: m ≥ 0, which may be infinite.
inline double BallSpread(double norm, double radius, double alpha, double reach, double rest) {
  // What is not a number compares false.
  return std::min(norm * radius, Term("pivot reach", alpha * reach) + Term("pivot rest", rest * radius));
}

// ‖a − αp‖ ≤ the result, from norm ≥ ‖a‖, dot ≤ a·p and pivot_norm ≥ ‖p‖: ‖a − αp‖² = ‖a‖² + α²‖p‖² −
// 2α(a·p). As 2α(a·p) ≤ ‖a‖² + α²‖p‖², kOutward of these covers its roundings.
inline double PivotRest(double norm, double dot, double alpha, double pivot_norm) {
  const double scaled = alpha * pivot_norm;
  return std::sqrt(std::max(0.0, (norm * norm + scaled * scaled) * kOutward - 2.0 * alpha * dot)) * kOutward;
}

// The float64 check. `sum` and `sum_abs` are float64 sums of aᵢ·bᵢ and |aᵢ·bᵢ|, in any order. Returns e with
// |sum − a·b| ≤ e; infinite or NaN when either overflowed:
//
//   |sum − a·b| ≤ γ_dim·Σ|aᵢbᵢ| + dim·2^-1074
//   Σ|aᵢbᵢ| ≤ (sum_abs + dim·2^-1074) / (1 − γ_dim), and γ_dim / (1 − γ_dim) ≤ γ_{dim + 1} for dim ≤ 2^16
//   twice dim·2^-1074, for what underflows on the way to e
class Float64DotError {
 public:
  explicit Float64DotError(uint32_t dim)
      : relative_(Term("float64 rounding", Gamma(dim + 1.0, kUnitFloat64) * kOutward)),
        underflow_(Term("float64 underflow", 2.0 * dim * kUnderflow)) {}

  double operator()(double sum_abs) const { return relative_ * sum_abs + underflow_; }

 private:
  const double relative_, underflow_;
};

// The inner product of exact.cc. Running sums S of products begin with an anchor A = 1.5·2^k, where 2^(k - 2)
// > ‖a‖‖b‖, which no sum of some of the products exceeds: S stays within [2^k, 2^(k + 1)], where float64
// numbers are U = 2^(k - 52) apart (Rump, Ogita, Oishi, Accurate Floating-Point Summation, 2008, extract
// parts of numbers likewise). So every S' − S is exact, a multiple of U, and so is the sum H of all S − A,
// over all lanes. What an addition loses of a product, ab − (S' − S), is at most U/2, or with products that
// are rounded before U/2 + u₆₄·2^(k - 2) < 3U/4, and summed up in float64.
//
// From `most` ≥ ‖a‖‖b‖, within limits where nothing overflows and what underflows is less than 2^-400 of the
// error:
inline constexpr double kLeastAnchored = 0x1p-500, kMostAnchored = 0x1p900;
inline double PowerOfTwoOf(double most) {  // 2^(k - 3) ≤ most
  return std::bit_cast<double>(std::bit_cast<uint64_t>(most) & uint64_t{0x7ff} << 52);
}
inline double AnchorOf(double most) { return 12.0 * PowerOfTwoOf(most); }
inline double AnchorUnit(double most) { return 0x1p-49 * PowerOfTwoOf(most); }

// e with |H + lo − a·b| ≤ e, lo being the float64 sum of what was lost:
//
//   a lane with m elements adds at most 2m terms (what a rounded product lost by itself): 2m·u₆₄·m·¾U·(1 + γ)
//   at most 16 lanes are added up: 16·u₆₄·dim·¾U; what an addition lost is rounded itself: dim·u₆₄·½U
//
// 2·dim·(dim + 8) is more than 1.5·dim² + 12.5·dim by 4, which leaves what it takes to round H + lo ± e, once
// its leading float64 is taken off.
inline double AnchoredDotError(uint32_t dim, double most) {
  return Term("anchored rounding", 2.0 * dim * (dim + 8.0) * kUnitFloat64 * AnchorUnit(most));
}

// Whether all is exact that float64 adds up of products of two rows, in any order: their elements are integer
// multiples of `unit`, a power of two of at least 2^-500 (or 0, when not known). Then products and sums of
// some are multiples of unit², and at most Σ|aᵢbᵢ| ≤ ‖a‖‖b‖ ≤ `most`: below 2^53·unit² float64 has them all.
// (Half of that leaves room for how `most` was rounded.)
inline bool SumsAreExact(double most, double unit) {
  return most < Term("exact sums", 0x1p52, 0x1p70) * (unit * unit);
}

// Where products are exact, as those of elements with 24 bits are, so is what is lost of them: it has no more
// bits, and either is the product or begins below U/2. Sums of some of it are less than the result, so it can
// be anchored likewise.
inline double SecondAnchored(uint32_t dim, double most) { return dim * AnchorUnit(most); }

// e with |t + lo − (what H and the second anchor's sum M lack of a·b)| ≤ e, where H + M = h + t exactly
// (TwoSum); lo and lo_abs are float64 sums of what M lost and of its magnitudes. Exact if there is none.
inline double SecondAnchoredError(uint32_t dim, double h, double lo_abs) {
  if (lo_abs == 0.0) return 0.0;
  return Term("second anchored rounding", 2.0 * Gamma(2.0 * dim, kUnitFloat64) * lo_abs) +
         Term("second anchored sum", 4.0 * kUnitFloat64 * kUnitFloat64 * std::abs(h));
}

// The same of Σ(aᵢ − bᵢ)² = Σaᵢ² + Σbᵢ² − 2Σaᵢbᵢ from three such sums, anchored for at most `most` ≥ ‖a‖²,
// ‖b‖²: their errors, and what it takes to add up what was lost, 3 roundings of at most 4·¾U·dim, and the
// rests of two exact additions (TwoSum) of at most 4·most.
inline double AnchoredDistanceError(uint32_t dim, double most) { return 5.0 * AnchoredDotError(dim, most); }

// The float64 check of a squared distance. `sum` is the float64 sum of the squares of rounded differences, in
// any order. Returns e with |sum − Σ(aᵢ − bᵢ)²| ≤ e; not finite when the sum is not:
//
//   each difference errs by a factor (1 + δ), |δ| ≤ u₆₄ (a sum or difference does not underflow), so its
//   square by two, and rounding the square and up to dim − 1 sums by dim more: γ_{dim + 2}·Σ(aᵢ − bᵢ)²
//   all terms are positive: Σ(aᵢ − bᵢ)² ≤ (sum + dim·2^-1074) / (1 − γ_{dim + 2}), and as above γ_{dim + 3}
//   squares that underflow: dim·2^-1074, twice as above
class Float64DistanceError {
 public:
  explicit Float64DistanceError(uint32_t dim)
      : relative_(Term("distance rounding",
                       Gamma(dim + 1.0 + Term("distance difference", 2.0), kUnitFloat64) * kOutward)),
        underflow_(Term("distance underflow", 2.0 * dim * kUnderflow)) {}

  double operator()(double sum) const { return relative_ * sum + underflow_; }

 private:
  const double relative_, underflow_;
};

struct Interval {
  double lower, upper;
};

// The float64 check of a cosine. `sum` and `sum_abs` are as above, A and B the float64 sums of squares of a
// and b, in any order. Returns an interval within [-1, 1] that holds the true cosine, and so its rounding;
// [0, 0] if a row is zero. With N = √(Σaᵢ²·Σbᵢ²), M = √(A·B) as computed, and e of Float64DotError:
//
//   A and B err by γ_dim each, half of which remains of each in the root of their product; rounding the
//   product and the root: M = N·(1 + θ), |θ| ≤ γ_{dim + 2}
//   a·b / N = (a·b / M)·(1 + θ), and |a·b − sum| ≤ e, |a·b| ≤ |sum| + e, so
//   |a·b / N − sum / M| ≤ (e + γ_{dim + 2}·(|sum| + e)) / M =: E
//   rounding sum / M and then sum / M ± E: two more of γ; what that rounds of E is kOutward's
//   underflow: A, B ≥ 2^-480 lose less than 2^-500 of themselves to it, which is kOutward's, too; the
//   quotients at most 2^-1074 each, for which 2^-1000 is added
//
// Beyond [2^-480, 2^480] that does not hold, and the answer is [-1, 1]. A sum of squares that is zero means
// a zero row unless they underflowed, which only float64's squares can.
class Float64CosineInterval {
 public:
  Float64CosineInterval(uint32_t dim, DType a_dtype, DType b_dtype)
      : dot_error_(dim),
        relative_(Term("cosine norm rounding", Gamma(dim + 4.0, kUnitFloat64) * kOutward)),
        a_may_vanish_(a_dtype == DType::kFloat64),
        b_may_vanish_(b_dtype == DType::kFloat64) {}

  Interval operator()(double sum, double sum_abs, double a_squares, double b_squares) const {
    if ((a_squares == 0.0 && !a_may_vanish_) || (b_squares == 0.0 && !b_may_vanish_)) return {0.0, 0.0};
    if (!(std::min(a_squares, b_squares) >= 0x1p-480 && std::max(a_squares, b_squares) <= 0x1p480)) {
      return {-1.0, 1.0};
    }
    const double norms = std::sqrt(a_squares * b_squares);
    const double e = Term("cosine dot error", dot_error_(sum_abs));
    const double error =
        (e + relative_ * (std::abs(sum) + e)) / norms * kOutward + Term("cosine underflow", 0x1p-1000);
    const double cosine = sum / norms;
    return {std::max(-1.0, cosine - error), std::min(1.0, cosine + error)};
  }

 private:
  const Float64DotError dot_error_;
  const double relative_;
  const bool a_may_vanish_, b_may_vanish_;
};

// The double-double squared distance of exact.cc: hi + lo, both from Σ(h + l)², h + l = aᵢ − bᵢ exactly
// (TwoSum). Returns e with |hi + lo − Σ(aᵢ − bᵢ)²| ≤ e, unless something overflowed. With D = Σ(aᵢ − bᵢ)²:
//
//   per element, l² ≤ u₆₄²h² is left out, and h²'s error + 2hl is rounded, unfused twice: 2u₆₄²h² for 2hl
//   and 3u₆₄²h² for the sum, so 6u₆₄²·D in all, (1 + 2^-50) aside
//   the errors so collected, 3u₆₄·h² each, and those of the dim − 1 sums, at most u₆₄·(1 + γ)·D each, are
//   together ≤ (dim + 2)·u₆₄·(1 + γ)·D; summing less than 2·dim of them errs by γ_{2·dim} of that
//   an element's h² and 2hl, and their rests, are lost below 2^-1074: 4·dim·2^-1074, twice as above
//
// dim + 3 instead of dim + 2 covers the γ here and in hi; 8 instead of 6 leaves u₆₄²·hi as above.
inline double DoubleDoubleDistanceError(uint32_t dim, double hi) {
  const double errors = ((dim + 3.0) * Gamma(2.0 * dim, kUnitFloat64) + 8.0 * kUnitFloat64) * kUnitFloat64;
  return Term("double-double distance rounding", errors * hi * kOutward) +
         Term("double-double distance underflow", 8.0 * dim * kUnderflow);
}

// A cosine in double-double, from P ≈ a·b, Q ≈ Σaᵢ², R ≈ Σbᵢ², each a rounded hi and the rest, |lo| ≤
// u₆₄·|hi|. Steps and their errors, relative to the result and but for terms of u₆₄³ (√ and ÷ are Newton's
// steps on the float64 result, whose rest fma gives exactly):
//
//   T = Q·R   qₕ·rₕ exactly by fma, + (qₕ·rₗ + qₗ·rₕ); qₗ·rₗ is left out: 1 + 1 + 1 + 2 + 3 = 8 u₆₄²
//   S = √T    s = √tₕ, + (tₕ − s² + tₗ) / 2s: the numerator is ≤ 3u₆₄·T and rounded, 1.5 u₆₄²; divided,
//             1.5 u₆₄²; the root's next term, (3u₆₄)²/8: together ≤ 4.5 u₆₄²
//   C = P/S   c = pₕ/s, + (pₕ − c·s − c·s' + pₗ) / s, s' = S − s ≤ 1.5u₆₄·s: rounding c·s' 1.5, the
//             differences 2.5 and 3.5, the quotient 3.5; s instead of S below 1.5·3.5: together ≤ 16.5 u₆₄²
//
// In all 8/2 + 4.5 + 16.5 = 25 u₆₄² < 28 u₆₄²; 32 leaves more than u₆₄²·|C|, as above. What P lacks of a·b
// counts by S, what Q and R lack of the sums of squares (relative α, β) by half each: (1 + α)^-½ ≥ 1 − α/2
// and ≤ 1 + α/2·(1 + 2α). That all of it is small, kOutward covers products of errors. REQUIRES: sums of
// squares within [2^-400, 2^400] and |C| ≥ 2^-200, so that nothing underflows.
inline double DoubleDoubleCosineError(double cosine, double dot_error, double lengths, double a_relative,
                                      double b_relative) {
  return (Term("cosine double-double dot", dot_error / lengths) +
          std::abs(cosine) * (Term("cosine double-double squares", 0.5 * (a_relative + b_relative)) +
                              Term("cosine double-double rounding", 32.0 * kUnitFloat64 * kUnitFloat64))) *
         kOutward;
}

// An upper bound of the Euclidean norm, from the float64 sum of n squares (each rounded, any order) of
// values whose squares neither overflow nor lose more than 2^-1074 each.
inline double NormUpperBound(uint32_t n, double sum_of_squares) {
  return std::sqrt(sum_of_squares * (1.0 + Term("norm rounding", Gamma(n + 1.0, kUnitFloat64))) +
                   Term("norm underflow", n * kUnderflow)) *
         kOutward;
}

// A lower bound of ‖x‖, from `upper`, what NormUpperBound(n, s) returned for x, n ≤ 2^16:
//
//   s ≤ ‖x‖²·(1 + γₙ) + n·2^-1074, so upper² ≤ (‖x‖²·(1 + γₙ)·(1 + γ_{n + 1}) + n·2^-1021)·kOutward²·(1 +
//   2^-50); n·2^-1021 ≤ 2^-1005 is less than 2^-205 of upper² if upper ≥ 2^-400; γ_{n + 1} < 2^-36.99, so
//   upper ≤ ‖x‖·(1 + 2^-36.99)·(1 + 2^-47) < ‖x‖·(1 + 2^-36.9), and upper·(1 − 2^-36) < ‖x‖
//
// 0 below 2^-400, where underflow may be all there is, and for what overflowed.
inline double LeastNorm(double upper) {
  if (!(upper >= Term("least norm underflow", 0x1p-400)) || std::isinf(upper)) return 0.0;
  return upper * (1.0 - Term("least norm rounding", 0x1p-36));
}

// What a pair's inner product is at least, as the rows have it, if its score, which is that rounded to
// float64, is at least `score`. The screens' errors leave room for what rounding takes of normal numbers;
// what is less than 2^-1022 errs by up to 2^-1075 whatever its magnitude.
inline double LeastRoundedTo(double score) {
  return std::abs(score) < 0x1p-1000 ? score - Term("score underflow", 0x1p-1074) : score;
}

// The screen's test: a float32 T such that a·b ≥ score implies S > T for every finite S with
// |S − a·b| ≤ error. Without branches, and at most 2^-22 of its own magnitude too low: rounding to float32
// moves a number up by at most 2^-24 of itself, or by 2^-150 among denormals.
inline float ScreenThreshold(double score, double error) {
  const double capped = std::min(score - error, double{std::numeric_limits<float>::max()});
  return static_cast<float>(capped - (Term("threshold rounding", std::abs(capped) * 0x1p-23) +
                                      Term("threshold underflow", 0x1p-149)));
}

// The float64 sum of products of a query that was multiplied by a power of two, to be about as long as 1, and
// a row whose magnitudes are ordinary: Σ|aᵢbᵢ| ≤ ‖a‖‖b‖, and elements of a float64 query that underflow then
// lose 2^-1074 each, times at most 2^60 of the row's.
inline double ScaledDotError(const Float64DotError& error, uint32_t dim, double a_norm, double b_norm) {
  return error(a_norm * b_norm) + dim * 0x1p-900;
}

// ScreenThreshold in float64, where rows of a tile differ in what is asked of them: S ≥ base + slope·x
// whenever a·b ≥ score + slope·x, for 0 ≤ slope·x ≤ most. Float64 errs by u₆₄ of two sums here, and of a
// product and a sum where S is compared. +infinity, which nothing reaches, for that score.
inline double ScreenBase(double score, double error, double most) {
  if (score > std::numeric_limits<double>::max()) return score;
  return score - error - Term("base rounding", (std::abs(score) + error + most) * 8.0 * kUnitFloat64);
}

}  // namespace dotmax

#endif  // DOTMAX_SERVER_ENGINE_BOUND_H_
