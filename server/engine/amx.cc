#include "server/engine/amx.h"

#include <algorithm>
#include <cstring>

#include "hwy/targets.h"
#include "server/engine/aligned.h"
#include "server/engine/survivors.h"

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
// Of rows that registers do not hold, those that begin within cache lines take twice the time to read, and
// copies of the shorter ones are in the first cache. Copying pays from so many columns on, and so many per
// chunk, while copies are there.
constexpr size_t kFewestToCopyFor = 64;
constexpr size_t kFewestToCopyForPerChunk = 12;
constexpr size_t kMostChunksToCopy = 16;

// Of the matrix registers, the first four hold sums, so that products go on while earlier ones are stored;
// others hold codes. The compiler knows nothing of them, so what they read and write is hidden from it, too.
constexpr int kSums = 4;

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

template <int kSum, int kRows, int kQueries>
DOTMAX_AMX_INLINE void AddProducts() {
  asm volatile("tdpbusd %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(kSum), "i"(kRows), "i"(kQueries));
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

// What becomes of sums of 16 rows by 16 queries: a sink takes them from register kSum, and finishes them
// later, before it takes the next from there, while further products are summed.
struct StoreScores {
  template <int kSum>
  DOTMAX_AMX_INLINE void Take(int row, int column) {
    Store<kSum>(scores + row * columns + column, columns * sizeof(int32_t));
  }
  DOTMAX_AMX_INLINE void Finish(int /*sum*/, int /*row*/, int /*column*/) {}

  int32_t* scores;
  size_t columns;
};

// The largest of each column is compared: an instruction per 16 pairs where nothing survives.
struct KeepSurvivors {
  KeepSurvivors(const int32_t* by_column, Survivor* to) : thresholds(by_column), end(to) {}

  template <int kSum>
  DOTMAX_AMX_INLINE void Take(int /*row*/, int /*column*/) {
    Store<kSum>(sums[kSum], kChunk);
  }
  DOTMAX_AMX_INLINE void Finish(int sum, int row, int column) {
    const __m512i wanted = _mm512_loadu_si512(thresholds + column);
    const int32_t* const block = sums[sum];
    __m512i largest[2] = {_mm512_load_si512(block), _mm512_load_si512(block + kSide)};
    for (int i = 2; i < kSide; ++i) {
      largest[i % 2] = _mm512_max_epi32(largest[i % 2], _mm512_load_si512(block + i * kSide));
    }
    const __mmask16 any = _mm512_cmpgt_epi32_mask(_mm512_max_epi32(largest[0], largest[1]), wanted);
    if (__builtin_expect(any != 0, 0)) Append(block, wanted, row, column);
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
  alignas(kChunk) int32_t sums[kSums][kSide * kSide];  // set by Take
};

// Asks for rows that come later, some lines beside each product.
struct Ahead {
  // `count` rows, `distance` bytes or more after the first of these.
  DOTMAX_AMX_INLINE Ahead(const CodeRows& rows, size_t count, size_t distance, size_t lines_at_once,
                          bool near)
      : lines(lines_at_once), is_near(near) {
    const size_t first = (distance + rows.dim() - 1) / rows.dim();
    next = rows.head.row(first);
    head_end = rows.head.row(first + count);
    then = rows.rest.dim > 0 ? rows.rest.row(first) : head_end;
  }

  DOTMAX_AMX_INLINE void Step() {
    for (size_t i = 0; i < lines; ++i, next += kChunk) {
      if (next == head_end) next = then;
      if (is_near) {
        _mm_prefetch(next, _MM_HINT_T0);
      } else {
        _mm_prefetch(next, _MM_HINT_T1);
      }
    }
  }

  const uint8_t *next, *head_end, *then;
  size_t lines;  // in each step
  bool is_near;  // the first cache has room for them
};

// 16 rows of kChunks, which are in the last registers, by 16 queries, in register kSum: per chunk and 16 × 16
// pairs 16 cycles of products. Sums are finished three groups later.
template <size_t kChunks, int kSum, class Sink>
DOTMAX_AMX_INLINE void ScoreShortGroup(int row, int group, const int8_t* packed, Ahead& ahead, Sink& sink) {
  constexpr int kQueries = kSums, kRows = kSums + 1;
  static_assert(kChunks <= 3);
  const int8_t* const queries = packed + group * kChunks * kMatrixBytes;
  Zero<kSum>();
  Load<kQueries>(queries, kChunk);
  AddProducts<kSum, kRows, kQueries>();
  if constexpr (kChunks > 1) {
    Load<kQueries>(queries + kMatrixBytes, kChunk);
    AddProducts<kSum, kRows + 1, kQueries>();
  }
  if constexpr (kChunks > 2) {
    Load<kQueries>(queries + 2 * kMatrixBytes, kChunk);
    AddProducts<kSum, kRows + 2, kQueries>();
  }
  ahead.Step();
  if (group >= kSums - 1) sink.Finish((kSum + 1) % kSums, row, (group - (kSums - 1)) * kSide);
  sink.template Take<kSum>(row, group * kSide);
}

// Chunk `i` of 16 rows.
template <int kRegister>
DOTMAX_AMX_INLINE void LoadRows(const CodeRows& rows, size_t i) {
  const size_t first = i * kChunk;
  const bool in_head = first < rows.head.dim;
  const CodeRows::Plane& plane = in_head ? rows.head : rows.rest;
  Load<kRegister>(plane.codes + first - (in_head ? 0 : rows.head.dim), plane.dim);
}

template <size_t kChunks, class Sink>
DOTMAX_AMX void ScoreShort(const CodeRows& tile, int rows, const int8_t* packed, int groups, Sink& sink) {
  constexpr int kRows = kSums + 1;
  for (int row = 0; row < rows; row += kSide) {
    const CodeRows codes = tile.From(row);
    LoadRows<kRows>(codes, 0);
    if constexpr (kChunks > 1) LoadRows<kRows + 1>(codes, 1);
    if constexpr (kChunks > 2) LoadRows<kRows + 2>(codes, 2);
    Ahead ahead(codes, kSide, kReadAheadBytes, kSide * kChunks / groups + 1, true);
    int group = 0;
    for (; group + kSums <= groups; group += kSums) {
      ScoreShortGroup<kChunks, 0>(row, group, packed, ahead, sink);
      ScoreShortGroup<kChunks, 1>(row, group + 1, packed, ahead, sink);
      ScoreShortGroup<kChunks, 2>(row, group + 2, packed, ahead, sink);
      ScoreShortGroup<kChunks, 3>(row, group + 3, packed, ahead, sink);
    }
    if (group < groups) ScoreShortGroup<kChunks, 0>(row, group, packed, ahead, sink);
    if (group + 1 < groups) ScoreShortGroup<kChunks, 1>(row, group + 1, packed, ahead, sink);
    if (group + 2 < groups) ScoreShortGroup<kChunks, 2>(row, group + 2, packed, ahead, sink);
    for (int last = std::max(0, groups - (kSums - 1)); last < groups; ++last) {
      sink.Finish(last % kSums, row, last * kSide);
    }
  }
}

// kRows · 16 longer rows by 16 queries, in one or two registers from kFirst on: per chunk kRows times 16
// cycles of products, in which the next codes are read.
template <int kRows, int kFirst>
DOTMAX_AMX_INLINE void SumLong(const CodeRows& rows, const int8_t* queries, Ahead& ahead) {
  constexpr int kRowCodes = kSums, kQueries = kSums + 2 + kFirst / 2;
  Zero<kFirst>();
  if constexpr (kRows == 2) Zero<kFirst + 1>();
  for (const CodeRows::Plane& plane : {rows.head, rows.rest}) {
    for (size_t i = 0; i < plane.dim; i += kChunk, queries += kMatrixBytes) {
      ahead.Step();
      Load<kQueries>(queries, kChunk);
      Load<kRowCodes>(plane.codes + i, plane.dim);
      AddProducts<kFirst, kRowCodes, kQueries>();
      if constexpr (kRows == 2) {
        Load<kRowCodes + 1>(plane.row(kSide) + i, plane.dim);
        AddProducts<kFirst + 1, kRowCodes + 1, kQueries>();
      }
    }
  }
}

template <int kRows, int kFirst, class Sink>
DOTMAX_AMX_INLINE void Take(int row, int column, Sink& sink) {
  sink.template Take<kFirst>(row, column);
  if constexpr (kRows == 2) sink.template Take<kFirst + 1>(row + kSide, column);
}

template <int kRows, class Sink>
DOTMAX_AMX_INLINE void Finish(int first, int row, int column, Sink& sink) {
  sink.Finish(first, row, column);
  if constexpr (kRows == 2) sink.Finish(first + 1, row + kSide, column);
}

// kRows · 16 longer rows with all queries.
template <int kRows, class Sink>
DOTMAX_AMX_INLINE void ScoreLong(const CodeRows& tile, int row, const int8_t* packed, int columns,
                                 Sink& sink) {
  constexpr size_t kCount = kRows * kSide;
  const size_t dim = tile.dim(), chunks = Chunks(dim), groups = columns / kSide;
  CodeRows codes = tile.From(row);
  // The next rows, or those after them: all have their turn at once.
  const size_t distance = std::max(kCount * dim, kReadAheadBytes);
  Ahead ahead(codes, kCount, distance, (kCount + groups - 1) / groups, distance == kReadAheadBytes);
  alignas(kChunk) uint8_t copy[kCount * kMostChunksToCopy * kChunk];
  if ((ahead.is_near || dim % kChunk != 0) && chunks <= kMostChunksToCopy &&
      columns >= std::max(kFewestToCopyFor, kFewestToCopyForPerChunk * chunks)) {
    uint8_t* to = copy;
    for (size_t r = 0; r < kCount; ++r) {
      for (const CodeRows::Plane& plane : {codes.head, codes.rest}) {
        for (size_t i = 0; i < plane.dim; i += kChunk, to += kChunk) {
          _mm512_store_si512(to, _mm512_loadu_si512(plane.row(r) + i));
        }
      }
    }
    codes = {{copy, chunks * kChunk}};
  }
  const auto queries = [&](int column) { return packed + column * chunks * kChunk; };
  int column = 0;
  for (; column + kSide < columns; column += 2 * kSide) {
    SumLong<kRows, 0>(codes, queries(column), ahead);
    if (column > 0) Finish<kRows>(2, row, column - kSide, sink);
    Take<kRows, 0>(row, column, sink);
    SumLong<kRows, 2>(codes, queries(column + kSide), ahead);
    Finish<kRows>(0, row, column, sink);
    Take<kRows, 2>(row, column + kSide, sink);
  }
  if (column < columns) {
    SumLong<kRows, 0>(codes, queries(column), ahead);
    if (column > 0) Finish<kRows>(2, row, column - kSide, sink);
    Take<kRows, 0>(row, column, sink);
    Finish<kRows>(0, row, column, sink);
  } else {
    Finish<kRows>(2, row, column - kSide, sink);
  }
}

template <class Sink>
DOTMAX_AMX void ScoreTile(const CodeRows& tile, int rows, const int8_t* packed, int columns, Sink& sink) {
  const MatrixRegisters registers;
  const int groups = columns / kSide;
  switch (Chunks(tile.dim())) {
    case 1:
      return ScoreShort<1>(tile, rows, packed, groups, sink);
    case 2:
      return ScoreShort<2>(tile, rows, packed, groups, sink);
    case 3:
      return ScoreShort<3>(tile, rows, packed, groups, sink);
  }
  int row = 0;
  for (; row + 2 * kSide <= rows; row += 2 * kSide) ScoreLong<2>(tile, row, packed, columns, sink);
  if (row < rows) ScoreLong<1>(tile, row, packed, columns, sink);
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

void ScoreAmx(const CodeRows& tile, int rows, const int8_t* packed, int columns, int32_t* scores) {
  StoreScores sink{scores, static_cast<size_t>(columns)};
  ScoreTile(tile, rows, packed, columns, sink);
}

size_t CollectAmx(const CodeRows& tile, int rows, const int8_t* packed, int columns,
                  const int32_t* thresholds, Survivor* survivors) {
  static_assert(sizeof(Survivor) == sizeof(int32_t));
  KeepSurvivors sink(thresholds, survivors);
  const int whole_rows = (rows + kSide - 1) / kSide * kSide;
  ScoreTile(tile, whole_rows, packed, columns, sink);
  return KeepRows(survivors, sink.end, rows);
}
#else
bool HasAmxKernel() { return false; }
void ScoreAmx(const CodeRows&, int, const int8_t*, int, int32_t*) {}
size_t CollectAmx(const CodeRows&, int, const int8_t*, int, const int32_t*, Survivor*) { return 0; }
#endif

}  // namespace dotmax
