// A bar on standard error while something takes longer than a second, if that is a terminal.
#ifndef DOTMAX_CLIENT_CLI_PROGRESS_H_
#define DOTMAX_CLIENT_CLI_PROGRESS_H_

#include <cstdint>
#include <string>

#include "absl/time/time.h"

namespace dotmax {

// Not thread-safe.
class Progress {
 public:
  Progress();
  ~Progress();  // wipes it away

  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  // `done` of `total`, in whatever unit; `note` is shown beside.
  void Update(uint64_t done, uint64_t total, const std::string& note = "");

 private:
  const bool terminal_;
  const absl::Time started_;
  absl::Time next_;
  bool shown_ = false;
};

}  // namespace dotmax

#endif  // DOTMAX_CLIENT_CLI_PROGRESS_H_
