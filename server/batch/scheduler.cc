#include "server/batch/scheduler.h"

#include <algorithm>
#include <bit>
#include <optional>
#include <queue>

#include "absl/strings/str_cat.h"
#include "server/base/errors.h"

namespace dotmax {
namespace {

// How much more of the engine a class gets than kLow, each flow of it.
double Weight(Priority priority) {
  switch (priority) {
    case Priority::kLow:
      return 1.0;
    case Priority::kNormal:
      return 8.0;
    case Priority::kHigh:
      return 64.0;
  }
  return 1.0;
}

// Of a turn: about what costs little more than a row alone.
constexpr uint64_t kTurnRows = 16;
// Questions about other bases that are passed over, in a flow's class, when a pass is filled.
constexpr int kMostPassedOver = 64;
// What waits may take so much longer than expected before a deadline is missed: whoever is let in should be
// answered in time, also on a machine whose speed varies.
constexpr double kDoubt = 1.3;
// The soonest that trying again is worth while.
constexpr absl::Duration kLeastDelay = absl::Milliseconds(10);
// What a row costs that nobody knows of yet.
constexpr double kUnknownRowSeconds = 1e-4;
// From so many flows on, those that wait for nothing are forgotten.
constexpr size_t kIdleFlows = 64;

size_t SizeClass(uint64_t rows, size_t classes) {
  return std::min<size_t>((std::bit_width(rows) - 1) / 3, classes - 1);
}

double RowSeconds(const PassCosts& costs) {
  const double seconds = costs.RowSeconds();
  return seconds > 0.0 ? seconds : kUnknownRowSeconds;
}

absl::Status Unreachable(double seconds, absl::Duration left) {
  return Error(absl::StatusCode::kDeadlineExceeded, "DEADLINE_UNREACHABLE",
               absl::StrCat("the answer is expected to take ", seconds, " s, but the deadline is in ",
                            absl::ToDoubleSeconds(left), " s"));
}

}  // namespace

absl::Status StopReason(const CallLimits& limits, absl::Time now) {
  // The deadline first: a caller's transport also withdraws what is overdue.
  if (now >= limits.deadline) {
    return Error(absl::StatusCode::kDeadlineExceeded, "DEADLINE_EXCEEDED",
                 "the deadline passed before the search was done");
  }
  if (limits.cancelled != nullptr && limits.cancelled->load(std::memory_order_relaxed)) {
    return Error(absl::StatusCode::kCancelled, "CANCELLED", "the caller cancelled the search");
  }
  return absl::OkStatus();
}

uint64_t Scheduler::CountedRows(const Job& job) const {
  return std::min(job.rows, std::max<uint64_t>(limits_.rows / 4, 1));
}

absl::Status Scheduler::HasRoom(const Job& job, const Flow& flow) const {
  if (requests_ == 0) return absl::OkStatus();
  double seconds = 0.0;
  for (const auto& [key, waiting] : flows_) seconds += waiting.total_seconds;
  const absl::Duration delay = std::max(absl::Seconds(seconds / 2), kLeastDelay);
  const auto full = [](uint64_t limit, uint64_t taken, uint64_t more) {
    return taken + more > limit || taken + more < taken;
  };
  if (full(limits_.requests, requests_, 1) || full(limits_.rows, counted_rows_, CountedRows(job)) ||
      full(limits_.bytes, bytes_, job.bytes)) {
    return RetryAfter(delay, "QUEUE_FULL",
                      absl::StrCat("the queue is full: ", requests_, " requests wait, with ", counted_rows_,
                                   " query rows and ", bytes_, " bytes; this one has ", CountedRows(job),
                                   " and ", job.bytes, "; at most ", limits_.requests, " requests with ",
                                   limits_.rows, " query rows and ", limits_.bytes, " bytes may wait"));
  }
  if (flow.requests > limits_.requests - requests_ || flow.counted_rows > limits_.rows - counted_rows_ ||
      flow.bytes > limits_.bytes - bytes_) {
    return RetryAfter(
        delay, "CLIENT_QUEUE_FULL",
        absl::StrCat("too much of this client waits: ", flow.requests, " requests with ", flow.counted_rows,
                     " query rows and ", flow.bytes, " bytes, more than there is room for of others: ",
                     limits_.requests - requests_, " requests with ", limits_.rows - counted_rows_,
                     " query rows and ", limits_.bytes - bytes_, " bytes"));
  }
  return absl::OkStatus();
}

double Scheduler::SecondsAhead(const Job& job, const Flow& flow, double own_seconds) const {
  // As if turns were infinitely short: of others come as many as of what is itself waited for, by weight.
  double of_flow = 0.0;
  for (const double seconds : flow.seconds) {
    of_flow += std::min(seconds, flow.seconds[job.size_class] + own_seconds);
  }
  double ahead = of_flow;
  const double weighted = (of_flow + own_seconds) / Weight(job.limits.priority);
  for (const auto& [key, other] : flows_) {
    if (&other != &flow) ahead += std::min(other.total_seconds, weighted * Weight(key.first));
  }
  return ahead;
}

absl::Status Scheduler::Admit(std::unique_ptr<Job>& job, const PassCosts& costs, absl::Time now,
                              absl::Time busy_until) {
  if (absl::Status unwanted = StopReason(job->limits, now); !unwanted.ok()) return unwanted;
  Flow& flow = FlowOf(*job);
  job->size_class = SizeClass(job->rows, kSizeClasses);
  if (const std::optional<double> own = costs.Seconds(job->rows);
      own.has_value() && job->limits.deadline < absl::InfiniteFuture()) {
    const absl::Duration left = job->limits.deadline - now;
    const double alone = std::max(absl::ToDoubleSeconds(busy_until - now), 0.0) + *own;
    if (absl::Seconds(alone) > left) return Unreachable(alone, left);
    const double ahead = SecondsAhead(*job, flow, *own);
    if (const absl::Duration expected = absl::Seconds(kDoubt * (alone + ahead));
        ahead > 0.0 && expected > left) {
      return RetryAfter(std::max(expected - left, kLeastDelay), "QUEUE_TOO_LONG",
                        absl::StrCat("the queue is too long for a deadline in ", absl::ToDoubleSeconds(left),
                                     " s: the answer is expected to take ", alone,
                                     " s, and what waits before it ", ahead, " s"));
    }
  }
  absl::Status room = HasRoom(*job, flow);
  if (!room.ok() && !dropped_unwanted_) {
    DropUnwanted(now);
    room = HasRoom(*job, flow);
  }
  if (!room.ok()) return room;
  job->row_seconds = RowSeconds(costs);
  flow.bytes += job->bytes;
  bytes_ += job->bytes;
  Count(flow, *job, +1);
  flow.jobs[job->size_class].push_back(std::move(job));
  return absl::OkStatus();
}

void Scheduler::Return(std::unique_ptr<Job> job) {
  Flow& flow = FlowOf(*job);
  Count(flow, *job, +1);
  flow.jobs[job->size_class].push_front(std::move(job));
}

void Scheduler::Release(const Job& job) {
  FlowOf(job).bytes -= job.bytes;
  bytes_ -= job.bytes;
}

void Scheduler::Charge(const Job& job, double seconds) {
  FlowOf(job).time += seconds / Weight(job.limits.priority);
}

std::vector<std::pair<std::unique_ptr<Scheduler::Job>, absl::Status>> Scheduler::TakeUnwanted() {
  for (const auto& [job, status] : unwanted_) Release(*job);
  return std::exchange(unwanted_, {});
}

void Scheduler::DropUnwanted(absl::Time now) {
  dropped_unwanted_ = true;
  for (auto& [key, flow] : flows_) {
    for (std::deque<std::unique_ptr<Job>>& jobs : flow.jobs) {
      for (std::unique_ptr<Job>& job : jobs) {
        absl::Status status = StopReason(job->limits, now);
        if (status.ok()) continue;
        Count(flow, *job, -1);
        unwanted_.emplace_back(std::move(job), std::move(status));
      }
      std::erase(jobs, nullptr);
    }
  }
}

void Scheduler::ForgetIdleFlows() {
  if (flows_.size() < kIdleFlows) return;
  std::erase_if(flows_, [this](const auto& entry) {
    const Flow& flow = entry.second;
    return flow.requests == 0 && flow.bytes == 0 && flow.time <= time_;
  });
}

void Scheduler::Count(Flow& flow, const Job& job, int sign) {
  // Whoever has not waited for a while owes nothing, and has nothing saved.
  if (flow.requests == 0) flow.time = std::max(flow.time, time_);
  double& seconds = flow.seconds[job.size_class];
  flow.total_seconds -= seconds;
  seconds = std::max(0.0, seconds + sign * static_cast<double>(job.rows) * job.row_seconds);
  flow.total_seconds = std::max(0.0, flow.total_seconds + seconds);
  flow.requests += sign;
  flow.counted_rows += sign * CountedRows(job);
  if (flow.requests == 0) {  // what sums of float64 leave is nothing
    flow.seconds = {};
    flow.total_seconds = 0.0;
  }
  requests_ += sign;
  rows_ += sign * job.rows;
  counted_rows_ += sign * CountedRows(job);
}

Scheduler::Flows::const_iterator Scheduler::NextFlow() const {
  auto next = flows_.end();
  for (auto flow = flows_.begin(); flow != flows_.end(); ++flow) {
    if (flow->second.requests == 0) continue;
    if (next == flows_.end() || flow->second.time < next->second.time) next = flow;
  }
  return next;
}

size_t Scheduler::NextClass(const Flow& flow) {
  size_t size_class = flow.next_class;
  while (flow.jobs[size_class].empty()) size_class = (size_class + 1) % kSizeClasses;
  return size_class;
}

const Scheduler::Job& Scheduler::Next() const {
  const Flow& flow = NextFlow()->second;
  return *flow.jobs[NextClass(flow)].front();
}

// Where in its queues a flow has come to, as turns are taken.
struct Scheduler::Hand {
  Flow* flow;
  double row_time;  // virtual, of a row
  struct Place {
    size_t at = 0;
    int passed_over = 0;
  };
  std::array<Place, kSizeClasses> places = {};
};

std::vector<Scheduler::Turn> Scheduler::Take(uint64_t most, const PassCosts& costs, absl::Time now) {
  dropped_unwanted_ = false;
  const void* const base = Next().base;
  std::vector<Hand> hands;
  hands.reserve(flows_.size());
  for (auto& [key, flow] : flows_) {
    if (flow.requests > 0) hands.push_back({&flow, RowSeconds(costs) / Weight(key.first)});
  }
  const auto later = [](const Hand* a, const Hand* b) { return a->flow->time > b->flow->time; };
  std::priority_queue<Hand*, std::vector<Hand*>, decltype(later)> queue(later);
  for (Hand& hand : hands) queue.push(&hand);

  uint64_t taken = 0;
  // The next job of the hand's class that has rows for this pass; null if there is none. Those that are not
  // wanted leave the queue on the way.
  const auto find = [&](Hand& hand, size_t size_class) -> Job* {
    std::deque<std::unique_ptr<Job>>& jobs = hand.flow->jobs[size_class];
    Hand::Place& place = hand.places[size_class];
    while (place.at < jobs.size() && place.passed_over < kMostPassedOver) {
      Job& job = *jobs[place.at];
      if (job.base != base) {
        ++place.passed_over;
        ++place.at;
        continue;
      }
      if (job.taken == job.rows) {
        ++place.at;
        continue;
      }
      absl::Status unwanted = job.taken > 0 ? absl::OkStatus() : StopReason(job.limits, now);
      const std::optional<double> own = costs.Seconds(job.rows);
      if (unwanted.ok() && job.taken == 0 && own.has_value() &&
          now + absl::Seconds(*own) > job.limits.deadline) {
        unwanted = Unreachable(*own, job.limits.deadline - now);
      }
      if (unwanted.ok()) return &job;
      Count(*hand.flow, job, -1);
      unwanted_.emplace_back(std::move(jobs[place.at]), std::move(unwanted));
      jobs.erase(jobs.begin() + place.at);
    }
    return nullptr;
  };
  while (!queue.empty() && taken < most) {
    Hand& hand = *queue.top();
    queue.pop();
    Job* job = nullptr;
    for (size_t i = 0; i < kSizeClasses && job == nullptr; ++i) {
      const size_t size_class = (hand.flow->next_class + i) % kSizeClasses;
      job = find(hand, size_class);
      if (job != nullptr) hand.flow->next_class = (size_class + 1) % kSizeClasses;
    }
    if (job == nullptr) continue;  // the flow has nothing more for this pass
    // A pass that is too long for its deadline is made shorter, if that helps.
    while (now + absl::Seconds(costs.Seconds(most).value_or(0.0)) > job->limits.deadline &&
           most / 2 >= taken + job->rows - job->taken) {
      most /= 2;
    }
    const uint64_t rows = std::min({kTurnRows, job->rows - job->taken, most - taken});
    time_ = hand.flow->time;
    hand.flow->time += static_cast<double>(rows) * hand.row_time;
    taken += rows;
    job->taken += rows;
    queue.push(&hand);
  }

  std::vector<Turn> turns;
  for (Hand& hand : hands) {
    Flow& flow = *hand.flow;
    for (std::deque<std::unique_ptr<Job>>& jobs : flow.jobs) {
      for (std::unique_ptr<Job>& job : jobs) {
        if (job->taken == 0) continue;
        Count(flow, *job, -1);
        const uint64_t rows = std::exchange(job->taken, 0);
        turns.push_back({std::move(job), rows});
      }
      std::erase(jobs, nullptr);
    }
  }
  ForgetIdleFlows();
  return turns;
}

}  // namespace dotmax
