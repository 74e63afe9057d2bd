// oneDNN's matmul alone, the speed of light of large batches: every tile of rows times every block of
// queries, in pieces whose scores stay in cache, and nothing done with the scores.
#ifndef DOTMAX_TESTS_BENCH_PLAIN_MATMUL_H_
#define DOTMAX_TESTS_BENCH_PLAIN_MATMUL_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "server/engine/aligned.h"
#include "server/engine/tile.h"
#include "server/engine/workers.h"

namespace dotmax::testing {

// Some rows of `dim` elements, one after another.
struct RawRows {
  const void* data;
  uint64_t count;
};

// Not thread-safe.
class PlainMatmul {
 public:
  // `rows` and `queries` outlive it. Their elements are float32, or bytes for kInt8, of which any will do:
  // the speed does not depend on them. REQUIRES: neither is empty, threads ≥ 1. Fails as TileMatmul::Create
  // does.
  static absl::StatusOr<std::unique_ptr<PlainMatmul>> Create(TileKind kind, int dim, RawRows rows,
                                                             RawRows queries, int threads);

  // All products once.
  void Run();

 private:
  struct Scratch {  // one worker's
    AlignedArray<std::byte> matmul;
    AlignedArray<float> scores;  // or as many int32
  };

  PlainMatmul(size_t row_bytes, RawRows rows, RawRows queries, std::unique_ptr<const TileMatmul> matmul,
              int threads);

  const size_t row_bytes_;
  const RawRows rows_, queries_;
  const std::unique_ptr<const TileMatmul> matmul_;
  AlignedArray<std::byte> packed_;
  std::vector<Scratch> scratch_;  // by worker
  Workers workers_;
};

}  // namespace dotmax::testing

#endif  // DOTMAX_TESTS_BENCH_PLAIN_MATMUL_H_
