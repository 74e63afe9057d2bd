// What the first codes of rows cannot rule out is looked at again by codes of all axes, or by more of the
// query's bits, before the rows themselves are: a row takes a cache line or some, and comes from anywhere in
// memory.
#ifndef DOTMAX_SERVER_ENGINE_SECOND_LOOK_H_
#define DOTMAX_SERVER_ENGINE_SECOND_LOOK_H_

#include <array>
#include <cstddef>
#include <cstdint>

#include "absl/types/span.h"
#include "server/engine/balls.h"
#include "server/engine/bound.h"
#include "server/engine/code_kernel.h"
#include "server/engine/encode.h"
#include "server/engine/pass.h"
#include "server/engine/quantize.h"
#include "server/engine/reduce.h"

namespace dotmax {

// One worker's. Not thread-safe.
class SecondLook {
 public:
  // By `whole`, which the rows of the first look are the head of, or are themselves (REQUIRES: a kernel of
  // our own), and, if there are any, by the `rests` of queries; or by their fine codes. `queries` have codes
  // for that; `along`: as EncodedBlock's, empty unless rows are deflated. All outlive this.
  SecondLook(const Int8Codes& whole, const EncodedQueries& queries, const EncodedRests& rests,
             const Kernels& kernels, absl::Span<const double> along);
  SecondLook(const FineCodes& fine, const EncodedQueries& queries, const Kernels& kernels,
             absl::Span<const double> along);

  // The queries by column, from now on.
  void Pack(absl::Span<const uint32_t> queries);

  // The tiles that come next are this one, `t`, and those after it, at most kTilesPerClaim.
  void Begin(const CodeTile& tile, uint64_t t);
  // The next one, what its inner products must reach, by column, slope · length[row] more each
  // (LeastDotSlope), and its rows' parts along the direction that they are seen without, if so.
  struct Wanted {
    const double *score, *slope;
  };
  void AddTile(const CodeTile& tile, const Wanted& wanted, const float* length, const RowsAlong& along);
  // Asks for the codes of a row, counted from the first tile's first, that have not been read.
  void Fetch(int row) const;

  // Moves those of the tiles' survivors that this cannot rule out either to the front, in order; returns how
  // many. `scratch` is a worker's.
  size_t Keep(absl::Span<Survivor> survivors, Scratch& scratch) const;

 private:
  // Which tile has a row, counted from the first tile's first.
  size_t TileOf(uint64_t row) const {
    size_t tile = 0;
    while (tile + 1 < tiles_ && row >= begins_[tile + 1]) ++tile;
    return tile;
  }
  // What the inner product of a pair must reach, less what is added.
  double ScoreOf(size_t tile, const Survivor& survivor) const {
    const size_t c = survivor.column, row = survivor.row - begins_[tile];
    const double score = scores_[tile][c] + slopes_[tile][c] * lengths_[tile][row];
    return is_deflated() ? score - along_of_[c] * more_along_[tile][row] : score;
  }
  bool is_deflated() const { return !along_.empty(); }
  // The same by rests, of survivors with such scores.
  size_t KeepByRests(absl::Span<Survivor> survivors, const int32_t* scores, int32_t* rest_scores) const;
  // Of a pair, E of bound.h; `row`: the lengths of its row's codes, as FineCodes::Row.
  template <typename Lengths>
  double ErrorOf(size_t column, double query_error, const Lengths& row) const {
    return CodeError(query_error, columns_.projection_norm[column], columns_.tail_excess[column],
                     row.code_norm, row.code_error, row.scale);
  }

  const Int8Codes* const whole_;
  const FineCodes* const fine_;
  const uint32_t dim_;  // or more
  const EncodedQueries& queries_;
  const EncodedRests* const rests_;  // null: none
  const absl::Span<const double> along_;
  const CodeKernel kernel_;
  size_t count_ = 0;     // of queries
  CodeRows codes_ = {};  // from the first tile on
  uint64_t first_row_ = 0, first_tile_ = 0;
  size_t tiles_ = 0;
  std::array<uint64_t, kTilesPerClaim> begins_;  // of tiles, from the first tile's first row on
  std::array<const int8_t*, kMaxColumns> codes_of_, rest_codes_of_;
  std::array<const QueryRest*, kMaxColumns> rest_of_;
  QueryColumns columns_;
  std::array<double, kMaxColumns> along_of_, norms_;
  // By tile, then by column: of inner products less what is added for all rows, and of whole codes.
  std::array<std::array<double, kMaxColumns>, kTilesPerClaim> scores_;
  std::array<std::array<int32_t, kMaxColumns>, kTilesPerClaim> thresholds_;
  std::array<std::array<double, kMaxColumns>, kTilesPerClaim> slopes_;
  std::array<const float*, kTilesPerClaim> lengths_, more_along_;  // by tile, then by row
};

}  // namespace dotmax

#endif  // DOTMAX_SERVER_ENGINE_SECOND_LOOK_H_
