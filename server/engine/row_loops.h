// The SIMD loops over the elements of rows, for every instruction set, chosen at run time (Highway).
#ifndef DOTMAX_SERVER_ENGINE_ROW_LOOPS_H_
#define DOTMAX_SERVER_ENGINE_ROW_LOOPS_H_

#include <cstddef>
#include <cstdint>

#include "server/engine/reduce.h"

namespace dotmax {

// max |xᵢ|; 0 for none.
float MaxAbs(const float* x, size_t n);

// What codes of n numbers say of them; each sum of n squares in float64, in some order, each step rounded.
struct CodeSums {
  int64_t codes;   // Σ code
  double error;    // Σ (x − code · scale)²
  double decoded;  // Σ (code · scale)²
  double squares;  // Σ x²
};
// codes[i] = x[i] · inverse_scale rounded, within ±limit, as signed bytes; plus `zero`, as unsigned ones.
// About two instructions per element. REQUIRES: limit ≤ 127, limit < zero ≤ 128.
CodeSums EncodeSigned(const float* x, size_t n, double scale, float inverse_scale, int limit, int8_t* codes);
CodeSums EncodeUnsigned(const float* x, size_t n, double scale, float inverse_scale, int limit, int zero,
                        uint8_t* codes);

// The same in a fraction of the time, and saying less: codes[i] = x[i] · inverse_scale rounded, perhaps with
// the product, and Σ code and Σ x² in float32, in some order. REQUIRES: |x[i] · inverse_scale| < 127.5, n ≤
// 2^16.
struct PlainSums {
  int32_t codes;
  float squares;
};
PlainSums EncodePlainSigned(const float* x, size_t n, float inverse_scale, int8_t* codes);

// The same of `rows` rows, plus `zero`, as unsigned bytes, those of a row and then zeros at each `stride` ≥
// dim; and the least and largest Σ x² of a row.
struct PlainSquares {
  float least, most;
};
PlainSquares EncodePlainUnsigned(const float* x, size_t rows, size_t dim, float inverse_scale, int zero,
                                 size_t stride, uint8_t* codes);

// to[i] = x[i] · factor, rounded to float32; returns Σ (x[i] · factor)² in float64, in some order.
double ScaleToFloat32(const double* x, size_t n, double factor, float* to);

// to[i] = x[i] − factor · y[i], in float64, each operation rounded or fused, then rounded to float32.
void SubtractMultiple(const float* x, const float* y, double factor, size_t n, float* to);

// squares[r] = Σ rows[r · dim + i]², in some order, each step rounded or fused.
void SquaresOfRows(const double* rows, size_t count, size_t dim, double* squares);

// Queries side by side: element i of query c is packed[i · width + c], width being a multiple of 8; and what
// a row with a term asks of it: base[c] + slopes[c] · term; +infinity where nothing may reach it.
struct PackedColumns {
  const double *packed, *base, *slopes;
  size_t width;
};
// Writes (first column + c, first row + r) to `survivors` for all inner products Σ rows[r · dim + i] ·
// packed[i · width + c], summed up in order, each step rounded or fused, that are at least what is asked of
// them with terms[r], and returns how many (room for all). About dim + 2 instructions per vector of
// products. REQUIRES: no NaN; first + rows, columns < 2^16.
size_t CollectReaching(const double* rows, const double* terms, size_t first_row, size_t count, size_t dim,
                       const PackedColumns& columns, size_t first_column, Survivor* survivors);

}  // namespace dotmax

#endif  // DOTMAX_SERVER_ENGINE_ROW_LOOPS_H_
