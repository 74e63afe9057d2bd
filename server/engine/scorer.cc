#include "server/engine/scorer.h"

#include <algorithm>

#include "server/engine/quantize.h"

namespace dotmax {
namespace {

constexpr int kScoresInCache = 8192;

}  // namespace

void CodeScorer::Pack(const TileMatmul* matmul, int columns, const int8_t* queries, int count, int dim) {
  columns_ = columns;
  const size_t codes = static_cast<size_t>(columns) * dim;
  if (count < columns) {
    int8_t* const padded = padded_.Reserve(codes);
    std::fill(std::copy_n(queries, static_cast<size_t>(count) * dim, padded), padded + codes, int8_t{0});
    queries = padded;
  }
  scores_.Reserve(static_cast<size_t>(Int8Codes::kTileRows) * columns + kScoresPadding);
  if (matmul == nullptr) {
    runner_.reset();
    if (has_amx_ && columns == AmxColumns(columns)) {
      kernel_ = Kernel::kAmx;
      PackAmx(queries, columns, dim, own_.Reserve(PackedAmxBytes(columns, dim)));
    } else {
      kernel_ = Kernel::kOwn;
      own_kernel_.Pack(queries, columns, dim, own_.Reserve(own_kernel_.PackedBytes(columns, dim)));
    }
    return;
  }
  kernel_ = Kernel::kOneDnn;
  matmul->Pack(queries, packed_.Reserve(matmul->packed_bytes()));
  runner_.emplace(*matmul, packed_.data(), scratch_.Reserve(matmul->scratch_bytes()), scores_.data());
}

int32_t* CodeScorer::Score(const CodeRows& codes, int rows) {
  ScoreTo(codes, rows, scores_.data());
  return scores_.data();
}

void CodeScorer::ScoreTo(const CodeRows& codes, int rows, int32_t* scores) {
  const int whole_rows = (rows + 15) / 16 * 16;
  switch (kernel_) {
    case Kernel::kOneDnn:
      runner_->Run(codes.head.codes);
      if (scores != scores_.data()) std::copy_n(scores_.data(), static_cast<size_t>(rows) * columns_, scores);
      break;
    case Kernel::kOwn:
      own_kernel_.Score(WithAhead(codes), whole_rows, own_.data(), columns_, scores);
      break;
    case Kernel::kAmx:
      ScoreAmx(codes, whole_rows, own_.data(), columns_, scores);
      break;
  }
}

size_t CodeScorer::Collect(const CodeRows& codes, int rows, const int32_t* thresholds, Survivor* survivors) {
  switch (kernel_) {
    case Kernel::kOneDnn:
      return CollectSurvivors(Score(codes, rows), rows, columns_, thresholds, survivors);
    case Kernel::kOwn:
      return own_kernel_.Collect(WithAhead(codes), rows, own_.data(), columns_, thresholds, survivors);
    case Kernel::kAmx:
      return CollectAmx(codes, rows, own_.data(), columns_, thresholds, survivors);
  }
  return 0;
}

size_t CodeScorer::Collect(const CodeRows& codes, int rows, const ThresholdsByRow& thresholds,
                           const RowTerms& terms, Survivor* survivors) {
  if (kernel_ == Kernel::kOwn && own_kernel_.collects_by_row()) {
    return own_kernel_.Collect(WithAhead(codes), rows, own_.data(), columns_, thresholds, terms, survivors);
  }
  if (kernel_ == Kernel::kOneDnn) {
    return CollectSurvivors(Score(codes, rows), rows, columns_, thresholds, terms, survivors);
  }
  // So many rows that their scores stay in the first cache.
  const int step = std::max(kScoresInCache / columns_ / 16 * 16, 16);
  size_t count = 0;
  for (int first = 0; first < rows; first += step) {
    const int some = std::min(step, rows - first);
    const size_t more = CollectSurvivors(Score(codes.From(first), some), some, columns_, thresholds,
                                         {terms.length + first, terms.along + first}, survivors + count);
    for (size_t i = 0; i < more; ++i) survivors[count + i].row += static_cast<uint16_t>(first);
    count += more;
  }
  return count;
}

}  // namespace dotmax
