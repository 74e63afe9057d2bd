// How a worker of the int8 screen searches tiles.
#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <utility>
#include <vector>

#include "server/engine/int8_pass.h"
#include "server/engine/survivors.h"

namespace dotmax {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();
// Of so many hits, nearly all that is left after a look in float32 is one.
constexpr uint32_t kFewestToResolve = 32;
// Where a query has so many survivors, they are put side by side.
constexpr size_t kManyPerQuery = 2;
// And where a row has so many, a look at it costs less than one at more codes of each.
constexpr size_t kManyPerRow = 4;
// Where one in so many pairs of a tile survives, better thresholds are looked for.
constexpr size_t kManyOfTile = 16;
// 100 hits of 10,000 x 4,096 for 256 queries take 0.81 of the time by rests, of 15,000 x 1,536 1.03.
constexpr int kFewestDimsForRestsOfMany = 2048;
// Far more than float32 rounds.
constexpr double kDown = 1.0 - 0x1p-20;
constexpr float kMostFloat = std::numeric_limits<float>::max();
constexpr std::array<float, Int8Codes::kTileRows + kScoresPadding> kNoTerms = {};
// In place of a·centre, for a query that is packed but not to be served by the tile.
constexpr double kNotAsked = -kInfinity;

}  // namespace

Int8Pass::TileWorker::TileWorker(Int8Pass& pass, int round, Scratch& scratch, PairScorer& scorer)
    : pass_(pass),
      round_(round),
      scratch_(scratch),
      float32_look_(pass.base_, pass.block_),
      tile_look_(pass.base_, pass.block_, scratch),
      checks_(pass, scratch, scorer) {
  if (pass.whole_ != nullptr) {
    second_look_.emplace(*pass.whole_, pass.queries_again_, pass.rests_, pass.all_kernels_, pass.along_);
  } else if (pass.rows_.fine() != nullptr) {
    second_look_.emplace(*pass.rows_.fine(), pass.queries_again_, pass.all_kernels_, pass.along_);
  } else if (pass.rests_.codes != nullptr) {
    second_look_.emplace(pass.rows_, pass.queries_, pass.rests_, pass.all_kernels_, pass.along_);
  }
  for (const Question* const question : pass.block_.questions) {
    if (length_metric_ == Metric::kInnerProduct) length_metric_ = question->selection.metric;
  }
  active_.resize(pass.block_.size());
  if (pass.rows_.centre_codes() != nullptr) {
    to_reach_.resize(active_.size());
    to_reach_in_tile_.resize(active_.size());
    return;
  }
  if (pass.IsByQueries(round)) return;
  std::iota(active_.begin(), active_.end(), 0);
  Pack();
}

bool Int8Pass::TileWorker::Search(uint64_t first, uint64_t end) {
  if (pass_.rows_.centre_codes() == nullptr) {
    if (pass_.IsByQueries(round_)) {
      const uint64_t last = std::min<uint64_t>(end * pass_.QueriesTogether(), pass_.block_.size());
      active_.resize(last - first * pass_.QueriesTogether());
      std::iota(active_.begin(), active_.end(), first * pass_.QueriesTogether());
      pass_.kept_tiles_.empty() ? Seed() : SearchKept();
      return true;
    }
    if (claims_++ == 0 && pass_.rounds() == 1) {
      Seed();
      Pack();
    }
    if (!DropFinished(pass_.tile_at(first))) return false;
    const uint64_t step = pass_.whole_ != nullptr || !pass_.guesses_.empty() ? kTilesPerClaim : 1;
    for (uint64_t i = first; i < end; i += step) {
      const uint64_t t = pass_.tile_at(i);
      SearchTiles(t, t + std::min(step, end - i));
    }
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

void Int8Pass::TileWorker::SearchBall(uint64_t tile) {
  if (ChooseQueries(tile)) SearchTiles(tile, tile + 1);
}

void Int8Pass::TileWorker::SearchBalls(uint64_t first, uint64_t end) {
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

void Int8Pass::TileWorker::LookUpMerits() {
  for (uint32_t q = 0; q < to_reach_.size(); ++q) to_reach_[q] = pass_.MeritToReach(q);
  to_reach_in_tile_ = to_reach_;
}

bool Int8Pass::TileWorker::DropFinished(uint64_t tile) {
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
  if (kept_.has_value()) return true;
  const int columns = scratch_.scorer.columns();
  if (pass_.all_kernels_.Int8Columns(live_, pass_.rows_.code_dim()) >= columns - columns / 16) return true;
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

bool Int8Pass::TileWorker::ChooseQueries(uint64_t tile) {
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

void Int8Pass::TileWorker::SearchTiles(uint64_t first, uint64_t end) {
  Survivor* const survivors = scratch_.survivors.data();
  size_t count = 0, all_rows = 0;
  if (second_look_.has_value()) second_look_->Begin(pass_.rows_.tile(first), first);
  for (uint64_t t = first; t < end; ++t) {
    const int rows = pass_.rows_.tile(t).rows;
    const RowRun whole = {t, 0, rows};
    if (pass_.rows_.centre_codes() != nullptr) SeedQueries({&whole, 1}, /*guess=*/false);
    AskForScores(t);
    const RowTerms terms = TermsOf(t, t - first);
    if (second_look_.has_value()) {
      const RowsAlong along = pass_.along_.empty() ? RowsAlong{} : pass_.AllRows().along(t);
      second_look_->AddTile(pass_.rows_.tile(t), {scores_.data(), slopes_.data()}, terms.length, along);
    }
    const size_t before = count;
    count += SurvivorsOf(t, terms, survivors + count);
    if (!kept_.has_value()) scratch_.pairs_screened += rows * live_;
    all_rows += rows;
    const uint64_t rows_before = pass_.rows_.tile(t).first - pass_.rows_.tile(first).first;
    for (size_t i = before; i < count; ++i) {
      survivors[i].row += static_cast<uint16_t>(rows_before);
      if (pass_.whole_ != nullptr) second_look_->Fetch(survivors[i].row);
    }
  }
  count = TakeApart(first, count, merits_.data());
  // Rests spare rows their way from memory: where every row comes, float32 takes less, unless the queries'
  // does not stay in a cache either.
  const bool by_rests = pass_.whole_ == nullptr && pass_.rows_.fine() == nullptr;
  const bool is_dense = float32_look_.Serves(count) && count >= kManyPerRow * all_rows &&
                        pass_.rows_.code_dim() < kFewestDimsForRestsOfMany;
  if (count > 0 && second_look_.has_value() && !(by_rests && is_dense)) {
    count = second_look_->Keep({survivors, count}, scratch_);
  }
  const bool by_row = float32_look_.Serves(count);
  if (by_row) count = LookInFloat32(first, end, count);
  scratch_.pairs_checked += count;
  CheckSurvivors(first, count, by_row);
}

void Int8Pass::TileWorker::Pack() {
  Pack(pass_.kernels_[pass_.all_kernels_.Int8Columns(active_.size(), pass_.rows_.code_dim())]);
}

void Int8Pass::TileWorker::Pack(const TileMatmul* kernel, const Int8Codes& rows,
                                const EncodedQueries& queries) {
  const int dim = rows.code_dim();
  const int columns = pass_.all_kernels_.Int8Columns(active_.size(), dim);
  int8_t* const codes = scratch_.codes.Reserve(active_.size() * dim);
  for (size_t c = 0; c < active_.size(); ++c) {
    std::copy_n(queries.codes_of(active_[c]), dim, codes + c * dim);
    columns_.Set(c, queries[active_[c]]);
    if (pass_.along_.empty()) continue;
    along_[c] = pass_.along_[active_[c]];
    norms_[c] = pass_.block_.norms[active_[c]];
  }
  if (second_look_.has_value()) second_look_->Pack(active_);
  tile_look_.Forget();
  scratch_.scorer.Pack(kernel, columns, codes, static_cast<int>(active_.size()), dim);
  scratch_.int_thresholds.Reserve(columns + kScoresPadding);
  scratch_.survivors.Reserve(size_t{kTilesPerClaim} * Int8Codes::kTileRows * columns + kSurvivorPadding);
}

bool Int8Pass::TileWorker::IsByRow(uint64_t t) const { return pass_.rows_.is_deflated() || TellsLengths(t); }

RowTerms Int8Pass::TileWorker::TermsOf(uint64_t t, size_t i) {
  RowTerms terms = {kNoTerms.data(), kNoTerms.data()};
  if (!pass_.along_.empty()) terms.along = pass_.AllRows().along(t).more.data();
  if (!TellsLengths(t)) return terms;
  const RowLengths lengths = pass_.rows_.lengths(t);
  if (length_metric_ == Metric::kCosine) {
    terms.length = lengths.longer.data();
    return terms;
  }
  const size_t size = size_t{kTilesPerClaim} * Int8Codes::kTileRows;
  float* const squares = scratch_.length_terms.Reserve(size + kScoresPadding) + i * Int8Codes::kTileRows;
  // LengthTerm, rounded down.
  const float twice = static_cast<float>(2.0 * lengths.all.least * kDown);
  for (size_t r = 0; r < lengths.longer.size(); ++r) {
    const float longer = lengths.longer[r];
    squares[r] = std::min(longer * (twice + longer) * static_cast<float>(kDown), kMostFloat);
  }
  terms.length = squares;
  return terms;
}

std::array<float*, 3> Int8Pass::TileWorker::RoomForThresholds() {
  const size_t columns = scratch_.scorer.columns() + kScoresPadding;
  float* const base = scratch_.row_thresholds.Reserve(3 * columns);
  const std::array<float*, 3> by_row = {base, base + columns, base + 2 * columns};
  std::fill(base + active_.size(), base + columns, std::numeric_limits<float>::infinity());
  for (const int slopes : {1, 2}) std::fill(by_row[slopes] + active_.size(), by_row[slopes] + columns, 0.0f);
  return by_row;
}

void Int8Pass::TileWorker::AskForScores(uint64_t t) {
  if (pass_.rows_.centre_codes() != nullptr) {
    for (size_t c = 0; c < active_.size(); ++c) {
      if (centre_scores_[c] == kNotAsked) merits_[c] = kInfinity;
    }
  }
  if (pass_.inner_products()) {
    std::copy_n(merits_.begin(), active_.size(), scores_.begin());
    slopes_.fill(0.0);
    return;
  }
  const LengthRange lengths = Lengths(pass_.rows_.tile(t));
  for (size_t c = 0; c < active_.size(); ++c) {
    const Metric metric = pass_.block_.metric(active_[c]);
    const MeasuredQuery& query = pass_.block_.measured[active_[c]];
    scores_[c] = merits_[c] == kInfinity ? kInfinity : LeastDot(metric, merits_[c], query, lengths);
    const bool rises = metric == length_metric_ && std::isfinite(merits_[c]);
    slopes_[c] = rises ? LeastDotSlope(metric, merits_[c], query) : 0.0;
  }
}

const double* Int8Pass::TileWorker::ScoresOfCodes(uint64_t t) {
  const size_t columns = active_.size();
  if (pass_.rows_.is_deflated()) {
    std::copy_n(scores_.begin(), columns, rest_scores_.begin());
    LessAlong(along_.data(), norms_.data(), columns, pass_.rows_.along(t), pass_.rows_.axes().dim,
              pass_.rows_.tile(t).norm, rest_scores_.data());
    return rest_scores_.data();
  }
  if (pass_.rows_.centre_codes() == nullptr) return scores_.data();
  for (size_t c = 0; c < columns; ++c) rest_scores_[c] = LessCentre(scores_[c], centre_scores_[c]);
  return rest_scores_.data();
}

size_t Int8Pass::TileWorker::CollectTile(uint64_t t, const RowTerms& terms, Survivor* survivors) {
  const CodeTile& tile = pass_.rows_.tile(t);
  const double* const scores_of_codes = ScoresOfCodes(t);
  const int columns = scratch_.scorer.columns();
  if (IsByRow(t)) {
    const bool is_deflated = pass_.rows_.is_deflated();
    const RowsAlong along = is_deflated ? pass_.rows_.along(t) : RowsAlong{};
    const double most_along = (along.most - along.least) * kOutward;
    const double longest = TellsLengths(t) ? tile.norm - tile.least_norm : 0.0;
    const double most_length = LengthTerm(length_metric_, tile.least_norm, longest) * kOutward;
    for (size_t c = 0; c < active_.size(); ++c) along_slopes_[c] = is_deflated ? -along_[c] : 0.0;
    const auto [base, by_length, by_along] = RoomForThresholds();
    Int8ThresholdsByRow(columns_.Wanting(scores_of_codes),
                        {slopes_.data(), along_slopes_.data(), most_length, most_along},
                        static_cast<int>(active_.size()), tile.code_norm, tile.code_error, tile.scale,
                        {base, by_length, by_along});
    const ThresholdsByRow thresholds = {base, by_length, by_along};
    if (!kept_.has_value()) {
      return scratch_.scorer.Collect(pass_.rows_.codes(t), tile.rows, thresholds, terms, survivors);
    }
    return CollectSurvivors(KeptScores(*kept_, 0), tile.rows, columns, thresholds, terms, survivors);
  }
  int32_t* const thresholds = scratch_.int_thresholds.data();
  Int8Thresholds(columns_.Wanting(scores_of_codes), static_cast<int>(active_.size()), tile.code_norm,
                 tile.code_error, tile.scale, thresholds);
  std::fill(thresholds + active_.size(), thresholds + columns + kScoresPadding,
            std::numeric_limits<int32_t>::max());
  if (!kept_.has_value()) {
    return scratch_.scorer.Collect(pass_.rows_.codes(t), tile.rows, thresholds, survivors);
  }
  return CollectSurvivors(KeptScores(*kept_, 0), tile.rows, columns, thresholds, survivors);
}

void Int8Pass::TileWorker::AskOfTile(uint64_t tile) {
  if (pass_.inner_products()) return;  // they are these
  const LengthRange lengths = Lengths(pass_.rows_.tile(tile));
  for (size_t q = 0; q < to_reach_.size(); ++q) {
    if (to_reach_[q] == kInfinity) continue;
    to_reach_in_tile_[q] = LeastDot(pass_.block_.metric(q), to_reach_[q], pass_.block_.measured[q], lengths);
  }
}

bool Int8Pass::TileWorker::CentreCanReach(uint32_t q, uint64_t tile) {
  centres_[q] = CentreScore(q, tile);
  return pass_.balls_.BoundScore(q, tile, centres_[q]) >= to_reach_in_tile_[q];
}

double Int8Pass::TileWorker::CentreScore(uint32_t q, uint64_t tile) const {
  return pass_.CentreInterval(q, pass_.rows_.centre(tile)).upper;
}

size_t Int8Pass::TileWorker::TakeApart(uint64_t tile, size_t count, const double* merits) {
  const Supports* const supports = pass_.supports();
  if (supports == nullptr) return count;
  // Of others that score 0, bounds rule out most.
  std::array<bool, kMaxColumns> may_be_hit;
  std::array<std::optional<Hit>, kMaxColumns> worst;
  bool any = false;
  for (size_t c = 0; c < active_.size(); ++c) {
    may_be_hit[c] = merits[c] <= 0.0 && pass_.KnowsMeritsApart(active_[c]);
    if (may_be_hit[c]) worst[c] = pass_.block_.best(active_[c]).WorstOfBest();
    any = any || may_be_hit[c];
  }
  if (!any) return count;
  const size_t words = supports->words();
  if (query_supports_.empty()) {
    query_supports_.resize(pass_.block_.size() * words);
    for (size_t q = 0; q < pass_.block_.size(); ++q) {
      Supports::Find(pass_.block_.exact[q].elements, query_supports_.data() + q * words);
    }
  }
  Survivor* const survivors = scratch_.survivors.data();
  size_t left = 0;
  for (size_t i = 0; i < count; ++i) {
    const Survivor survivor = survivors[i];
    const uint32_t q = active_[survivor.column];
    const uint64_t id = pass_.rows_.id(tile, survivor.row);
    if (may_be_hit[survivor.column] && supports->IsApart(id, query_supports_.data() + q * words)) {
      checks_.AddApart(q, id, worst[survivor.column]);
    } else {
      survivors[left++] = survivor;
    }
  }
  return left;
}

void Int8Pass::TileWorker::CheckSurvivors(uint64_t tile, size_t count, bool by_row, bool resolve_all) {
  if (!by_row && count > kManyPerQuery * active_.size() && active_.size() > 1) {
    SortSurvivors<kMaxColumns>({scratch_.survivors.data(), count}, scratch_.sorted,
                               [](const Survivor& s) { return s.column; });
  }
  for (size_t i = 0; i < count; ++i) {
    const Survivor survivor = scratch_.survivors.data()[i];
    const uint32_t q = active_[survivor.column];
    const bool resolve = resolve_all || (by_row && pass_.block_.question(q).top_k >= kFewestToResolve) ||
                         (!pass_.guesses_.empty() && pass_.guesses_[q].resolve_at_once);
    checks_.Add(q, pass_.rows_.id(tile, survivor.row), resolve);
  }
}

LengthRange Int8Pass::TileWorker::LengthsOfRow(uint64_t tile, uint64_t row, const LengthRange& of_all) const {
  while (row >= static_cast<uint64_t>(pass_.rows_.tile(tile).rows)) row -= pass_.rows_.tile(tile++).rows;
  const auto [all, longer] = pass_.rows_.lengths(tile);
  return longer.empty() ? of_all : LengthRange{all.least + longer[row], of_all.most};
}

size_t Int8Pass::TileWorker::LookInFloat32(uint64_t first, uint64_t end, size_t count) {
  LengthRange lengths = Lengths(pass_.rows_.tile(first));
  for (uint64_t t = first + 1; t < end; ++t) {
    const LengthRange next = Lengths(pass_.rows_.tile(t));
    lengths = {std::min(lengths.least, next.least), std::max(lengths.most, next.most)};
  }
  const auto id = [&](int row) { return pass_.rows_.id(first, row); };
  const auto score = [&](uint32_t q, int row) {
    const Metric metric = pass_.block_.metric(q);
    const LengthRange own = metric == Metric::kInnerProduct ? lengths : LengthsOfRow(first, row, lengths);
    return LeastDot(metric, pass_.MeritToReach(q), pass_.block_.measured[q], own);
  };
  return float32_look_.Keep({scratch_.survivors.data(), count}, active_, lengths.most, id, score, scratch_);
}

size_t Int8Pass::TileWorker::SurvivorsOf(uint64_t t, const RowTerms& terms, Survivor* survivors) {
  const CodeTile& tile = pass_.rows_.tile(t);
  const size_t rows = tile.rows;
  const bool may_look = !second_look_.has_value(), at_once = may_look && tile_look_.ServesAtOnce();
  const auto by_codes = [&] {
    const size_t left = CollectTile(t, terms, survivors);
    scratch_.pairs_survived += left;
    return left;
  };
  const size_t count = at_once ? rows * live_ : by_codes();
  if (count * kManyOfTile >= rows * live_ && SeedByLength(t)) AskForScores(t);
  if (!at_once && !(may_look && tile_look_.Serves(count, rows, live_))) return count;

  Survivor* const found = scratch_.sorted.Reserve(rows * active_.size());
  const std::optional<size_t> left =
      tile_look_.Collect(active_, {pass_.rows_.ids(t), Lengths(tile)},
                         {length_metric_, scores_.data(), slopes_.data()}, count, found);
  if (!left.has_value()) return at_once ? by_codes() : count;
  scratch_.pairs_survived += at_once ? *left : 0;
  if (!kept_.has_value()) return std::copy_n(found, *left, survivors) - survivors;
  const int32_t* const scores = KeptScores(*kept_, 0);
  const auto is_struck_out = [&](const Survivor& s) {
    return scores[size_t{s.row} * scratch_.scorer.columns() + s.column] == kStruckOut;
  };
  return std::remove_copy_if(found, found + *left, survivors, is_struck_out) - survivors;
}

}  // namespace dotmax
