// How the coordinates of one row or query become 8-bit codes, and what these miss. All lengths are outward.
#ifndef DOTMAX_SERVER_ENGINE_ROW_CODE_H_
#define DOTMAX_SERVER_ENGINE_ROW_CODE_H_

#include <cstddef>
#include <cstdint>

#include "server/engine/deflation.h"
#include "server/engine/rotate.h"
#include "server/engine/row_loops.h"
#include "server/engine/spread.h"

namespace dotmax {

inline constexpr int kMaxCode = 127;        // of coordinates, on both sides
inline constexpr int kZeroCode = 128;       // what an unsigned code of a row adds
inline constexpr int kReadableBytes = 64;   // beyond the last row
inline constexpr int kCodeDimMultiple = 4;  // u8 · s8 instructions sum four products at a time

inline int RoundUpDim(int dim, int multiple = kCodeDimMultiple) {
  return (dim + multiple - 1) / multiple * multiple;
}

// The step between codes for coordinates up to max_abs. Not much below the tail's or the whole row's length,
// so that tails stay within a small multiple of it; any positive step is valid.
double CodeScale(double max_abs, double norm);

// The same for a query's coordinates. Sums in 16 bits ask for small codes (avx2.h), each of which may be
// rounded up by a half; the first `head` are coded apart.
double QueryScale(const float* y, uint32_t head, uint32_t count, double norm, bool sums_in_16_bits);

// ‖y − code · scale‖, ‖code · scale‖ and about ‖y‖ for `count` numbers, the first two outward.
struct CodeLengths {
  double error;
  double norm;
  double length;
};
CodeLengths LengthsOf(const CodeSums& sums, uint32_t count);

// ‖Px − y‖ for a row of length ≤ norm. The identity only rounds float64 sources to float32.
double AxesError(const Axes& axes, double norm);
// The same of coordinates, about `length` long, of a row or query that is deflated and spread, unless these
// are null.
double SightError(const Axes& axes, const Deflation* deflation, const Spread* spread, double norm,
                  double length);

// One query, encoded. All lengths are of query · 2^-exponent.
struct QueryCode {
  int exponent;
  double scale;            // s
  double inverse_scale;    // 1 / s
  double norm;             // ≥ ‖a‖
  double projection_norm;  // ≥ ‖Pa‖
  double code_error;       // ≥ ‖Pa − qs‖
  double tail_excess;      // tail that did not fit into the codes: add tail_excess · t to the error
  double offset;           // what the rows' unsigned codes add to every integer score
};

// A query's codes along the axes, but for its tail, from its coordinates, which are deflated and spread
// unless these are null.
QueryCode EncodeCoordinates(const Axes& axes, double scale, const Deflation* deflation, const Spread* spread,
                            int exponent, double norm, const float* projected, int8_t* codes);

}  // namespace dotmax

#endif  // DOTMAX_SERVER_ENGINE_ROW_CODE_H_
