// One block of queries on its pass over a matrix: what the screens have in common.
#ifndef DOTMAX_SERVER_ENGINE_PASS_H_
#define DOTMAX_SERVER_ENGINE_PASS_H_

#include <algorithm>
#include <array>
#include <atomic>
#include <bit>
#include <cstdint>
#include <deque>
#include <functional>
#include <limits>
#include <map>
#include <memory>
#include <optional>
#include <tuple>
#include <utility>
#include <vector>

#include "absl/algorithm/container.h"
#include "absl/base/thread_annotations.h"
#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "server/base/searcher.h"
#include "server/base/types.h"
#include "server/engine/aligned.h"
#include "server/engine/amx.h"
#include "server/engine/bound.h"
#include "server/engine/code_kernel.h"
#include "server/engine/copies.h"
#include "server/engine/exact.h"
#include "server/engine/matrix.h"
#include "server/engine/measure.h"
#include "server/engine/reduce.h"
#include "server/engine/scorer.h"
#include "server/engine/supports.h"
#include "server/engine/tile.h"
#include "server/engine/topk.h"
#include "server/engine/workers.h"

namespace dotmax {

// Whether a question is still wanted, asked between tiles on any worker: once it is not, it ends with this
// status. Thread-safe.
using Stop = absl::FunctionRef<absl::Status(absl::Time now)>;

// The largest block: beyond this, kernels gain nothing.
inline constexpr int kMaxColumns = 256;

// Tiles that a worker claims at once; between claims it asks whether to stop. A tile takes from 1 µs (1
// query) to 100 µs (256 queries of dim 256).
inline constexpr uint64_t kTilesPerClaim = 4;

// The width of a block of 1 ≤ queries ≤ kMaxColumns: oneDNN's kernels are compiled for a few.
int PaddedColumns(size_t queries);

// Whether there is a kernel for codes whose sums are exact here.
bool HasInt8Kernel();

// Kernels, made when first asked for and kept. Not thread-safe.
class Kernels {
 public:
  absl::StatusOr<const TileMatmul*> Get(TileKind kind, int rows, int dim, int columns);
  // For a tile of codes: oneDNN's kernel, or null for one of our own where it is faster. Where both can be,
  // they are tried out on the first `codes` of a code_dim.
  absl::StatusOr<const TileMatmul*> GetInt8(const Int8Codes& codes, int columns);
  // The width of a block of codes for so many queries.
  int Int8Columns(size_t queries, int code_dim) const;
  // Of our own for codes, which serves if it exists.
  const CodeKernel& own() const { return own_; }
  bool has_own() const { return own_.exists(); }

 private:
  const CodeKernel own_;
  const bool has_amx_ = HasAmxKernel();
  std::map<std::tuple<TileKind, int, int, int>, std::unique_ptr<const TileMatmul>> made_;
  std::map<std::pair<int, int>, const TileMatmul*> int8_;  // by code_dim and columns
};

// Null for one of our own.
using KernelByColumns = std::array<const TileMatmul*, kMaxColumns + 1>;

// The merit of the correctly rounded score of a query and a row where it lies, of a length ≤ `longest`.
double ExactMerit(Metric metric, const ExactQuery& query, const std::byte* row, DType dtype, double longest);

// What the queries of one question have in common. All that it refers to outlives it.
struct Question {
  Question(const MatrixView& its_queries, const Selection& its_selection, uint32_t kept, bool may_guess,
           Stop its_stop)
      : queries(its_queries),
        selection(its_selection),
        top_k(kept),
        guess(may_guess),
        all_are_hits(selection.excluded_splits.empty() && selection.self == Selection::Self::kAll),
        stop(its_stop) {}

  // Whether the caller leaves in a query row's pair with a row.
  bool IsHit(uint64_t query_row, uint64_t id) const { return all_are_hits || IsSelected(query_row, id); }
  // How many rows at most are no hits of a query row, where that is known.
  std::optional<uint64_t> Excluded(uint64_t query_row) const {
    if (selection.self == Selection::Self::kOnce) return std::nullopt;
    const std::vector<uint64_t>& splits = selection.excluded_splits;
    const uint64_t listed = splits.empty() ? 0 : splits[query_row + 1] - splits[query_row];
    return listed + (selection.self == Selection::Self::kNotItself ? 1 : 0);
  }

  const MatrixView& queries;  // all its query rows
  const Selection& selection;
  const uint32_t top_k;     // that its TopKs keep, which may be more than are asked for
  const bool guess;         // whether thresholds may be guessed: the caller asks whether guesses hold
  const bool all_are_hits;  // without a look at what is excluded
  const Stop stop;
  absl::Status status;  // why it was stopped, if it was; its queries are withdrawn

 private:
  bool IsSelected(uint64_t query_row, uint64_t id) const;
};

// A query row, and where its hits go.
struct BlockQuery {
  Question* question;
  uint64_t row;  // of question->queries
  TopK* best;    // the question's other queries' as well for Reduction::kGlobal
};

// That of any pair of questions' queries and rows of a matrix. Not thread-safe.
class PairScorer {
 public:
  // `longest` ≥ the length of any row of the base: where that is not known, scoring takes longer.
  explicit PairScorer(const MatrixView& base, double longest = kUnknownLength)
      : base_(base), longest_(longest) {}

  // Whose query rows are meant from now on.
  PairScorer& Of(const Question& question);
  double operator()(uint64_t query_row, uint64_t id) const;
  // Asks for a row of the base that is soon to be scored.
  void Fetch(uint64_t id) const;

 private:
  const MatrixView& base_;
  const double longest_;
  const Question* question_ = nullptr;
  // The query row that was scored last: most calls come for the same again.
  mutable uint64_t query_row_ = UINT64_MAX;
  mutable std::vector<double> elements_;
  mutable std::optional<ExactQuery> query_;  // of these
};

// What one worker needs of its own for a pass; kept from one pass to the next.
struct Scratch {
  AlignedArray<float> tile;
  AlignedArray<std::byte> matmul;
  AlignedArray<float> float_scores, float_thresholds;
  CodeScorer scorer;
  AlignedArray<int32_t> int_thresholds, scores_again, rest_scores, kept_scores;
  AlignedArray<float> largest_of_groups, row_thresholds, length_terms;
  AlignedArray<double> look_queries, look_rows;
  AlignedArray<int8_t> codes;
  AlignedArray<Survivor> survivors, sorted;
  LargestScores largest;
  std::vector<std::vector<uint64_t>> seeds;  // SeedKey's, by query
  uint64_t pairs_screened = 0;
  uint64_t pairs_survived = 0;
  uint64_t pairs_checked = 0;
  uint64_t pairs_rescored = 0;
};

// A block of queries as the screens want them.
struct QueryBlock {
  size_t size() const { return queries.size(); }
  uint32_t dim() const { return question(0).queries.dim; }
  const Question& question(size_t q) const { return *queries[q].question; }
  Metric metric(size_t q) const { return question(q).selection.metric; }
  TopK& best(size_t q) const { return *queries[q].best; }

  absl::Span<const BlockQuery> queries;  // those of a question side by side
  absl::Span<Question* const> questions;
  absl::Span<const ExactQuery> exact;  // in float64
  const float* scaled;                 // in float32, divided by 2^exponents[i]
  absl::Span<const int> exponents;
  absl::Span<const double> norms;  // upper bounds of the lengths of the scaled queries
  absl::Span<const MeasuredQuery> measured;
  absl::Span<const double> squares;  // float64 sums of the queries' own squares, unless beyond float64
};

// Everything about a pass that is reused by the next one, and who prepares it. Not thread-safe.
class PassBuffers {
 public:
  // By `workers`, which outlive this, or by the caller alone.
  explicit PassBuffers(Workers* workers = nullptr) : workers_(workers) {}

  // At least one query; those of a question are side by side. `unit`: the base's. Valid until the next call;
  // `queries` outlives it.
  QueryBlock Prepare(absl::Span<const BlockQuery> queries, double unit = 0.0);

  Kernels kernels;
  AlignedArray<float> projected, seen;
  AlignedArray<std::byte> packed;
  AlignedArray<int8_t> codes, codes_again, rest_codes;
  AlignedArray<double> ball_centres;

  // Of a part of a block: for its projection, and the centres of balls.
  struct Part {
    AlignedArray<float> queries, by_axis;
    AlignedArray<std::byte> packed, scratch;
    CodeScorer scorer;
  };
  std::deque<Part> parts;

  size_t workers() const { return workers_ != nullptr ? workers_->count() : 1; }

  // Calls job(part, first, end) for parts of [0, queries), all at once; PartSize is the largest's.
  void InParts(size_t queries, absl::FunctionRef<void(size_t part, size_t first, size_t end)> job);
  size_t PartSize(size_t queries) const;

  // Memory for candidates that was kept from another pass, if there is any: for many hits, that of the system
  // takes as long as they do.
  std::vector<Candidate> CandidateRoom();
  // At most kMostRoomBytes in all are kept.
  void KeepRoom(std::vector<Candidate> room);

 private:
  static constexpr size_t kMostRoomBytes = 32 << 20;

  Workers* const workers_;
  std::vector<std::vector<Candidate>> rooms_;
  size_t room_bytes_ = 0;
  AlignedArray<double> wide_;
  AlignedArray<float> scaled_;
  std::vector<int> exponents_;
  std::vector<double> norms_;
  std::vector<ExactQuery> exact_;
  std::vector<MeasuredQuery> measured_;
  std::vector<double> squares_;
  std::vector<Question*> questions_;
};

// Keys that sort as (score, place) do.
inline uint64_t SeedKey(float score, uint32_t place) {
  const uint32_t bits = std::bit_cast<uint32_t>(score);
  return static_cast<uint64_t>(bits ^ (bits >> 31 != 0 ? UINT32_MAX : uint32_t{1} << 31)) << 32 | place;
}
// The score of a key.
inline float SeedScore(uint64_t key) {
  const uint32_t bits = static_cast<uint32_t>(key >> 32);
  return std::bit_cast<float>(bits >> 31 != 0 ? bits ^ (uint32_t{1} << 31) : ~bits);
}
inline void KeepLargest(std::vector<uint64_t>& keys, size_t count) {
  if (keys.size() <= count) return;
  std::nth_element(keys.begin(), keys.begin() + (count - 1), keys.end(), std::greater<>());
  keys.resize(count);
}

// Shared by the workers; each calls Work once a round.
class Pass {
 public:
  // All that is given outlives the pass; `longest` ≥ the length of any row of the base; `copies`: of rows
  // that are not searched for themselves, or null; `supports`: of all rows, or null or empty.
  Pass(const MatrixView& base, const Copies* copies, const Supports* supports, double longest,
       const QueryBlock& block)
      : base_(base),
        block_(block),
        copies_(copies),
        supports_(supports != nullptr && !supports->empty() ? supports : nullptr),
        longest_(longest),
        all_are_hits_(absl::c_all_of(block.questions, [](const Question* q) { return q->all_are_hits; })),
        inner_products_(absl::c_all_of(
            block.questions, [](const Question* q) { return q->selection.metric == Metric::kInnerProduct; })),
        products_are_exact_(
            base.dtype != DType::kFloat64 &&
            absl::c_none_of(block.questions,
                            [](const Question* q) { return q->queries.dtype == DType::kFloat64; })),
        check_error_(base.dim),
        distance_error_(base.dim),
        cosine_interval_(base.dim, DType::kFloat32, base.dtype),
        float64_cosine_interval_(base.dim, DType::kFloat64, base.dtype),
        running_(block.questions.size()) {}
  virtual ~Pass() = default;

  static constexpr int kMaxRounds = 2;
  // A pass takes so many rounds over all tiles; every worker ends one before any begins the next.
  virtual int rounds() const { return 1; }
  // One worker's share of a round: claims tiles until none are left. Between claims it asks each question
  // whether to stop: one that does withdraws its queries, and the last one ends the pass.
  void Work(int round, Scratch& scratch);

 protected:
  // A worker's own state, with the search of a tile.
  class Worker {
   public:
    virtual ~Worker() = default;
    // Searches tiles [first, end), at most kTilesPerClaim. False if no later tile can hold a hit.
    virtual bool Search(uint64_t first, uint64_t end) = 0;
  };
  virtual std::unique_ptr<Worker> MakeWorker(int round, Scratch& scratch, PairScorer& scorer) = 0;
  // How many units of work, tiles or whatever Search takes, there are in a round.
  virtual uint64_t tiles(int round) const = 0;
  // Asks each question whether to stop: whether all of them do. For workers, at least once per kTilesPerClaim
  // tiles.
  bool Stopped();

  // Query `q` of the block · `row`, in float64: both ends infinite when that overflows.
  Interval DotInterval(size_t q, const std::byte* row, DType dtype) const;

  // Whether query `q` of the block may have row `id` for a hit.
  bool IsHit(size_t q, uint64_t id) const { return block_.question(q).IsHit(block_.queries[q].row, id); }

  bool all_are_hits() const { return all_are_hits_; }
  // Null unless it is worth knowing.
  const Supports* supports() const { return supports_; }
  // Whether a query's merits are known with rows that it shares no element that is not 0 with, and what they
  // are: 0, or, where float64 holds that, less than 0 by both sums of squares.
  bool KnowsMeritsApart(size_t q) const {
    const Metric metric = block_.metric(q);
    return metric != Metric::kSquaredEuclidean || AddsUpExactly(metric, block_.exact[q], longest_);
  }
  double MeritApart(size_t q, uint64_t id) const {
    if (block_.metric(q) != Metric::kSquaredEuclidean) return 0.0;
    return MeritOf(Metric::kSquaredEuclidean, block_.squares[q] + supports_->squares(id));
  }
  // Whether no question has another metric than kInnerProduct.
  bool inner_products() const { return inner_products_; }

  // Level two: the merit of query `q` of the block and row `id`, over the caller's own numbers.
  Candidate Check(size_t q, uint64_t id) const {
    const Interval merit = block_.metric(q) == Metric::kInnerProduct
                               ? DotInterval(q, base_.row(id), base_.dtype)
                               : MeritInterval(q, base_.row(id));
    return {merit.lower, merit.upper, block_.queries[q].row, id};
  }

  // The same, resolved: then the row need not be fetched again.
  Candidate Resolve(size_t q, uint64_t id) const;
  // Whether that takes no longer.
  bool ResolvesAsFast(size_t q) const {
    return (products_are_exact_ && block_.metric(q) == Metric::kInnerProduct) ||
           AddsUpExactly(block_.metric(q), block_.exact[q], longest_);
  }

  // A query's merit to reach, before it is rounded to a score.
  double LeastMerit(size_t q) const {
    const double merit = block_.best(q).threshold();
    // Sums of products that a float64 holds are 0 or far from where it runs out, and other metrics' screens
    // leave room for that.
    if (products_are_exact_ || block_.metric(q) != Metric::kInnerProduct) return merit;
    return LeastRoundedTo(merit);
  }
  // The same, on the screens' scale.
  double MeritToReach(size_t q) const {
    return ScaledMerit(block_.metric(q), LeastMerit(q), block_.measured[q].unit);
  }

  // A query that knows nothing yet tries the top_k rows that `keys` name, by screened merit, and raises its
  // threshold to what they prove. Without this, the whole first tile would survive. All of them may be hits.
  template <typename IdOf>
  void Seed(size_t q, std::vector<uint64_t>& keys, IdOf id_of) const {
    const uint32_t top_k = block_.question(q).top_k;
    if (keys.size() >= top_k) block_.best(q).RaiseThreshold(LeastOf(q, keys, top_k, id_of));
  }

  // What the first `count` of `keys` score at least.
  template <typename IdOf>
  double LeastOf(size_t q, std::vector<uint64_t>& keys, size_t count, IdOf id_of) const {
    KeepLargest(keys, count);
    double least = std::numeric_limits<double>::infinity();
    for (const uint64_t key : keys)
      least = std::min(least, Check(q, id_of(static_cast<uint32_t>(key))).lower);
    return least;
  }

  // One worker's pairs that are to be checked: they wait in line while their rows come from memory.
  class Checks {
   public:
    Checks(const Pass& pass, Scratch& scratch, PairScorer& scorer)
        : pass_(pass), scratch_(scratch), scorer_(scorer) {}

    // Query `q` of the block and row `id`, with its copies, unless none is a hit; `resolve`: at once.
    void Add(uint32_t q, uint64_t id, bool resolve);
    // The same with a row that the query has nothing in common with, which KnowsMeritsApart; `worst` as of
    // lately.
    void AddApart(uint32_t q, uint64_t id, const std::optional<Hit>& worst);
    // Checks those that still wait.
    void Finish();

   private:
    // A row comes from anywhere in memory: so many are on their way while one is checked.
    static constexpr size_t kInFlight = 16;
    // So many of a query's pairs are kept at once, where there are that many side by side.
    static constexpr size_t kOfferedTogether = 16;
    struct Waiting {
      uint32_t query;
      bool resolve;
      uint64_t id;
    };

    void Check(const Waiting& pair);
    // For itself and for copies of row candidate.id, those that are hits.
    void FoundAll(uint32_t q, Candidate candidate);
    void Found(const Candidate& candidate);
    void OfferFound();

    const Pass& pass_;
    Scratch& scratch_;
    PairScorer& scorer_;
    std::array<Waiting, kInFlight> waiting_;
    size_t arrived_ = 0;
    std::array<Candidate, kOfferedTogether> found_;  // of one query
    size_t found_count_ = 0;
    uint32_t found_query_ = 0;
  };

  const MatrixView& base_;
  const QueryBlock& block_;

 private:
  Interval MeritInterval(size_t q, const std::byte* row) const;

  absl::Span<const uint32_t> CopiesOf(uint64_t id) const {
    return copies_ != nullptr ? copies_->of(id) : absl::Span<const uint32_t>();
  }

  const Copies* const copies_;
  const Supports* const supports_;
  const double longest_;
  const bool all_are_hits_, inner_products_;
  // Whether a float64 holds all products of queries and rows, or centres of rows: then only zeros add up to
  // nothing, which is worth knowing of sparse rows, many of which score 0 with a query.
  const bool products_are_exact_;
  const Float64DotError check_error_;
  const Float64DistanceError distance_error_;
  const Float64CosineInterval cosine_interval_, float64_cosine_interval_;  // by the query's dtype
  std::array<std::atomic<uint64_t>, kMaxRounds> next_tile_ = {};           // by round
  std::atomic<bool> stopped_{false};
  absl::Mutex mutex_;
  size_t running_ ABSL_GUARDED_BY(mutex_);  // questions that have not been stopped
};

// By the float32 screen of a matrix, and by codes of its rows (all of them but for copies, or a sample to
// measure with).
absl::StatusOr<std::unique_ptr<Pass>> MakeFloat32Pass(const Matrix& matrix, const QueryBlock& block,
                                                      PassBuffers& buffers);
absl::StatusOr<std::unique_ptr<Pass>> MakeInt8Pass(const MatrixView& base, const Int8Codes& codes,
                                                   const Copies* copies, const Supports* supports,
                                                   const QueryBlock& block, PassBuffers& buffers);

}  // namespace dotmax

#endif  // DOTMAX_SERVER_ENGINE_PASS_H_
