#include "server/base/file_watch.h"

#include <sys/stat.h>

#include <cstdint>
#include <tuple>
#include <utility>

namespace dotmax {
namespace {

// Differs when a file does: device, inode, size, and when it was last modified. All 0 where there is none.
using Stamp = std::tuple<uint64_t, uint64_t, int64_t, int64_t, int64_t>;

std::vector<Stamp> StampsOf(const std::vector<std::string>& paths) {
  std::vector<Stamp> stamps;
  for (const std::string& path : paths) {
    struct stat at = {};
    if (stat(path.c_str(), &at) != 0) at = {};
    stamps.emplace_back(at.st_dev, at.st_ino, at.st_size, at.st_mtim.tv_sec, at.st_mtim.tv_nsec);
  }
  return stamps;
}

}  // namespace

// The first stamps are taken here, not in the thread: a change after construction is never missed.
FileWatch::FileWatch(std::vector<std::string> paths, std::function<void()> changed, absl::Duration interval)
    : thread_([this, interval, paths, changed = std::move(changed), known = StampsOf(paths)]() mutable {
        while (!stop_.WaitForNotificationWithTimeout(interval)) {
          std::vector<Stamp> now = StampsOf(paths);
          if (now == known) continue;
          known = std::move(now);
          changed();
        }
      }) {}

FileWatch::~FileWatch() {
  stop_.Notify();
  thread_.join();
}

}  // namespace dotmax
