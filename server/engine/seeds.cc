#include "server/engine/seeds.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <functional>

#include "absl/algorithm/container.h"
#include "absl/types/span.h"
#include "server/engine/bound.h"
#include "server/engine/pass.h"

namespace dotmax {
namespace {

// Deviations of the number of rows that a sample holds of the best, and then some for where that is about
// none. One guess in one to five thousand fails, which costs a search of its own.
constexpr double kDeviations = 3.0;
constexpr double kMore = 2.0;

// A sample of n of N rows costs n, in rows that are screened, and lets about kDeviations · √(top_k · N / n)
// more pairs through than a perfect one, which cost kPassingCost each: the sum is least where its derivative
// is 0.
constexpr double kPassingCost = 200.0;
constexpr uint64_t kLeastShare = 8;
constexpr uint64_t kFewestRuns = 8;
constexpr size_t kRunsAhead = 4;  // in memory, where they lie apart
constexpr int kFewestRowsAtOnce = 32;
// Of fewer hits, or of fewer hits of all queries together, what some tiles prove does as well.
constexpr uint32_t kFewestToGuess = 32, kFewestToGuessOfAll = 128;
// Where the first tile's rows are so much longer than others, the best are among the longest, and not as
// likely in a sample as anywhere.
constexpr double kSteep = 1.6;
// Largest scores of so many groups of rows for each that is wanted, in groups of at least so many.
constexpr size_t kGroupsPerWanted = 2;
constexpr int kFewestRowsPerGroup = 4;

// Up to so many pairs that reach the guess, resolving them all is cheaper than checking them and fetching the
// hits' rows again.
constexpr uint64_t kMostResolvedPerHit = 4;

constexpr uint64_t kSeedRowsPerHit = 256;
constexpr uint64_t kMostSeedTiles = 16;

// Raises `thresholds` of `count` columns so that about the `wanted` best of some rows, and no fewer, are
// above: so many groups of rows have their largest there. REQUIRES: kFewestRowsPerGroup of them in each.
void RaiseByGroups(const int32_t* scores, int rows, int width, size_t count, size_t wanted,
                   int32_t* thresholds) {
  const int groups = static_cast<int>(kGroupsPerWanted * wanted);
  const int each = rows / groups;
  std::vector<int32_t> largest(static_cast<size_t>(groups) * count);
  LargestScores of_group;
  for (int g = 0; g < groups; ++g) {
    LargestByColumn(scores + static_cast<size_t>(g) * each * width, each, width, of_group);
    for (size_t c = 0; c < count; ++c) largest[c * groups + g] = of_group.score[c];
  }
  for (size_t c = 0; c < count; ++c) {
    const auto first = largest.begin() + c * groups, nth = first + (wanted - 1);
    std::nth_element(first, nth, first + groups, std::greater<>());
    thresholds[c] = std::max(thresholds[c], *nth - 1);
  }
}

double NormAt(const Int8Codes& rows, uint64_t place) { return rows.tile(rows.tile_at(place)).norm; }

// Whether the nearest rows may be much shorter than a query.
bool LengthsDiffer(const Int8Codes& rows) {
  const uint64_t share = rows.rows() / kLeastShare;
  return NormAt(rows, share) >= kSteep * NormAt(rows, rows.rows() - 1 - share);
}

// So many runs of rows, from all over the order. REQUIRES: at least as many rows in all.
std::vector<RowRun> EvenRuns(const Int8Codes& rows, int run_rows, uint64_t count) {
  const uint64_t whole = rows.rows() / run_rows;
  std::vector<RowRun> runs;
  for (uint64_t i = 0; i < count; ++i) {
    const uint64_t place = (2 * i + 1) * whole / (2 * count) * run_rows;
    const uint64_t tile = rows.tile_at(place);
    runs.push_back({tile, static_cast<int>(place - rows.tile(tile).first), run_rows});
  }
  return runs;
}

// Of a tile's rows: as if all were as long as the longest, unless they are told apart.
LengthRange LengthsToSeek(const RowLengths& rows) {
  const double least = rows.longer.empty() ? rows.all.most : rows.all.least;
  return {least, rows.all.most};
}

// Whether a guess may tell more than the longest rows prove.
bool GainsByGuess(const Int8Codes& rows, const Question& question, size_t queries) {
  if (!question.guess || question.top_k < kFewestToGuess) return false;
  if (question.top_k * queries < kFewestToGuessOfAll) return false;
  return question.selection.metric != Metric::kInnerProduct || !BestAreLongest(rows);
}

}  // namespace

int32_t* ScoreRun(const Int8Codes& rows, const RowRun& run, const SeedColumns& columns, CodeScorer& scorer) {
  int32_t* const scores = scorer.Score(rows.codes(run.tile, run.first), run.rows);
  if (!rows.is_deflated()) return scores;
  std::array<float, kMaxColumns + kScoresPadding> slopes = {};
  for (size_t c = 0; c < columns.count; ++c) {
    slopes[c] = static_cast<float>(columns.along[c] * columns.inverse_scale[c] / rows.tile(run.tile).scale);
  }
  AddToScores(scores, run.rows, scorer.columns(), slopes.data(),
              rows.along(run.tile).more.data() + run.first);
  return scores;
}

bool BestAreLongest(const Int8Codes& rows) {
  return rows.tile(0).least_norm >= kSteep * NormAt(rows, rows.rows() / kLeastShare);
}

std::vector<RowRun> RunsOfTiles(const Int8Codes& rows, uint64_t first, uint64_t end) {
  std::vector<RowRun> runs;
  for (uint64_t t = first; t < end; ++t) runs.push_back({t, 0, rows.tile(t).rows});
  return runs;
}

std::vector<RowRun> SampleRuns(const Int8Codes& rows, int run_rows, uint64_t top_k) {
  const double all = static_cast<double>(rows.rows());
  const double best = std::pow(kDeviations / 2 * kPassingCost * std::sqrt(top_k * all), 2.0 / 3.0);
  const uint64_t count = static_cast<uint64_t>(std::min(best, all / kLeastShare)) / run_rows;
  return count < kFewestRuns ? std::vector<RowRun>() : EvenRuns(rows, run_rows, count);
}

uint64_t RankToGuessBy(uint64_t top_k, uint64_t sampled_rows, uint64_t all_rows) {
  const double expected = static_cast<double>(top_k) * sampled_rows / all_rows;
  const double rank = std::ceil(expected + kDeviations * std::sqrt(expected) + kMore);
  return rank < std::min(top_k, sampled_rows) ? static_cast<uint64_t>(rank) : top_k;
}

std::vector<RowRun> SampleToGuessBy(const Int8Codes& rows, int run_rows, const QueryBlock& block) {
  uint32_t top_k = 0;
  for (const Question* question : block.questions) {
    if (GainsByGuess(rows, *question, block.size())) top_k = std::max(top_k, question->top_k);
  }
  return top_k > 0 ? SampleRuns(rows, run_rows, top_k) : std::vector<RowRun>();
}

std::vector<Guess> GuessBySample(const Int8Codes& rows, absl::Span<const RowRun> sample,
                                 const QueryBlock& block) {
  std::vector<Guess> guesses;
  if (sample.empty()) return guesses;
  const uint64_t all = rows.rows(), sampled = sample.size() * sample[0].rows;
  guesses.resize(block.size());
  for (size_t q = 0; q < block.size(); ++q) {
    const Question& question = block.question(q);
    const uint64_t rank = RankToGuessBy(question.top_k, sampled, all);
    if (!GainsByGuess(rows, question, block.size()) || rank >= question.top_k) continue;
    guesses[q] = {rank, rank * all / sampled <= kMostResolvedPerHit * question.top_k};
  }
  return guesses;
}

std::vector<RowRun> RunsToSeedFrom(const Int8Codes& rows, int run_rows, const QueryBlock& block,
                                   absl::Span<const uint32_t> queries, uint64_t fewest) {
  uint64_t top_k = 0;
  for (const uint32_t q : queries) top_k = std::max<uint64_t>(top_k, block.question(q).top_k);
  const uint64_t for_hits = top_k * kSeedRowsPerHit / Int8Codes::kTileRows;
  const uint64_t wanted = std::clamp<uint64_t>(std::max(for_hits, fewest), 1, kMostSeedTiles);
  const uint64_t last = std::min((wanted - 1) * Int8Codes::kTileRows, rows.rows() - 1);
  const uint64_t count = rows.tile_at(last) + 1;
  const uint32_t middle = queries[queries.size() / 2];
  if (block.metric(middle) == Metric::kInnerProduct) return RunsOfTiles(rows, 0, count);
  const MeasuredQuery& query = block.measured[middle];
  const uint64_t first = std::min(rows.tile_of_length(query.length()), rows.tiles() - count);
  std::vector<RowRun> runs = RunsOfTiles(rows, first, first + count);
  const uint64_t more = last + Int8Codes::kTileRows;
  const bool few = kLeastShare * more > rows.rows();
  if (few || block.metric(middle) != Metric::kSquaredEuclidean || !LengthsDiffer(rows)) return runs;
  // Each row once: k of them are to prove something.
  for (const RowRun& run : EvenRuns(rows, run_rows, more / run_rows)) {
    if (run.tile < first || run.tile >= first + count) runs.push_back(run);
  }
  return runs;
}

void BestOfRuns(const Int8Codes& rows, absl::Span<const RowRun> runs, size_t wanted, SeedColumns columns,
                absl::FunctionRef<bool(size_t column, uint64_t place)> may_be_hit, CodeScorer& scorer,
                int32_t* thresholds, Survivor* survivors, std::vector<std::vector<uint64_t>>& keys) {
  const int width = scorer.columns();
  std::fill_n(thresholds, width, std::numeric_limits<int32_t>::max());
  for (size_t i = 0; i < runs.size(); ++i) {
    const RowRun& run = runs[i];
    if (i + kRunsAhead < runs.size()) {
      const RowRun& next = runs[i + kRunsAhead];
      const auto [head, rest, ahead] = rows.codes(next.tile, next.first);
      for (const CodeRows::Plane& plane : {head, rest}) Prefetch(plane.codes, next.rows * plane.dim);
    }
    const CodeTile& tile = rows.tile(run.tile);
    const int32_t* const scores = ScoreRun(rows, run, columns, scorer);
    const auto [all, longer] = rows.lengths(run.tile);
    const double along = rows.is_deflated() ? rows.along(run.tile).least : 0.0;
    const bool are_alike =
        longer.empty() || absl::c_all_of(absl::MakeConstSpan(columns.metric, columns.count),
                                         [](Metric metric) { return metric == Metric::kInnerProduct; });
    // While nothing is known, as many again as before: the best so far leave fewer of the next. If all may be
    // hits, all at once.
    const bool by_groups = i == 0 && columns.all_are_hits && are_alike &&
                           run.rows >= static_cast<int>(kFewestRowsPerGroup * kGroupsPerWanted * wanted);
    int done = 0;
    for (int count; done < run.rows; done += count) {
      count = std::min(run.rows - done, std::max({done, kFewestRowsAtOnce, static_cast<int>(2 * wanted)}));
      if (by_groups) count = run.rows;
      const int32_t* const some = scores + static_cast<size_t>(done) * width;
      for (size_t c = 0; c < columns.count; ++c) {
        if (columns.least[c] == kNoSeeds) continue;
        const double score = LeastDot(columns.metric[c], columns.least[c], *columns.measured[c],
                                      LengthsToSeek({all, longer})) -
                             columns.along[c] * along;
        thresholds[c] = Int8Threshold(score, 0.0, columns.inverse_scale[c] / tile.scale, columns.offset[c]);
      }
      if (by_groups) RaiseByGroups(some, count, width, columns.count, wanted, thresholds);
      const size_t survived = CollectSurvivors(some, count, width, thresholds, survivors);
      for (size_t j = 0; j < survived; ++j) {
        const Survivor s = survivors[j];
        const double units = some[size_t{s.row} * width + s.column] - columns.offset[s.column];
        const size_t row = run.first + done + s.row;
        const double score =
            units * tile.scale / columns.inverse_scale[s.column] + columns.along[s.column] * along;
        const uint64_t place = tile.first + row;
        if (!may_be_hit(s.column, place)) continue;
        const double length = longer.empty() ? all.most : all.least + longer[row];
        const double merit =
            BestMerit(columns.metric[s.column], score, *columns.measured[s.column], {length, length});
        keys[s.column].push_back(SeedKey(static_cast<float>(merit), static_cast<uint32_t>(place)));
      }
      if (survived == 0) continue;
      for (size_t c = 0; c < columns.count; ++c) {
        if (keys[c].size() < (by_groups ? wanted : 2 * wanted)) continue;
        KeepLargest(keys[c], wanted);
        columns.least[c] = SeedScore(*std::min_element(keys[c].begin(), keys[c].end()));
      }
    }
  }
}

}  // namespace dotmax
