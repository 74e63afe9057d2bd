// The SIMD loops over scores and bounds, for every instruction set, chosen at run time (Highway). Loops over
// the elements of rows are in row_loops.h and pair_sums.h.
#ifndef DOTMAX_SERVER_ENGINE_REDUCE_H_
#define DOTMAX_SERVER_ENGINE_REDUCE_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>

#include "absl/types/span.h"

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

// Thresholds that depend on the row: base[column] + by_length[column] · length[row] + by_along[column] ·
// along[row], in float32, where each step is rounded, perhaps but for products; see RowThreshold in bound.h.
struct ThresholdsByRow {
  const float *base, *by_length, *by_along;
};
struct RowTerms {
  const float *length, *along;
};
// Likewise scores[row][column], rounded to float32, > these, or kLeastThreshold if that is more: INT32_MIN
// never is. Five instructions more per vector. REQUIRES: all finite, or base infinite; columns ≤ 256, and
// kScoresPadding thresholds more, +infinity; as many more terms are readable.
inline constexpr float kLeastThreshold = -0x1p31f + 0x1p7f;
size_t CollectSurvivors(const int32_t* scores, int rows, int columns, const ThresholdsByRow& thresholds,
                        const RowTerms& terms, Survivor* survivors);

// Adds slopes[column] · terms[row], rounded, and within ±2^30, to scores[row][column]. REQUIRES: finite
// numbers, no sum beyond int32.
void AddToScores(int32_t* scores, int rows, int columns, const float* slopes, const float* terms);

// For each column, the largest of its scores and the first row that has it. About two instructions per vector
// of scores. `scores` as for CollectSurvivors; rows ≥ 1, columns ≤ 256.
struct LargestScores {
  std::array<int32_t, 256 + kScoresPadding> score, row;
};
void LargestByColumn(const int32_t* scores, int rows, int columns, LargestScores& largest);

// Of a group of rows, `step` apart, per column, the largest of its scores in float32, less `offset`, times
// `scale`, to
// largest[c / kColumnsTogether][c % kColumnsTogether], where the former are `stride` apart: so that those of
// groups, kColumnsTogether apart, lie as KthLargest wants them. Padding is written, too.
inline constexpr int kColumnsTogether = 16;
void LargestOfGroup(const int32_t* scores, int rows, size_t step, int columns, const float* offset,
                    float scale, size_t stride, float* largest);

// The same of scores less what such a threshold is, times scales[row]; terms and scales are as far apart.
void LargestOfGroup(const int32_t* scores, int rows, size_t step, int columns, const ThresholdsByRow& less,
                    const RowTerms& terms, const float* scales, size_t stride, float* largest);

// kth[c] is about the wanted[c]-th largest of `count` numbers in each of kColumnsTogether columns, whose rows
// are `stride` apart: no fewer are larger, nor many more, unless kth[c] is the least of all. Halves the range
// between the least and the largest a dozen times.
void KthLargest(const float* numbers, size_t count, size_t stride, const int32_t* wanted, float* kth);

// Per column of a block, what Int8Threshold (bound.h) asks of its query.
struct ThresholdColumns {
  const double *score, *code_error, *projection_norm, *tail_excess, *inverse_scale, *offset;
};
// thresholds[c] for `count` columns and a tile of codes; as bound.h's functions, to the bit.
void Int8Thresholds(const ThresholdColumns& columns, int count, double code_norm, double code_error,
                    double scale, int32_t* thresholds);

// The same where rows differ: what scores rise by, per column, for each of two terms of a row, and the
// largest of these; to by_row[0], [1] and [2], which are thresholds as CollectSurvivors takes them.
struct SlopeColumns {
  const double *length, *along;
  double most_length, most_along;
};
void Int8ThresholdsByRow(const ThresholdColumns& columns, const SlopeColumns& slopes, int count,
                         double code_norm, double code_error, double scale,
                         const std::array<float*, 3>& by_row);

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

}  // namespace dotmax

#endif  // DOTMAX_SERVER_ENGINE_REDUCE_H_
