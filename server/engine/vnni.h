// A tile kernel of our own for 8-bit codes, for AVX-512 VNNI: it asks for memory ahead of its use, and wastes
// no lanes on narrow blocks. Wide blocks are oneDNN's (tile.h) where that is faster.
#ifndef DOTMAX_SERVER_ENGINE_VNNI_H_
#define DOTMAX_SERVER_ENGINE_VNNI_H_

#include <cstddef>
#include <cstdint>

#include "absl/types/span.h"
#include "server/engine/code_rows.h"
#include "server/engine/reduce.h"

namespace dotmax {

// Whether this machine can.
bool HasVnniKernel();

// The width ≥ queries ≥ 1 at which so many codes of dim are scored best; the kernel serves any multiple of 16
// plus 0, 1, 2, 4, 8, 9, 10 or 12.
int VnniColumns(int queries, int dim);

// scores[r][c] = Σᵢ tile[r][i] · queries[c][i], exactly, for rows × dim unsigned codes and
// columns × dim signed ones, packed by PackVnni. Up to 8 columns it runs at the speed at which one core
// reads memory, from 16 on near the peak of 8-bit products. REQUIRES: HasVnniKernel(); columns =
// VnniColumns(columns); rows % 16 = 0, dim % 4 = 0, dim ≤ 66,311; 63 bytes beyond the tile's end (either
// plane's) are readable; packed (PackedBytes of packing.h) and scores 64-byte aligned.
void ScoreVnni(const CodeRows& tile, int rows, const int8_t* packed, int columns, int32_t* scores);

// The same without writing scores: every (row, column) with a score > thresholds[column], in any order, to
// `survivors` (room for all of whole blocks of 16 rows, + kSurvivorPadding); returns how many. `rows` may be
// any number, and up to a multiple of 16 are readable.
size_t CollectVnni(const CodeRows& tile, int rows, const int8_t* packed, int columns,
                   const int32_t* thresholds, Survivor* survivors);

// The same with thresholds that depend on the row, as for CollectSurvivors of reduce.h, but for its least
// one.
size_t CollectVnni(const CodeRows& tile, int rows, const int8_t* packed, int columns,
                   const ThresholdsByRow& thresholds, const RowTerms& terms, Survivor* survivors);

// ScoreSurvivors of reduce.h, at the peak of 8-bit products. REQUIRES: HasVnniKernel(); queries of
// RoundUpToLine(dim) codes (packing.h), zeros from dim on; 63 bytes beyond the tile's end are readable.
void ScoreSurvivorsVnni(const CodeRows& tile, const int8_t* const* queries,
                        absl::Span<const Survivor> survivors, int32_t* scores);

void PackVnni(const int8_t* queries, int columns, int dim, int8_t* packed);

}  // namespace dotmax

#endif  // DOTMAX_SERVER_ENGINE_VNNI_H_
