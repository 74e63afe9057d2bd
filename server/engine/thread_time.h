// How long the calling thread has worked: what measures budgets on a machine that others use, too.
#ifndef DOTMAX_SERVER_ENGINE_THREAD_TIME_H_
#define DOTMAX_SERVER_ENGINE_THREAD_TIME_H_

#include <time.h>

#include "absl/time/time.h"

namespace dotmax {

// Since the thread began; costs some 200 ns.
inline absl::Duration ThreadTime() {
  timespec time = {};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
  return absl::DurationFromTimespec(time);
}

}  // namespace dotmax

#endif  // DOTMAX_SERVER_ENGINE_THREAD_TIME_H_
