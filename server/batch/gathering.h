// Whether the next pass waits for those that are about to ask again.
#ifndef DOTMAX_SERVER_BATCH_GATHERING_H_
#define DOTMAX_SERVER_BATCH_GATHERING_H_

#include <cstdint>

#include "absl/time/time.h"

namespace dotmax {

// Callers that have been answered often ask again at once. A pass that begins before they do is a small one,
// and costs nearly as much as a large one: the matrix comes from memory for each. So where passes are shared,
// and come one after the other, the next one waits until about as many requests have come as were last under
// way, unless nobody comes for a fraction of a pass. A lone caller, and whoever comes to a server that has
// nothing to do, waits for nobody.
//
// Not thread-safe; is told the time.
class Gathering {
 public:
  // A pass is over: it had `requests`, took `seconds`, and `waiting` others came until its end.
  void PassEnded(uint64_t requests, uint64_t waiting, double seconds);
  // Its requests have been answered.
  void Answered(absl::Time now) { answered_ = now; }

  // What a pass that may begin at `now` waits for: that so many requests are there; but no longer than `gap`
  // without any new one, nor than until `end`.
  struct Wait {
    uint64_t requests = 0;
    absl::Duration gap;
    absl::Time end;
  };
  Wait From(absl::Time now) const;

  // Whether what has to be answered by `deadline` should not wait for others as well.
  bool IsUrgent(absl::Time deadline, absl::Time now) const;

 private:
  bool shared_ = false;   // the last pass
  double seconds_ = 0.0;  // that it took
  uint64_t under_way_ = 0;
  absl::Time answered_ = absl::InfinitePast();
};

}  // namespace dotmax

#endif  // DOTMAX_SERVER_BATCH_GATHERING_H_
