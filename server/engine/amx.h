// A tile kernel of our own for 8-bit codes, for Intel's AMX, which multiplies whole matrices of 16 × 64
// codes: several times as fast as vnni.h on all but narrow blocks.
#ifndef DOTMAX_SERVER_ENGINE_AMX_H_
#define DOTMAX_SERVER_ENGINE_AMX_H_

#include <cstddef>
#include <cstdint>

#include "server/engine/code_rows.h"
#include "server/engine/reduce.h"

namespace dotmax {

// Whether this machine can, and the kernel lets this process: it is asked, once.
bool HasAmxKernel();

// The width at which so many queries ≥ 1 are scored: a multiple of 16.
int AmxColumns(int queries);

// As ScoreVnni and CollectVnni of vnni.h, for columns packed by PackAmx. REQUIRES: HasAmxKernel(); columns =
// AmxColumns(columns); dim % 4 = 0, dim ≤ 66,311; 63 bytes beyond the tile's end (either plane's) are
// readable; packed (PackedAmxBytes) 64-byte aligned. rows % 16 = 0 for ScoreAmx; for CollectAmx up to a
// multiple of 16 are readable, and `survivors` has room for all of whole blocks of 16 rows, +
// kSurvivorPadding.
void ScoreAmx(const CodeRows& tile, int rows, const int8_t* packed, int columns, int32_t* scores);
size_t CollectAmx(const CodeRows& tile, int rows, const int8_t* packed, int columns,
                  const int32_t* thresholds, Survivor* survivors);

size_t PackedAmxBytes(int columns, int dim);
void PackAmx(const int8_t* queries, int columns, int dim, int8_t* packed);

}  // namespace dotmax

#endif  // DOTMAX_SERVER_ENGINE_AMX_H_
