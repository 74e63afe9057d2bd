// A block of memory aligned for SIMD and for oneDNN, reused from one search to the next.
#ifndef DOTMAX_SERVER_ENGINE_ALIGNED_H_
#define DOTMAX_SERVER_ENGINE_ALIGNED_H_

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
      data_.reset(static_cast<T*>(::operator new(count * sizeof(T), kAlignment)));
      capacity_ = count;
    }
    return data_.get();
  }

  T* data() const { return data_.get(); }

 private:
  static constexpr std::align_val_t kAlignment{64};
  struct Free {
    void operator()(T* data) const { ::operator delete(data, kAlignment); }
  };

  std::unique_ptr<T, Free> data_;
  size_t capacity_ = 0;
};

}  // namespace dotmax

#endif  // DOTMAX_SERVER_ENGINE_ALIGNED_H_
