// What the system says of this process.
#ifndef DOTMAX_SERVER_BASE_PROCESS_H_
#define DOTMAX_SERVER_BASE_PROCESS_H_

#include <cstdint>

namespace dotmax {

// What cannot be learnt is 0.
struct ProcessStats {
  double cpu_seconds = 0;         // user and system, of all threads
  double start_time_seconds = 0;  // since the Unix epoch
  uint64_t resident_bytes = 0;
  uint64_t virtual_bytes = 0;
  uint64_t open_fds = 0;
  uint64_t max_fds = 0;
  uint64_t threads = 0;
};

// Reads /proc: some 100 µs.
ProcessStats ReadProcessStats();

// From now on the calling thread, and those that it starts, give way: others of this process that want the
// same processor get 1.25^niceness times as much of it. A thread cannot take it back.
void GiveWay(int niceness);

// Lets the process open as many files, and so hold as many connections, as it may without being root.
void RaiseFileLimit();

}  // namespace dotmax

#endif  // DOTMAX_SERVER_BASE_PROCESS_H_
