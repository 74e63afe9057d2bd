#include "tests/bench/plain_matmul.h"

#include <algorithm>
#include <atomic>
#include <utility>

namespace dotmax::testing {
namespace {

// As the engine's: 512 rows × 256 queries of scores are 512 KiB; narrow blocks take more rows per call.
constexpr uint64_t kColumns = 256;
constexpr uint64_t kTileRows = 512;
constexpr uint64_t kNarrowColumns = 16;
constexpr uint64_t kNarrowTileRows = 2048;

// Where the piece of `size` rows from `first` on begins: the last one overlaps its neighbour.
const void* Piece(const RawRows& rows, size_t row_bytes, uint64_t first, uint64_t size) {
  return static_cast<const std::byte*>(rows.data) + std::min(first, rows.count - size) * row_bytes;
}

}  // namespace

absl::StatusOr<std::unique_ptr<PlainMatmul>> PlainMatmul::Create(TileKind kind, int dim, RawRows rows,
                                                                 RawRows queries, int threads) {
  const uint64_t columns = std::min(queries.count, kColumns);
  const uint64_t tile_rows = std::min(rows.count, columns <= kNarrowColumns ? kNarrowTileRows : kTileRows);
  absl::StatusOr<std::unique_ptr<const TileMatmul>> matmul =
      TileMatmul::Create(kind, static_cast<int>(tile_rows), dim, static_cast<int>(columns));
  if (!matmul.ok()) return matmul.status();
  const size_t row_bytes = dim * (kind == TileKind::kInt8 ? sizeof(int8_t) : sizeof(float));
  return std::unique_ptr<PlainMatmul>(new PlainMatmul(row_bytes, rows, queries, *std::move(matmul), threads));
}

PlainMatmul::PlainMatmul(size_t row_bytes, RawRows rows, RawRows queries,
                         std::unique_ptr<const TileMatmul> matmul, int threads)
    : row_bytes_(row_bytes),
      rows_(rows),
      queries_(queries),
      matmul_(std::move(matmul)),
      scratch_(threads),
      workers_(threads) {
  packed_.Reserve(matmul_->packed_bytes());
  for (Scratch& scratch : scratch_) {
    scratch.matmul.Reserve(matmul_->scratch_bytes());
    scratch.scores.Reserve(static_cast<size_t>(matmul_->rows()) * matmul_->columns());
  }
}

void PlainMatmul::Run() {
  const uint64_t tile_rows = matmul_->rows();
  const uint64_t columns = matmul_->columns();
  for (uint64_t first = 0; first < queries_.count; first += columns) {
    matmul_->Pack(Piece(queries_, row_bytes_, first, columns), packed_.data());
    std::atomic<uint64_t> next = 0;
    workers_.Run([&](int worker) {
      Scratch& scratch = scratch_[worker];
      TileRunner runner(*matmul_, packed_.data(), scratch.matmul.data(), scratch.scores.data());
      for (uint64_t row; (row = next.fetch_add(tile_rows)) < rows_.count;) {
        runner.Run(Piece(rows_, row_bytes_, row, tile_rows));
      }
    });
  }
}

}  // namespace dotmax::testing
