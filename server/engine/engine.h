// The exact maximum-inner-product search over one matrix: screen a tile in low precision, keep
// what the bound cannot rule out, score that exactly. The answer is the one that correctly rounded scores
// of all pairs would give, whatever the threads, tiles or instruction set (ARCHITECTURE.md, "Exactness").
#ifndef DOTMAX_SERVER_ENGINE_ENGINE_H_
#define DOTMAX_SERVER_ENGINE_ENGINE_H_

#include <functional>
#include <memory>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "server/base/searcher.h"
#include "server/base/types.h"
#include "server/engine/matrix.h"
#include "server/engine/task.h"

namespace dotmax {

// Owns the worker threads. One call at a time: not thread-safe; callers queue (server/batch).
class Engine {
 public:
  // `threads` ≥ 1 workers, the thread that calls Search among them; each on a processor of its own with
  // `pin`.
  explicit Engine(int threads, bool pin = false);
  ~Engine();

  Engine(const Engine&) = delete;
  Engine& operator=(const Engine&) = delete;

  // The hits of `queries` among the rows of `matrix` that `selection` asks for; Answer says how they are laid
  // out. `stop` is asked between tiles, on worker threads; once it returns an error the search ends with it.
  // M = 0 or N = 0 gives no hits. Fails with kOutOfRange when a winning score is beyond float64.
  // REQUIRES: queries.dim == matrix.view().dim, every query element finite, `selection` as it says itself.
  absl::StatusOr<Answer> Search(const Matrix& matrix, const MatrixView& queries, const Selection& selection,
                                absl::FunctionRef<absl::Status()> stop);

  // The next `rows` query rows of a task.
  struct Share {
    Task* task;
    uint64_t rows;
  };

  // One pass over `matrix` for tasks of any selections: searches for the rows of `shares`, which then count
  // as done; each costs less than in a pass of its own. Failures are in the tasks' statuses: one that is
  // stopped leaves the pass to the others. A pass' cost is shared out by rows among the tasks' stats.
  // REQUIRES: tasks of matrix.view(), each at most once; 1 ≤ rows ≤ rows_left(); at most LargestPass rows in
  // all, or for each of the engine's threads.
  void Advance(const Matrix& matrix, absl::Span<const Share> shares);
  static uint64_t LargestPass(uint32_t dim);

  // The answer of a task, when no rows are left. Ends the task's use.
  static absl::StatusOr<Answer> Finish(Task& task);

  // The best pair of rows of each pair of matrices, in any number, and of all of them. Otherwise as Search.
  absl::StatusOr<PairsAnswer> MaxOfPairs(absl::Span<const PairsQuery::Pair> pairs, Metric metric,
                                         absl::FunctionRef<absl::Status()> stop);

  int threads() const;

 private:
  struct Impl;
  const std::unique_ptr<Impl> impl_;
};

}  // namespace dotmax

#endif  // DOTMAX_SERVER_ENGINE_ENGINE_H_
