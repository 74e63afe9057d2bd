// The tile kernel of the screen: oneDNN matmul of one tile of base rows with one packed block of queries.
// The only door to oneDNN; differences between its versions (2.6 to 3.x) end in tile.cc.
#ifndef DOTMAX_SERVER_ENGINE_TILE_H_
#define DOTMAX_SERVER_ENGINE_TILE_H_

#include <cstddef>
#include <memory>
#include <string>

#include "absl/status/statusor.h"

namespace dotmax {

// What is multiplied, and what the scores are.
enum class TileKind {
  kFloat32,  // float32 by float32 to float32
  kInt8,     // unsigned 8-bit tile by signed 8-bit queries to int32, exactly: dim ≤ 66,311
};

// scores = tile · queriesᵀ: tile is rows × dim, queries are columns × dim, scores rows × columns, all
// row-major and dense. The base tile is oneDNN's `src`, used where it lies; the queries are its packed
// weights. Immutable and thread-safe: workers share one object and its packed queries, each with scratch of
// its own. Single-threaded inside, whatever OpenMP's environment says.
class TileMatmul {
 public:
  // Compiles the kernel (about a millisecond). kInternal when oneDNN cannot; kUnimplemented when kInt8 sums
  // saturate here: without VNNI or its like, x86 first adds two products in 16 bits. The kernel itself is
  // asked.
  static absl::StatusOr<std::unique_ptr<const TileMatmul>> Create(TileKind kind, int rows, int dim,
                                                                  int columns);
  ~TileMatmul();

  int rows() const;
  int columns() const;
  size_t packed_bytes() const;
  size_t scratch_bytes() const;
  // oneDNN's name for the kernel: "brg:avx512_core".
  std::string implementation() const;

  // Reorders columns × dim queries into `packed` (packed_bytes(), 64-byte aligned).
  void Pack(const void* queries, void* packed) const;

 private:
  struct Impl;
  friend class TileRunner;
  explicit TileMatmul(std::unique_ptr<Impl> impl);
  bool SumsExactly() const;
  const std::unique_ptr<Impl> impl_;
};

// One worker's way to run a kernel on tile after tile. Not thread-safe. Everything given outlives it.
class TileRunner {
 public:
  // `packed` from Pack; `scratch` has scratch_bytes(), `scores` rows × columns elements, all 64-byte aligned.
  TileRunner(const TileMatmul& matmul, const void* packed, void* scratch, void* scores);
  ~TileRunner();

  // Scores `tile`, which need only be aligned for its elements. float32 sums may be formed in any order, but
  // in float32 throughout (no bfloat16 or TF32 shortcut).
  void Run(const void* tile);

 private:
  struct Impl;
  const std::unique_ptr<Impl> impl_;
};

// oneDNN's version, for logs and build info: "2.6.3".
std::string OneDnnVersion();

}  // namespace dotmax

#endif  // DOTMAX_SERVER_ENGINE_TILE_H_
