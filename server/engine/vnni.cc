// Intrinsics, not Highway: 1.0 compiles no target with AVX-512 VNNI but one that also takes AVX-VNNI for
// granted, which Zen 4 lacks.
#include "server/engine/vnni.h"

#include <algorithm>
#include <bit>
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
constexpr int kGroup = 64;  // queries that are scored together: four sums for every code that is read

// Of `columns` queries to go, how many are scored together. Fewer than 16 go by dimension.
constexpr int Group(int columns) {
  if (columns < kLanes) return std::min(columns, 8);
  return std::min(columns / kLanes * kLanes, kGroup);
}

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
                                  int32_t* scores, size_t stride) {
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
    if (stride == kColumns) {
      _mm512_store_si512(scores + row * kColumns, SumLanes(sums));
      continue;
    }
    alignas(kChunk) int32_t block[kLanes];
    _mm512_store_si512(block, SumLanes(sums));
    for (int r = 0; r < kRows; ++r) {
      for (int c = 0; c < kColumns; ++c) scores[(row + r) * stride + c] = block[r * kColumns + c];
    }
  }
}

// Queries in lanes: per row and 16 queries dim/4 products, and nothing to sum up. kRows · kVectors sums hide
// the latency of the products.
template <int kVectors, int kRows>
DOTMAX_VNNI void ScoreByQuery(const uint8_t* tile, int rows, size_t dim, const int8_t* queries,
                              int32_t* scores, size_t stride) {
  constexpr size_t kColumns = kVectors * kLanes;
  for (int row = 0; row < rows; row += kRows) {
    const uint8_t* const from = tile + row * dim;
    Prefetch(from, kRows * dim);
    __m512i sums[kRows][kVectors];
    for (auto& line : sums) {
      for (__m512i& sum : line) sum = _mm512_setzero_si512();
    }
    for (size_t i = 0; i < dim; i += kQuad) {
      __m512i query[kVectors];
      for (int v = 0; v < kVectors; ++v) query[v] = _mm512_load_si512(queries + i * kColumns + v * kChunk);
      for (int r = 0; r < kRows; ++r) {
        int32_t quad;
        std::memcpy(&quad, from + r * dim + i, kQuad);
        for (int v = 0; v < kVectors; ++v) {
          sums[r][v] = _mm512_dpbusd_epi32(sums[r][v], _mm512_set1_epi32(quad), query[v]);
        }
      }
    }
    for (int r = 0; r < kRows; ++r) {
      for (int v = 0; v < kVectors; ++v) {
        _mm512_storeu_si512(scores + (row + r) * stride + v * kLanes, sums[r][v]);
      }
    }
  }
}
#endif

}  // namespace

int VnniColumns(int queries, int dim) {
  const int rest = queries % kLanes;
  const int whole = queries - rest;
  if (rest == 0) return queries;
  const int eight = rest > 8 ? 8 : 0;
  const int columns = eight + static_cast<int>(std::bit_ceil(static_cast<unsigned>(rest - eight)));
  // By dimension a query costs dim/64 products and the same to sum up whatever dim is; a vector of queries
  // dim/4 products.
  const int most = dim >= 256 ? 12 : whole == 0 ? 8 : 4;
  return whole + (columns <= most ? columns : kLanes);
}

size_t PackedVnniBytes(int columns, int dim) { return static_cast<size_t>(columns) * PaddedDim(dim); }

void PackVnni(const int8_t* queries, int columns, int dim, int8_t* packed) {
  const size_t n = static_cast<size_t>(dim);
  for (int group; columns > 0; columns -= group, queries += group * n) {
    group = Group(columns);
    if (group < kLanes) {
      // Zeros meet what a row's last chunk reads of the next row.
      std::fill_n(packed, PackedVnniBytes(group, dim), int8_t{0});
      for (int c = 0; c < group; ++c, packed += PaddedDim(dim)) std::copy_n(queries + c * n, n, packed);
      continue;
    }
    for (size_t i = 0; i < n; i += kQuad) {
      for (int c = 0; c < group; ++c, packed += kQuad) std::memcpy(packed, queries + c * n + i, kQuad);
    }
  }
}

#ifdef DOTMAX_VNNI
bool HasVnniKernel() {
  return (hwy::SupportedTargets() & HWY_AVX3) != 0 && __builtin_cpu_supports("avx512vnni");
}

void ScoreVnni(const uint8_t* tile, int rows, int dim, const int8_t* packed, int columns, int32_t* scores) {
  const size_t n = static_cast<size_t>(dim);
  const size_t stride = static_cast<size_t>(columns);
  for (int group; columns > 0; columns -= group, scores += group) {
    group = Group(columns);
    switch (group) {
      case 1:
        return ScoreByDimension<1>(tile, rows, n, packed, scores, stride);
      case 2:
        return ScoreByDimension<2>(tile, rows, n, packed, scores, stride);
      case 4:
        return ScoreByDimension<4>(tile, rows, n, packed, scores, stride);
      case 8:
        ScoreByDimension<8>(tile, rows, n, packed, scores, stride);
        packed += PackedVnniBytes(group, dim);
        continue;
      case 16:
        ScoreByQuery<1, 8>(tile, rows, n, packed, scores, stride);
        break;
      case 32:
        ScoreByQuery<2, 8>(tile, rows, n, packed, scores, stride);
        break;
      case 48:
        ScoreByQuery<3, 8>(tile, rows, n, packed, scores, stride);
        break;
      default:
        ScoreByQuery<4, 4>(tile, rows, n, packed, scores, stride);
    }
    packed += group * n;
  }
}
#else
bool HasVnniKernel() { return false; }
void ScoreVnni(const uint8_t*, int, int, const int8_t*, int, int32_t*) {}
#endif

}  // namespace dotmax
