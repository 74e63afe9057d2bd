// What queries of the int8 screen begin with.
#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <functional>
#include <limits>
#include <utility>
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
constexpr uint64_t kGroupsPerHit = 8;
constexpr uint64_t kMostRowsPerGroup = 128;

// Most hits that rows of a query's own length are tried for, and how many more rows than that; and what the
// best known squared distance is of that which lengths alone make, at most.
constexpr uint32_t kMostSeedsByLength = 256;
constexpr uint64_t kMoreSeedsByLength = 8;
constexpr double kMostOfLength = 4.0;

// So many rows of a tile are scored exactly with one query after the other: they stay in the second cache.
int RowsInCache(size_t row_bytes) {
  constexpr size_t kBytes = 256 << 10;
  constexpr int kMultiple = 16;  // of scores' vectors, whatever the columns
  const size_t rows = kBytes / row_bytes / kMultiple * kMultiple;
  return static_cast<int>(std::clamp<size_t>(rows, kMultiple, Int8Codes::kTileRows));
}

}  // namespace

void Int8Pass::TileWorker::Seed() {
  for (const bool guess : {true, false}) {
    if (absl::c_none_of(active_, [&](uint32_t q) { return WantsSeeds(q, guess); })) continue;
    // A head's codes say less of which rows are best, and let more of the others through that beat a low
    // threshold.
    if (pass_.whole_ != nullptr) {
      Pack(nullptr, *pass_.whole_, pass_.queries_again_);
    } else {
      Pack(pass_.KernelOfRuns(active_.size()));
    }
    const uint64_t fewest = pass_.whole_ != nullptr ? pass_.rows_.tiles() / kTilesPerSeedTile : 1;
    guess ? SeedQueries(pass_.sample_, guess)
          : SeedQueries(RunsToSeedFrom(pass_.rows_, pass_.RunRows(), pass_.block_, active_, fewest), guess);
  }
}

Int8Pass::TileWorker::AboutMerit Int8Pass::TileWorker::MeritOf(const CodeTile& tile, double length) const {
  switch (pass_.block_.metric(0)) {
    case Metric::kInnerProduct:
      break;
    case Metric::kCosine:
      return {length > 0.0 ? tile.scale / length : tile.scale, 0.0};
    case Metric::kSquaredEuclidean:
      return {tile.scale, 0.5 * length * length};
  }
  return {tile.scale, 0.0};
}

Int8Pass::TileWorker::AboutMerit Int8Pass::TileWorker::MeritOf(uint64_t t) const {
  const LengthRange all = Lengths(pass_.rows_.tile(t));
  return MeritOf(pass_.rows_.tile(t), TellsLengths(t) ? all.least : 0.5 * (all.least + all.most));
}

void Int8Pass::TileWorker::SearchKept() {
  Pack();
  std::array<double, kMaxColumns> floors;
  for (size_t c = 0; c < active_.size(); ++c) {
    merit_weights_[c] = pass_.block_.measured[active_[c]].unit * columns_.inverse_scale[c];
    floors[c] = AboutFloor(c);
  }
  const bool keeps = GainsByKept(floors.data());
  if (keeps && !SeedByKept(floors.data())) return;
  for (size_t i = 0; i < pass_.kept_tiles_.size(); ++i) {
    if (keeps) kept_ = i;
    const uint64_t t = pass_.kept_tiles_[i].tile;
    if (!DropFinished(t) || (i % kTilesPerClaim == 0 && pass_.Stopped())) break;
    SearchTiles(t, t + 1);
  }
  kept_.reset();
  checks_.Finish();
}

double Int8Pass::TileWorker::AboutFloor(size_t c) const {
  const uint32_t q = active_[c];
  const double floor = pass_.MeritToReach(q);
  if (floor == -kInfinity) return floor;
  const uint64_t t = pass_.kept_tiles_[0].tile;
  const CodeTile& tile = pass_.rows_.tile(t);
  const double length = tile.norm;
  const AboutMerit merit = MeritOf(tile, length);
  const double score = LeastDot(pass_.block_.metric(q), floor, pass_.block_.measured[q], {length, length});
  return score * columns_.inverse_scale[c] / tile.scale * merit.scale - merit.less * merit_weights_[c];
}

ThresholdsByRow Int8Pass::TileWorker::SetAboutByRow(uint64_t t, const AboutMerit& merit, const double* about,
                                                    absl::FunctionRef<float(float base)> rounded) {
  const double scale = pass_.rows_.tile(t).scale;
  const double least_along = pass_.rows_.is_deflated() ? pass_.rows_.along(t).least : 0.0;
  const bool is_distance = pass_.block_.metric(0) == Metric::kSquaredEuclidean;
  const auto [base, by_length, by_along] = RoomForThresholds();
  for (size_t c = 0; c < active_.size(); ++c) {
    const double length_slope = is_distance ? 0.5 * merit_weights_[c] : std::max(about[c], 0.0);
    by_length[c] = TellsLengths(t) ? static_cast<float>(length_slope / scale) : 0.0f;
    const double along = pass_.rows_.is_deflated() ? -along_[c] * columns_.inverse_scale[c] / scale : 0.0;
    by_along[c] = static_cast<float>(along);
    base[c] = rounded(static_cast<float>((about[c] + merit.less * merit_weights_[c]) / merit.scale +
                                         columns_.offset[c] + along * least_along));
  }
  return {base, by_length, by_along};
}

Int8Pass::TileWorker::AboutThresholds Int8Pass::TileWorker::SetAboutThresholds(uint64_t t,
                                                                               const double* about) {
  const AboutMerit merit = MeritOf(t);
  if (IsByRow(t)) {
    // What is about equal is above.
    return {
        SetAboutByRow(t, merit, about, [](float base) { return base - 0.5f - std::abs(base) * 0x1p-20f; }),
        TermsOf(t, 0)};
  }
  int32_t* const thresholds = scratch_.int_thresholds.data();
  for (size_t c = 0; c < active_.size(); ++c) {
    thresholds[c] =
        Int8Threshold(about[c] + merit.less * merit_weights_[c], 0.0, 1.0 / merit.scale, columns_.offset[c]);
  }
  std::fill(thresholds + active_.size(), thresholds + scratch_.scorer.columns() + kScoresPadding,
            std::numeric_limits<int32_t>::max());
  return {};
}

size_t Int8Pass::TileWorker::CollectAbout(const int32_t* scores, int first, int rows,
                                          const AboutThresholds& about) {
  const int columns = scratch_.scorer.columns();
  Survivor* const survivors = scratch_.survivors.data();
  if (about.by_row.base == nullptr) {
    return CollectSurvivors(scores, rows, columns, scratch_.int_thresholds.data(), survivors);
  }
  return CollectSurvivors(scores, rows, columns, about.by_row,
                          {about.terms.length + first, about.terms.along + first}, survivors);
}

bool Int8Pass::TileWorker::GainsByKept(const double* floors) {
  if (std::all_of(floors, floors + active_.size(), [](double floor) { return floor == -kInfinity; }))
    return true;
  const std::vector<KeptTile>& tiles = pass_.kept_tiles_;
  const uint64_t t = tiles[pass_.inner_products() ? 0 : tiles.size() / 2].tile;
  const int rows = pass_.rows_.tile(t).rows;
  const AboutThresholds about = SetAboutThresholds(t, floors);
  const size_t count = CollectAbout(scratch_.scorer.Score(pass_.rows_.codes(t), rows), 0, rows, about);
  std::array<uint64_t, kMaxColumns> within = {};
  for (size_t i = 0; i < count; ++i) within[scratch_.survivors.data()[i].column] += tiles.size();
  uint64_t wanted = 0, there = 0;
  for (size_t c = 0; c < active_.size(); ++c) {
    const uint64_t k = BestToScore(active_[c]);
    wanted += k;
    there += std::min(k, within[c]);
  }
  return 2 * there >= wanted;
}

void Int8Pass::TileWorker::LargestOfGroups(size_t i, int each, size_t stride, float* largest) {
  const uint64_t t = pass_.kept_tiles_[i].tile;
  const CodeTile& tile = pass_.rows_.tile(t);
  const int columns = scratch_.scorer.columns();
  const AboutMerit merit = MeritOf(t);
  // Rows that follow one another are of like lengths, and may all be among the best: a group's are far apart.
  const int groups = (tile.rows + each - 1) / each;
  const auto for_groups = [&](absl::FunctionRef<void(int first, int rows)> group) {
    for (int g = 0; g < groups; ++g, largest += kColumnsTogether) {
      group(g, (tile.rows - g + groups - 1) / groups);
    }
  };
  if (!IsByRow(t)) {
    std::array<float, kMaxColumns + kScoresPadding> offsets = {};
    for (size_t c = 0; c < active_.size(); ++c) {
      offsets[c] = static_cast<float>(columns_.offset[c] + merit.less * merit_weights_[c] / merit.scale);
    }
    return for_groups([&](int first, int rows) {
      LargestOfGroup(KeptScores(i, first), rows, groups, columns, offsets.data(),
                     static_cast<float>(merit.scale), stride, largest);
    });
  }
  const RowTerms terms = TermsOf(t, 0);
  // A cosine's length divides all of it instead.
  const ThresholdsByRow less =
      SetAboutByRow(t, merit, std::array<double, kMaxColumns>{}.data(), [](float base) { return base; });
  std::array<float, Int8Codes::kTileRows> scales;
  const RowLengths lengths = pass_.rows_.lengths(t);
  for (int r = 0; r < tile.rows; ++r) {
    const bool told = TellsLengths(t);
    scales[r] =
        static_cast<float>(told ? MeritOf(tile, lengths.all.least + lengths.longer[r]).scale : merit.scale);
  }
  for_groups([&](int first, int rows) {
    LargestOfGroup(KeptScores(i, first), rows, groups, columns, less,
                   {terms.length + first, terms.along + first}, scales.data() + first, stride, largest);
  });
}

uint64_t Int8Pass::TileWorker::BestToScore(uint32_t q) const {
  const Question& question = pass_.block_.question(q);
  return question.top_k + question.Excluded(pass_.block_.queries[q].row).value_or(0);
}

bool Int8Pass::TileWorker::SeedByKept(const double* floors) {
  const Int8Codes& rows = pass_.rows_;
  const std::vector<KeptTile>& tiles = pass_.kept_tiles_;
  const uint64_t all_rows = tiles.back().rows_before + rows.tile(tiles.back().tile).rows;
  const int columns = scratch_.scorer.columns();
  uint64_t wanted = 1;
  for (const uint32_t q : active_) wanted = std::max(wanted, BestToScore(q));
  const uint64_t each = std::clamp<uint64_t>(all_rows / (kGroupsPerHit * wanted), 1, kMostRowsPerGroup);

  const size_t stride = (all_rows / each + tiles.size()) * kColumnsTogether;
  float* const largest = scratch_.largest_of_groups.Reserve((columns / kColumnsTogether + 1) * stride);
  // Kernels may round rows up.
  scratch_.kept_scores.Reserve((all_rows + Int8Codes::kTileRows) * columns + kScoresPadding);
  size_t groups = 0;
  for (size_t i = 0; i < tiles.size(); ++i) {
    if (i % kTilesPerClaim == 0 && pass_.Stopped()) return false;
    const CodeTile& tile = rows.tile(tiles[i].tile);
    scratch_.scorer.ScoreTo(rows.codes(tiles[i].tile), tile.rows, KeptScores(i, 0));
    LargestOfGroups(i, static_cast<int>(each), stride, largest + groups * kColumnsTogether);
    groups += (tile.rows + each - 1) / each;
  }
  scratch_.pairs_screened += all_rows * active_.size();

  std::array<float, kMaxColumns + kColumnsTogether> kth;  // about the k-th best of all
  std::array<int32_t, kMaxColumns + kColumnsTogether> top_k = {};
  std::array<int64_t, kMaxColumns> room;
  for (size_t c = 0; c < active_.size(); ++c) {
    const uint64_t k = BestToScore(active_[c]);
    top_k[c] = static_cast<int32_t>(std::min(k, all_rows));
    room[c] = static_cast<int64_t>(2 * k);
  }
  for (size_t c = 0; c < active_.size(); c += kColumnsTogether) {
    KthLargest(largest + c / kColumnsTogether * stride, groups, kColumnsTogether, top_k.data() + c,
               kth.data() + c);
  }
  std::array<double, kMaxColumns> least;  // what is checked at once; those of a range at most
  for (size_t c = 0; c < active_.size(); ++c) {
    const bool wants = pass_.block_.best(active_[c]).WantsSeeds() && top_k[c] <= groups;
    least[c] = wants ? std::max<double>(kth[c], floors[c]) : kInfinity;
  }
  // Those that are the likeliest first, should there not be room for all: the nearest rows may be the
  // shortest.
  const bool backwards = pass_.block_.metric(0) == Metric::kSquaredEuclidean;
  for (size_t n = 0; n < tiles.size(); ++n) {
    const size_t i = backwards ? tiles.size() - 1 - n : n;
    const uint64_t t = tiles[i].tile;
    const CodeTile& tile = rows.tile(t);
    const int step = RowsInCache(pass_.base_.row_bytes());
    const AboutThresholds about = SetAboutThresholds(t, least.data());
    for (int first = 0; first < tile.rows; first += step) {
      int32_t* const scores = KeptScores(i, first);
      Survivor* const survivors = scratch_.survivors.data();
      Survivor* end = survivors + CollectAbout(scores, first, std::min(step, tile.rows - first), about);
      // More than about k are ties.
      end = std::remove_if(survivors, end, [&](const Survivor& s) { return room[s.column]-- <= 0; });
      for (Survivor* s = survivors; s < end; ++s) {  // no second time
        scores[s->row * static_cast<size_t>(columns) + s->column] = kStruckOut;
        s->row += static_cast<uint16_t>(first);
      }
      size_t count = end - survivors;
      scratch_.pairs_survived += count;
      count = TakeApart(t, count, least.data());
      scratch_.pairs_checked += count;
      CheckSurvivors(t, count, /*by_row=*/false, /*resolve_all=*/true);
    }
  }
  checks_.Finish();
  return true;
}

bool Int8Pass::TileWorker::SeedByLength(uint64_t t) {
  const Int8Codes& rows = pass_.rows_;
  if (length_metric_ != Metric::kSquaredEuclidean || rows.centre_codes() != nullptr) return false;
  bool any = false;
  std::vector<double> merits;
  for (size_t c = 0; c < active_.size(); ++c) {
    const uint32_t q = active_[c];
    const uint32_t top_k = pass_.block_.question(q).top_k;
    if (pass_.block_.metric(q) != Metric::kSquaredEuclidean || top_k == 0 || top_k > kMostSeedsByLength ||
        seeded_by_length_[q]) {
      continue;
    }
    const double length = pass_.block_.measured[q].length();
    const double longer = rows.tile(t).least_norm - length, known = -pass_.block_.best(q).threshold();
    const double least = longer * longer;
    if (!(longer > 0.0 && known >= least && known <= kMostOfLength * least)) continue;
    seeded_by_length_[q] = any = true;
    const CodeTile& tile = rows.tile(rows.tile_of_length(length));
    const double share = (tile.norm - length) / std::max(tile.norm - tile.least_norm, length * 0x1p-30);
    const uint64_t place = tile.first + static_cast<uint64_t>(std::clamp(share, 0.0, 1.0) * tile.rows);
    const uint64_t count = std::min<uint64_t>(top_k + kMoreSeedsByLength, rows.rows());
    const uint64_t first = std::min(place - std::min(place, count / 2), rows.rows() - count);
    for (uint64_t i = first; i < first + count; ++i) {
      Prefetch(pass_.base_.row(rows.id_at(i)), pass_.base_.row_bytes());
    }
    merits.clear();
    for (uint64_t i = first; i < first + count; ++i) {
      const uint64_t id = rows.id_at(i);
      if (pass_.IsHit(q, id)) merits.push_back(pass_.Check(q, id).lower);
    }
    if (merits.size() < top_k) continue;
    std::nth_element(merits.begin(), merits.begin() + (top_k - 1), merits.end(), std::greater<>());
    pass_.block_.best(q).RaiseThreshold(merits[top_k - 1]);
    merits_[c] = pass_.MeritToReach(q);
  }
  return any;
}

bool Int8Pass::TileWorker::WantsSeeds(uint32_t q, bool guess) const {
  return pass_.Guesses(q) == guess && pass_.block_.best(q).WantsSeeds();
}

void Int8Pass::TileWorker::SeedQueries(absl::Span<const RowRun> runs, bool guess) {
  std::array<float, kMaxColumns> least;
  std::array<bool, kMaxColumns> seeded;
  std::array<double, kMaxColumns> along;
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
    along[c] = rows.is_deflated() ? pass_.along_[q] : 0.0;
    measured[c] = &pass_.block_.measured[q];
    metrics[c] = pass_.block_.metric(q);
    wanted[c] = guess ? pass_.guesses_[q].rank : pass_.block_.question(q).top_k;
    if (!seeded[c]) most_wanted = std::max(most_wanted, wanted[c]);
    scratch_.seeds[c].clear();
  }
  const SeedColumns columns = {columns_.inverse_scale.data(),
                               columns_.offset.data(),
                               along.data(),
                               measured.data(),
                               metrics.data(),
                               least.data(),
                               active_.size(),
                               pass_.all_are_hits()};
  if (most_wanted == 1 && runs.size() == 1 && pass_.all_are_hits()) {
    SeedByBest(rows, runs[0], columns, seeded);
  } else if (most_wanted > 0) {
    const auto may_be_hit = [&](size_t column, uint64_t place) {
      return pass_.all_are_hits() || pass_.IsHit(active_[column], pass_.rows_.id_at(place));
    };
    BestOfRuns(rows, runs, most_wanted, columns, may_be_hit, scratch_.scorer, scratch_.int_thresholds.data(),
               scratch_.survivors.data(), scratch_.seeds);
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

void Int8Pass::TileWorker::SeedByBest(const Int8Codes& rows, const RowRun& run, const SeedColumns& columns,
                                      const std::array<bool, kMaxColumns>& seeded) {
  LargestByColumn(ScoreRun(rows, run, columns, scratch_.scorer), run.rows, scratch_.scorer.columns(),
                  scratch_.largest);
  const double scale = rows.tile(run.tile).scale;
  const double along = rows.is_deflated() ? rows.along(run.tile).least : 0.0;
  const bool global = pass_.IsGlobal();
  double best = -kInfinity;
  for (size_t c = 0; c < active_.size(); ++c) {
    if (seeded[c]) continue;
    const uint32_t q = active_[c];
    if (global) {  // only what may be the best of all queries
      const double score = (scratch_.largest.score[c] - columns_.offset[c]) / columns_.inverse_scale[c];
      const double own =
          ScaleByPowerOfTwo(score * scale + columns.along[c] * along, pass_.queries_[q].exponent);
      if (own <= best) continue;
      best = own;
    }
    const uint64_t id = pass_.rows_.id(run.tile, run.first + scratch_.largest.row[c]);
    pass_.block_.best(q).RaiseThreshold(pass_.Check(q, id).lower);
  }
}

}  // namespace dotmax
