// The tile kernel for blocks of a few queries, where a matrix kernel wastes lanes and waits for memory.
#ifndef DOTMAX_SERVER_ENGINE_NARROW_H_
#define DOTMAX_SERVER_ENGINE_NARROW_H_

#include <array>
#include <cstddef>
#include <cstdint>

namespace dotmax {

// The widths of block that it serves.
inline constexpr std::array kNarrowColumns = {1, 2, 4, 16};

// Whether this machine has what it is made of (AVX-512 VNNI); otherwise tile.h serves all widths.
bool HasNarrowKernel();

// scores[r][c] = Σᵢ tile[r][i] · queries[c][i], exactly, for rows × dim unsigned codes where they lie and
// columns × dim signed ones, packed by PackNarrow. Up to 4 columns it runs at the speed at which one core
// reads memory, which it asks for well ahead, and with 16 near the peak of 8-bit products. REQUIRES:
// HasNarrowKernel(); columns of kNarrowColumns; rows % 16 = 0, dim % 4 = 0, dim ≤ 66,311; 63 bytes beyond
// the tile's end are readable; packed (PackedNarrowBytes) and scores 64-byte aligned.
void ScoreNarrow(const uint8_t* tile, int rows, int dim, const int8_t* packed, int columns, int32_t* scores);

size_t PackedNarrowBytes(int columns, int dim);
void PackNarrow(const int8_t* queries, int columns, int dim, int8_t* packed);

}  // namespace dotmax

#endif  // DOTMAX_SERVER_ENGINE_NARROW_H_
