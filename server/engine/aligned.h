// Memory: blocks aligned for SIMD and for oneDNN, reused from one search to the next, and what is asked for
// ahead.
#ifndef DOTMAX_SERVER_ENGINE_ALIGNED_H_
#define DOTMAX_SERVER_ENGINE_ALIGNED_H_

#include <sys/mman.h>

#include <algorithm>
#include <cstddef>
#include <memory>
#include <new>

namespace dotmax {

// Room for trivially copyable elements, 64-byte aligned, uninitialised. Not thread-safe.
template <typename T>
class AlignedArray {
 public:
  // At least `count` elements. Contents are lost when that needs more than before.
  T* Reserve(size_t count) {
    if (count > capacity_) {
      data_.reset();
      const size_t bytes = count * sizeof(T);
      const std::align_val_t alignment{bytes < kFromBytes ? kVectorBytes : kHugePageBytes};
      data_ = {static_cast<T*>(::operator new(bytes, alignment)), Free{alignment}};
      // Only asks, and only for whole pages: a refusal changes nothing but speed.
      if (bytes >= kFromBytes) madvise(data_.get(), bytes / kHugePageBytes * kHugePageBytes, MADV_HUGEPAGE);
      capacity_ = count;
    }
    return data_.get();
  }

  T* data() const { return data_.get(); }

 private:
  static constexpr size_t kVectorBytes = 64;
  // Large blocks lie in huge pages: one query, which waits for memory, is 3 to 25% faster (Zen 4).
  static constexpr size_t kHugePageBytes = 2 << 20;
  static constexpr size_t kFromBytes = 2 * kHugePageBytes;
  struct Free {
    std::align_val_t alignment{kVectorBytes};
    void operator()(T* data) const { ::operator delete(data, alignment); }
  };

  std::unique_ptr<T, Free> data_;
  size_t capacity_ = 0;
};

// Rows are read in order, and asked for so far ahead: farther than hardware prefetchers look, who also stop
// at the ends of pages. For one query 2 KiB is a third slower, 16 KiB no faster (Zen 5: 50 GB/s with it, 25
// without).
inline constexpr size_t kReadAheadBytes = 8192;

inline constexpr size_t kCacheLineBytes = 64;

// Asks for memory that is soon to be read.
inline void Prefetch(const void* from, size_t bytes) {
  const auto* const first = static_cast<const std::byte*>(from);
  for (size_t byte = 0; byte < bytes; byte += kCacheLineBytes) __builtin_prefetch(first + byte);
}

// Two blocks of memory that will be read next, and are asked for bit by bit, while there is something to
// compute: into the second cache, of which they take a quarter at most.
class ReadAhead {
 public:
  struct Block {
    const std::byte* data = nullptr;
    size_t bytes = 0;
  };

  ReadAhead() = default;
  ReadAhead(Block first, Block second) : next_(first.data), end_(EndOf(first)), second_(second) {}

  bool empty() const { return next_ >= end_; }

  // The next two lines, if any are left.
  void Step() {
    if (empty()) return;
    __builtin_prefetch(next_, 0, 2);
    __builtin_prefetch(next_ + kCacheLineBytes, 0, 2);
    next_ += 2 * kCacheLineBytes;
    if (empty()) *this = {second_, {}};
  }

 private:
  static constexpr size_t kMostBytes = 128 << 10;  // of a block
  static const std::byte* EndOf(const Block& block) { return block.data + std::min(block.bytes, kMostBytes); }

  const std::byte *next_ = nullptr, *end_ = nullptr;
  Block second_;
};

}  // namespace dotmax

#endif  // DOTMAX_SERVER_ENGINE_ALIGNED_H_
