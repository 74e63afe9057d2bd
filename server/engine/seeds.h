// Rows for a query that knows nothing yet to begin with: the best of some runs of rows by screened score.
#ifndef DOTMAX_SERVER_ENGINE_SEEDS_H_
#define DOTMAX_SERVER_ENGINE_SEEDS_H_

#include <cstddef>
#include <cstdint>
#include <limits>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/types/span.h"
#include "server/base/types.h"
#include "server/engine/measure.h"
#include "server/engine/pass.h"
#include "server/engine/quantize.h"
#include "server/engine/reduce.h"
#include "server/engine/scorer.h"

namespace dotmax {

// Consecutive rows of a tile: [first, first + rows).
struct RowRun {
  uint64_t tile;
  int first;
  int rows;
};

// Whether the first rows are so much longer than others that the largest inner products are among theirs.
// REQUIRES: rows by norm.
bool BestAreLongest(const Int8Codes& rows);

// Tiles [first, end), whole.
std::vector<RowRun> RunsOfTiles(const Int8Codes& rows, uint64_t first, uint64_t end);

// Rows to guess the top_k-th best scores by, in runs of `run_rows` that are evenly spaced in the order of the
// codes; none where too few rows make guesses useless. REQUIRES: run_rows divides Int8Codes::kTileRows; rows
// by norm.
std::vector<RowRun> SampleRuns(const Int8Codes& rows, int run_rows, uint64_t top_k);

// The row of a sample by which to guess the top_k-th best of all: of so many rows that reach the score of the
// sample's i-th best, fewer than top_k hardly ever exist. At least top_k where a guess gains nothing.
uint64_t RankToGuessBy(uint64_t top_k, uint64_t sampled_rows, uint64_t all_rows);

// How a query's threshold is guessed: by the score of a rank in a sample, 0 where it is proved instead.
struct Guess {
  uint64_t rank = 0;
  bool resolve_at_once = false;  // what reaches it, as most of that are hits
};
// The runs of rows to sample for a block, none if none of its queries gains by guesses, and its queries'
// guesses.
std::vector<RowRun> SampleToGuessBy(const Int8Codes& rows, int run_rows, const QueryBlock& block);
std::vector<Guess> GuessBySample(const Int8Codes& rows, absl::Span<const RowRun> sample,
                                 const QueryBlock& block);

// To prove thresholds by: the longest rows, which have the largest inner products; for other metrics rows as
// long as a query, more or less; for distances between rows of very different lengths as many more, in runs
// of `run_rows` from all over the order. The more of them, the closer the k-th best is to that of all;
// `fewest` tiles if there are that many, and it is within what is sensible. REQUIRES: as SampleRuns.
std::vector<RowRun> RunsToSeedFrom(const Int8Codes& rows, int run_rows, const QueryBlock& block,
                                   absl::Span<const uint32_t> queries, uint64_t fewest);

// Of the queries that `scorer` holds, for a column each: what undoes their codes' scales and offsets; what
// rows' parts along a direction add to scores (deflation.h), if the codes are without; their lengths and
// metrics; the least merit to look for, kNoSeeds for those that want none.
struct SeedColumns {
  const double *inverse_scale, *offset, *along;
  const MeasuredQuery* const* measured;
  const Metric* metric;
  float* least;
  size_t count;
  bool all_are_hits;  // whatever row
};
// About the scores of a run's rows, for what they are seen without, too: but for along · what is least of
// that in the tile.
int32_t* ScoreRun(const Int8Codes& rows, const RowRun& run, const SeedColumns& columns, CodeScorer& scorer);

inline constexpr float kNoSeeds = std::numeric_limits<float>::infinity();

// keys[column] gets the `wanted` best rows of the runs that may be hits, and some more, as SeedKey's of their
// scaled merits, as if rows of a tile were of one length unless these differ much, and their places.
// `thresholds` has room for the scorer's columns, `survivors` for all of a tile's pairs.
void BestOfRuns(const Int8Codes& rows, absl::Span<const RowRun> runs, size_t wanted, SeedColumns columns,
                absl::FunctionRef<bool(size_t column, uint64_t place)> may_be_hit, CodeScorer& scorer,
                int32_t* thresholds, Survivor* survivors, std::vector<std::vector<uint64_t>>& keys);

}  // namespace dotmax

#endif  // DOTMAX_SERVER_ENGINE_SEEDS_H_
