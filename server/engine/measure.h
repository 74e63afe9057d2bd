// How the merits of every metric follow from inner products and lengths, so that one screen of inner products
// serves them all. For a query a and a row b,
//
//   kInnerProduct      a·b
//   kCosine            a·b / (‖a‖‖b‖), 0 if either is zero
//   kSquaredEuclidean  −‖a − b‖² = 2·a·b − ‖a‖² − ‖b‖²
//
// Screens see the query as a·2^-e. Every result is on the safe side of its roundings, each relative 2^-53,
// and of that of a merit to float64: a pair may tie with one that is better by half a unit.
#ifndef DOTMAX_SERVER_ENGINE_MEASURE_H_
#define DOTMAX_SERVER_ENGINE_MEASURE_H_

#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>

#include "server/base/types.h"
#include "server/engine/bound.h"

namespace dotmax {

inline constexpr double kInward = 0x1p-45;  // of the terms that are added; many roundings' worth
// What terms lose by underflow, at least.
inline constexpr double kTermsUnderflow = 0x1p-1000;

// least ≤ ‖b‖ ≤ most for a row, or for all rows of a tile.
struct LengthRange {
  double least, most;
};

// x · 2^exponent, rounded once.
inline double ScaleByPowerOfTwo(double x, int exponent) {
  if (-1022 <= exponent && exponent <= 1023) {
    return x * std::bit_cast<double>(static_cast<uint64_t>(exponent + 1023) << 52);
  }
  return std::ldexp(x, exponent);
}

// What there is to know of a query.
struct MeasuredQuery {
  MeasuredQuery() = default;
  // `most` ≥ ‖a·2^-e‖ ≥ `least`, both < 2^10; |e| ≤ 1000.
  MeasuredQuery(double least_length, double most_length, int exponent)
      : least(least_length),
        most(most_length),
        unit(ScaleByPowerOfTwo(1.0, -exponent)),
        squares(ScaleByPowerOfTwo(least_length * least_length, exponent)),
        underflow(exponent < -60
                      ? Term("squares underflow", std::ldexp(1.0, -1070 - exponent), kTermsUnderflow)
                      : kTermsUnderflow) {}

  double length() const { return most / unit; }  // ≥ ‖a‖

  double least = 0.0, most = 0.0;
  double unit = 1.0;     // 2^-e
  double squares = 0.0;  // ≤ ‖a‖²·2^-e
  // More than what squares of rows, and merits that are rounded, lose by underflow, on that scale.
  double underflow = kTermsUnderflow;
};

// A merit on the scale on which screens compare: what LeastDot and Finished take and BestMerit returns.
inline double ScaledMerit(Metric metric, double merit, double unit) {
  return metric == Metric::kCosine ? merit : merit * unit;
}

// A pair of the tile with at least this merit has (a·2^-e)·b ≥ the result; −infinity where nothing can be
// said.
//
//   kCosine            a·b ≥ merit·‖a‖‖b‖, with the least lengths for merits above 0, the most otherwise
//   kSquaredEuclidean  a·b ≥ (merit + ‖a‖² + ‖b‖²)/2
inline double LeastDot(Metric metric, double scaled_merit, const MeasuredQuery& query,
                       const LengthRange& rows) {
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  if (metric == Metric::kInnerProduct) return scaled_merit;
  double terms, least, underflow;
  if (metric == Metric::kCosine) {
    least = scaled_merit * (scaled_merit > 0.0 ? query.least * rows.least : query.most * rows.most);
    terms = std::abs(least);
    underflow = kTermsUnderflow;  // of longer rows, screens' errors leave 2^-47 of their lengths (bound.h)
  } else {
    const double squares = query.squares + rows.least * rows.least * query.unit;
    least = 0.5 * (scaled_merit + squares);
    terms = squares + std::abs(scaled_merit);
    underflow = query.underflow;
  }
  return terms < kInfinity ? least - Term("least dot", terms * kInward) - underflow : -kInfinity;
}

// LeastDot for a row of the tile that is longer than rows.least by `longer`, at least: slope · x more than
// for the tile, with LeastDotSlope and LengthTerm. Its roundings are much less than what LeastDot leaves for
// its own.
inline double LeastDotSlope(Metric metric, double scaled_merit, const MeasuredQuery& query) {
  switch (metric) {
    case Metric::kInnerProduct:
      break;
    case Metric::kCosine:  // below 0 it is the longest row that counts
      return scaled_merit > 0.0 ? scaled_merit * query.least * (1.0 - kInward) : 0.0;
    case Metric::kSquaredEuclidean:
      return 0.5 * query.unit * (1.0 - kInward);
  }
  return 0.0;
}
inline double LengthTerm(Metric metric, double least, double longer) {
  return metric == Metric::kSquaredEuclidean ? longer * (2.0 * least + longer) : longer;
}

// The other way round: no pair of the tile with (a·2^-e)·b ≤ `dot` has a larger scaled merit than this;
// +infinity where nothing can be said.
inline double BestMerit(Metric metric, double dot, const MeasuredQuery& query, const LengthRange& rows) {
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  if (metric == Metric::kInnerProduct) return dot;
  double terms, best;
  if (metric == Metric::kCosine) {
    best = dot / (dot > 0.0 ? query.least * rows.least : query.most * rows.most);
    terms = std::abs(best);
  } else {
    const double squares = query.squares + rows.least * rows.least * query.unit;
    best = 2.0 * dot - squares;
    terms = squares + 2.0 * std::abs(dot);
  }
  // 0 / 0 compares false, too.
  return terms < kInfinity ? best + Term("best merit", terms * kInward) + query.underflow : kInfinity;
}

// Whether no row of length ≤ `row_norm` has at least this merit:
//
//   kInnerProduct      ‖a‖·row_norm < merit
//   kCosine            1 < merit
//   kSquaredEuclidean  (‖a‖ − row_norm)² > −merit, where ‖a‖ > row_norm
inline bool Finished(Metric metric, double scaled_merit, const MeasuredQuery& query, double row_norm) {
  if (metric == Metric::kInnerProduct) return query.most * row_norm * kOutward < scaled_merit;
  if (metric == Metric::kCosine) return scaled_merit > 1.0;
  const double apart = query.least * (1.0 - kInward) - row_norm * query.unit;
  // (‖a‖ − row_norm)²·2^-e = apart²·2^e, where apart is on the query's scale.
  return apart > 0.0 && apart * (apart / query.unit) * (1.0 - kInward) - query.underflow > -scaled_merit;
}

}  // namespace dotmax

#endif  // DOTMAX_SERVER_ENGINE_MEASURE_H_
