// A question under way, of which some query rows are searched at a time.
#ifndef DOTMAX_SERVER_ENGINE_TASK_H_
#define DOTMAX_SERVER_ENGINE_TASK_H_

#include <cstdint>
#include <optional>
#include <vector>

#include "absl/functional/any_invocable.h"
#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "server/base/searcher.h"
#include "server/base/types.h"
#include "server/engine/topk.h"

namespace dotmax {

// Not thread-safe, but for `stop`. The bytes of `base` and `queries` outlive it.
class Task {
 public:
  // Asked between tiles on any worker; once it fails, the task ends with its status. Thread-safe.
  using Stop = absl::AnyInvocable<absl::Status(absl::Time now) const>;

  // The hits of `queries` among the rows of `base` that `selection` asks for; Answer says how they are laid
  // out. REQUIRES: queries.dim == base.dim, every query element finite, `selection` as it says itself.
  Task(const MatrixView& base, const MatrixView& queries, Selection selection, Stop stop);

  Task(const Task&) = delete;
  Task& operator=(const Task&) = delete;

  const MatrixView& base() const { return base_; }
  const MatrixView& queries() const { return queries_; }
  const Selection& selection() const { return selection_; }
  const Stop& stop() const { return stop_; }

  // Query rows that have not been searched for; 0 once the task has failed. [next_row(), M) these are.
  uint64_t rows_left() const { return status_.ok() ? queries_.rows - next_row_ : 0; }
  uint64_t next_row() const { return next_row_; }

  // The task ends with `status`, unless it has failed already.
  void Fail(const absl::Status& status) { status_.Update(status); }
  const absl::Status& status() const { return status_; }

  // The answer, when no rows are left. Ends the task's use. `resolve` as TopK::Take wants it.
  absl::StatusOr<Answer> Finish(TopK::Resolve resolve, TopK::Fetch fetch);

  SearchStats& stats() { return answer_.stats; }

  // For those who search.

  bool per_row() const { return selection_.reduction == Reduction::kPerRow; }
  // How many candidates a query keeps: one more than wanted to know whether there are more.
  uint32_t kept() const;
  // Whether thresholds may be guessed. All queries' hits together are kept from one pass to the next, and
  // can't be searched for again; a bound is a better start than a guess.
  bool may_guess() const { return per_row() && !selection_.count_only && selection_.bounds.empty(); }
  // The least merit that a hit of query row `row` has.
  double Floor(uint64_t row) const;
  // With kGlobal: where all rows' hits go.
  TopK& global() { return *global_; }

  // The next row's hits are `hits`, which `best` held.
  void AddRow(const TopK& best, std::vector<Hit> hits);
  // With kGlobal: the next `rows` rows are in global().
  void AddGlobalRows(uint64_t rows) { next_row_ += rows; }

 private:
  // Moves what `best` has found to the end of the answer.
  void AddHits(const TopK& best, std::vector<Hit> hits);

  const MatrixView base_, queries_;
  const Selection selection_;
  const Stop stop_;
  uint64_t next_row_ = 0;
  std::optional<TopK> global_;
  Answer answer_;
  absl::Status status_;
};

}  // namespace dotmax

#endif  // DOTMAX_SERVER_ENGINE_TASK_H_
