// A tile kernel of our own for 8-bit codes, for AVX2 without VNNI: its instructions sum products in 16 bits,
// so that queries have smaller codes, and then run at twice the speed of float32.
#ifndef DOTMAX_SERVER_ENGINE_AVX2_H_
#define DOTMAX_SERVER_ENGINE_AVX2_H_

#include <cstddef>
#include <cstdint>

#include "absl/types/span.h"
#include "server/engine/code_rows.h"
#include "server/engine/reduce.h"

namespace dotmax {

// Whether this machine can.
bool HasAvx2Kernel();

// What is asked of queries: four products with unsigned codes up to 255 are summed in 16 bits, those of codes
// 0, 1, 4, 5 and of codes 2, 3, 6, 7 of each kOctet of a query. Of neither four may the positive codes, or
// the negative ones, sum up to more than kMostOfFour in magnitude.
inline constexpr int kOctet = 8;
inline constexpr int kMostOfFour = 128;
static_assert(kMostOfFour * 255 <= INT16_MAX);

// Of numbers that such codes are to be made of: what the positive ones of four, or the negative ones, sum up
// to in magnitude, at most, in float32. REQUIRES: HasAvx2Kernel().
float LargestFour(const float* x, size_t n);

// As VnniColumns, ScoreVnni, CollectVnni and ScoreSurvivorsVnni of vnni.h, for such queries, packed by
// PackAvx2. REQUIRES: HasAvx2Kernel(), and what they do.
int Avx2Columns(int queries);
void ScoreAvx2(const CodeRows& tile, int rows, const int8_t* packed, int columns, int32_t* scores);
size_t CollectAvx2(const CodeRows& tile, int rows, const int8_t* packed, int columns,
                   const int32_t* thresholds, Survivor* survivors);
void ScoreSurvivorsAvx2(const CodeRows& tile, const int8_t* const* queries,
                        absl::Span<const Survivor> survivors, int32_t* scores);

void PackAvx2(const int8_t* queries, int columns, int dim, int8_t* packed);

}  // namespace dotmax

#endif  // DOTMAX_SERVER_ENGINE_AVX2_H_
