// What a search allocates beyond its inputs, counted by replacing this program's operator new.
#include <atomic>
#include <cstdlib>
#include <new>

#include "gtest/gtest.h"
#include "server/engine/engine.h"
#include "tests/data.h"

namespace {

std::atomic<int64_t> allocated{0};
std::atomic<int64_t> peak{0};

// A header in front of every block remembers its size and where it began.
struct Header {
  void* start;
  size_t bytes;
};

void* Allocate(size_t bytes, size_t alignment) {
  alignment = alignment < sizeof(Header) ? sizeof(Header) : alignment;
  void* const start = std::malloc(bytes + alignment + sizeof(Header));
  if (start == nullptr) throw std::bad_alloc();
  const uintptr_t user =
      (reinterpret_cast<uintptr_t>(start) + sizeof(Header) + alignment - 1) / alignment * alignment;
  reinterpret_cast<Header*>(user)[-1] = {start, bytes};
  const int64_t now = allocated += static_cast<int64_t>(bytes);
  for (int64_t seen = peak; seen < now && !peak.compare_exchange_weak(seen, now);) {
  }
  return reinterpret_cast<void*>(user);
}

void Free(void* pointer) {
  if (pointer == nullptr) return;
  const Header& header = static_cast<Header*>(pointer)[-1];
  allocated -= static_cast<int64_t>(header.bytes);
  std::free(header.start);
}

}  // namespace

void* operator new(size_t bytes) { return Allocate(bytes, alignof(std::max_align_t)); }
void* operator new(size_t bytes, std::align_val_t a) { return Allocate(bytes, static_cast<size_t>(a)); }
void operator delete(void* p) noexcept { Free(p); }
void operator delete(void* p, size_t) noexcept { Free(p); }
void operator delete(void* p, std::align_val_t) noexcept { Free(p); }
void operator delete(void* p, size_t, std::align_val_t) noexcept { Free(p); }

namespace dotmax {
namespace {

TEST(MemoryTest, ASearchOf4096By200000StaysUnder64MiBBeyondItsInputs) {
  const Matrix matrix(testing::RandomNormal(200000, 24, 1));
  const SharedMatrix queries = testing::RandomNormal(4096, 24, 2);
  for (const Reduction reduction : {Reduction::kPerRow, Reduction::kGlobal}) {
    const int64_t before = allocated;
    peak = before;
    Engine engine(2);
    const absl::StatusOr<Answer> answer = engine.Search(
        matrix, queries.view, {.top_k = 10, .reduction = reduction}, [] { return absl::OkStatus(); });
    ASSERT_TRUE(answer.ok());
    EXPECT_GT(peak - before, 100 << 10) << "nothing was counted";
    EXPECT_LT(peak - before, 64 << 20);
  }
}

// Whatever the planner chooses.
TEST(MemoryTest, AMatrixTakesLittleBesideItsRowsAndLoadsInPlace) {
  constexpr uint64_t kRows = 100000;
  constexpr uint32_t kDim = 96;
  for (const SharedMatrix& rows :
       {testing::RandomNormal(kRows, kDim, 1), testing::RandomClustered(kRows, kDim, 8, 0.1, 2),
        testing::RandomClustered(kRows, kDim, 500, 0.3, 3)}) {
    const int64_t before = allocated;
    peak = before;
    const Matrix matrix(rows);
    SCOPED_TRACE(matrix.screen());
    EXPECT_LE(matrix.resident_bytes(), 5.3 * kRows * kDim);
    const double held = static_cast<double>(rows.view.bytes());  // counted before
    EXPECT_LE(allocated - before + held, 1.02 * matrix.resident_bytes());
    EXPECT_LE(peak - before + held, 1.2 * matrix.resident_bytes());
  }
}

}  // namespace
}  // namespace dotmax
