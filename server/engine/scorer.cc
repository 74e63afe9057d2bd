#include "server/engine/scorer.h"

#include <algorithm>

#include "server/engine/quantize.h"
#include "server/engine/vnni.h"

namespace dotmax {

void CodeScorer::Pack(const TileMatmul* matmul, int columns, const int8_t* queries, int count, int dim) {
  columns_ = columns;
  dim_ = dim;
  const size_t codes = static_cast<size_t>(columns) * dim;
  if (count < columns) {
    int8_t* const padded = padded_.Reserve(codes);
    std::fill(std::copy_n(queries, static_cast<size_t>(count) * dim, padded), padded + codes, int8_t{0});
    queries = padded;
  }
  scores_.Reserve(static_cast<size_t>(Int8Codes::kTileRows) * columns + kScoresPadding);
  if (matmul == nullptr) {
    runner_.reset();
    PackVnni(queries, columns, dim, vnni_.Reserve(PackedVnniBytes(columns, dim)));
    return;
  }
  matmul->Pack(queries, packed_.Reserve(matmul->packed_bytes()));
  runner_.emplace(*matmul, packed_.data(), scratch_.Reserve(matmul->scratch_bytes()), scores_.data());
}

const int32_t* CodeScorer::Score(const uint8_t* codes, int rows) {
  if (runner_.has_value()) {
    runner_->Run(codes);
  } else {
    ScoreVnni(codes, (rows + 15) / 16 * 16, dim_, vnni_.data(), columns_, scores_.data());
  }
  return scores_.data();
}

size_t CodeScorer::Collect(const uint8_t* codes, int rows, const int32_t* thresholds, Survivor* survivors) {
  if (runner_.has_value()) {
    return CollectSurvivors(Score(codes, rows), rows, columns_, thresholds, survivors);
  }
  return CollectVnni(codes, rows, dim_, vnni_.data(), columns_, thresholds, survivors);
}

}  // namespace dotmax
