// The int8 screen: u8 · s8 products of codes. Rows by norm: queries that no later tile can serve leave the
// block, which is packed anew. Rows in balls: every query begins with its nearest tiles, and each other tile
// takes the queries that its ball cannot rule out.
#ifndef DOTMAX_SERVER_ENGINE_INT8_PASS_H_
#define DOTMAX_SERVER_ENGINE_INT8_PASS_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <memory>
#include <optional>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/types/span.h"
#include "server/engine/balls.h"
#include "server/engine/bound.h"
#include "server/engine/encode.h"
#include "server/engine/float32_look.h"
#include "server/engine/pass.h"
#include "server/engine/quantize.h"
#include "server/engine/second_look.h"
#include "server/engine/seeds.h"
#include "server/engine/tile_look.h"

namespace dotmax {

class Int8Pass final : public Pass {
 public:
  // `kernels` by width, as far as the block needs, null for one of our own. `whole`: what `rows` are the head
  // of, for a second look, or null.
  Int8Pass(const MatrixView& base, const Copies* copies, const Supports* supports, const Int8Codes& rows,
           const Int8Codes* whole, const QueryBlock& block, const PassBuffers& buffers,
           KernelByColumns kernels, Balls balls, EncodedBlock encoded);

 private:
  // Queries are seeded so many at a time by a worker, kTilesPerClaim times over.
  static constexpr size_t kSeededTogether = 16;
  // Most tiles of near rows are left out, so more of them make a claim. Thresholds hardly rise any more after
  // the first round: queries are chosen by those at the beginning of a claim.
  static constexpr uint64_t kBallsTogether = 4;

  class TileWorker final : public Worker {
   public:
    TileWorker(Int8Pass& pass, int round, Scratch& scratch, PairScorer& scorer);

    bool Search(uint64_t first, uint64_t end) override;

   private:
    void SearchBall(uint64_t tile);
    void SearchBalls(uint64_t first, uint64_t end);

    // As of now, for a few tiles: other workers keep raising them.
    void LookUpMerits();

    // Lets go of queries that neither this tile nor a later one can serve; false if none is left. Their
    // columns stay, with merits out of reach, until packing anew saves more than it costs.
    bool DropFinished(uint64_t tile);

    // Of the queries, those that a tile of near rows may serve; false if there are none.
    bool ChooseQueries(uint64_t tile);

    // At most kTilesPerClaim tiles, side by side: what survives a head's codes has the others on their way
    // while the next tiles are screened.
    void SearchTiles(uint64_t first, uint64_t end);

    // Of a row, counted from a tile's first, if they are known better than those of all.
    LengthRange LengthsOfRow(uint64_t tile, uint64_t row, const LengthRange& of_all) const;

    // Of the first `count` survivors, those that a look in float32 leaves, moved to the front by row: how
    // many.
    size_t LookInFloat32(uint64_t first, uint64_t end, size_t count);

    // The active queries for the scorer, by the pass's kernels, or another, and for their codes, or others.
    void Pack();
    void Pack(const TileMatmul* kernel) { Pack(kernel, pass_.rows_, pass_.queries_); }
    void Pack(const TileMatmul* kernel, const Int8Codes& rows, const EncodedQueries& queries);

    // The active queries' thresholds before any tile is searched.
    void Seed();

    // The active queries in the tiles whose scores are kept: about the k rows of the highest merits are
    // checked first, for good (false: all have stopped), and then what else reaches the thresholds that these
    // prove.
    void SearchKept();
    // `floors`: by column, about the least merit of a hit, as AboutMerit has it; −infinity without a range.
    bool SeedByKept(const double* floors);
    // Whether the ranges hold about as many rows as are wanted: else these tell more than what is best.
    bool GainsByKept(const double* floors);
    double AboutFloor(size_t c) const;
    // How many of a query's best rows it takes to have top_k hits.
    uint64_t BestToScore(uint32_t q) const;

    // All queries have one metric here. About the merit of a row is (score − offset)·scale − less·(what
    // merits weigh for the query of a column), but for what is the same for all rows.
    struct AboutMerit {
      double scale, less;
    };
    AboutMerit MeritOf(const CodeTile& tile, double length) const;
    // Of a tile's rows; if their lengths are told apart, of its shortest.
    AboutMerit MeritOf(uint64_t t) const;
    // What codes of the tile's rows score that have about this merit; and those that do, of some of its rows.
    ThresholdsByRow SetAboutByRow(uint64_t t, const AboutMerit& merit, const double* about,
                                  absl::FunctionRef<float(float base)> rounded);
    struct AboutThresholds {
      ThresholdsByRow by_row = {};  // null where rows are not told apart: integers are set
      RowTerms terms = {};
    };
    AboutThresholds SetAboutThresholds(uint64_t t, const double* about);
    size_t CollectAbout(const int32_t* scores, int first, int rows, const AboutThresholds& about);
    // About the largest merits of groups of so many rows of the i-th kept tile (LargestOfGroup).
    void LargestOfGroups(size_t i, int each, size_t stride, float* largest);

    // Whether a tile's rows are told apart, by their lengths or by what is added to their scores.
    bool IsByRow(uint64_t t) const;
    // By what, of the i-th of the tiles that are searched; and room for thresholds for the active queries,
    // with none for what follows these.
    RowTerms TermsOf(uint64_t t, size_t i);
    std::array<float*, 3> RoomForThresholds();

    // What has been checked has this score.
    static constexpr int32_t kStruckOut = std::numeric_limits<int32_t>::min();
    // Those of the i-th kept tile from a row on.
    int32_t* KeptScores(size_t i, int row) const {
      const size_t columns = scratch_.scorer.columns();
      return scratch_.kept_scores.data() + (pass_.kept_tiles_[i].rows_before + row) * columns;
    }

    // For the nearest rows: what some rows of about a query's own length prove, once, if the rows' lengths
    // are most of what tells them apart. Then each tile from the longest rows on has nearer ones than all
    // before. Whether thresholds may have changed.
    bool SeedByLength(uint64_t tile);

    bool WantsSeeds(uint32_t q, bool guess) const;

    // The active queries that know nothing yet, and guess or don't, see the scores of some rows first: what
    // the best of these score at least is their threshold.
    void SeedQueries(absl::Span<const RowRun> runs, bool guess);

    // What the first `count` of `keys` score at least; their rows' lengths are ≤ norm.
    double LeastOfSeeds(uint32_t q, std::vector<uint64_t>& keys, size_t count, double norm);

    // For the one best hit: what scores highest in the run.
    void SeedByBest(const Int8Codes& rows, const RowRun& run, const SeedColumns& columns,
                    const std::array<bool, kMaxColumns>& seeded);

    // A tile's pairs that are not ruled out by codes, or, where these do little, by a look at all of them.
    size_t SurvivorsOf(uint64_t t, const RowTerms& terms, Survivor* survivors);
    size_t CollectTile(uint64_t t, const RowTerms& terms, Survivor* survivors);

    // What inner products with rows of a tile must reach for the shortest one, and, in `slopes_`, how that
    // rises by row, where rows differ so much in length that this is of no use for others.
    void AskForScores(uint64_t t);
    // Whether it rises by row.
    bool TellsLengths(uint64_t t) const {
      return !pass_.inner_products() && !pass_.rows_.lengths(t).longer.empty();
    }
    // The same of inner products of codes, where some of a score is known.
    const double* ScoresOfCodes(uint64_t t);

    // The inner products that queries need for the merits that they have to reach, in a tile.
    void AskOfTile(uint64_t tile);

    // The bound again, without the error of the centre's code: half of what is close goes. Keeps a·centre.
    bool CentreCanReach(uint32_t q, uint64_t tile);

    // At least a·centre, on the query's scale.
    double CentreScore(uint32_t q, uint64_t tile) const;

    // Takes those pairs out of the survivors of tiles from one on that have nothing in common, and offers
    // them, for queries of whose merits to reach, by column, that may be one; returns how many are left, in
    // order.
    size_t TakeApart(uint64_t tile, size_t count, const double* merits);

    // Those of tiles from one on. `by_row`: they are in that order, and better left there; `resolve_all`:
    // nearly all are hits.
    void CheckSurvivors(uint64_t tile, size_t count, bool by_row, bool resolve_all = false);

    Int8Pass& pass_;
    const int round_;
    Scratch& scratch_;
    uint64_t claims_ = 0;
    // By query of the block.
    std::vector<uint64_t> query_supports_;     // once they are needed
    std::vector<double> to_reach_;             // merits, as of some claims ago
    std::vector<double> to_reach_in_tile_;     // inner products, for these
    std::array<double, kMaxColumns> bounds_;   // of those in the tile
    std::array<double, kMaxColumns> centres_;  // a·centre of the tile
    std::array<bool, kMaxColumns> seeded_by_length_ = {};
    size_t live_ = 0;               // those of `active_` that are not finished
    std::vector<uint32_t> active_;  // the queries of the block by column
    std::vector<uint32_t> packed_;  // those that were packed last, for a tile of near rows
    // By column, too.
    std::array<double, kMaxColumns> merits_;                        // to reach
    std::array<double, kMaxColumns> scores_;                        // that rows of the tile need for that
    std::array<double, kMaxColumns> centre_scores_;                 // a·centre of the tile
    std::array<double, kMaxColumns> along_, norms_, along_slopes_;  // if rows are deflated
    std::array<double, kMaxColumns> rest_scores_;    // what is left for b − centre, or for a'·b'
    std::array<double, kMaxColumns> merit_weights_;  // see AboutMerit
    std::array<double, kMaxColumns> slopes_;         // LeastDotSlope
    Metric length_metric_ = Metric::kInnerProduct;   // whose slopes are not 0
    QueryColumns columns_;
    std::optional<size_t> kept_;  // which of the kept tiles is searched, if one is
    std::optional<SecondLook> second_look_;
    const Float32Look float32_look_;
    TileLook tile_look_;
    Checks checks_;
  };

  std::unique_ptr<Worker> MakeWorker(int round, Scratch& scratch, PairScorer& scorer) override;
  uint64_t tiles(int round) const override;
  // In balls: a query's nearest tiles, then the others. By norm: kept scores, then the tiles without; or
  // seeds, if they are worth sharing, then all.
  int rounds() const override;
  // Whether all queries want the best of all of them.
  bool IsGlobal() const;
  // Whether a round's units of work are groups of queries, not tiles, and how many these are.
  bool IsByQueries(int round) const;
  size_t QueriesTogether() const;
  // The i-th of those that the last round searches.
  uint64_t tile_at(uint64_t i) const { return kept_tiles_.empty() ? i : other_tiles_[i]; }
  // The tiles all of whose scores a worker keeps for its queries: first to see which are about the best, then
  // for what comes close to these. All, if they are few, or some, to prove thresholds by for the others.
  struct KeptTile {
    uint64_t tile;
    uint64_t rows_before;  // in kept tiles
  };
  std::vector<KeptTile> TilesToKeep() const;
  bool MayKeepScores() const;
  bool Guesses(uint32_t q) const { return !guesses_.empty() && guesses_[q].rank > 0; }
  const TileMatmul* KernelOfRuns(size_t queries) const;
  // Of the runs of rows that thresholds are guessed or proved by: oneDNN's kernels take whole tiles.
  int RunRows() const;

  // a·centre, on the query's scale.
  Interval CentreInterval(size_t q, const float* centre) const;

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
  const std::vector<double> along_;     // see EncodedBlock
  const size_t workers_;
  // By norm: the tiles whose scores are kept, and the others; if there are none of the first, not said.
  std::vector<KeptTile> kept_tiles_;
  std::vector<uint64_t> other_tiles_;
  std::vector<RowRun> sample_;  // empty: all are proved
  std::vector<Guess> guesses_;  // by query; empty likewise
};

}  // namespace dotmax

#endif  // DOTMAX_SERVER_ENGINE_INT8_PASS_H_
