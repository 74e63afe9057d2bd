// Integer scores of tiles of codes against one packed block of queries, by whichever kernel serves.
#ifndef DOTMAX_SERVER_ENGINE_SCORER_H_
#define DOTMAX_SERVER_ENGINE_SCORER_H_

#include <cstdint>
#include <optional>

#include "server/engine/aligned.h"
#include "server/engine/amx.h"
#include "server/engine/code_kernel.h"
#include "server/engine/code_rows.h"
#include "server/engine/reduce.h"
#include "server/engine/tile.h"

namespace dotmax {

// Buffers are kept from one block to the next. Not thread-safe.
class CodeScorer {
 public:
  // A block of `count` ≤ `columns` queries of dim codes each, row-major. `matmul` is for tiles of
  // Int8Codes::kTileRows, each row's codes side by side, and outlives the block; null stands for a kernel of
  // our own: amx.h's where it is to be had, or code_kernel.h's.
  void Pack(const TileMatmul* matmul, int columns, const int8_t* queries, int count, int dim);

  int columns() const { return columns_; }

  // What a kernel of our own asks for while it scores, instead of what is left of before.
  void set_ahead(const ReadAhead& ahead) { ahead_ = ahead; }

  // Scores of the first `rows` ≤ kTileRows rows of codes, rows × columns, the caller's until the next call.
  // Another kTileRows − rows rows, and 64 bytes, are readable; kScoresPadding more scores are.
  int32_t* Score(const CodeRows& codes, int rows);
  // The same to `scores`, 64-byte aligned, with room for those of whole blocks of 16 rows.
  void ScoreTo(const CodeRows& codes, int rows, int32_t* scores);

  // Those of the first `rows` rows' scores that are > thresholds[column], in any order; returns how many.
  // `survivors` has room for kTileRows · columns + kSurvivorPadding.
  size_t Collect(const CodeRows& codes, int rows, const int32_t* thresholds, Survivor* survivors);

  // The same with thresholds that depend on the row (reduce.h).
  size_t Collect(const CodeRows& codes, int rows, const ThresholdsByRow& thresholds, const RowTerms& terms,
                 Survivor* survivors);

 private:
  CodeRows WithAhead(const CodeRows& codes) {
    return {codes.head, codes.rest, ahead_.empty() ? nullptr : &ahead_};
  }

  int columns_ = 0;
  ReadAhead ahead_;
  const bool has_amx_ = HasAmxKernel();
  const CodeKernel own_kernel_;
  enum class Kernel { kOneDnn, kOwn, kAmx } kernel_ = Kernel::kOneDnn;
  std::optional<TileRunner> runner_;  // for oneDNN
  AlignedArray<int8_t> padded_, own_;
  AlignedArray<std::byte> packed_, scratch_;
  AlignedArray<int32_t> scores_;
};

}  // namespace dotmax

#endif  // DOTMAX_SERVER_ENGINE_SCORER_H_
