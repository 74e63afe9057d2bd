// Intrinsics, not Highway: 1.0 has no product of unsigned and signed bytes.
#include "server/engine/avx2.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>

#include "hwy/targets.h"
#include "server/engine/aligned.h"
#include "server/engine/packing.h"
#include "server/engine/survivors.h"

#if defined(__x86_64__)
#include <immintrin.h>
#define DOTMAX_AVX2 __attribute__((target("avx2,bmi,popcnt")))
#define DOTMAX_AVX2_INLINE DOTMAX_AVX2 inline __attribute__((always_inline))
#endif

namespace dotmax {
namespace {

constexpr int kLanes = 8;              // sums of a vector
constexpr int kChunk = 32;             // bytes of a vector
constexpr size_t kSurvivorsAhead = 8;  // whose codes are on their way while one is scored

// 16 queries by 4 rows: more of either leave no registers, and are slower.
constexpr GroupShapes kShapes = {.most = 2 * kLanes, .fewest_by_query = kLanes};

#ifdef DOTMAX_AVX2
DOTMAX_AVX2_INLINE __m256i Load(const void* from) {
  return _mm256_loadu_si256(static_cast<const __m256i*>(from));
}
DOTMAX_AVX2_INLINE void Store(void* to, __m256i vector) {
  _mm256_storeu_si256(static_cast<__m256i*>(to), vector);
}
DOTMAX_AVX2_INLINE __m256i Quad(const uint8_t* codes) {
  int32_t quad;
  std::memcpy(&quad, codes, kQuad);
  return _mm256_set1_epi32(quad);
}
DOTMAX_AVX2_INLINE void Prefetch(const uint8_t* from) {
  _mm_prefetch(reinterpret_cast<const char*>(from) + kReadAheadBytes, _MM_HINT_T0);
}

// sum += products in 16 bits, pair by pair.
DOTMAX_AVX2_INLINE void Add(__m256i& sum, __m256i products) {
  sum = _mm256_add_epi32(sum, _mm256_madd_epi16(products, _mm256_set1_epi16(1)));
}

struct Tile {
  CodeRows codes;
  int rows;
  bool prefetch = true;  // the first time that it is read
};

// Lane i: the sum of the lanes of sums[i].
DOTMAX_AVX2_INLINE __m256i SumLanes(const __m256i (&sums)[kLanes]) {
  __m256i pairs[4], quads[2];
  for (int i = 0; i < 4; ++i) {
    const __m256i a = sums[2 * i], b = sums[2 * i + 1];
    pairs[i] = _mm256_add_epi32(_mm256_unpacklo_epi32(a, b), _mm256_unpackhi_epi32(a, b));
  }
  for (int i = 0; i < 2; ++i) {
    const __m256i a = pairs[2 * i], b = pairs[2 * i + 1];
    quads[i] = _mm256_add_epi32(_mm256_unpacklo_epi64(a, b), _mm256_unpackhi_epi64(a, b));
  }
  return _mm256_add_epi32(_mm256_permute2x128_si256(quads[0], quads[1], 0x20),
                          _mm256_permute2x128_si256(quads[0], quads[1], 0x31));
}

// Byte j of kSetBits[mask]: the number of its j-th set bit.
constexpr std::array<uint64_t, 256> kSetBits = [] {
  std::array<uint64_t, 256> all = {};
  for (uint32_t mask = 0; mask < all.size(); ++mask) {
    int at = 0;
    for (uint64_t bit = 0; bit < 8; ++bit) {
      if ((mask >> bit & 1) != 0) all[mask] |= bit << (8 * at++);
    }
  }
  return all;
}();

// Stores the lanes of `places` where scores > wanted; returns behind the last.
DOTMAX_AVX2_INLINE Survivor* Append(__m256i scores, __m256i wanted, __m256i places, Survivor* end) {
  const int mask = _mm256_movemask_ps(_mm256_castsi256_ps(_mm256_cmpgt_epi32(scores, wanted)));
  const __m256i lanes = _mm256_cvtepu8_epi32(_mm_cvtsi64_si128(static_cast<int64_t>(kSetBits[mask])));
  Store(end, _mm256_permutevar8x32_epi32(places, lanes));
  return end + std::popcount(static_cast<unsigned>(mask));
}

// What becomes of sums, as in vnni.cc.
struct StoreScores {
  template <int kVectors>
  DOTMAX_AVX2_INLINE void Line(int row, const __m256i (&sums)[kVectors]) {
    for (int v = 0; v < kVectors; ++v) Store(scores + row * stride + v * kLanes, sums[v]);
  }
  template <int kColumns>
  struct Blocks {
    DOTMAX_AVX2_INLINE void Take(int row, __m256i sums) {
      alignas(kChunk) int32_t block[kLanes];
      Store(block, sums);
      for (int i = 0; i < kLanes; ++i) to.scores[(row + i / kColumns) * to.stride + i % kColumns] = block[i];
    }

    const StoreScores& to;
  };
  StoreScores Next(int columns) const { return {scores + columns, stride}; }

  int32_t* scores;
  size_t stride;
};

struct KeepSurvivors {
  template <int kVectors>
  DOTMAX_AVX2_INLINE void Line(int row, const __m256i (&sums)[kVectors]) {
    __m256i any = _mm256_setzero_si256();
    for (int v = 0; v < kVectors; ++v) {
      any = _mm256_or_si256(any, _mm256_cmpgt_epi32(sums[v], Load(thresholds + v * kLanes)));
    }
    if (__builtin_expect(_mm256_testz_si256(any, any), 1)) return;
    const __m256i lanes = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    for (int v = 0; v < kVectors; ++v) {
      const __m256i places = _mm256_add_epi32(lanes, _mm256_set1_epi32(row << 16 | (column + v * kLanes)));
      *out = Append(sums[v], Load(thresholds + v * kLanes), places, *out);
    }
  }
  template <int kColumns>
  struct Blocks {
    DOTMAX_AVX2_INLINE explicit Blocks(const KeepSurvivors& its_sink) : sink(its_sink), end(*its_sink.out) {
      alignas(kChunk) int32_t by_lane[kLanes], place[kLanes];
      for (int i = 0; i < kLanes; ++i) by_lane[i] = sink.thresholds[i % kColumns];
      for (int i = 0; i < kLanes; ++i) place[i] = (i / kColumns) << 16 | (sink.column + i % kColumns);
      wanted = Load(by_lane);
      places = Load(place);
    }
    DOTMAX_AVX2_INLINE void Take(int row, __m256i sums) {
      end = Append(sums, wanted, _mm256_add_epi32(places, _mm256_set1_epi32(row << 16)), end);
    }
    DOTMAX_AVX2_INLINE ~Blocks() { *sink.out = end; }

    const KeepSurvivors& sink;
    Survivor* end;
    __m256i wanted, places;
  };
  KeepSurvivors Next(int columns) const { return {thresholds + columns, column + columns, out}; }

  const int32_t* thresholds;
  int column;
  Survivor** out;
};

// sums[r · kColumns + c] += all codes of a plane's row r · those of query c, which are `padded` bytes apart.
template <int kRows, int kColumns>
DOTMAX_AVX2_INLINE void AddChunks(CodeRows::Plane rows, bool prefetch, const int8_t* queries, size_t padded,
                                  __m256i* sums) {
  for (size_t i = 0; i < rows.dim; i += kChunk) {
    for (int r = 0; r < kRows; ++r) {
      const __m256i codes = Load(rows.row(r) + i);
      if (prefetch && r % 2 == 0) Prefetch(rows.codes + i * kRows + r * kChunk);
      for (int c = 0; c < kColumns; ++c) {
        Add(sums[r * kColumns + c], _mm256_maddubs_epi16(codes, Load(queries + c * padded + i)));
      }
    }
  }
}

// Dimensions in lanes: per score dim/32 products, and about 3 instructions to sum up.
template <int kColumns, class Sink>
DOTMAX_AVX2 void ScoreByDimension(const Tile& tile, const int8_t* queries, Sink sink) {
  constexpr int kRows = kLanes / kColumns;
  constexpr int kRowsAtOnce = kRows < 4 ? kRows : 4;
  const size_t padded = RoundUpToLine(static_cast<int>(tile.codes.dim()));
  typename Sink::template Blocks<kColumns> blocks{sink};
  for (int row = 0; row < tile.rows; row += kRows) {
    __m256i sums[kLanes];
    for (__m256i& sum : sums) sum = _mm256_setzero_si256();
#pragma GCC unroll 2
    for (int first = 0; first < kRows; first += kRowsAtOnce) {
      const auto [head, rest, ahead] = tile.codes.From(row + first);
      __m256i* const to = sums + first * kColumns;
      AddChunks<kRowsAtOnce, kColumns>(head, tile.prefetch, queries, padded, to);
      AddChunks<kRowsAtOnce, kColumns>(rest, tile.prefetch, queries + head.dim, padded, to);
    }
    blocks.Take(row, SumLanes(sums));
  }
}

// sums[r][v] += all codes of a plane's row r · those of the 8 queries of vector v. Eight at a time: per
// vector two products, whose sum is the sum of four in 16 bits, one addition to 32, and one there.
template <int kVectors, int kRows>
DOTMAX_AVX2_INLINE void AddRows(CodeRows::Plane rows, bool prefetch, const int8_t* queries,
                                __m256i (&sums)[kRows][kVectors]) {
  constexpr size_t kStep = kLine / kRows;  // so many bytes of every row are a line
  constexpr size_t kQuadBytes = kVectors * kChunk;
  size_t i = 0;
  for (; i + kOctet <= rows.dim; i += kOctet, queries += 2 * kQuadBytes) {
    __m256i query[2][kVectors];
    for (int v = 0; v < kVectors; ++v) {
      query[0][v] = Load(queries + v * kChunk);
      query[1][v] = Load(queries + kQuadBytes + v * kChunk);
    }
    if (prefetch && i % kStep == 0) Prefetch(rows.codes + i * kRows);
    for (int r = 0; r < kRows; ++r) {
      const __m256i first = Quad(rows.row(r) + i), second = Quad(rows.row(r) + i + kQuad);
      for (int v = 0; v < kVectors; ++v) {
        Add(sums[r][v], _mm256_add_epi16(_mm256_maddubs_epi16(first, query[0][v]),
                                         _mm256_maddubs_epi16(second, query[1][v])));
      }
    }
  }
  if (i == rows.dim) return;
  for (int r = 0; r < kRows; ++r) {
    const __m256i codes = Quad(rows.row(r) + i);
    for (int v = 0; v < kVectors; ++v) {
      Add(sums[r][v], _mm256_maddubs_epi16(codes, Load(queries + v * kChunk)));
    }
  }
}

// Queries in lanes.
template <int kVectors, int kRows, class Sink>
DOTMAX_AVX2 void ScoreByQuery(const Tile& tile, const int8_t* queries, Sink sink) {
  for (int row = 0; row < tile.rows; row += kRows) {
    const auto [head, rest, ahead] = tile.codes.From(row);
    __m256i sums[kRows][kVectors];
    for (auto& line : sums) {
      for (__m256i& sum : line) sum = _mm256_setzero_si256();
    }
    AddRows(head, tile.prefetch, queries, sums);
    if (rest.dim > 0) AddRows(rest, tile.prefetch, queries + head.dim * kVectors * kLanes, sums);
    for (int r = 0; r < kRows; ++r) sink.Line(row + r, sums[r]);
  }
}

DOTMAX_AVX2_INLINE void AddOne(const uint8_t* codes, const int8_t* query, size_t dim, __m256i& sum) {
  for (size_t i = 0; i < dim; i += kChunk) Add(sum, _mm256_maddubs_epi16(Load(codes + i), Load(query + i)));
}

DOTMAX_AVX2 void ScoreEach(const CodeRows& tile, const int8_t* const* queries,
                           absl::Span<const Survivor> survivors, int32_t* scores) {
  const CodeRows::Plane head = tile.head, rest = tile.rest;
  const auto prefetch = [&](size_t i) {
    for (const CodeRows::Plane& plane : {head, rest}) {
      const uint8_t* const row = plane.row(survivors[i].row);
      for (size_t byte = 0; byte < plane.dim; byte += kLine) _mm_prefetch(row + byte, _MM_HINT_T0);
    }
  };
  const size_t count = survivors.size();
  for (size_t i = 0; i < std::min(count, kSurvivorsAhead); ++i) prefetch(i);
  for (size_t i = 0; i < count; ++i) {
    if (i + kSurvivorsAhead < count) prefetch(i + kSurvivorsAhead);
    const auto [column, row] = survivors[i];
    __m256i sum = _mm256_setzero_si256();
    AddOne(head.row(row), queries[column], head.dim, sum);
    AddOne(rest.row(row), queries[column] + head.dim, rest.dim, sum);
    __m128i four = _mm_add_epi32(_mm256_castsi256_si128(sum), _mm256_extracti128_si256(sum, 1));
    four = _mm_add_epi32(four, _mm_shuffle_epi32(four, 0x4e));
    scores[i] = _mm_cvtsi128_si32(_mm_add_epi32(four, _mm_shuffle_epi32(four, 0xb1)));
  }
}

DOTMAX_AVX2_INLINE __m256 LargerFours(__m256 largest, __m256 x) {
  const __m256 positive = _mm256_max_ps(x, _mm256_setzero_ps()), negative = _mm256_sub_ps(positive, x);
  // Lanes 0 to 3 and 4 to 7, the positive ones in the lower half; then each with its neighbour.
  const __m256 pairs = _mm256_add_ps(_mm256_permute2f128_ps(positive, negative, 0x20),
                                     _mm256_permute2f128_ps(positive, negative, 0x31));
  return _mm256_max_ps(largest, _mm256_add_ps(pairs, _mm256_permute_ps(pairs, 0xb1)));
}

DOTMAX_AVX2 float LargestFourOf(const float* x, size_t n) {
  __m256 largest = _mm256_setzero_ps();
  size_t i = 0;
  for (; i + kOctet <= n; i += kOctet) largest = LargerFours(largest, _mm256_loadu_ps(x + i));
  alignas(kChunk) float octet[kOctet] = {};
  std::copy(x + i, x + n, octet);
  largest = LargerFours(largest, _mm256_load_ps(octet));
  _mm256_store_ps(octet, largest);
  return *std::max_element(octet, octet + kOctet);
}

template <class Sink>
void ScoreGroups(Tile tile, const int8_t* packed, int columns, Sink sink) {
  const int dim = static_cast<int>(tile.codes.dim());
  for (int group; columns > 0; columns -= group, sink = sink.Next(group), tile.prefetch = false) {
    group = kShapes.Group(columns);
    if (group == 1) ScoreByDimension<1>(tile, packed, sink);
    if (group == 2) ScoreByDimension<2>(tile, packed, sink);
    if (group == 4) ScoreByDimension<4>(tile, packed, sink);
    if (group == 8) ScoreByQuery<1, 8>(tile, packed, sink);
    if (group == 16) ScoreByQuery<2, 4>(tile, packed, sink);
    packed += GroupBytes(kShapes, group, dim);
  }
}
#endif

}  // namespace

int Avx2Columns(int queries) {
  const int rest = queries % kLanes;
  return queries - rest + (rest == 0 ? 0 : static_cast<int>(std::bit_ceil(static_cast<unsigned>(rest))));
}

void PackAvx2(const int8_t* queries, int columns, int dim, int8_t* packed) {
  PackGroups(kShapes, queries, columns, dim, packed);
}

#ifdef DOTMAX_AVX2
bool HasAvx2Kernel() { return (hwy::SupportedTargets() & HWY_AVX2) != 0; }

float LargestFour(const float* x, size_t n) { return LargestFourOf(x, n); }

void ScoreAvx2(const CodeRows& tile, int rows, const int8_t* packed, int columns, int32_t* scores) {
  ScoreGroups(Tile{tile, rows}, packed, columns, StoreScores{scores, static_cast<size_t>(columns)});
}

size_t CollectAvx2(const CodeRows& tile, int rows, const int8_t* packed, int columns,
                   const int32_t* thresholds, Survivor* survivors) {
  static_assert(sizeof(Survivor) == sizeof(int32_t));
  Survivor* end = survivors;
  const int whole_rows = (rows + kBlockRows - 1) / kBlockRows * kBlockRows;
  ScoreGroups(Tile{tile, whole_rows}, packed, columns, KeepSurvivors{thresholds, 0, &end});
  return KeepRows(survivors, end, rows);
}

void ScoreSurvivorsAvx2(const CodeRows& tile, const int8_t* const* queries,
                        absl::Span<const Survivor> survivors, int32_t* scores) {
  ScoreEach(tile, queries, survivors, scores);
}
#else
bool HasAvx2Kernel() { return false; }
float LargestFour(const float*, size_t) { return 0.0f; }
void ScoreSurvivorsAvx2(const CodeRows&, const int8_t* const*, absl::Span<const Survivor>, int32_t*) {}
void ScoreAvx2(const CodeRows&, int, const int8_t*, int, int32_t*) {}
size_t CollectAvx2(const CodeRows&, int, const int8_t*, int, const int32_t*, Survivor*) { return 0; }
#endif

}  // namespace dotmax
