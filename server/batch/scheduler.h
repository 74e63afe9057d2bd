// Who may wait, who is refused, and whose query rows share the next pass.
//
// Turns are shared out by start-time fair queueing (Goyal, Vin, Cheng 1996): a flow, which is a client within
// a priority class, has a virtual time that its rows advance, the slower the higher its class; the flow that
// is least far on has the next turn, of a few rows. Within a flow, turns go round the sizes of questions, and
// by arrival among those of about one size: nobody waits for much larger ones.
#ifndef DOTMAX_SERVER_BATCH_SCHEDULER_H_
#define DOTMAX_SERVER_BATCH_SCHEDULER_H_

#include <array>
#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "server/base/searcher.h"
#include "server/batch/pass_costs.h"

namespace dotmax {

// Why an answer is no longer wanted at `now`; ok while it is.
absl::Status StopReason(const CallLimits& limits, absl::Time now);

// Not thread-safe; is told the time.
class Scheduler {
 public:
  // What may wait, beside what runs: all limits hold together, and no flow takes more of one than it leaves
  // to others. An empty queue takes anything: what comes as a stream may be larger than a message, and would
  // never fit. A question counts for a quarter of the rows at most: as turns are short, others need not wait
  // for all of its rows.
  struct Limits {
    uint64_t requests = 2048;
    uint64_t rows = uint64_t{1} << 18;   // query rows
    uint64_t bytes = uint64_t{1} << 30;  // of the matrices that came with them, until they are answered
  };

  // A question, as far as it matters here. Those who hold the rest derive from it.
  struct Job {
    virtual ~Job() = default;

    CallLimits limits;
    const void* base = nullptr;  // questions with the same one share passes
    uint64_t rows = 0;           // that are left, ≥ 1
    uint64_t bytes = 0;

   private:
    friend class Scheduler;
    size_t size_class = 0;
    double row_seconds = 0.0;  // that each row was expected to take
    uint64_t taken = 0;        // rows of the turn that it is about to have
  };

  // The next `rows` rows of a job.
  struct Turn {
    std::unique_ptr<Job> job;
    uint64_t rows;
  };

  explicit Scheduler(const Limits& limits) : limits_(limits) {}

  // Lets `job` wait. Its passes are expected to take as `costs` says, after the running one, which is
  // expected to end at `busy_until`. Or refuses it, and leaves it where it is: kDeadlineExceeded
  // (DEADLINE_UNREACHABLE) when its deadline is too near even if nobody else waited, kResourceExhausted with
  // when to try again if others are in the way (QUEUE_TOO_LONG for its deadline; QUEUE_FULL,
  // CLIENT_QUEUE_FULL).
  absl::Status Admit(std::unique_ptr<Job>& job, const PassCosts& costs, absl::Time now,
                     absl::Time busy_until);

  // The job whose turn is next. REQUIRES: !empty().
  const Job& Next() const;

  // Takes that job's turn, and those of others with the same base as they come, out of the queue: up to
  // `most` rows for one pass. Fewer where a deadline asks for it. Of a job no more than one turn; none of
  // those whose answers are no longer wanted, or would come too late: these are in TakeUnwanted. REQUIRES:
  // !empty(), most ≥ 1.
  std::vector<Turn> Take(uint64_t most, const PassCosts& costs, absl::Time now);

  // The jobs that need no turn, but to be told so, with why.
  std::vector<std::pair<std::unique_ptr<Job>, absl::Status>> TakeUnwanted();

  // A job that has had a turn, and has rows left: waits for the next one before those that came after it.
  void Return(std::unique_ptr<Job> job);

  // A job that has had a turn needs no other: its bytes are free.
  void Release(const Job& job);

  // A turn took so many seconds more than its rows said.
  void Charge(const Job& job, double seconds);

  bool empty() const { return requests_ == 0; }
  bool has_unwanted() const { return !unwanted_.empty(); }
  uint64_t requests() const { return requests_; }
  uint64_t rows() const { return rows_; }
  uint64_t bytes() const { return bytes_; }

 private:
  // By factors of 8: 1 to 7 rows, 8 to 63, ...
  static constexpr size_t kSizeClasses = 6;

  struct Flow {
    double time = 0.0;                                                // virtual, of the next turn
    std::array<std::deque<std::unique_ptr<Job>>, kSizeClasses> jobs;  // by arrival
    std::array<double, kSizeClasses> seconds = {};                    // that these are expected to take
    double total_seconds = 0.0;
    size_t next_class = 0;
    uint64_t requests = 0, counted_rows = 0;
    uint64_t bytes = 0;  // with those that have been taken, until they are released
  };
  using Flows = std::map<std::pair<Priority, std::string>, Flow>;
  struct Hand;  // a flow's, while turns are taken

  Flow& FlowOf(const Job& job) { return flows_[{job.limits.priority, job.limits.client}]; }
  absl::Status HasRoom(const Job& job, const Flow& flow) const;
  uint64_t CountedRows(const Job& job) const;  // against the limit
  // How long turns of others are expected to take until `job`, which takes `own_seconds`, has had all of its.
  double SecondsAhead(const Job& job, const Flow& flow, double own_seconds) const;
  Flows::const_iterator NextFlow() const;
  static size_t NextClass(const Flow& flow);
  void Count(Flow& flow, const Job& job, int sign);  // as waiting, or not any more
  // Moves jobs that nobody waits for any more out of the queue.
  void DropUnwanted(absl::Time now);
  void ForgetIdleFlows();

  const Limits limits_;
  Flows flows_;        // those that wait, have bytes, or owe time
  double time_ = 0.0;  // virtual: of the last turn
  uint64_t requests_ = 0, rows_ = 0, counted_rows_ = 0, bytes_ = 0;
  std::vector<std::pair<std::unique_ptr<Job>, absl::Status>> unwanted_;
  bool dropped_unwanted_ = false;  // since the last Take: not worth the time again
};

}  // namespace dotmax

#endif  // DOTMAX_SERVER_BATCH_SCHEDULER_H_
