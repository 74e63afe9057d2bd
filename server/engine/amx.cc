#include "server/engine/amx.h"

#include <algorithm>
#include <cstring>

#include "hwy/targets.h"

#if defined(__x86_64__) && defined(__linux__)
#include <cpuid.h>
#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>
#define DOTMAX_AMX __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl")))
#define DOTMAX_AMX_INLINE DOTMAX_AMX inline __attribute__((always_inline))
#endif

namespace dotmax {
namespace {

constexpr int kSide = 16;   // rows of a matrix register, and its 32-bit columns
constexpr int kChunk = 64;  // codes of one of its rows, and bytes of a cache line
constexpr int kQuad = 4;    // products that are summed at once
constexpr int kMostColumns = 256;
constexpr size_t kMatrixBytes = kSide * kChunk;

// |score| ≤ 255 · 128 · dim < kMostScore, so a score less a threshold that is no farther from zero is an
// int32.
constexpr int32_t kMostScore = 1 << 30;
constexpr int kMostDim = (kMostScore - 1) / (255 * 128);

constexpr size_t Chunks(size_t dim) { return (dim + kChunk - 1) / kChunk; }

#ifdef DOTMAX_AMX
// As vnni.cc's.
constexpr size_t kPrefetchBytes = 8192;
// Rows that start within cache lines take twice the time to read. Copying them pays from so many columns on,
// while copies stay in the first cache.
constexpr int kFewestToCopyFor = 64;
constexpr size_t kMostChunksToCopy = 16;

// What is called tile here is a matrix register of AMX. Registers 0 to 3 hold sums, 4 and 5 rows' codes, 6
// and 7 queries'. The compiler knows nothing of them, so what they read and write is hidden from it, too.
constexpr int kRowCodes = 4;
constexpr int kQueryCodes = 6;

template <int kTile>
DOTMAX_AMX_INLINE void Load(const void* from, size_t stride) {
  asm volatile("tileloadd (%1,%2,1), %%tmm%c0" ::"i"(kTile), "r"(from), "r"(stride) : "memory");
}

template <int kTile>
DOTMAX_AMX_INLINE void Store(void* to, size_t stride) {
  asm volatile("tilestored %%tmm%c0, (%1,%2,1)" ::"i"(kTile), "r"(to), "r"(stride) : "memory");
}

template <int kTile>
DOTMAX_AMX_INLINE void Zero() {
  asm volatile("tilezero %%tmm%c0" ::"i"(kTile));
}

template <int kSums, int kRows, int kQueries>
DOTMAX_AMX_INLINE void AddProducts() {
  asm volatile("tdpbusd %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(kSums), "i"(kRows), "i"(kQueries));
}

// While it exists, this thread's registers are matrices of 16 × 64 bytes. Then they are let go of, so that
// switching threads need not save them.
class MatrixRegisters {
 public:
  DOTMAX_AMX_INLINE MatrixRegisters() {
    struct alignas(kChunk) {
      uint8_t palette = 1, start_row = 0, reserved[14] = {};
      uint16_t bytes[16] = {kChunk, kChunk, kChunk, kChunk, kChunk, kChunk, kChunk, kChunk};
      uint8_t rows[16] = {kSide, kSide, kSide, kSide, kSide, kSide, kSide, kSide};
    } shapes;
    asm volatile("ldtilecfg %0" ::"m"(shapes));
  }
  DOTMAX_AMX_INLINE ~MatrixRegisters() { asm volatile("tilerelease"); }

  MatrixRegisters(const MatrixRegisters&) = delete;
  MatrixRegisters& operator=(const MatrixRegisters&) = delete;
};

// What becomes of sums: a sink says where those of 16 × 16 pairs begin, and takes what they come to.
struct StoreScores {
  template <int kSums>
  DOTMAX_AMX_INLINE void Begin(int /*column*/) const {
    Zero<kSums>();
  }
  template <int kSums>
  DOTMAX_AMX_INLINE void End(int row, int column) {
    Store<kSums>(scores + row * columns + column, columns * sizeof(int32_t));
  }
  template <int kRows, int kQueries>
  DOTMAX_AMX_INLINE void Finish(int /*row*/, int /*column*/) {}

  int32_t* scores;
  size_t columns;
};

// Sums begin with ~threshold = −threshold − 1, so that those that end without a sign are survivors' scores,
// and that there are none is seen by and-ing: half an instruction per 16 pairs.
struct KeepSurvivors {
  KeepSurvivors(const int32_t* by_column, Survivor* to) : beginnings(by_column), end(to) {}

  template <int kSums>
  DOTMAX_AMX_INLINE void Begin(int column) const {
    Load<kSums>(beginnings + column, 0);
  }
  template <int kSums>
  DOTMAX_AMX_INLINE void End(int /*row*/, int /*column*/) {
    Store<kSums>(sums[kSums], kChunk);
  }
  // All sums of a block are there.
  template <int kRows, int kQueries>
  DOTMAX_AMX_INLINE void Finish(int row, int column) {
    __m512i signs[kRows][kQueries], all = _mm512_set1_epi32(-1);
    for (int r = 0; r < kRows; ++r) {
      for (int q = 0; q < kQueries; ++q) {
        signs[r][q] = Signs(sums[2 * r + q]);
        all = _mm512_and_si512(all, signs[r][q]);
      }
    }
    if (__builtin_expect(_mm512_movepi32_mask(all) == kAllLanes, 1)) return;
    for (int r = 0; r < kRows; ++r) {
      for (int q = 0; q < kQueries; ++q) {
        if (_mm512_movepi32_mask(signs[r][q]) == kAllLanes) continue;
        Append(sums[2 * r + q], row + r * kSide, column + q * kSide);
      }
    }
  }

  // By column: a sign if all rows have one.
  DOTMAX_AMX_INLINE static __m512i Signs(const int32_t* block) {
    constexpr int kAndOfThree = 0x80;
    __m512i signs = _mm512_load_si512(block);
    for (int row = 1; row < kSide - 1; row += 2) {
      signs = _mm512_ternarylogic_epi32(signs, _mm512_load_si512(block + row * kSide),
                                        _mm512_load_si512(block + (row + 1) * kSide), kAndOfThree);
    }
    return _mm512_and_si512(signs, _mm512_load_si512(block + (kSide - 1) * kSide));
  }

  // Branch-free: survivors are few, but nobody knows where.
  DOTMAX_AMX_INLINE void Append(const int32_t* block, int row, int column) {
    __m512i places = _mm512_add_epi32(_mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15),
                                      _mm512_set1_epi32(row << 16 | column));
    for (int r = 0; r < kSide; ++r) {
      const __mmask16 mask = _knot_mask16(_mm512_movepi32_mask(_mm512_load_si512(block + r * kSide)));
      _mm512_storeu_si512(end, _mm512_maskz_compress_epi32(mask, places));
      end += __builtin_popcount(mask);
      places = _mm512_add_epi32(places, _mm512_set1_epi32(1 << 16));
    }
  }

  static constexpr __mmask16 kAllLanes = 0xffff;

  const int32_t* const beginnings;
  Survivor* end;
  alignas(kChunk) int32_t sums[4][kSide * kSide];  // of 16 rows each by 16 queries
};

// kRows by kQueries registers' worth of pairs: each matrix of codes that is read is used twice, where there
// are two of the other kind. Per 64 dims four products of 16 cycles each.
template <int kRows, int kQueries, class Sink>
DOTMAX_AMX_INLINE void ScoreBlock(const uint8_t* codes, size_t stride, const int8_t* queries, size_t chunks,
                                  int row, int column, Sink& sink) {
  sink.template Begin<0>(column);
  if constexpr (kQueries == 2) sink.template Begin<1>(column + kSide);
  if constexpr (kRows == 2) sink.template Begin<2>(column);
  if constexpr (kRows == 2 && kQueries == 2) sink.template Begin<3>(column + kSide);
  for (size_t i = 0; i < chunks; ++i, codes += kChunk, queries += kMatrixBytes) {
    Load<kRowCodes>(codes, stride);
    Load<kQueryCodes>(queries, kChunk);
    AddProducts<0, kRowCodes, kQueryCodes>();
    if constexpr (kQueries == 2) {
      Load<kQueryCodes + 1>(queries + chunks * kMatrixBytes, kChunk);
      AddProducts<1, kRowCodes, kQueryCodes + 1>();
    }
    if constexpr (kRows == 2) {
      Load<kRowCodes + 1>(codes + kSide * stride, stride);
      AddProducts<2, kRowCodes + 1, kQueryCodes>();
      if constexpr (kQueries == 2) AddProducts<3, kRowCodes + 1, kQueryCodes + 1>();
    }
  }
  sink.template End<0>(row, column);
  if constexpr (kQueries == 2) sink.template End<1>(row, column + kSide);
  if constexpr (kRows == 2) sink.template End<2>(row + kSide, column);
  if constexpr (kRows == 2 && kQueries == 2) sink.template End<3>(row + kSide, column + kSide);
  sink.template Finish<kRows, kQueries>(row, column);
}

// kRows registers' worth of rows with all queries.
template <int kRows, class Sink>
DOTMAX_AMX_INLINE void ScoreRows(const uint8_t* tile, int row, size_t dim, const int8_t* packed, int columns,
                                 Sink& sink) {
  const size_t chunks = Chunks(dim);
  const uint8_t* codes = tile + row * dim;
  size_t stride = dim;
  alignas(kChunk) uint8_t copy[kRows * kSide * kMostChunksToCopy * kChunk];
  if (columns >= kFewestToCopyFor && chunks <= kMostChunksToCopy) {
    stride = chunks * kChunk;
    for (int r = 0; r < kRows * kSide; ++r) {
      for (size_t i = 0; i < stride; i += kChunk) {
        _mm512_store_si512(copy + r * stride + i, _mm512_loadu_si512(codes + r * dim + i));
      }
    }
    codes = copy;
  }
  const uint8_t* ahead = tile + row * dim + kPrefetchBytes;
  // Some beside each block, as their products take far longer than to ask.
  const size_t blocks = (columns + 2 * kSide - 1) / (2 * kSide);
  const size_t lines_at_once = kRows * kSide * dim / kChunk / blocks + 1;
  for (int column = 0; column < columns; column += 2 * kSide) {
    const int8_t* const queries = packed + column * chunks * kChunk;
    if (columns - column > kSide) {
      ScoreBlock<kRows, 2>(codes, stride, queries, chunks, row, column, sink);
    } else {
      ScoreBlock<kRows, 1>(codes, stride, queries, chunks, row, column, sink);
    }
    for (size_t i = 0; i < lines_at_once; ++i, ahead += kChunk) _mm_prefetch(ahead, _MM_HINT_T0);
  }
}

template <class Sink>
DOTMAX_AMX void ScoreTile(const uint8_t* tile, int rows, size_t dim, const int8_t* packed, int columns,
                          Sink& sink) {
  const MatrixRegisters registers;
  int row = 0;
  for (; row + 2 * kSide <= rows; row += 2 * kSide) ScoreRows<2>(tile, row, dim, packed, columns, sink);
  if (row < rows) ScoreRows<1>(tile, row, dim, packed, columns, sink);
}

// Linux lets a process use the registers once it has said so: they make each thread's state 8 KiB larger.
bool AskForMatrixRegisters() {
  constexpr int kRequestPermission = 0x1023;  // ARCH_REQ_XCOMP_PERM, which Debian 12's headers lack
  constexpr int kTileData = 18;               // XFEATURE_XTILEDATA
  constexpr unsigned kTiles = 1u << 24, kInt8 = 1u << 25;  // CPUID 7, EDX
  unsigned a = 0, b = 0, c = 0, d = 0;
  return __get_cpuid_count(7, 0, &a, &b, &c, &d) != 0 && (d & kTiles) != 0 && (d & kInt8) != 0 &&
         syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
}
#endif

}  // namespace

bool AmxServes(int columns, int dim) {
  return columns % kSide == 0 && columns <= kMostColumns && dim <= kMostDim;
}

size_t PackedAmxBytes(int columns, int dim) { return columns * Chunks(dim) * kChunk; }

void PackAmx(const int8_t* queries, int columns, int dim, int8_t* packed) {
  // Zeros meet what a row's last chunk reads of the next row.
  std::fill_n(packed, PackedAmxBytes(columns, dim), int8_t{0});
  const size_t n = static_cast<size_t>(dim);
  for (int first = 0; first < columns; first += kSide, packed += Chunks(n) * kMatrixBytes) {
    int8_t* to = packed;
    for (size_t i = 0; i < n; i += kQuad) {
      for (int c = first; c < first + kSide; ++c, to += kQuad) std::memcpy(to, queries + c * n + i, kQuad);
    }
  }
}

#ifdef DOTMAX_AMX
bool HasAmxKernel() {
  static const bool allowed = AskForMatrixRegisters();
  return allowed && (hwy::SupportedTargets() & HWY_AVX3_DL) != 0;  // of the oldest that AMX comes with
}

void ScoreAmx(const uint8_t* tile, int rows, int dim, const int8_t* packed, int columns, int32_t* scores) {
  StoreScores sink{scores, static_cast<size_t>(columns)};
  ScoreTile(tile, rows, static_cast<size_t>(dim), packed, columns, sink);
}

size_t CollectAmx(const uint8_t* tile, int rows, int dim, const int8_t* packed, int columns,
                  const int32_t* thresholds, Survivor* survivors) {
  static_assert(sizeof(Survivor) == sizeof(int32_t));
  alignas(kChunk) int32_t beginnings[kMostColumns];
  for (int c = 0; c < columns; ++c) beginnings[c] = ~std::clamp(thresholds[c], -kMostScore - 1, kMostScore);
  KeepSurvivors sink(beginnings, survivors);
  const int whole_rows = (rows + kSide - 1) / kSide * kSide;
  ScoreTile(tile, whole_rows, static_cast<size_t>(dim), packed, columns, sink);
  if (rows == whole_rows) return sink.end - survivors;
  return std::remove_if(survivors, sink.end, [rows](Survivor s) { return s.row >= rows; }) - survivors;
}
#else
bool HasAmxKernel() { return false; }
void ScoreAmx(const uint8_t*, int, int, const int8_t*, int, int32_t*) {}
size_t CollectAmx(const uint8_t*, int, int, const int8_t*, int, const int32_t*, Survivor*) { return 0; }
#endif

}  // namespace dotmax
