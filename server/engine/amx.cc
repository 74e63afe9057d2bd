#include "server/engine/amx.h"

#include <algorithm>
#include <cstring>

#include "hwy/targets.h"

#if defined(__x86_64__) && defined(__linux__)
#include <cpuid.h>
#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"  // GCC 12 on its own intrinsics (PR 105593)
#endif
#define DOTMAX_AMX __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl")))
#define DOTMAX_AMX_INLINE DOTMAX_AMX inline __attribute__((always_inline))
#endif

namespace dotmax {
namespace {

constexpr int kSide = 16;   // rows of a matrix register, and its 32-bit columns
constexpr int kChunk = 64;  // codes of one of its rows, and bytes of a cache line
constexpr int kQuad = 4;    // products that are summed at once
constexpr size_t kMatrixBytes = kSide * kChunk;

constexpr size_t Chunks(size_t dim) { return (dim + kChunk - 1) / kChunk; }

#ifdef DOTMAX_AMX
// As vnni.cc's.
constexpr size_t kPrefetchBytes = 8192;
// Rows that begin within cache lines take twice the time to read, and copies of short ones are in the first
// cache. Copying pays from so many columns on, and so many per 64 dims, while copies are in the first cache.
constexpr size_t kFewestToCopyFor = 64;
constexpr size_t kFewestToCopyForPerChunk = 12;
constexpr size_t kMostChunksToCopy = 16;

// Of the matrix registers, 0 and 1 hold sums of two times 16 rows, 2 and 3 the next ones, so that products go
// on while the first are stored; 4 and 5 hold rows' codes, 6 and 7 queries'. The compiler knows nothing of
// them, so what they read and write is hidden from it, too.
constexpr int kRowCodes = 4;
constexpr int kQueryCodes = 6;

template <int kRegister>
DOTMAX_AMX_INLINE void Load(const void* from, size_t stride) {
  asm volatile("tileloadd (%1,%2,1), %%tmm%c0" ::"i"(kRegister), "r"(from), "r"(stride) : "memory");
}

template <int kRegister>
DOTMAX_AMX_INLINE void Store(void* to, size_t stride) {
  asm volatile("tilestored %%tmm%c0, (%1,%2,1)" ::"i"(kRegister), "r"(to), "r"(stride) : "memory");
}

template <int kRegister>
DOTMAX_AMX_INLINE void Zero() {
  asm volatile("tilezero %%tmm%c0" ::"i"(kRegister));
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

// What becomes of sums of kRows · 16 rows by 16 queries: a sink takes them from their registers, and finishes
// what it took when the next are being summed.
struct StoreScores {
  template <int kRows, int kSet>
  DOTMAX_AMX_INLINE void Take(int row, int column) {
    Store<2 * kSet>(scores + row * columns + column, columns * sizeof(int32_t));
    if constexpr (kRows == 2) {
      Store<2 * kSet + 1>(scores + (row + kSide) * columns + column, columns * sizeof(int32_t));
    }
  }
  template <int kRows, int kSet>
  DOTMAX_AMX_INLINE void Finish(int /*row*/, int /*column*/) {}

  int32_t* scores;
  size_t columns;
};

// The largest of each column is compared: an instruction per 16 pairs where nothing survives.
struct KeepSurvivors {
  template <int kRows, int kSet>
  DOTMAX_AMX_INLINE void Take(int /*row*/, int /*column*/) {
    Store<2 * kSet>(sums[kSet][0], kChunk);
    if constexpr (kRows == 2) Store<2 * kSet + 1>(sums[kSet][1], kChunk);
  }
  template <int kRows, int kSet>
  DOTMAX_AMX_INLINE void Finish(int row, int column) {
    const __m512i wanted = _mm512_loadu_si512(thresholds + column);
    for (int r = 0; r < kRows; ++r) {
      const int32_t* const block = sums[kSet][r];
      __m512i largest[2] = {_mm512_load_si512(block), _mm512_load_si512(block + kSide)};
      for (int i = 2; i < kSide; ++i) {
        largest[i % 2] = _mm512_max_epi32(largest[i % 2], _mm512_load_si512(block + i * kSide));
      }
      const __mmask16 any = _mm512_cmpgt_epi32_mask(_mm512_max_epi32(largest[0], largest[1]), wanted);
      if (__builtin_expect(any != 0, 0)) Append(block, wanted, row + r * kSide, column);
    }
  }

  // Branch-free: survivors are few, but nobody knows where.
  DOTMAX_AMX_INLINE void Append(const int32_t* block, __m512i wanted, int row, int column) {
    __m512i places = _mm512_add_epi32(_mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15),
                                      _mm512_set1_epi32(row << 16 | column));
    for (int i = 0; i < kSide; ++i) {
      const __mmask16 mask = _mm512_cmpgt_epi32_mask(_mm512_load_si512(block + i * kSide), wanted);
      _mm512_storeu_si512(end, _mm512_maskz_compress_epi32(mask, places));
      end += __builtin_popcount(mask);
      places = _mm512_add_epi32(places, _mm512_set1_epi32(1 << 16));
    }
  }

  const int32_t* thresholds;
  Survivor* end;
  alignas(kChunk) int32_t sums[2][2][kSide * kSide] = {};
};

// Some rows of a tile.
struct Rows {
  int first;
  const uint8_t* codes;
  size_t stride, chunks;
  const uint8_t* ahead;  // what is to be prefetched
  size_t lines_at_once;
  bool are_short;  // the next ones find room in the first cache, too
};

// kRows · 16 rows by 16 queries, in registers of set kSet, while what the other set came to is finished. Per
// 64 dims and 16 rows 16 cycles of products, in which the next codes are read.
template <int kRows, int kSet, class Sink>
DOTMAX_AMX_INLINE void ScoreColumns(Rows& rows, int column, const int8_t* packed, Sink& sink) {
  constexpr int kSums = 2 * kSet, kQueries = kQueryCodes + kSet;
  Zero<kSums>();
  if constexpr (kRows == 2) Zero<kSums + 1>();
  const int8_t* const queries = packed + column * rows.chunks * kChunk;
  for (size_t i = 0; i < rows.chunks; ++i) {
    const uint8_t* const codes = rows.codes + i * kChunk;
    for (size_t l = 0; l < rows.lines_at_once; ++l, rows.ahead += kChunk) {
      if (rows.are_short) {
        _mm_prefetch(rows.ahead, _MM_HINT_T0);
      } else {
        _mm_prefetch(rows.ahead, _MM_HINT_T1);
      }
    }
    Load<kQueries>(queries + i * kMatrixBytes, kChunk);
    Load<kRowCodes>(codes, rows.stride);
    AddProducts<kSums, kRowCodes, kQueries>();
    if constexpr (kRows == 2) {
      Load<kRowCodes + 1>(codes + kSide * rows.stride, rows.stride);
      AddProducts<kSums + 1, kRowCodes + 1, kQueries>();
    }
  }
  if (column > 0) sink.template Finish<kRows, 1 - kSet>(rows.first, column - kSide);
  sink.template Take<kRows, kSet>(rows.first, column);
}

// kRows · 16 rows with all queries.
template <int kRows, class Sink>
DOTMAX_AMX_INLINE void ScoreRows(const uint8_t* tile, int row, size_t dim, const int8_t* packed, int columns,
                                 Sink& sink) {
  const size_t groups = columns / kSide;
  const uint8_t* const codes = tile + row * dim;
  // The next rows, or those after them: all have their turn at once.
  const size_t ahead = std::max(kRows * kSide * dim, kPrefetchBytes);
  Rows rows = {row,
               codes,
               dim,
               Chunks(dim),
               codes + ahead,
               (kRows * kSide + groups - 1) / groups,
               ahead == kPrefetchBytes};
  alignas(kChunk) uint8_t copy[kRows * kSide * kMostChunksToCopy * kChunk];
  if ((rows.are_short || dim % kChunk != 0) && rows.chunks <= kMostChunksToCopy &&
      columns >= std::max(kFewestToCopyFor, kFewestToCopyForPerChunk * rows.chunks)) {
    rows.codes = copy;
    rows.stride = rows.chunks * kChunk;
    for (int r = 0; r < kRows * kSide; ++r) {
      for (size_t i = 0; i < rows.stride; i += kChunk) {
        _mm512_store_si512(copy + r * rows.stride + i, _mm512_loadu_si512(codes + r * dim + i));
      }
    }
  }
  int column = 0;
  for (; column + kSide < columns; column += 2 * kSide) {
    ScoreColumns<kRows, 0>(rows, column, packed, sink);
    ScoreColumns<kRows, 1>(rows, column + kSide, packed, sink);
  }
  if (column < columns) {
    ScoreColumns<kRows, 0>(rows, column, packed, sink);
    sink.template Finish<kRows, 0>(row, column);
  } else {
    sink.template Finish<kRows, 1>(row, column - kSide);
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

int AmxColumns(int queries) { return (queries + kSide - 1) / kSide * kSide; }

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
  KeepSurvivors sink{thresholds, survivors};
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
