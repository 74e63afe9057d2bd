// The seam between those who receive questions (rpc) and those who answer them (batch over engine, or
// remote shards): one interface, so that any of them can stand behind any other.
#ifndef DOTMAX_SERVER_BASE_SEARCHER_H_
#define DOTMAX_SERVER_BASE_SEARCHER_H_

#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/functional/any_invocable.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "server/base/row_names.h"
#include "server/base/types.h"

namespace dotmax {

// Which pairs are hits, and how many of them are wanted.
struct Selection {
  uint32_t top_k = 1;  // ≥ 1, but for count_only
  Reduction reduction = Reduction::kPerRow;
  Metric metric = Metric::kInnerProduct;

  // Only scores at least as good as these, equality included: none for no such bound, one for all query rows,
  // or (kPerRow) one for each. Never NaN.
  std::vector<double> bounds = {};
  // Says of each query row, or of all with kGlobal, whether there were more hits than top_k.
  bool tell_truncated = false;
  // Counts what `bounds` (not empty) lets through, and returns no hits. top_k is not looked at.
  bool count_only = false;

  // Rows of the base that are no hits of query row i: excluded[excluded_splits[i]] to
  // excluded[excluded_splits[i + 1]], ascending. Both empty: none.
  std::vector<uint64_t> excluded_splits = {}, excluded = {};
  // Query row i is row `self_first` + i of the base, and these of its pairs are hits:
  enum class Self : uint8_t {
    kAll,
    kNotItself,  // ids other than its own
    kOnce,       // ids above its own
  };
  Self self = Self::kAll;
  uint64_t self_first = 0;
};

// Whose turn it is among those that wait; the higher classes get more of the engine, none gets nothing.
enum class Priority : uint8_t { kLow, kNormal, kHigh };

// Who asks, how urgently, and when an answer is no longer wanted.
struct CallLimits {
  std::string client = {};  // those of one client share its turns
  Priority priority = Priority::kNormal;
  absl::Time deadline = absl::InfiniteFuture();
  // Set by the caller to withdraw the question; may be null. Checked between tiles.
  std::shared_ptr<const std::atomic<bool>> cancelled;
};

// Rows [first, first + rows) of a resident collection; rows = 0: all from `first` on.
struct ResidentRows {
  std::string collection;  // empty: the one that is searched
  uint64_t first = 0;
  uint64_t rows = 0;
};

// A question about two matrices: A, M × dim, and the base B, N × dim. Every element is finite (checked at the
// door).
struct Query {
  SharedMatrix rows;                     // A, unless
  std::optional<ResidentRows> resident;  // these are
  std::string collection;                // B: a resident collection, or the only one if empty, unless
  std::optional<SharedMatrix> base;      // this is
  std::optional<uint64_t> version;       // that the collection must have
  Selection selection;                   // its self_first is set by who answers
  CallLimits limits;
};

// The best of each of many pairs of matrices.
struct PairsQuery {
  struct Pair {
    MatrixView queries, base;  // of one dim, if both have rows; every element finite
  };
  std::vector<Pair> pairs;
  std::shared_ptr<const void> owner;  // keeps their bytes alive; may be null
  Metric metric = Metric::kInnerProduct;
  CallLimits limits;
};

// What an answer cost. A pair is one (query row, row) combination.
struct SearchStats {
  double queue_seconds = 0;
  double compute_seconds = 0;
  uint64_t pairs_screened = 0;  // scored in low precision
  uint64_t pairs_survived = 0;  // not ruled out by the screen
  uint64_t pairs_checked = 0;   // nor by a second look in low precision, if there is one: scored in float64
  uint64_t pairs_rescored = 0;  // scored exactly
};

struct Answer {
  // Best first. kPerRow: grouped by query row, row i's hits at [row_splits[i],
  // row_splits[i + 1]), M + 1 splits. kGlobal: row_splits is empty.
  std::vector<Hit> hits;
  std::vector<uint64_t> row_splits;
  std::optional<Hit> best;  // absent when there are no hits
  // If asked for, by query row; one for all of them with kGlobal.
  std::vector<bool> truncated;
  std::vector<uint64_t> counts;
  uint64_t version = 0;  // of the collection that was searched; 0: it was not one
  uint64_t rows_searched = 0;
  uint64_t rows_held = 0;
  SearchStats stats;
};

struct PairsAnswer {
  struct PairHit {
    uint64_t pair = 0;
    Hit hit;
  };
  std::vector<PairHit> hits;    // by pair; those without rows on either side have none
  std::optional<PairHit> best;  // of all; the lowest pair on ties
  SearchStats stats;
};

// What a way to rule out hopeless pairs was measured to take on one thread, for top_k = 1: seconds per query.
struct ScreenEstimate {
  std::string screen;  // as CollectionInfo's
  double batch_query_seconds = 0;
  std::optional<double> single_query_seconds;  // where it was measured
};

// One resident matrix, as its users see it.
struct CollectionInfo {
  std::string name;
  uint64_t version = 0;
  uint64_t rows = 0;
  uint32_t dim = 0;
  DType dtype = DType::kFloat32;
  uint64_t resident_bytes = 0;
  std::string screen;                     // how hopeless pairs are ruled out: "int8, 60 of 100 axes"
  std::vector<ScreenEstimate> estimates;  // that it was chosen by
  bool intact = true;                     // false: its mapped file has changed, and searches fail
  std::shared_ptr<const RowNames> names = nullptr;  // of its rows, as many; null: there are none
};

using ResidentInfos = std::shared_ptr<const std::vector<CollectionInfo>>;  // never null

// Thread-safe.
class Searcher {
 public:
  // Called exactly once per call, on an unspecified thread (possibly before the call returns).
  using Done = absl::AnyInvocable<void(absl::StatusOr<Answer>)>;
  using PairsDone = absl::AnyInvocable<void(absl::StatusOr<PairsAnswer>)>;

  virtual ~Searcher() = default;

  // The bytes of query's matrices need to stay valid until `done` is called, and are not read after. Answers
  // `query`, or fails with a status made by server/base/errors.h: kNotFound (collection), kFailedPrecondition
  // (version), kInvalidArgument (dim), kOutOfRange (a score beyond float64, resident rows that are not
  // there), kResourceExhausted (queue full), kDeadlineExceeded, kCancelled, kUnavailable (shutting down).
  virtual void Search(Query query, Done done) = 0;

  // The same for many pairs of matrices.
  virtual void MaxOfPairs(PairsQuery query, PairsDone done) = 0;

  // What is resident, in order of name.
  virtual ResidentInfos Collections() const = 0;
};

// Search, for those that have nothing to do meanwhile.
absl::StatusOr<Answer> SearchAndWait(Searcher& searcher, Query query);

}  // namespace dotmax

#endif  // DOTMAX_SERVER_BASE_SEARCHER_H_
