// The int8 screen: u8 · s8 products of codes. Rows by norm: queries that no later tile can serve leave the
// block, which is packed anew. Rows in balls: every query begins with its nearest tiles, and each other tile
// takes the queries that its ball cannot rule out.
#include <algorithm>
#include <array>
#include <cmath>
#include <functional>
#include <limits>
#include <numeric>
#include <optional>

#include "absl/algorithm/container.h"
#include "server/engine/balls.h"
#include "server/engine/bound.h"
#include "server/engine/encode.h"
#include "server/engine/float32_look.h"
#include "server/engine/pass.h"
#include "server/engine/quantize.h"
#include "server/engine/second_look.h"
#include "server/engine/seeds.h"
#include "server/engine/survivors.h"

namespace dotmax {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();
// Of so many hits, nearly all that is left after a look in float32 is one.
constexpr uint32_t kFewestToResolve = 32;
// Where a query has so many survivors, they are put side by side.
constexpr size_t kManyPerQuery = 2;
// Most tiles of near rows are left out, so more of them make a claim. Thresholds hardly rise any more after
// the first round: queries are chosen by those at the beginning of a claim.
constexpr uint64_t kBallsTogether = 4;
// In place of a·centre, for a query that is packed but not to be served by the tile.
constexpr double kNotAsked = -kInfinity;

// Queries are seeded so many at a time by a worker, kTilesPerClaim times over.
constexpr size_t kSeededTogether = 16;

// Most queries that are searched for by a head's codes first, and most hits that they may want together.
constexpr size_t kMostByHead = 2;
constexpr uint32_t kMostHitsByHead = 16;
// They begin with a tile for so many.
constexpr uint64_t kTilesPerSeedTile = 64;

// Where top_k is more than a few, thresholds are guessed from a sample in runs of so many rows.
constexpr int kRunRows = 32;

class Int8Pass final : public Pass {
 public:
  // `kernels` by width, as far as the block needs, null for one of our own. `whole`: what `rows` are the head
  // of, for a second look, or null.
  Int8Pass(const MatrixView& base, const Int8Codes& rows, const Int8Codes* whole, const QueryBlock& block,
           const Kernels& all_kernels, KernelByColumns kernels, Balls balls, EncodedQueries queries,
           EncodedQueries queries_again, EncodedRests rests)
      : Pass(base, block),
        rows_(rows),
        whole_(whole),
        all_kernels_(all_kernels),
        kernels_(kernels),
        balls_(std::move(balls)),
        queries_(std::move(queries)),
        queries_again_(std::move(queries_again)),
        rests_(std::move(rests)) {
    if (rows.centre_codes() != nullptr) {
      balls_.UsePivots(
          [this](size_t q, uint64_t tile) { return CentreInterval(q, rows_.centre(tile)).lower; });
      return;
    }
    if (const Centring* const centring = AllRows().centring(); centring != nullptr) {
      for (size_t q = 0; q < block.size(); ++q) {
        centres_.push_back(CentreInterval(q, centring->centre().data()).upper);
      }
    }
    // oneDNN's kernels take whole tiles.
    sample_ = SampleToGuessBy(rows, all_kernels.has_own() ? kRunRows : Int8Codes::kTileRows, block);
    guesses_ = GuessBySample(rows, sample_, block);
  }

 private:
  class TileWorker final : public Worker {
   public:
    TileWorker(Int8Pass& pass, int round, Scratch& scratch, PairScorer& scorer)
        : pass_(pass),
          round_(round),
          scratch_(scratch),
          float32_look_(pass.base_, pass.block_),
          checks_(pass, scratch, scorer) {
      if (pass.whole_ != nullptr) {
        second_look_.emplace(*pass.whole_, pass.queries_again_, pass.rests_, pass.centres_);
      } else if (pass.rows_.fine() != nullptr) {
        second_look_.emplace(*pass.rows_.fine(), pass.queries_again_, pass.all_kernels_, pass.centres_);
      } else if (pass.rests_.codes != nullptr) {
        second_look_.emplace(pass.rows_, pass.queries_, pass.rests_, pass.centres_);
      }
      active_.resize(pass.block_.size());
      if (pass.rows_.centre_codes() != nullptr) {
        to_reach_.resize(active_.size());
        to_reach_in_tile_.resize(active_.size());
        return;
      }
      if (round < pass.rounds() - 1) return;
      std::iota(active_.begin(), active_.end(), 0);
      Pack();
    }

    bool Search(uint64_t first, uint64_t end) override {
      if (pass_.rows_.centre_codes() == nullptr) {
        if (round_ < pass_.rounds() - 1) {
          const uint64_t last = std::min<uint64_t>(end * kSeededTogether, pass_.block_.size());
          active_.resize(last - first * kSeededTogether);
          std::iota(active_.begin(), active_.end(), first * kSeededTogether);
          Seed();
          return true;
        }
        if (claims_++ == 0 && pass_.rounds() == 1) {
          Seed();
          Pack();
        }
        if (!DropFinished(first)) return false;
        const uint64_t step = pass_.whole_ != nullptr || !pass_.guesses_.empty() ? kTilesPerClaim : 1;
        for (uint64_t t = first; t < end; t += step) SearchTiles(t, std::min(t + step, end));
      } else {
        LookUpMerits();
        if (round_ == 0) {
          for (uint64_t i = first; i < end; ++i) SearchBall(pass_.balls_.first_tiles()[i]);
        } else {
          SearchBalls(first * kBallsTogether, std::min(end * kBallsTogether, pass_.rows_.tiles()));
        }
      }
      checks_.Finish();
      return true;
    }

   private:
    void SearchBall(uint64_t tile) {
      if (ChooseQueries(tile)) SearchTiles(tile, tile + 1);
    }

    void SearchBalls(uint64_t first, uint64_t end) {
      if (to_reach_.size() > 1 || !pass_.inner_products()) {
        for (uint64_t t = first; t < end; ++t) SearchBall(t);
        return;
      }
      // A single query sees them side by side.
      std::array<double, kTilesPerClaim * kBallsTogether> bounds;
      pass_.balls_.BoundScoresOf(0, first, end, bounds.data());
      for (uint64_t t = first; t < end; ++t) {
        if (bounds[t - first] >= to_reach_[0]) SearchBall(t);
      }
    }

    // As of now, for a few tiles: other workers keep raising them.
    void LookUpMerits() {
      for (uint32_t q = 0; q < to_reach_.size(); ++q) to_reach_[q] = pass_.MeritToReach(q);
      to_reach_in_tile_ = to_reach_;
    }

    // Lets go of queries that neither this tile nor a later one can serve; false if none is left. Their
    // columns stay, with merits out of reach, until packing anew saves more than it costs.
    bool DropFinished(uint64_t tile) {
      // Norms descend: this one bounds those of all later rows.
      const double row_norm = pass_.rows_.tile(tile).norm;
      live_ = 0;
      for (size_t c = 0; c < active_.size(); ++c) {
        const double merit = pass_.MeritToReach(active_[c]);
        const bool finished = merit == kInfinity || Finished(pass_.block_.metric(active_[c]), merit,
                                                             pass_.block_.measured[active_[c]], row_norm);
        merits_[c] = finished ? kInfinity : merit;
        live_ += finished ? 0 : 1;
      }
      if (live_ == 0) return false;
      const int columns = scratch_.scorer.columns();
      if (pass_.all_kernels_.Int8Columns(live_, pass_.rows_.code_dim()) >= columns - columns / 16)
        return true;
      size_t kept = 0;
      for (size_t c = 0; c < active_.size(); ++c) {
        if (merits_[c] == kInfinity) continue;
        active_[kept] = active_[c];
        merits_[kept++] = merits_[c];
      }
      active_.resize(kept);
      Pack();
      return true;
    }

    // Of the queries, those that a tile of near rows may serve; false if there are none.
    bool ChooseQueries(uint64_t tile) {
      active_.clear();
      if (round_ == 0) {
        const absl::Span<const uint32_t> beginners = pass_.balls_.beginners(tile);
        active_.assign(beginners.begin(), beginners.end());
      } else {
        AskOfTile(tile);
        pass_.balls_.BoundScores(tile, bounds_.data());
        active_.resize(to_reach_.size() + kSurvivorPadding);
        active_.resize(
            SelectReaching(bounds_.data(), to_reach_in_tile_.data(), to_reach_.size(), active_.data()));
        std::erase_if(active_, [&](uint32_t q) { return !CentreCanReach(q, tile); });
      }
      if (active_.empty()) return false;
      live_ = active_.size();
      // Most of them: then all, as packing anew for each tile would cost more.
      if (round_ > 0 && live_ < to_reach_.size() && 4 * live_ >= 3 * to_reach_.size()) {
        std::vector<uint32_t> chosen = std::move(active_);
        active_.resize(to_reach_.size());
        std::iota(active_.begin(), active_.end(), 0);
        for (uint32_t q = 0, i = 0; q < active_.size(); ++q) {
          const bool is_chosen = i < chosen.size() && chosen[i] == q;
          i += is_chosen ? 1 : 0;
          if (!is_chosen) centres_[q] = kNotAsked;
        }
      }
      for (size_t c = 0; c < active_.size(); ++c) {
        merits_[c] = pass_.MeritToReach(active_[c]);
        centre_scores_[c] = round_ == 0 ? CentreScore(active_[c], tile) : centres_[active_[c]];
      }
      if (active_ != packed_) {
        Pack();
        packed_ = active_;
      }
      return true;
    }

    // At most kTilesPerClaim tiles, side by side: what survives a head's codes has the others on their way
    // while the next tiles are screened.
    void SearchTiles(uint64_t first, uint64_t end) {
      Survivor* const survivors = scratch_.survivors.data();
      size_t count = 0;
      if (second_look_.has_value()) second_look_->Begin(pass_.rows_.tile(first), first);
      for (uint64_t t = first; t < end; ++t) {
        const int rows = pass_.rows_.tile(t).rows;
        const RowRun whole = {t, 0, rows};
        if (pass_.rows_.centre_codes() != nullptr) SeedQueries({&whole, 1}, /*guess=*/false);
        SetThresholds(t, Lengths(pass_.rows_.tile(t)));
        if (second_look_.has_value()) second_look_->AddTile(scores_.data());
        const size_t before = count;
        count += CollectTile(t, survivors + count);
        scratch_.pairs_screened += rows * live_;
        const uint64_t rows_before = pass_.rows_.tile(t).first - pass_.rows_.tile(first).first;
        for (size_t i = before; i < count; ++i) {
          survivors[i].row += static_cast<uint16_t>(rows_before);
          if (pass_.whole_ != nullptr) second_look_->Fetch(survivors[i].row);
        }
      }
      scratch_.pairs_survived += count;
      if (count > 0 && second_look_.has_value()) {
        count = second_look_->Keep({survivors, count}, scratch_);
      }
      const bool by_row = float32_look_.Serves(count);
      if (by_row) count = LookInFloat32(first, end, count);
      scratch_.pairs_checked += count;
      CheckSurvivors(first, count, by_row);
    }

    size_t LookInFloat32(uint64_t first, uint64_t end, size_t count) {
      LengthRange lengths = Lengths(pass_.rows_.tile(first));
      for (uint64_t t = first + 1; t < end; ++t) {
        const LengthRange next = Lengths(pass_.rows_.tile(t));
        lengths = {std::min(lengths.least, next.least), std::max(lengths.most, next.most)};
      }
      const auto id = [&](int row) { return pass_.rows_.id(first, row); };
      const auto score = [&](uint32_t q) {
        return LeastDot(pass_.block_.metric(q), pass_.MeritToReach(q), pass_.block_.measured[q], lengths);
      };
      return float32_look_.Keep({scratch_.survivors.data(), count}, active_, lengths.most, id, score,
                                scratch_);
    }

    void Pack() {
      Pack(pass_.kernels_[pass_.all_kernels_.Int8Columns(active_.size(), pass_.rows_.code_dim())]);
    }

    void Pack(const TileMatmul* kernel) { Pack(kernel, pass_.rows_, pass_.queries_); }

    void Pack(const TileMatmul* kernel, const Int8Codes& rows, const EncodedQueries& queries) {
      const int dim = rows.code_dim();
      const int columns = pass_.all_kernels_.Int8Columns(active_.size(), dim);
      int8_t* const codes = scratch_.codes.Reserve(active_.size() * dim);
      for (size_t c = 0; c < active_.size(); ++c) {
        std::copy_n(queries.codes_of(active_[c]), dim, codes + c * dim);
        columns_.Set(c, queries[active_[c]]);
        if (pass_.rows_.is_lifted()) centre_scores_[c] = pass_.centres_[active_[c]];
      }
      if (second_look_.has_value()) second_look_->Pack(active_);
      scratch_.scorer.Pack(kernel, columns, codes, static_cast<int>(active_.size()), dim);
      scratch_.int_thresholds.Reserve(columns);
      scratch_.survivors.Reserve(size_t{kTilesPerClaim} * Int8Codes::kTileRows * columns + kSurvivorPadding);
    }

    // The active queries' thresholds before any tile is searched.
    void Seed() {
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

    bool WantsSeeds(uint32_t q, bool guess) const {
      return pass_.Guesses(q) == guess && pass_.block_.best(q).WantsSeeds();
    }

    // The active queries that know nothing yet, and guess or don't, see the scores of some rows first: what
    // the best of these score at least is their threshold.
    void SeedQueries(absl::Span<const RowRun> runs, bool guess) {
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

    // What the first `count` of `keys` score at least; their rows' lengths are ≤ norm.
    double LeastOfSeeds(uint32_t q, std::vector<uint64_t>& keys, size_t count, double norm) {
      const auto id_at = [&](uint32_t place) { return pass_.rows_.id_at(place); };
      if (pass_.block_.metric(q) == Metric::kInnerProduct) {
        KeepLargest(keys, count);
        const double least = float32_look_.LeastScore(
            q, count, [&](size_t i) { return id_at(static_cast<uint32_t>(keys[i])); }, norm);
        if (least != -kInfinity) return least;
      }
      return pass_.LeastOf(q, keys, count, id_at);
    }

    // For the one best hit: what scores highest in the tile.
    void SeedByBest(const Int8Codes& rows, uint64_t t, const std::array<double, kMaxColumns>& centres,
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

    // The inner products that queries need for their merits, in a tile of rows of such lengths.
    void AskForScores(const LengthRange& lengths) {
      for (size_t c = 0; c < active_.size(); ++c) {
        const double score =
            LeastDot(pass_.block_.metric(active_[c]), merits_[c], pass_.block_.measured[active_[c]], lengths);
        scores_[c] = merits_[c] == kInfinity ? kInfinity : score;
      }
    }

    // The tile's survivors, by the thresholds that are set for it, or, where its rows' lengths differ too
    // much for these to be of use, by those for each of its parts.
    size_t CollectTile(uint64_t t, Survivor* survivors) {
      const int rows = pass_.rows_.tile(t).rows;
      int32_t* const thresholds = scratch_.int_thresholds.data();
      const absl::Span<const LengthRange> parts = pass_.rows_.parts(t);
      if (pass_.inner_products() || parts.empty() || !scratch_.scorer.takes_any_rows()) {
        return scratch_.scorer.Collect(pass_.rows_.codes(t), rows, thresholds, survivors);
      }
      size_t count = 0;
      for (size_t p = 0; p < parts.size(); ++p) {
        const int first = static_cast<int>(p) * Int8Codes::kPartRows;
        SetThresholds(t, parts[p]);
        Survivor* const of_part = survivors + count;
        count += scratch_.scorer.Collect(pass_.rows_.codes(t, first),
                                         std::min(Int8Codes::kPartRows, rows - first), thresholds, of_part);
        for (Survivor* s = of_part; s < survivors + count; ++s) s->row += static_cast<uint16_t>(first);
      }
      return count;
    }

    // For rows of a tile, of such lengths.
    void SetThresholds(uint64_t t, const LengthRange& lengths) {
      int32_t* const thresholds = scratch_.int_thresholds.data();
      const int columns = static_cast<int>(active_.size());
      const CodeTile& tile = pass_.rows_.tile(t);
      if (pass_.inner_products()) {
        std::copy_n(merits_.begin(), columns, scores_.begin());
      } else {
        AskForScores(lengths);
      }
      const double* of_codes = scores_.data();
      if (pass_.rows_.centre_codes() != nullptr || pass_.rows_.is_lifted()) {
        for (int c = 0; c < columns; ++c) {
          rest_scores_[c] =
              centre_scores_[c] == kNotAsked ? kInfinity : LessCentre(scores_[c], centre_scores_[c]);
        }
        of_codes = rest_scores_.data();
      }
      Int8Thresholds(columns_.Wanting(of_codes), columns, tile.code_norm, tile.code_error, tile.scale,
                     thresholds);
      std::fill(thresholds + columns, thresholds + scratch_.scorer.columns(),
                std::numeric_limits<int32_t>::max());
    }

    // The inner products that queries need for the merits that they have to reach, in a tile.
    void AskOfTile(uint64_t tile) {
      if (pass_.inner_products()) return;  // they are these
      const LengthRange lengths = Lengths(pass_.rows_.tile(tile));
      for (size_t q = 0; q < to_reach_.size(); ++q) {
        if (to_reach_[q] == kInfinity) continue;
        to_reach_in_tile_[q] =
            LeastDot(pass_.block_.metric(q), to_reach_[q], pass_.block_.measured[q], lengths);
      }
    }

    // The bound again, without the error of the centre's code: half of what is close goes. Keeps a·centre.
    bool CentreCanReach(uint32_t q, uint64_t tile) {
      centres_[q] = CentreScore(q, tile);
      return pass_.balls_.BoundScore(q, tile, centres_[q]) >= to_reach_in_tile_[q];
    }

    // At least a·centre, on the query's scale.
    double CentreScore(uint32_t q, uint64_t tile) const {
      return pass_.CentreInterval(q, pass_.rows_.centre(tile)).upper;
    }

    // Those of tiles from one on. `by_row`: they are in that order, and better left there.
    void CheckSurvivors(uint64_t tile, size_t count, bool by_row) {
      if (!by_row && count > kManyPerQuery * active_.size() && active_.size() > 1) {
        SortSurvivors<kMaxColumns>({scratch_.survivors.data(), count}, scratch_.sorted,
                                   [](const Survivor& s) { return s.column; });
      }
      for (size_t i = 0; i < count; ++i) {
        const Survivor survivor = scratch_.survivors.data()[i];
        const uint32_t q = active_[survivor.column];
        const bool resolve = (by_row && pass_.block_.question(q).top_k >= kFewestToResolve) ||
                             (!pass_.guesses_.empty() && pass_.guesses_[q].resolve_at_once);
        checks_.Add(q, pass_.rows_.id(tile, survivor.row), resolve);
      }
    }

    Int8Pass& pass_;
    const int round_;
    Scratch& scratch_;
    uint64_t claims_ = 0;
    // By query of the block.
    std::vector<double> to_reach_;             // merits, as of some claims ago
    std::vector<double> to_reach_in_tile_;     // inner products, for these
    std::array<double, kMaxColumns> bounds_;   // of those in the tile
    std::array<double, kMaxColumns> centres_;  // a·centre of the tile
    size_t live_ = 0;                          // those of `active_` that are not finished
    std::vector<uint32_t> active_;             // the queries of the block by column
    std::vector<uint32_t> packed_;             // those that were packed last, for a tile of near rows
    // By column, too.
    std::array<double, kMaxColumns> merits_;         // to reach
    std::array<double, kMaxColumns> scores_;         // that rows of the tile need for that
    std::array<double, kMaxColumns> centre_scores_;  // a·centre of the tile, or of all rows
    std::array<double, kMaxColumns> rest_scores_;    // what is left for b − centre
    QueryColumns columns_;
    std::optional<SecondLook> second_look_;
    const Float32Look float32_look_;
    Checks checks_;
  };

  std::unique_ptr<Worker> MakeWorker(int round, Scratch& scratch, PairScorer& scorer) override {
    return std::make_unique<TileWorker>(*this, round, scratch, scorer);
  }
  uint64_t tiles(int round) const override {
    if (rows_.centre_codes() != nullptr) {
      return round == 0 ? balls_.first_tiles().size() : (rows_.tiles() + kBallsTogether - 1) / kBallsTogether;
    }
    if (round == rounds() - 1) return rows_.tiles();
    // Of all queries together, the threshold is all the same: a few will do where there is little to search.
    const bool few = IsGlobal() && rows_.tiles() == 1;
    return few ? 1 : (block_.size() + kSeededTogether - 1) / kSeededTogether;
  }
  // In balls: a query's nearest tiles, then the others. By norm: seeds, if they are worth sharing, then all.
  int rounds() const override {
    return rows_.centre_codes() != nullptr || block_.size() > kSeededTogether ? 2 : 1;
  }
  // Whether all queries want the best of all of them.
  bool IsGlobal() const {
    return block_.questions.size() == 1 && block_.questions[0]->selection.reduction == Reduction::kGlobal;
  }

  bool Guesses(uint32_t q) const { return !guesses_.empty() && guesses_[q].rank > 0; }

  const TileMatmul* SampleKernel(size_t queries) const {
    return all_kernels_.has_own() ? nullptr : kernels_[all_kernels_.Int8Columns(queries, rows_.code_dim())];
  }

  // a·centre, on the query's scale.
  Interval CentreInterval(size_t q, const float* centre) const {
    const Interval score = DotInterval(q, reinterpret_cast<const std::byte*>(centre), DType::kFloat32);
    const int exponent = -queries_[q].exponent;
    return {ScaleByPowerOfTwo(score.lower - std::abs(score.lower) * 0x1p-52, exponent),
            ScaleByPowerOfTwo(score.upper + std::abs(score.upper) * 0x1p-52, exponent)};
  }

  // Those that the rows are the head of, or themselves.
  const Int8Codes& AllRows() const { return whole_ != nullptr ? *whole_ : rows_; }

  const Int8Codes& rows_;
  const Int8Codes* const whole_;
  const Kernels& all_kernels_;
  const KernelByColumns kernels_;
  Balls balls_;
  const EncodedQueries queries_;
  const EncodedQueries queries_again_;  // for a second look, if there is one
  const EncodedRests rests_;            // of the queries by which rows are looked at last; may be none
  // If whole rows are seen from one centre, at least a·centre on the query's scale, by query.
  std::vector<double> centres_;
  std::vector<RowRun> sample_;  // empty: all are proved
  std::vector<Guess> guesses_;  // by query; empty likewise
};

// Whether the block's queries wait for memory, of which the head's codes take less, and want few hits, so
// that few rows survive these.
bool GainsByHead(const Int8Codes& codes, const QueryBlock& block) {
  return codes.head() != nullptr && block.size() <= kMostByHead &&
         absl::c_all_of(block.questions, [&](const Question* question) {
           return question->top_k * block.size() <= kMostHitsByHead;
         });
}

}  // namespace

absl::StatusOr<std::unique_ptr<Pass>> MakeInt8Pass(const MatrixView& base, const Int8Codes& codes,
                                                   const QueryBlock& block, PassBuffers& buffers) {
  const size_t queries = block.size();
  const bool by_head = GainsByHead(codes, block);
  const Int8Codes& rows = by_head ? *codes.head() : codes;
  KernelByColumns kernels = {};
  int columns = 0;
  for (size_t left = 1; left <= queries; ++left) {  // the widths to come as queries finish
    const int next = buffers.kernels.Int8Columns(left, rows.code_dim());
    if (next == columns) continue;
    columns = next;
    const absl::StatusOr<const TileMatmul*> matmul = buffers.kernels.GetInt8(rows, columns);
    if (!matmul.ok()) return matmul.status();
    kernels[columns] = *matmul;
  }

  absl::StatusOr<EncodedBlock> encoded = EncodeBlock(codes, by_head, block, buffers);
  if (!encoded.ok()) return encoded.status();
  Balls balls;
  if (rows.centre_codes() != nullptr) balls = Balls(rows, block, encoded->queries, kernels, buffers);
  return std::make_unique<Int8Pass>(base, rows, by_head ? &codes : nullptr, block, buffers.kernels, kernels,
                                    std::move(balls), std::move(encoded->queries), std::move(encoded->again),
                                    std::move(encoded->rests));
}

}  // namespace dotmax
