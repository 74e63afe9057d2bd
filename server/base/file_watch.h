// Notices that files have changed, for what is configured by them.
#ifndef DOTMAX_SERVER_BASE_FILE_WATCH_H_
#define DOTMAX_SERVER_BASE_FILE_WATCH_H_

#include <functional>
#include <string>
#include <thread>
#include <vector>

#include "absl/synchronization/notification.h"
#include "absl/time/time.h"

namespace dotmax {

// A thread of its own, joined by the destructor.
class FileWatch {
 public:
  static constexpr absl::Duration kInterval = absl::Seconds(1);

  // Calls `changed` within `interval` after one of the files, or what a symbolic link leads to, was written,
  // replaced, removed or has come back; never two times at once.
  FileWatch(std::vector<std::string> paths, std::function<void()> changed,
            absl::Duration interval = kInterval);
  ~FileWatch();

  FileWatch(const FileWatch&) = delete;
  FileWatch& operator=(const FileWatch&) = delete;

 private:
  absl::Notification stop_;
  std::thread thread_;
};

}  // namespace dotmax

#endif  // DOTMAX_SERVER_BASE_FILE_WATCH_H_
