// The tile kernel of the screen: oneDNN matmul of one tile of base rows with one packed block of queries.
// The only door to oneDNN; differences between its versions (2.6 to 3.x) end in tile.cc.
#ifndef DOTMAX_SERVER_ENGINE_TILE_H_
#define DOTMAX_SERVER_ENGINE_TILE_H_

#include <cstddef>
#include <memory>
#include <string>

#include "absl/status/statusor.h"

namespace dotmax {

// scores = tile · queriesᵀ in float32: tile is rows × dim, queries are columns × dim, scores rows × columns,
// all row-major and dense. The base tile is oneDNN's `src`, used where it lies; the queries are its packed
// weights. Immutable and thread-safe: workers share one object and its packed queries, each with scratch of
// its own. Single-threaded inside, whatever OpenMP's environment says.
class TileMatmul {
 public:
  // Compiles the kernel (about a millisecond). kInternal when oneDNN cannot.
  static absl::StatusOr<std::unique_ptr<const TileMatmul>> Create(int rows, int dim, int columns);
  ~TileMatmul();

  int rows() const;
  int columns() const;
  size_t packed_bytes() const;
  size_t scratch_bytes() const;
  // oneDNN's name for the kernel: "brg:avx512_core".
  std::string implementation() const;

  // Reorders columns × dim queries into `packed` (packed_bytes(), 64-byte aligned).
  void Pack(const float* queries, void* packed) const;

  // `tile` need only be 4-byte aligned; `packed`, `scratch` (scratch_bytes()) and `scores` 64-byte.
  // Sums may be formed in any order, but in float32 throughout (no bfloat16 or TF32 shortcut).
  void Run(const float* tile, const void* packed, void* scratch, float* scores) const;

 private:
  struct Impl;
  explicit TileMatmul(std::unique_ptr<Impl> impl);
  const std::unique_ptr<Impl> impl_;
};

// oneDNN's version, for logs and build info: "2.6.3".
std::string OneDnnVersion();

}  // namespace dotmax

#endif  // DOTMAX_SERVER_ENGINE_TILE_H_
