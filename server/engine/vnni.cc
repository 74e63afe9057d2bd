// Intrinsics, not Highway: 1.0 compiles no target with AVX-512 VNNI but one that also takes AVX-VNNI for
// granted, which Zen 4 lacks.
#include "server/engine/vnni.h"

#include <algorithm>
#include <bit>
#include <cstring>

#include "hwy/targets.h"
#include "server/engine/aligned.h"
#include "server/engine/packing.h"
#include "server/engine/survivors.h"

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

constexpr int kChunk = 64;  // bytes of a vector, and of a cache line
constexpr int kLanes = 16;  // sums of a vector

constexpr size_t kSurvivorsAhead = 8;  // whose codes are on their way while one is scored

// Four sums for every code that is read. (Three vectors of queries are slower than two and one.) Long rows
// are read nearly in order where lanes are dimensions, and summing up their lanes costs next to nothing.
constexpr int kLongDim = 256;
constexpr GroupShapes Shapes(int dim) {
  return {.most = 4 * kLanes, .fewest_by_query = dim < kLongDim ? kHalf : kLanes};
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
  CodeRows codes;
  int rows;
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

// Lane c of line i becomes lane i of line c.
DOTMAX_VNNI_INLINE void Transpose(__m512i (&lines)[kLanes]) {
  __m512i pairs[kLanes], quads[kLanes];
  for (int i = 0; i < kLanes; i += 2) {
    pairs[i] = _mm512_unpacklo_epi32(lines[i], lines[i + 1]);
    pairs[i + 1] = _mm512_unpackhi_epi32(lines[i], lines[i + 1]);
  }
  for (int i = 0; i < kLanes; i += 4) {
    for (int j = 0; j < 2; ++j) {
      quads[i + 2 * j] = _mm512_unpacklo_epi64(pairs[i + j], pairs[i + j + 2]);
      quads[i + 2 * j + 1] = _mm512_unpackhi_epi64(pairs[i + j], pairs[i + j + 2]);
    }
  }
  for (int i = 0; i < 4; ++i) {
    const __m512i even[2] = {_mm512_shuffle_i32x4(quads[i], quads[i + 4], 0x88),
                             _mm512_shuffle_i32x4(quads[i + 8], quads[i + 12], 0x88)};
    const __m512i odd[2] = {_mm512_shuffle_i32x4(quads[i], quads[i + 4], 0xdd),
                            _mm512_shuffle_i32x4(quads[i + 8], quads[i + 12], 0xdd)};
    lines[i] = _mm512_shuffle_i32x4(even[0], even[1], 0x88);
    lines[i + 4] = _mm512_shuffle_i32x4(odd[0], odd[1], 0x88);
    lines[i + 8] = _mm512_shuffle_i32x4(even[0], even[1], 0xdd);
    lines[i + 12] = _mm512_shuffle_i32x4(odd[0], odd[1], 0xdd);
  }
}

// A group of whole vectors, 16 quads of 16 queries at a time.
DOTMAX_VNNI void PackVectors(const int8_t* queries, int group, size_t dim, int8_t* to) {
  if (group % kLanes != 0) return PackByQuery(queries, group, dim, to);
  const size_t stride = static_cast<size_t>(group) * kQuad;
  for (size_t i = 0; i < dim; i += kChunk) {
    const size_t count = std::min<size_t>((dim - i) / kQuad, kLanes);
    const __mmask16 mask = static_cast<__mmask16>((1u << count) - 1);
    for (int first = 0; first < group; first += kLanes) {
      __m512i lines[kLanes];
      for (int c = 0; c < kLanes; ++c) {
        lines[c] = _mm512_maskz_loadu_epi32(mask, queries + (first + c) * dim + i);
      }
      Transpose(lines);
      int8_t* const packed = to + i / kQuad * stride + first * kQuad;
      for (size_t quad = 0; quad < count; ++quad) _mm512_store_si512(packed + quad * stride, lines[quad]);
    }
  }
}

// What becomes of sums: each sink takes kVectors vectors of a row, or, by its Blocks, kColumns columns of
// some rows in one.
struct StoreScores {
  template <int kVectors>
  DOTMAX_VNNI_INLINE void Line(int row, const __m512i (&sums)[kVectors]) {
    for (int v = 0; v < kVectors; ++v) _mm512_storeu_si512(scores + row * stride + v * kLanes, sums[v]);
  }
  template <int kColumns>
  struct Blocks {
    DOTMAX_VNNI_INLINE void Take(int row, __m512i sums) {
      alignas(kChunk) int32_t block[kLanes];
      _mm512_store_si512(block, sums);
      for (int i = 0; i < kLanes; ++i) to.scores[(row + i / kColumns) * to.stride + i % kColumns] = block[i];
    }

    const StoreScores& to;
  };
  StoreScores Next(int columns) const { return {scores + columns, stride}; }

  int32_t* scores;
  size_t stride;
};

// What scores must exceed, by column: of a row's, 16 from `first` on, and of lanes that are rows of kColumns
// columns, from one row on.
struct ByColumn {
  DOTMAX_VNNI_INLINE __mmask16 Exceeding(int /*row*/, int first, __m512i sums) const {
    return _mm512_cmpgt_epi32_mask(sums, _mm512_loadu_si512(thresholds + first));
  }
  template <int kColumns>
  struct Lanes {
    DOTMAX_VNNI_INLINE explicit Lanes(const ByColumn& by) {
      alignas(kChunk) int32_t by_lane[kLanes];
      for (int i = 0; i < kLanes; ++i) by_lane[i] = by.thresholds[i % kColumns];
      wanted = _mm512_load_si512(by_lane);
    }
    DOTMAX_VNNI_INLINE __mmask16 Exceeding(int /*row*/, __m512i sums) const {
      return _mm512_cmpgt_epi32_mask(sums, wanted);
    }

    __m512i wanted;
  };
  ByColumn Next(int columns) const { return {thresholds + columns}; }

  const int32_t* thresholds;
};

// The same for rows that differ (CollectSurvivors of reduce.h).
struct ByRow {
  DOTMAX_VNNI_INLINE static __mmask16 Exceeding(__m512i sums, __m512 base, __m512 by_length, __m512 length,
                                                __m512 by_along, __m512 along) {
    const __m512 threshold = _mm512_fmadd_ps(by_along, along, _mm512_fmadd_ps(by_length, length, base));
    return _mm512_cmp_ps_mask(_mm512_cvtepi32_ps(sums), threshold, _CMP_GT_OQ);
  }
  DOTMAX_VNNI_INLINE __mmask16 Exceeding(int row, int first, __m512i sums) const {
    return Exceeding(sums, _mm512_loadu_ps(columns.base + first), _mm512_loadu_ps(columns.by_length + first),
                     _mm512_set1_ps(rows.length[row]), _mm512_loadu_ps(columns.by_along + first),
                     _mm512_set1_ps(rows.along[row]));
  }
  template <int kColumns>
  struct Lanes {
    DOTMAX_VNNI_INLINE explicit Lanes(const ByRow& by) : rows(by.rows) {
      alignas(kChunk) float of_base[kLanes], of_length[kLanes], of_along[kLanes];
      alignas(kChunk) int32_t of_row[kLanes];
      for (int i = 0; i < kLanes; ++i) {
        of_base[i] = by.columns.base[i % kColumns];
        of_length[i] = by.columns.by_length[i % kColumns];
        of_along[i] = by.columns.by_along[i % kColumns];
        of_row[i] = i / kColumns;
      }
      base = _mm512_load_ps(of_base);
      by_length = _mm512_load_ps(of_length);
      by_along = _mm512_load_ps(of_along);
      row_of_lane = _mm512_load_si512(of_row);
    }
    DOTMAX_VNNI_INLINE __mmask16 Exceeding(int row, __m512i sums) const {
      const __m512 length = _mm512_permutexvar_ps(row_of_lane, _mm512_loadu_ps(rows.length + row));
      const __m512 along = _mm512_permutexvar_ps(row_of_lane, _mm512_loadu_ps(rows.along + row));
      return ByRow::Exceeding(sums, base, by_length, length, by_along, along);
    }

    const RowTerms rows;
    __m512 base, by_length, by_along;
    __m512i row_of_lane;
  };
  ByRow Next(int n) const { return {{columns.base + n, columns.by_length + n, columns.by_along + n}, rows}; }

  ThresholdsByRow columns;
  RowTerms rows;
};

// Compared while still in registers, so that scores need not be written and read again.
template <class Thresholds>
struct KeepSurvivors {
  template <int kVectors>
  DOTMAX_VNNI_INLINE void Line(int row, const __m512i (&sums)[kVectors]) {
    __mmask16 masks[kVectors];
    unsigned any = 0;
    for (int v = 0; v < kVectors; ++v) {
      masks[v] = thresholds.Exceeding(row, v * kLanes, sums[v]);
      any |= masks[v];
    }
    if (__builtin_expect(any == 0, 1)) return;
    const __m512i lanes = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    for (int v = 0; v < kVectors; ++v) Append(masks[v], _mm512_add_epi32(lanes, First(row, v * kLanes)));
  }
  // Without a branch: where rows have few codes, a few in a hundred pairs survive, and nobody knows where.
  template <int kColumns>
  struct Blocks {
    DOTMAX_VNNI_INLINE explicit Blocks(const KeepSurvivors& its_sink)
        : sink(its_sink), end(*its_sink.out), wanted(its_sink.thresholds) {
      alignas(kChunk) int32_t place[kLanes];
      for (int i = 0; i < kLanes; ++i) place[i] = (i / kColumns) << 16 | (sink.column + i % kColumns);
      places = _mm512_load_si512(place);
    }
    DOTMAX_VNNI_INLINE void Take(int row, __m512i sums) {
      const __mmask16 mask = wanted.Exceeding(row, sums);
      const __m512i pairs = _mm512_add_epi32(places, _mm512_set1_epi32(row << 16));
      _mm512_storeu_si512(end, _mm512_maskz_compress_epi32(mask, pairs));
      end += __builtin_popcount(mask);
    }
    DOTMAX_VNNI_INLINE ~Blocks() { *sink.out = end; }

    const KeepSurvivors& sink;
    Survivor* end;
    const typename Thresholds::template Lanes<kColumns> wanted;
    __m512i places;
  };
  KeepSurvivors Next(int columns) const { return {thresholds.Next(columns), column + columns, out}; }

  // Of (row, column), as Survivor lies in memory.
  DOTMAX_VNNI_INLINE __m512i First(int row, int offset) const {
    return _mm512_set1_epi32(row << 16 | (column + offset));
  }
  DOTMAX_VNNI_INLINE void Append(__mmask16 mask, __m512i places) {
    _mm512_storeu_si512(*out, _mm512_maskz_compress_epi32(mask, places));
    *out += __builtin_popcount(mask);
  }

  Thresholds thresholds;
  int column;
  Survivor** out;
};

// sums[r · kColumns + c] += all codes of a plane's row r · those of query c, which are `padded` bytes apart.
template <int kRows, int kColumns>
DOTMAX_VNNI_INLINE void AddChunks(CodeRows::Plane rows, bool prefetch, const int8_t* queries, size_t padded,
                                  __m512i* sums) {
  for (size_t i = 0; i < rows.dim; i += kChunk) {
    for (int r = 0; r < kRows; ++r) {
      const __m512i codes = _mm512_loadu_si512(rows.row(r) + i);
      if (prefetch) Prefetch(rows.codes + i * kRows + r * kChunk);
      for (int c = 0; c < kColumns; ++c) {
        AddProducts(sums[r * kColumns + c], codes, _mm512_load_si512(queries + c * padded + i));
      }
    }
  }
}

// Dimensions in lanes: per score dim/64 products, and about 3 instructions to sum up. A few rows at a time,
// so that memory is read nearly in order.
template <int kColumns, class Sink>
DOTMAX_VNNI void ScoreByDimension(const Tile& tile, const int8_t* queries, Sink sink) {
  constexpr int kRows = kLanes / kColumns;
  constexpr int kRowsAtOnce = kRows < 4 ? kRows : 4;
  const size_t padded = RoundUpToLine(static_cast<int>(tile.codes.dim()));
  typename Sink::template Blocks<kColumns> blocks{sink};
  for (int row = 0; row < tile.rows; row += kRows) {
    __m512i sums[kLanes];
    for (__m512i& sum : sums) sum = _mm512_setzero_si512();
#pragma GCC unroll 4
    for (int first = 0; first < kRows; first += kRowsAtOnce) {
      const auto [head, rest, ahead] = tile.codes.From(row + first);
      __m512i* const to = sums + first * kColumns;
      AddChunks<kRowsAtOnce, kColumns>(head, tile.prefetch, queries, padded, to);
      AddChunks<kRowsAtOnce, kColumns>(rest, tile.prefetch, queries + head.dim, padded, to);
    }
    blocks.Take(row, SumLanes(sums));
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

// The same with all codes of a plane's rows. kAhead: there is more than these to ask for.
template <bool kAhead, int kVectors, int kRows>
DOTMAX_VNNI_INLINE void AddRows(CodeRows::Plane rows, bool prefetch, ReadAhead* ahead, const int8_t* queries,
                                __m512i (&sums)[kRows][kVectors]) {
  constexpr size_t kColumns = kVectors * kLanes;
  constexpr size_t kStep = kChunk / kRows;  // so many bytes of every row are a line
  size_t i = 0;
  for (; i + kStep <= rows.dim; i += kStep) {
    for (size_t quad = i; quad < i + kStep; quad += kQuad) {
      AddQuads(rows.codes + quad, rows.dim, queries + quad * kColumns, sums);
    }
    if (prefetch) Prefetch(rows.codes + i * kRows);
    if constexpr (kAhead) ahead->Step();
  }
  for (; i < rows.dim; i += kQuad) AddQuads(rows.codes + i, rows.dim, queries + i * kColumns, sums);
  if (prefetch) Prefetch(rows.codes + i * kRows);
}

// Queries in lanes: per row and 16 queries dim/4 products, and nothing to sum up. kRows · kVectors sums hide
// the latency of the products.
template <bool kAhead, int kVectors, int kRows, class Sink>
DOTMAX_VNNI void ScoreRows(const Tile& tile, const int8_t* queries, Sink sink) {
  for (int row = 0; row < tile.rows; row += kRows) {
    const auto [head, rest, ahead] = tile.codes.From(row);
    __m512i sums[kRows][kVectors];
    for (auto& line : sums) {
      for (__m512i& sum : line) sum = _mm512_setzero_si512();
    }
    AddRows<kAhead>(head, tile.prefetch, ahead, queries, sums);
    if (rest.dim > 0) {
      AddRows<kAhead>(rest, tile.prefetch, ahead, queries + head.dim * kVectors * kLanes, sums);
    }
#pragma GCC unroll 8  // or sums would go through memory
    for (int r = 0; r < kRows; ++r) sink.Line(row + r, sums[r]);
  }
}
// Each row would be 1% slower for looking whether there is.
template <int kVectors, int kRows, class Sink>
void ScoreByQuery(const Tile& tile, const int8_t* queries, const Sink& sink) {
  if (tile.codes.ahead == nullptr) return ScoreRows<false, kVectors, kRows>(tile, queries, sink);
  ScoreRows<true, kVectors, kRows>(tile, queries, sink);
}

// sums += a row's codes · those of a query, as for ScoreByDimension.
DOTMAX_VNNI_INLINE void AddOne(const uint8_t* codes, const int8_t* query, size_t dim, __m512i (&sums)[2]) {
  size_t i = 0;
  for (; i + 2 * kChunk <= dim; i += 2 * kChunk) {
    AddProducts(sums[0], _mm512_loadu_si512(codes + i), _mm512_loadu_si512(query + i));
    AddProducts(sums[1], _mm512_loadu_si512(codes + i + kChunk), _mm512_loadu_si512(query + i + kChunk));
  }
  for (; i < dim; i += kChunk) {
    AddProducts(sums[0], _mm512_loadu_si512(codes + i), _mm512_loadu_si512(query + i));
  }
}

DOTMAX_VNNI void ScoreEach(const CodeRows& tile, const int8_t* const* queries,
                           absl::Span<const Survivor> survivors, int32_t* scores) {
  const CodeRows::Plane head = tile.head, rest = tile.rest;
  const auto prefetch = [&](size_t i) {
    for (const CodeRows::Plane& plane : {head, rest}) {
      const uint8_t* const row = plane.row(survivors[i].row);
      for (size_t byte = 0; byte < plane.dim; byte += kChunk) _mm_prefetch(row + byte, _MM_HINT_T0);
    }
  };
  const size_t count = survivors.size();
  for (size_t i = 0; i < std::min(count, kSurvivorsAhead); ++i) prefetch(i);
  for (size_t i = 0; i < count; ++i) {
    if (i + kSurvivorsAhead < count) prefetch(i + kSurvivorsAhead);
    const auto [column, row] = survivors[i];
    __m512i sums[2] = {_mm512_setzero_si512(), _mm512_setzero_si512()};
    AddOne(head.row(row), queries[column], head.dim, sums);
    AddOne(rest.row(row), queries[column] + head.dim, rest.dim, sums);
    scores[i] = _mm512_reduce_add_epi32(_mm512_add_epi32(sums[0], sums[1]));
  }
}

constexpr int kHalfRows = 8;

DOTMAX_VNNI_INLINE void AddHalfRows(CodeRows::Plane rows, bool prefetch, const int8_t* queries,
                                    __m256i (&sums)[kHalfRows]) {
  constexpr size_t kStep = kChunk / kHalfRows;
  for (size_t i = 0; i < rows.dim; i += kQuad) {
    const __m256i query = _mm256_load_si256(reinterpret_cast<const __m256i*>(queries + i * kHalf));
    if (prefetch && i % kStep == 0) Prefetch(rows.codes + i * kHalfRows);
    for (int r = 0; r < kHalfRows; ++r) {
      int32_t quad;
      std::memcpy(&quad, rows.row(r) + i, kQuad);
      AddProducts(sums[r], _mm256_set1_epi32(quad), query);
    }
  }
}

// As ScoreByQuery for 8 queries, in half vectors, of which there are two in the time of one. Two rows' sums
// make a vector.
template <class Sink>
DOTMAX_VNNI void ScoreByHalf(const Tile& tile, const int8_t* queries, Sink sink) {
  constexpr int kRows = kHalfRows;
  typename Sink::template Blocks<kHalf> blocks{sink};
  for (int row = 0; row < tile.rows; row += kRows) {
    const auto [head, rest, ahead] = tile.codes.From(row);
    __m256i sums[kRows];
    for (__m256i& sum : sums) sum = _mm256_setzero_si256();
    AddHalfRows(head, tile.prefetch, queries, sums);
    AddHalfRows(rest, tile.prefetch, queries + head.dim * kHalf, sums);
    for (int r = 0; r < kRows; r += 2) {
      blocks.Take(row + r, _mm512_inserti64x4(_mm512_castsi256_si512(sums[r]), sums[r + 1], 1));
    }
  }
}

template <class Sink>
void ScoreGroups(Tile tile, const int8_t* packed, int columns, Sink sink) {
  const int dim = static_cast<int>(tile.codes.dim());
  const GroupShapes shapes = Shapes(dim);
  for (int group; columns > 0; columns -= group, sink = sink.Next(group), tile.prefetch = false) {
    group = shapes.Group(columns);
    if (group == 1) ScoreByDimension<1>(tile, packed, sink);
    if (group == 2) ScoreByDimension<2>(tile, packed, sink);
    if (group == 4) ScoreByDimension<4>(tile, packed, sink);
    if (group == 8 && shapes.ByQuery(8)) ScoreByHalf(tile, packed, sink);
    if (group == 8 && !shapes.ByQuery(8)) ScoreByDimension<8>(tile, packed, sink);
    if (group == 16) ScoreByQuery<1, 8>(tile, packed, sink);
    if (group == 32) ScoreByQuery<2, 8>(tile, packed, sink);
    if (group == 64) ScoreByQuery<4, 4>(tile, packed, sink);
    packed += GroupBytes(shapes, group, dim);
  }
}

template <class Thresholds>
size_t CollectBy(const Thresholds& thresholds, const CodeRows& tile, int rows, const int8_t* packed,
                 int columns, Survivor* survivors) {
  static_assert(sizeof(Survivor) == sizeof(int32_t));
  Survivor* end = survivors;
  const int whole_rows = (rows + kLanes - 1) / kLanes * kLanes;
  ScoreGroups(Tile{tile, whole_rows}, packed, columns, KeepSurvivors<Thresholds>{thresholds, 0, &end});
  return KeepRows(survivors, end, rows);
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
  const int most = dim >= kLongDim ? 12 : whole == 0 ? 8 : 4;
  return whole + (columns <= most ? columns : kLanes);
}

#ifdef DOTMAX_VNNI
bool HasVnniKernel() {
  return (hwy::SupportedTargets() & HWY_AVX3) != 0 && __builtin_cpu_supports("avx512vnni");
}

void PackVnni(const int8_t* queries, int columns, int dim, int8_t* packed) {
  PackGroups(Shapes(dim), queries, columns, dim, packed, PackVectors);
}

void ScoreVnni(const CodeRows& tile, int rows, const int8_t* packed, int columns, int32_t* scores) {
  ScoreGroups(Tile{tile, rows}, packed, columns, StoreScores{scores, static_cast<size_t>(columns)});
}

size_t CollectVnni(const CodeRows& tile, int rows, const int8_t* packed, int columns,
                   const int32_t* thresholds, Survivor* survivors) {
  return CollectBy(ByColumn{thresholds}, tile, rows, packed, columns, survivors);
}

size_t CollectVnni(const CodeRows& tile, int rows, const int8_t* packed, int columns,
                   const ThresholdsByRow& thresholds, const RowTerms& terms, Survivor* survivors) {
  return CollectBy(ByRow{thresholds, terms}, tile, rows, packed, columns, survivors);
}

void ScoreSurvivorsVnni(const CodeRows& tile, const int8_t* const* queries,
                        absl::Span<const Survivor> survivors, int32_t* scores) {
  ScoreEach(tile, queries, survivors, scores);
}
#else
bool HasVnniKernel() { return false; }
void PackVnni(const int8_t*, int, int, int8_t*) {}
void ScoreSurvivorsVnni(const CodeRows&, const int8_t* const*, absl::Span<const Survivor>, int32_t*) {}
void ScoreVnni(const CodeRows&, int, const int8_t*, int, int32_t*) {}
size_t CollectVnni(const CodeRows&, int, const int8_t*, int, const int32_t*, Survivor*) { return 0; }
size_t CollectVnni(const CodeRows&, int, const int8_t*, int, const ThresholdsByRow&, const RowTerms&,
                   Survivor*) {
  return 0;
}
#endif

}  // namespace dotmax
