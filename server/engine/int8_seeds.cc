// What queries of the int8 screen begin with.
#include <algorithm>
#include <array>
#include <functional>
#include <limits>
#include <vector>

#include "absl/algorithm/container.h"
#include "server/engine/int8_pass.h"
#include "server/engine/matrix.h"

namespace dotmax {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();
// Queries that are searched for by a head's codes first begin with a tile for so many.
constexpr uint64_t kTilesPerSeedTile = 64;
// The k largest of so many groups' largest scores are about the k largest of all.
constexpr uint64_t kGroupsPerHit = 4;
constexpr uint64_t kMostRowsPerGroup = 128;

}  // namespace

void Int8Pass::TileWorker::Seed() {
  for (const bool guess : {true, false}) {
    if (absl::c_none_of(active_, [&](uint32_t q) { return WantsSeeds(q, guess); })) continue;
    // A head's codes say less of which rows are best, and let more of the others through that beat a low
    // threshold.
    if (pass_.whole_ != nullptr) {
      Pack(nullptr, *pass_.whole_, pass_.queries_again_);
    } else {
      guess ? Pack(pass_.SampleKernel(active_.size())) : Pack();
    }
    const uint64_t fewest = pass_.whole_ != nullptr ? pass_.rows_.tiles() / kTilesPerSeedTile : 1;
    guess ? SeedQueries(pass_.sample_, guess)
          : SeedQueries(RunsToSeedFrom(pass_.rows_, pass_.block_, active_, fewest), guess);
  }
}

void Int8Pass::TileWorker::SeedByAllScores() {
  const Int8Codes& rows = pass_.rows_;
  const CodeTile& last = rows.tile(rows.tiles() - 1);
  const uint64_t all_rows = last.first + last.rows;
  const int columns = scratch_.scorer.columns();
  uint64_t wanted = 1;
  for (const uint32_t q : active_) wanted = std::max<uint64_t>(wanted, pass_.block_.question(q).top_k);
  const int each =
      static_cast<int>(std::clamp<uint64_t>(all_rows / (kGroupsPerHit * wanted), 1, kMostRowsPerGroup));
  const size_t most_groups = all_rows / each + rows.tiles();
  std::vector<double>& largest = scratch_.largest_of_groups;  // by column, then by group
  largest.resize(active_.size() * most_groups);
  const size_t tile_scores = static_cast<size_t>(Int8Codes::kTileRows) * columns;
  int32_t* const all_scores = scratch_.all_scores.Reserve(rows.tiles() * tile_scores + kScoresPadding);
  size_t groups = 0;
  for (uint64_t t = 0; t < rows.tiles(); ++t) {
    const CodeTile& tile = rows.tile(t);
    int32_t* const scores = all_scores + t * tile_scores;
    scratch_.scorer.ScoreTo(rows.codes(t), tile.rows, scores);
    for (int r = 0; r < tile.rows; r += each, ++groups) {
      LargestByColumn(scores + static_cast<size_t>(r) * columns, std::min(each, tile.rows - r), columns,
                      scratch_.largest);
      for (size_t c = 0; c < active_.size(); ++c) {
        largest[c * most_groups + groups] = (scratch_.largest.score[c] - columns_.offset[c]) * tile.scale;
      }
    }
  }
  has_all_scores_ = true;
  scratch_.pairs_screened += all_rows * active_.size();

  std::array<double, kMaxColumns> kth;  // about the k-th best of all; as above
  std::array<int64_t, kMaxColumns> room;
  for (size_t c = 0; c < active_.size(); ++c) {
    const uint64_t top_k = pass_.block_.question(active_[c]).top_k;
    const bool wants = pass_.block_.best(active_[c]).WantsSeeds() && top_k <= groups;
    const auto first = largest.begin() + c * most_groups;
    if (wants) std::nth_element(first, first + (top_k - 1), first + groups, std::greater<>());
    kth[c] = wants ? first[top_k - 1] : kInfinity;
    room[c] = static_cast<int64_t>(2 * top_k);
  }
  int32_t* const thresholds = scratch_.int_thresholds.data();
  std::fill_n(thresholds, columns, std::numeric_limits<int32_t>::max());
  for (uint64_t t = 0; t < rows.tiles(); ++t) {
    const CodeTile& tile = rows.tile(t);
    int32_t* const scores = all_scores + t * tile_scores;
    for (size_t c = 0; c < active_.size(); ++c) {
      thresholds[c] = Int8Threshold(kth[c], 0.0, 1.0 / tile.scale, columns_.offset[c]);
    }
    Survivor* const survivors = scratch_.survivors.data();
    Survivor* end = survivors + CollectSurvivors(scores, tile.rows, columns, thresholds, survivors);
    // More than about k are ties.
    end = std::remove_if(survivors, end, [&](const Survivor& s) { return room[s.column]-- <= 0; });
    for (const Survivor* s = survivors; s < end; ++s) {  // no second time
      scores[s->row * static_cast<size_t>(columns) + s->column] = std::numeric_limits<int32_t>::min();
    }
    const size_t count = end - survivors;
    scratch_.pairs_survived += count;
    scratch_.pairs_checked += count;
    CheckSurvivors(t, count, /*by_row=*/false, /*resolve_all=*/true);
  }
  checks_.Finish();
}

bool Int8Pass::TileWorker::WantsSeeds(uint32_t q, bool guess) const {
  return pass_.Guesses(q) == guess && pass_.block_.best(q).WantsSeeds();
}

void Int8Pass::TileWorker::SeedQueries(absl::Span<const RowRun> runs, bool guess) {
  std::array<float, kMaxColumns> least;
  std::array<bool, kMaxColumns> seeded;
  std::array<double, kMaxColumns> centres;
  std::array<const MeasuredQuery*, kMaxColumns> measured;
  std::array<Metric, kMaxColumns> metrics;
  std::array<uint64_t, kMaxColumns> wanted;
  uint64_t most_wanted = 0;
  scratch_.seeds.resize(kMaxColumns);
  const Int8Codes& rows = pass_.AllRows();
  for (size_t c = 0; c < active_.size(); ++c) {
    const uint32_t q = active_[c];
    seeded[c] = !WantsSeeds(q, guess);
    least[c] = seeded[c] ? kNoSeeds : static_cast<float>(pass_.MeritToReach(q));
    centres[c] = rows.is_lifted() ? pass_.centres_[q] : 0.0;
    measured[c] = &pass_.block_.measured[q];
    metrics[c] = pass_.block_.metric(q);
    wanted[c] = guess ? pass_.guesses_[q].rank : pass_.block_.question(q).top_k;
    if (!seeded[c]) most_wanted = std::max(most_wanted, wanted[c]);
    scratch_.seeds[c].clear();
  }
  if (most_wanted == 1 && runs.size() == 1 && pass_.all_are_hits()) {
    SeedByBest(rows, runs[0].tile, centres, seeded);
  } else if (most_wanted > 0) {
    const auto may_be_hit = [&](size_t column, uint64_t place) {
      return pass_.all_are_hits() || pass_.IsHit(active_[column], pass_.rows_.id_at(place));
    };
    BestOfRuns(rows, runs, most_wanted,
               {columns_.inverse_scale.data(), columns_.offset.data(), centres.data(), measured.data(),
                metrics.data(), least.data(), active_.size(), pass_.all_are_hits()},
               may_be_hit, scratch_.scorer, scratch_.int_thresholds.data(), scratch_.survivors.data(),
               scratch_.seeds);
    double most_norm = 0.0;
    for (const RowRun& run : runs) most_norm = std::max(most_norm, rows.tile(run.tile).norm);
    for (size_t c = 0; c < active_.size(); ++c) {
      std::vector<uint64_t>& keys = scratch_.seeds[c];
      if (seeded[c] || keys.size() < wanted[c]) continue;
      const double bound = LeastOfSeeds(active_[c], keys, wanted[c], most_norm);
      TopK& best = pass_.block_.best(active_[c]);
      guess ? best.Guess(bound) : best.RaiseThreshold(bound);
    }
  }
  for (size_t c = 0; c < active_.size(); ++c) merits_[c] = pass_.MeritToReach(active_[c]);
}

double Int8Pass::TileWorker::LeastOfSeeds(uint32_t q, std::vector<uint64_t>& keys, size_t count,
                                          double norm) {
  const auto id_at = [&](uint32_t place) { return pass_.rows_.id_at(place); };
  if (pass_.block_.metric(q) == Metric::kInnerProduct) {
    KeepLargest(keys, count);
    const double least = float32_look_.LeastScore(
        q, count, [&](size_t i) { return id_at(static_cast<uint32_t>(keys[i])); }, norm);
    if (least != -kInfinity) return least;
  }
  return pass_.LeastOf(q, keys, count, id_at);
}

void Int8Pass::TileWorker::SeedByBest(const Int8Codes& rows, uint64_t t,
                                      const std::array<double, kMaxColumns>& centres,
                                      const std::array<bool, kMaxColumns>& seeded) {
  const CodeTile& tile = rows.tile(t);
  LargestByColumn(scratch_.scorer.Score(rows.codes(t), tile.rows), tile.rows, scratch_.scorer.columns(),
                  scratch_.largest);
  const bool global = pass_.IsGlobal();
  double best = -kInfinity;
  for (size_t c = 0; c < active_.size(); ++c) {
    if (seeded[c]) continue;
    const uint32_t q = active_[c];
    if (global) {  // only what may be the best of all queries
      const double score = (scratch_.largest.score[c] - columns_.offset[c]) / columns_.inverse_scale[c];
      const double own = ScaleByPowerOfTwo(score * tile.scale + centres[c], pass_.queries_[q].exponent);
      if (own <= best) continue;
      best = own;
    }
    const uint64_t id = pass_.rows_.id(t, scratch_.largest.row[c]);
    pass_.block_.best(q).RaiseThreshold(pass_.Check(q, id).lower);
  }
}

}  // namespace dotmax
