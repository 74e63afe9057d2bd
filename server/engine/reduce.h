// The SIMD loops around the tile kernel, for every instruction set, chosen at run time (Highway). The only
// door to Highway; what sums over a pair of rows is in pair_sums.cc, the rest in reduce.cc.
#ifndef DOTMAX_SERVER_ENGINE_REDUCE_H_
#define DOTMAX_SERVER_ENGINE_REDUCE_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>

#include "absl/types/span.h"
#include "server/base/types.h"

namespace dotmax {

// The instruction set that is used, in Highway's words: "AVX3" (AVX-512), "AVX2", "SSE4".
std::string SimdName();

// One pair of a tile that the screen could not rule out.
struct Survivor {
  uint16_t column;  // the query's place in the block
  uint16_t row;     // of the tile
};

// Whole vectors of survivors are stored, whose ends are overwritten by the next.
inline constexpr int kSurvivorPadding = 64;
// Rows of narrow tiles are compared together, up to this many scores at once.
inline constexpr int kScoresPadding = 64;

// Writes every (row, column) of the rows × columns tile with scores[row][column] > thresholds[column], by
// row, then by column, to `survivors` (room for rows · columns + kSurvivorPadding) and returns how many.
// +infinity in a threshold rules a column out. One load and compare per vector of scores where nothing
// survives. REQUIRES: no NaN; scores and thresholds 64-byte aligned, columns < 2^16.
size_t CollectSurvivors(const float* scores, int rows, int columns, const float* thresholds,
                        Survivor* survivors);
// The same for integer scores; INT32_MAX rules a column out.
size_t CollectSurvivors(const int32_t* scores, int rows, int columns, const int32_t* thresholds,
                        Survivor* survivors);

// For each column, the largest of its scores and the first row that has it. About two instructions per vector
// of scores. `scores` as for CollectSurvivors; rows ≥ 1, columns ≤ 256.
struct LargestScores {
  std::array<int32_t, 256 + kScoresPadding> score, row;
};
void LargestByColumn(const int32_t* scores, int rows, int columns, LargestScores& largest);

// Of a group of rows, per column, the largest of its scores in float32, less `offset`, times `scale`, to
// largest[c / kColumnsTogether][c % kColumnsTogether], where the former are `stride` apart: so that those of
// groups, kColumnsTogether apart, lie as KthLargest wants them. Padding is written, too.
inline constexpr int kColumnsTogether = 16;
void LargestOfGroup(const int32_t* scores, int rows, int columns, const float* offset, float scale,
                    size_t stride, float* largest);

// kth[c] is about the wanted[c]-th largest of `count` numbers in each of kColumnsTogether columns, whose rows
// are `stride` apart: no fewer are larger, nor many more, unless kth[c] is the least of all. Halves the range
// between the least and the largest a dozen times.
void KthLargest(const float* numbers, size_t count, size_t stride, const int32_t* wanted, float* kth);

// Rows are read in order, and asked for so far ahead: farther than hardware prefetchers look, who also stop
// at the ends of pages. For one query 2 KiB is a third slower, 16 KiB no faster (Zen 5: 50 GB/s with it, 25
// without).
inline constexpr size_t kReadAheadBytes = 8192;

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

// A row of any dtype (any alignment) in float64; returns its largest magnitude.
double Widen(const std::byte* row, DType dtype, size_t dim, double* to);

// to[i] = x[i] · factor, rounded to float32; returns Σ (x[i] · factor)² in float64, in some order.
double ScaleToFloat32(const double* x, size_t n, double factor, float* to);

// to[i] = x[i] − factor · y[i], in float64, each operation rounded or fused, then rounded to float32.
void SubtractMultiple(const float* x, const float* y, double factor, size_t n, float* to);

// Per column of a block, what Int8Threshold (bound.h) asks of its query.
struct ThresholdColumns {
  const double *score, *code_error, *projection_norm, *tail_excess, *inverse_scale, *offset;
};
// thresholds[c] for `count` columns and a tile of codes; as bound.h's functions, to the bit.
void Int8Thresholds(const ThresholdColumns& columns, int count, double code_norm, double code_error,
                    double scale, int32_t* thresholds);

// Per query, what its codes say.
struct CentreColumns {
  const double *scale, *offset, *code_error, *projection_norm, *tail_excess;
};
// For `count` queries, from their integer scores of one centre, whose tile of codes has the given lengths:
// most[q] ≥ a·centre; as bound.h's functions, to the bit.
void MostOfCentre(const int32_t* scores, const CentreColumns& columns, int count, double code_norm,
                  double code_error, double scale, double* most);

// Per query, what BallSpread (bound.h) asks of it and of one ball.
struct BallColumns {
  const double *norm, *alpha, *rest;
  const float* reach;
};
// For `count` queries, bounds[q] of scores in a ball from centres[q] ≥ a·centre; as bound.h's functions, to
// the bit.
void BallBounds(const double* centres, const BallColumns& columns, size_t count, double radius,
                double* bounds);

// Writes every i in [0, count) with bounds[i] ≥ least[i], ascending, to `reaching` (room for count +
// kSurvivorPadding), and returns how many. NaN reaches nothing.
size_t SelectReaching(const double* bounds, const double* least, size_t count, uint32_t* reaching);

// For a second look: scores[i] is the product of survivor i's row (dim unsigned codes, where it lies in the
// tile) and queries[its column] (dim signed codes), exactly for dim ≤ 66,311.
void ScoreSurvivors(const uint8_t* tile, int dim, const int8_t* const* queries,
                    absl::Span<const Survivor> survivors, int32_t* scores);

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

}  // namespace dotmax

#endif  // DOTMAX_SERVER_ENGINE_REDUCE_H_
