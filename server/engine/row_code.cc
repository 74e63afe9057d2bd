#include "server/engine/row_code.h"

#include <algorithm>
#include <cmath>

#include "server/engine/avx2.h"
#include "server/engine/bound.h"

namespace dotmax {

double CodeScale(double max_abs, double norm) {
  const double reach = std::max(max_abs, norm * 0x1p-10);
  // Of next to nothing the inverse is finite all the same, also as float32.
  return std::max(reach / kMaxCode, 0x1p-100);
}

double QueryScale(const float* y, uint32_t head, uint32_t count, double norm, bool sums_in_16_bits) {
  if (norm == 0.0) return 1.0;  // any will do, and thresholds in these units are finite
  if (!sums_in_16_bits) return CodeScale(MaxAbs(y, count), norm);
  const float four = std::max(LargestFour(y, head), LargestFour(y + head, count - head));
  return CodeScale(four * (kMaxCode / (kMostOfFour - 2.0)), norm);
}

CodeLengths LengthsOf(const CodeSums& sums, uint32_t count) {
  // Decoded numbers are rounded: relative 2^-53 of themselves.
  const double norm = NormUpperBound(count, sums.decoded);
  return {NormUpperBound(count, sums.error) + norm * 0x1p-50, norm * (1.0 + 0x1p-50),
          std::sqrt(sums.squares)};
}

double AxesError(const Axes& axes, double norm) {
  if (axes.identity) {
    return Term("identity rounding", norm * kUnitFloat32) + Term("identity underflow", axes.dim * 0x1p-126);
  }
  return ProjectionError(axes.dim, axes.count, norm);
}

double SightError(const Axes& axes, const Deflation* deflation, const Spread* spread, double norm,
                  double length) {
  const double error = deflation != nullptr ? deflation->Error(norm, length) : AxesError(axes, norm);
  return spread != nullptr ? error + spread->Error(length) : error;
}

QueryCode EncodeCoordinates(const Axes& axes, double scale, const Deflation* deflation, const Spread* spread,
                            int exponent, double norm, const float* projected, int8_t* codes) {
  QueryCode query;
  query.exponent = exponent;
  query.norm = norm;
  query.scale = scale;
  query.inverse_scale = 1.0 / query.scale;
  const CodeSums sums = EncodeSigned(projected, axes.count, query.scale,
                                     static_cast<float>(query.inverse_scale), kMaxCode, codes);
  query.offset = 1.0 * kZeroCode * sums.codes;
  const CodeLengths lengths = LengthsOf(sums, axes.count);
  const double error = SightError(axes, deflation, spread, norm, lengths.length);
  query.code_error = (lengths.error + Term("query projection error", error)) * kOutward;
  query.projection_norm =
      (lengths.length * (1.0 + kLengthRounding) + Term("projection norm error", error)) * kOutward;
  query.tail_excess = 0.0;
  return query;
}

}  // namespace dotmax
