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
#include "server/base/types.h"

namespace dotmax {

// A question about one resident collection.
struct Query {
  std::string collection;  // empty: the only one
  SharedMatrix rows;       // A, M × dim; every element finite (checked at the door)
  uint32_t top_k = 1;      // ≥ 1
  Reduction reduction = Reduction::kPerRow;
  absl::Time deadline = absl::InfiniteFuture();
  // Set by the caller to withdraw the question; may be null. Checked between tiles.
  std::shared_ptr<const std::atomic<bool>> cancelled;
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
  // In the order of Better. kPerRow: grouped by query row, row i's hits at [row_splits[i],
  // row_splits[i + 1]), M + 1 splits. kGlobal: row_splits is empty.
  std::vector<Hit> hits;
  std::vector<uint64_t> row_splits;
  std::optional<Hit> best;  // absent when there are no hits
  uint64_t rows_searched = 0;
  uint64_t rows_held = 0;
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
  uint64_t rows = 0;
  uint32_t dim = 0;
  DType dtype = DType::kFloat32;
  uint64_t resident_bytes = 0;
  std::string screen;                     // how hopeless pairs are ruled out: "int8, 60 of 100 axes"
  std::vector<ScreenEstimate> estimates;  // that it was chosen by
};

// Thread-safe.
class Searcher {
 public:
  // Called exactly once per Search, on an unspecified thread (possibly before Search returns).
  using Done = absl::AnyInvocable<void(absl::StatusOr<Answer>)>;

  virtual ~Searcher() = default;

  // The bytes of query.rows need to stay valid until `done` is called, and are not read after. Answers
  // `query`, or fails with a status made by server/base/errors.h: kNotFound (collection),
  // kInvalidArgument (dim), kOutOfRange (a score beyond float64), kResourceExhausted (queue full),
  // kDeadlineExceeded, kCancelled, kUnavailable (shutting down).
  virtual void Search(Query query, Done done) = 0;

  // What is resident, in order of name.
  virtual std::vector<CollectionInfo> Collections() const = 0;
};

}  // namespace dotmax

#endif  // DOTMAX_SERVER_BASE_SEARCHER_H_
