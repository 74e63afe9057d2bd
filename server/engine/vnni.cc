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
#define DOTMAX_VNNI __attribute__((target("avx512f,avx512bw,avx512vl,avx512vnni")))
#define DOTMAX_VNNI_INLINE DOTMAX_VNNI inline __attribute__((always_inline))
#endif

namespace dotmax {
namespace {

constexpr int kQuad = 4;    // products that VNNI sums at once
constexpr int kChunk = 64;  // bytes of a vector, and of a cache line
constexpr int kLanes = 16;  // sums of a vector
constexpr int kHalf = 8;    // sums of half a vector
constexpr int kGroup = 64;  // queries that are scored together: four sums for every code that is read

// Of `columns` queries to go, how many are scored together: as many vectors as leave registers for enough
// rows. (Three are slower than two and one.)
constexpr int Group(int columns) {
  for (const int group : {kGroup, kGroup / 2, kLanes, kHalf}) {
    if (columns >= group) return group;
  }
  return columns;
}

constexpr size_t kSurvivorsAhead = 8;  // whose codes are on their way while one is scored

// Whether a group's lanes are queries, or dimensions: rows this long are read nearly in order that way, and
// summing up their lanes costs next to nothing.
constexpr size_t kLongDim = 256;
constexpr bool ByQuery(int group, size_t dim) { return group >= (dim < kLongDim ? kHalf : kLanes); }

constexpr int PaddedDim(int dim) { return (dim + kChunk - 1) / kChunk * kChunk; }

// Of packed queries; a multiple of a vector.
constexpr size_t GroupBytes(int group, size_t dim) {
  return group % kLanes == 0 ? group * dim : group * static_cast<size_t>(PaddedDim(static_cast<int>(dim)));
}

#ifdef DOTMAX_VNNI
// A line at a time, between products: all lines of some rows at once wait for each other (16 queries of dim
// 768 at 160 GOPS instead of 340, Zen 4).
DOTMAX_VNNI_INLINE void Prefetch(const uint8_t* from) {
  _mm_prefetch(reinterpret_cast<const char*>(from) + kReadAheadBytes, _MM_HINT_T0);
}

// sum += codes · queries. As _mm512_dpbusd_epi32, around which GCC 12 moves every sum to another register and
// back: a third of the time.
template <class Vector>
DOTMAX_VNNI_INLINE void AddProducts(Vector& sum, Vector codes, Vector queries) {
  asm("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(codes), "v"(queries));
}

struct Tile {
  const uint8_t* codes;
  int rows;
  size_t dim;
  bool prefetch = true;  // the first time that it is read
};

// Lane i: the sum of the lanes of sums[i].
DOTMAX_VNNI_INLINE __m512i SumLanes(const __m512i (&sums)[kLanes]) {
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

// What becomes of sums: each sink takes kVectors vectors of a row, or kRows rows by kColumns columns in one.
struct StoreScores {
  template <int kVectors>
  DOTMAX_VNNI_INLINE void Line(int row, const __m512i (&sums)[kVectors]) {
    for (int v = 0; v < kVectors; ++v) _mm512_storeu_si512(scores + row * stride + v * kLanes, sums[v]);
  }
  template <int kColumns>
  DOTMAX_VNNI_INLINE void Block(int row, __m512i sums) {
    alignas(kChunk) int32_t block[kLanes];
    _mm512_store_si512(block, sums);
    for (int i = 0; i < kLanes; ++i) scores[(row + i / kColumns) * stride + i % kColumns] = block[i];
  }
  StoreScores Next(int columns) const { return {scores + columns, stride}; }

  int32_t* scores;
  size_t stride;
};

// Compared while still in registers, so that scores need not be written and read again.
struct KeepSurvivors {
  template <int kVectors>
  DOTMAX_VNNI_INLINE void Line(int row, const __m512i (&sums)[kVectors]) {
    __mmask16 masks[kVectors];
    unsigned any = 0;
    for (int v = 0; v < kVectors; ++v) {
      masks[v] = _mm512_cmpgt_epi32_mask(sums[v], _mm512_loadu_si512(thresholds + v * kLanes));
      any |= masks[v];
    }
    if (__builtin_expect(any == 0, 1)) return;
    const __m512i lanes = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    for (int v = 0; v < kVectors; ++v) Append(masks[v], _mm512_add_epi32(lanes, First(row, v * kLanes)));
  }
  template <int kColumns>
  DOTMAX_VNNI_INLINE void Block(int row, __m512i sums) {
    alignas(kChunk) int32_t wanted[kLanes], places[kLanes];
    for (int i = 0; i < kLanes; ++i) wanted[i] = thresholds[i % kColumns];
    const __mmask16 mask = _mm512_cmpgt_epi32_mask(sums, _mm512_load_si512(wanted));
    if (__builtin_expect(mask == 0, 1)) return;
    for (int i = 0; i < kLanes; ++i) places[i] = (i / kColumns) << 16 | i % kColumns;
    Append(mask, _mm512_add_epi32(_mm512_load_si512(places), First(row, 0)));
  }
  KeepSurvivors Next(int columns) const { return {thresholds + columns, column + columns, out}; }

  // Of (row, column), as Survivor lies in memory.
  DOTMAX_VNNI_INLINE __m512i First(int row, int offset) const {
    return _mm512_set1_epi32(row << 16 | (column + offset));
  }
  DOTMAX_VNNI_INLINE void Append(__mmask16 mask, __m512i places) {
    _mm512_storeu_si512(*out, _mm512_maskz_compress_epi32(mask, places));
    *out += __builtin_popcount(mask);
  }

  const int32_t* thresholds;
  int column;
  Survivor** out;
};

// Dimensions in lanes: per score dim/64 products, and about 3 instructions to sum up. A few rows at a time,
// so that memory is read nearly in order.
template <int kColumns, class Sink>
DOTMAX_VNNI void ScoreByDimension(const Tile& tile, const int8_t* queries, Sink sink) {
  constexpr int kRows = kLanes / kColumns;
  constexpr int kRowsAtOnce = kRows < 4 ? kRows : 4;
  const size_t padded = PaddedDim(static_cast<int>(tile.dim));
  for (int row = 0; row < tile.rows; row += kRows) {
    __m512i sums[kLanes];
    for (__m512i& sum : sums) sum = _mm512_setzero_si512();
#pragma GCC unroll 4
    for (int first = 0; first < kRows; first += kRowsAtOnce) {
      const uint8_t* const from = tile.codes + (row + first) * tile.dim;
      for (size_t i = 0; i < tile.dim; i += kChunk) {
        for (int r = 0; r < kRowsAtOnce; ++r) {
          const __m512i codes = _mm512_loadu_si512(from + r * tile.dim + i);
          if (tile.prefetch) Prefetch(from + i * kRowsAtOnce + r * kChunk);
          for (int c = 0; c < kColumns; ++c) {
            AddProducts(sums[(first + r) * kColumns + c], codes, _mm512_load_si512(queries + c * padded + i));
          }
        }
      }
    }
    sink.template Block<kColumns>(row, SumLanes(sums));
  }
}

// sums[r][v] += four codes of row r · those of the 16 queries of vector v.
template <int kVectors, int kRows>
DOTMAX_VNNI_INLINE void AddQuads(const uint8_t* codes, size_t dim, const int8_t* queries,
                                 __m512i (&sums)[kRows][kVectors]) {
  __m512i query[kVectors];
  for (int v = 0; v < kVectors; ++v) query[v] = _mm512_load_si512(queries + v * kChunk);
  for (int r = 0; r < kRows; ++r) {
    int32_t quad;
    std::memcpy(&quad, codes + r * dim, kQuad);
    const __m512i row = _mm512_set1_epi32(quad);
    for (int v = 0; v < kVectors; ++v) AddProducts(sums[r][v], row, query[v]);
  }
}

// Queries in lanes: per row and 16 queries dim/4 products, and nothing to sum up. kRows · kVectors sums hide
// the latency of the products.
template <int kVectors, int kRows, class Sink>
DOTMAX_VNNI void ScoreByQuery(const Tile& tile, const int8_t* queries, Sink sink) {
  constexpr size_t kColumns = kVectors * kLanes;
  constexpr size_t kStep = kChunk / kRows;  // so many bytes of every row are a line
  for (int row = 0; row < tile.rows; row += kRows) {
    const uint8_t* const from = tile.codes + row * tile.dim;
    __m512i sums[kRows][kVectors];
    for (auto& line : sums) {
      for (__m512i& sum : line) sum = _mm512_setzero_si512();
    }
    size_t i = 0;
    for (; i + kStep <= tile.dim; i += kStep) {
      for (size_t quad = i; quad < i + kStep; quad += kQuad) {
        AddQuads(from + quad, tile.dim, queries + quad * kColumns, sums);
      }
      if (tile.prefetch) Prefetch(from + i * kRows);
    }
    for (; i < tile.dim; i += kQuad) AddQuads(from + i, tile.dim, queries + i * kColumns, sums);
    if (tile.prefetch) Prefetch(from + i * kRows);
    for (int r = 0; r < kRows; ++r) sink.Line(row + r, sums[r]);
  }
}

// A query's score with one row; codes as for ScoreByDimension.
DOTMAX_VNNI_INLINE int32_t ScoreOne(const uint8_t* codes, const int8_t* query, size_t dim) {
  __m512i sums[2] = {_mm512_setzero_si512(), _mm512_setzero_si512()};
  size_t i = 0;
  for (; i + 2 * kChunk <= dim; i += 2 * kChunk) {
    AddProducts(sums[0], _mm512_loadu_si512(codes + i), _mm512_loadu_si512(query + i));
    AddProducts(sums[1], _mm512_loadu_si512(codes + i + kChunk), _mm512_loadu_si512(query + i + kChunk));
  }
  for (; i < dim; i += kChunk) {
    AddProducts(sums[0], _mm512_loadu_si512(codes + i), _mm512_loadu_si512(query + i));
  }
  return _mm512_reduce_add_epi32(_mm512_add_epi32(sums[0], sums[1]));
}

DOTMAX_VNNI void ScoreEach(const uint8_t* tile, size_t dim, const int8_t* const* queries,
                           absl::Span<const Survivor> survivors, int32_t* scores) {
  const auto prefetch = [&](size_t i) {
    const auto* const row = reinterpret_cast<const char*>(tile + survivors[i].row * dim);
    for (size_t byte = 0; byte < dim; byte += kChunk) _mm_prefetch(row + byte, _MM_HINT_T0);
  };
  const size_t count = survivors.size();
  for (size_t i = 0; i < std::min(count, kSurvivorsAhead); ++i) prefetch(i);
  for (size_t i = 0; i < count; ++i) {
    if (i + kSurvivorsAhead < count) prefetch(i + kSurvivorsAhead);
    scores[i] = ScoreOne(tile + survivors[i].row * dim, queries[survivors[i].column], dim);
  }
}

// The same of 8 queries, in half vectors, of which there are two in the time of one. Two rows' sums make a
// vector.
template <class Sink>
DOTMAX_VNNI void ScoreByHalf(const Tile& tile, const int8_t* queries, Sink sink) {
  constexpr int kRows = 8;
  constexpr size_t kStep = kChunk / kRows;
  for (int row = 0; row < tile.rows; row += kRows) {
    const uint8_t* const from = tile.codes + row * tile.dim;
    __m256i sums[kRows];
    for (__m256i& sum : sums) sum = _mm256_setzero_si256();
    for (size_t i = 0; i < tile.dim; i += kQuad) {
      const __m256i query = _mm256_load_si256(reinterpret_cast<const __m256i*>(queries + i * kHalf));
      if (tile.prefetch && i % kStep == 0) Prefetch(from + i * kRows);
      for (int r = 0; r < kRows; ++r) {
        int32_t quad;
        std::memcpy(&quad, from + r * tile.dim + i, kQuad);
        AddProducts(sums[r], _mm256_set1_epi32(quad), query);
      }
    }
    for (int r = 0; r < kRows; r += 2) {
      sink.template Block<kHalf>(row + r,
                                 _mm512_inserti64x4(_mm512_castsi256_si512(sums[r]), sums[r + 1], 1));
    }
  }
}

template <class Sink>
void ScoreGroups(Tile tile, const int8_t* packed, int columns, Sink sink) {
  for (int group; columns > 0; columns -= group, sink = sink.Next(group), tile.prefetch = false) {
    group = Group(columns);
    if (group == 1) ScoreByDimension<1>(tile, packed, sink);
    if (group == 2) ScoreByDimension<2>(tile, packed, sink);
    if (group == 4) ScoreByDimension<4>(tile, packed, sink);
    if (group == 8 && ByQuery(8, tile.dim)) ScoreByHalf(tile, packed, sink);
    if (group == 8 && !ByQuery(8, tile.dim)) ScoreByDimension<8>(tile, packed, sink);
    if (group == 16) ScoreByQuery<1, 8>(tile, packed, sink);
    if (group == 32) ScoreByQuery<2, 8>(tile, packed, sink);
    if (group == 64) ScoreByQuery<4, 4>(tile, packed, sink);
    packed += GroupBytes(group, tile.dim);
  }
}
#endif

}  // namespace

int VnniColumns(int queries, int dim) {
  const int rest = queries % kLanes;
  const int whole = queries - rest;
  if (rest == 0) return queries;
  const int half = rest > kHalf ? kHalf : 0;
  const int columns = half + static_cast<int>(std::bit_ceil(static_cast<unsigned>(rest - half)));
  // By dimension a query costs dim/64 products and the same to sum up whatever dim is; a vector of queries
  // dim/4 products.
  const int most = dim >= static_cast<int>(kLongDim) ? 12 : whole == 0 ? 8 : 4;
  return whole + (columns <= most ? columns : kLanes);
}

int PaddedVnniDim(int dim) { return PaddedDim(dim); }

size_t PackedVnniBytes(int columns, int dim) { return static_cast<size_t>(columns) * PaddedDim(dim); }

void PackVnni(const int8_t* queries, int columns, int dim, int8_t* packed) {
  const size_t n = static_cast<size_t>(dim);
  for (int group; columns > 0; columns -= group, queries += group * n) {
    group = Group(columns);
    if (!ByQuery(group, n)) {
      // Zeros meet what a row's last chunk reads of the next row.
      std::fill_n(packed, PackedVnniBytes(group, dim), int8_t{0});
      for (int c = 0; c < group; ++c, packed += PaddedDim(dim)) std::copy_n(queries + c * n, n, packed);
      continue;
    }
    int8_t* to = packed;
    for (size_t i = 0; i < n; i += kQuad) {
      for (int c = 0; c < group; ++c, to += kQuad) std::memcpy(to, queries + c * n + i, kQuad);
    }
    packed += GroupBytes(group, n);
  }
}

#ifdef DOTMAX_VNNI
bool HasVnniKernel() {
  return (hwy::SupportedTargets() & HWY_AVX3) != 0 && __builtin_cpu_supports("avx512vnni");
}

void ScoreVnni(const uint8_t* codes, int rows, int dim, const int8_t* packed, int columns, int32_t* scores) {
  ScoreGroups(Tile{codes, rows, static_cast<size_t>(dim)}, packed, columns,
              StoreScores{scores, static_cast<size_t>(columns)});
}

size_t CollectVnni(const uint8_t* codes, int rows, int dim, const int8_t* packed, int columns,
                   const int32_t* thresholds, Survivor* survivors) {
  static_assert(sizeof(Survivor) == sizeof(int32_t));
  Survivor* end = survivors;
  const int whole_rows = (rows + kLanes - 1) / kLanes * kLanes;
  ScoreGroups(Tile{codes, whole_rows, static_cast<size_t>(dim)}, packed, columns,
              KeepSurvivors{thresholds, 0, &end});
  if (rows < whole_rows) end = std::remove_if(survivors, end, [rows](Survivor s) { return s.row >= rows; });
  return end - survivors;
}

void ScoreSurvivorsVnni(const uint8_t* tile, int dim, const int8_t* const* queries,
                        absl::Span<const Survivor> survivors, int32_t* scores) {
  ScoreEach(tile, static_cast<size_t>(dim), queries, survivors, scores);
}
#else
bool HasVnniKernel() { return false; }
void ScoreSurvivorsVnni(const uint8_t*, int, const int8_t* const*, absl::Span<const Survivor>, int32_t*) {}
void ScoreVnni(const uint8_t*, int, int, const int8_t*, int, int32_t*) {}
size_t CollectVnni(const uint8_t*, int, int, const int8_t*, int, const int32_t*, Survivor*) { return 0; }
#endif

}  // namespace dotmax
