// Loads matrices beside those that are searched, one at a time, on a thread of its own.
#ifndef DOTMAX_SERVER_LOAD_LOADER_H_
#define DOTMAX_SERVER_LOAD_LOADER_H_

#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <thread>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "server/base/collections.h"
#include "server/base/log.h"
#include "server/base/metrics.h"
#include "server/batch/catalog.h"
#include "server/store/file.h"

namespace dotmax {

// Thread-safe. Loads run in the order in which they came; Swap and Drop do not wait for them. A load that is
// withdrawn stops within a block of the file that it reads; choosing and making codes, up to a few seconds,
// it finishes first. Then nothing is published. The thread gives way to those that search.
class Loader : public CollectionAdmin {
 public:
  struct Options {
    bool map = false;                                // files instead of reading them
    std::optional<DataDir> data_dir = std::nullopt;  // of Load; none: nothing may be named
    uint64_t memory_limit = 0;                       // see CheckMemory
    bool names = false;                              // of rows, where a file beside the matrix has them
  };

  // `log` and `metrics` outlive the loader.
  Loader(std::shared_ptr<Catalog> catalog, Options options, Logger* log, Metrics* metrics);
  ~Loader() override;  // Shutdown

  Loader(const Loader&) = delete;
  Loader& operator=(const Loader&) = delete;

  // What an operator names needs no data directory. Returns when it is loaded.
  absl::Status LoadTrusted(const std::string& name, const std::string& path);

  void Load(std::string name, std::string path, Cancelled cancelled, Progress progress, Done done) override;
  void Reload(std::string name, Cancelled cancelled, Progress progress, Done done) override;
  absl::StatusOr<std::pair<CollectionInfo, CollectionInfo>> Swap(const std::string& a,
                                                                 const std::string& b) override;
  absl::Status Drop(const std::string& name) override;

  // Reloads every collection that came from a file and does not wait for that already; logs what comes of it.
  void ReloadAll();

  // Refuses what comes from now on, and withdraws what waits or runs, with kUnavailable, which their callers
  // know when this returns. Not to be called within Progress or Done.
  void Drain();

  // Drains; whether nothing runs any more by `deadline`.
  bool AwaitEnd(absl::Time deadline);

  // Drains, and returns when nothing runs any more.
  void Shutdown();

 private:
  // Who waits for a load. Thread-safe.
  class Caller {
   public:
    Caller(Progress progress, Done done) : progress_(std::move(progress)), done_(std::move(done)) {}

    // Nothing is told after End, which only counts once.
    void Tell(const LoadProgress& progress) ABSL_LOCKS_EXCLUDED(mutex_);
    void End(absl::StatusOr<CollectionInfo> info) ABSL_LOCKS_EXCLUDED(mutex_);

   private:
    absl::Mutex mutex_;
    Progress progress_ ABSL_GUARDED_BY(mutex_);  // may be null
    Done done_ ABSL_GUARDED_BY(mutex_);          // null: it has ended
  };

  // A load by path, or, without one, of what the name means when its turn comes.
  struct Job {
    std::string name;
    std::optional<Catalog::Source> source;
    Cancelled cancelled;
    std::shared_ptr<Caller> caller;
  };

  absl::Status Admit(const Job& job, bool counted) ABSL_LOCKS_EXCLUDED(mutex_);
  void Enqueue(Job job, bool counted = true);
  void Loop();
  bool HasWork() const ABSL_SHARED_LOCKS_REQUIRED(mutex_) { return draining_ || !queue_.empty(); }

  absl::StatusOr<CollectionInfo> Run(Job& job);
  absl::StatusOr<Catalog::Entry> Read(Job& job, const Catalog::Source& source);
  // A file that is, or lies beside, the source's. REQUIRES: a data directory, if the source is in it.
  absl::StatusOr<File> Open(const Catalog::Source& source, const std::string& path) const;
  // What lies beside; null without, and logged if it is not names of as many rows.
  std::shared_ptr<const RowNames> Names(const Job& job, const Catalog::Source& source, uint64_t rows) const;
  absl::Status StopReason(const Job& job) const ABSL_LOCKS_EXCLUDED(mutex_);
  // Logs and counts what has changed.
  void ShowResident();
  // Says of collections that were intact when they are not any more.
  void WatchFiles();

  const std::shared_ptr<Catalog> catalog_;
  const Options options_;
  Logger* const log_;
  Metrics* const metrics_;

  mutable absl::Mutex mutex_;
  std::deque<Job> queue_ ABSL_GUARDED_BY(mutex_);
  std::shared_ptr<Caller> running_ ABSL_GUARDED_BY(mutex_);  // null: nothing runs
  bool draining_ ABSL_GUARDED_BY(mutex_) = false;
  bool ended_ ABSL_GUARDED_BY(mutex_) = false;
  absl::Mutex shown_mutex_;              // what is shown last is what is there
  std::set<uint64_t> changed_versions_;  // used by thread_ alone

  absl::Mutex join_mutex_;
  std::thread thread_ ABSL_GUARDED_BY(join_mutex_);  // last: it uses the rest
};

}  // namespace dotmax

#endif  // DOTMAX_SERVER_LOAD_LOADER_H_
