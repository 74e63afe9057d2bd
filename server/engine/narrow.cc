// Intrinsics, not Highway: 1.0 compiles no target with AVX-512 VNNI but one that also takes AVX-VNNI for
// granted, which Zen 4 lacks.
#include "server/engine/narrow.h"

#include <algorithm>
#include <cstring>

#include "hwy/targets.h"

#if defined(__x86_64__)
#include <immintrin.h>
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"  // GCC 12 on its own intrinsics (PR 105593)
#endif
#define DOTMAX_VNNI __attribute__((target("avx512f,avx512bw,avx512vnni")))
#endif

namespace dotmax {
namespace {

constexpr int kQuad = 4;    // products that VNNI sums at once
constexpr int kChunk = 64;  // bytes of a vector, and of a cache line
constexpr int kLanes = 16;  // sums of a vector

constexpr int PaddedDim(int dim) { return (dim + kChunk - 1) / kChunk * kChunk; }

#ifdef DOTMAX_VNNI
// Farther ahead than hardware prefetchers look, who also stop at the ends of pages. 2 KiB is a third slower,
// 16 KiB no faster (Zen 5: 50 GB/s with it, 25 without).
constexpr size_t kPrefetchBytes = 8192;

DOTMAX_VNNI inline void Prefetch(const uint8_t* from, size_t bytes) {
  for (size_t i = 0; i < bytes; i += kChunk) {
    _mm_prefetch(reinterpret_cast<const char*>(from) + kPrefetchBytes + i, _MM_HINT_T0);
  }
}

// Lane i: the sum of the lanes of sums[i].
DOTMAX_VNNI inline __m512i SumLanes(const __m512i (&sums)[kLanes]) {
  __m512i pairs[8], quads[4], halves[2];
  for (int i = 0; i < 8; ++i) {
    const __m512i a = sums[2 * i], b = sums[2 * i + 1];
    pairs[i] = _mm512_add_epi32(_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
  }
  for (int i = 0; i < 4; ++i) {
    const __m512i a = pairs[2 * i], b = pairs[2 * i + 1];
    quads[i] = _mm512_add_epi32(_mm512_unpacklo_epi64(a, b), _mm512_unpackhi_epi64(a, b));
  }
  for (int i = 0; i < 2; ++i) {
    const __m512i a = quads[2 * i], b = quads[2 * i + 1];
    halves[i] = _mm512_add_epi32(_mm512_shuffle_i32x4(a, b, 0x44), _mm512_shuffle_i32x4(a, b, 0xee));
  }
  return _mm512_add_epi32(_mm512_shuffle_i32x4(halves[0], halves[1], 0x88),
                          _mm512_shuffle_i32x4(halves[0], halves[1], 0xdd));
}

// Dimensions in lanes: per score dim/64 products, and about 3 instructions to sum up.
template <int kColumns>
DOTMAX_VNNI void ScoreByDimension(const uint8_t* tile, int rows, size_t dim, const int8_t* queries,
                                  int32_t* scores) {
  constexpr int kRows = kLanes / kColumns;
  const size_t padded = PaddedDim(static_cast<int>(dim));
  for (int row = 0; row < rows; row += kRows) {
    const uint8_t* const from = tile + row * dim;
    Prefetch(from, kRows * dim);
    __m512i sums[kLanes];
    for (__m512i& sum : sums) sum = _mm512_setzero_si512();
    for (size_t i = 0; i < dim; i += kChunk) {
      for (int r = 0; r < kRows; ++r) {
        const __m512i codes = _mm512_loadu_si512(from + r * dim + i);
        for (int c = 0; c < kColumns; ++c) {
          __m512i& sum = sums[r * kColumns + c];
          sum = _mm512_dpbusd_epi32(sum, codes, _mm512_load_si512(queries + c * padded + i));
        }
      }
    }
    _mm512_store_si512(scores + row * kColumns, SumLanes(sums));
  }
}

// Queries in lanes: per row dim/4 products, and nothing to sum up.
DOTMAX_VNNI void ScoreByQuery(const uint8_t* tile, int rows, size_t dim, const int8_t* queries,
                              int32_t* scores) {
  constexpr int kRows = 8;
  for (int row = 0; row < rows; row += kRows) {
    const uint8_t* const from = tile + row * dim;
    Prefetch(from, kRows * dim);
    __m512i sums[kRows];
    for (__m512i& sum : sums) sum = _mm512_setzero_si512();
    for (size_t i = 0; i < dim; i += kQuad) {
      const __m512i query = _mm512_load_si512(queries + i * kLanes);
      for (int r = 0; r < kRows; ++r) {
        int32_t quad;
        std::memcpy(&quad, from + r * dim + i, kQuad);
        sums[r] = _mm512_dpbusd_epi32(sums[r], _mm512_set1_epi32(quad), query);
      }
    }
    for (int r = 0; r < kRows; ++r) _mm512_store_si512(scores + (row + r) * kLanes, sums[r]);
  }
}
#endif

}  // namespace

size_t PackedNarrowBytes(int columns, int dim) { return static_cast<size_t>(columns) * PaddedDim(dim); }

void PackNarrow(const int8_t* queries, int columns, int dim, int8_t* packed) {
  if (columns == kLanes) {
    for (int i = 0; i < dim; i += kQuad) {
      for (int c = 0; c < columns; ++c, packed += kQuad) std::memcpy(packed, queries + c * dim + i, kQuad);
    }
    return;
  }
  // Zeros meet what a row's last chunk reads of the next row.
  std::fill_n(packed, PackedNarrowBytes(columns, dim), int8_t{0});
  for (int c = 0; c < columns; ++c) std::copy_n(queries + c * dim, dim, packed + c * PaddedDim(dim));
}

#ifdef DOTMAX_VNNI
bool HasNarrowKernel() {
  return (hwy::SupportedTargets() & HWY_AVX3) != 0 && __builtin_cpu_supports("avx512vnni");
}

void ScoreNarrow(const uint8_t* tile, int rows, int dim, const int8_t* packed, int columns, int32_t* scores) {
  const size_t n = static_cast<size_t>(dim);
  if (columns == 1) return ScoreByDimension<1>(tile, rows, n, packed, scores);
  if (columns == 2) return ScoreByDimension<2>(tile, rows, n, packed, scores);
  if (columns == 4) return ScoreByDimension<4>(tile, rows, n, packed, scores);
  ScoreByQuery(tile, rows, n, packed, scores);
}
#else
bool HasNarrowKernel() { return false; }
void ScoreNarrow(const uint8_t*, int, int, const int8_t*, int, int32_t*) {}
#endif

}  // namespace dotmax
