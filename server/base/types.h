// The vocabulary that every part of dotmax shares: number formats, matrices in memory, hits and the one
// order among them. Plain values, no behaviour beyond what their meaning dictates.
#ifndef DOTMAX_SERVER_BASE_TYPES_H_
#define DOTMAX_SERVER_BASE_TYPES_H_

#include <cstddef>
#include <cstdint>
#include <memory>

namespace dotmax {

// Number formats of stored and queried rows. Each of their finite values is exactly a float64.
enum class DType : uint8_t { kFloat32, kFloat16, kBFloat16, kFloat64, kInt8 };

// Bytes per element.
constexpr size_t ByteWidth(DType dtype) {
  switch (dtype) {
    case DType::kFloat64:
      return 8;
    case DType::kFloat32:
      return 4;
    case DType::kFloat16:
    case DType::kBFloat16:
      return 2;
    case DType::kInt8:
      return 1;
  }
  return 0;
}

// "float32", ..., "int8"; for messages and metrics.
constexpr const char* DTypeName(DType dtype) {
  switch (dtype) {
    case DType::kFloat32:
      return "float32";
    case DType::kFloat16:
      return "float16";
    case DType::kBFloat16:
      return "bfloat16";
    case DType::kFloat64:
      return "float64";
    case DType::kInt8:
      return "int8";
  }
  return "unknown";
}

// Elements per row that a matrix may have: int32 sums of 8-bit products stay exact up to 66,311 of them.
inline constexpr uint32_t kMaxDim = 65536;

// A borrowed dense matrix: rows × dim elements, row-major, little-endian, no padding, any alignment.
struct MatrixView {
  const std::byte* data = nullptr;
  uint64_t rows = 0;
  uint32_t dim = 0;
  DType dtype = DType::kFloat32;

  size_t row_bytes() const { return size_t{dim} * ByteWidth(dtype); }
  size_t bytes() const { return rows * row_bytes(); }
  const std::byte* row(uint64_t i) const { return data + i * row_bytes(); }
  // Rows [first, first + count).
  MatrixView slice(uint64_t first, uint64_t count) const { return {row(first), count, dim, dtype}; }
};

// What lies behind bytes that somebody else can change: a file that is mapped. Thread-safe.
class Backing {
 public:
  virtual ~Backing() = default;

  // Whether the bytes are what they were: asked after they have been read, it says whether that was right.
  virtual bool Intact() const = 0;
};

// A matrix together with whatever keeps its bytes alive (a heap block, a file mapping, a message).
// Immutable once made; copies share the bytes.
struct SharedMatrix {
  MatrixView view;
  std::shared_ptr<const void> owner;
  std::shared_ptr<const Backing> backing = nullptr;  // null for bytes that nobody changes
};

enum class Reduction : uint8_t {
  kPerRow,  // the best rows of each query row
  kGlobal,  // the best (query row, row) pairs of all
};

// What a score says of two rows. Every part of the engine works with merits, of which the largest is the
// best: scores, but for a distance's sign.
enum class Metric : uint8_t {
  kInnerProduct,
  kCosine,            // 0 where a row is zero
  kSquaredEuclidean,  // the smallest is the best
};

// The merit of a score, or the score of a merit; exact. Of +0.0 it is +0.0.
constexpr double MeritOf(Metric metric, double score) {
  return metric == Metric::kSquaredEuclidean ? 0.0 - score : score;
}

// One scored pair. `score` is the metric's true value rounded once to float64; never NaN, never -0.0.
struct Hit {
  double score = 0.0;
  uint64_t query_row = 0;
  uint64_t id = 0;

  friend bool operator==(const Hit&, const Hit&) = default;
};

// The one order of results, total over distinct pairs: merit descending, then query row, then id. For hits
// whose scores are merits.
constexpr bool Better(const Hit& a, const Hit& b) {
  if (a.score != b.score) return a.score > b.score;
  if (a.query_row != b.query_row) return a.query_row < b.query_row;
  return a.id < b.id;
}

// The same for hits of a metric.
constexpr bool BetterBy(Metric metric, const Hit& a, const Hit& b) {
  return Better(Hit{MeritOf(metric, a.score), a.query_row, a.id},
                Hit{MeritOf(metric, b.score), b.query_row, b.id});
}

}  // namespace dotmax

#endif  // DOTMAX_SERVER_BASE_TYPES_H_
