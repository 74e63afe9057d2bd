// What is resident: collections by name, and the matrix that each means now.
#ifndef DOTMAX_SERVER_BATCH_CATALOG_H_
#define DOTMAX_SERVER_BATCH_CATALOG_H_

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "server/base/searcher.h"
#include "server/engine/matrix.h"

namespace dotmax {

// Thread-safe. Changes are atomic: whoever has found a matrix keeps it, whatever its name means afterwards,
// and the last one to let go of it frees it.
class Catalog {
 public:
  // Where a matrix came from, for whoever loads it again.
  struct Source {
    std::string path;          // empty: from no file
    bool in_data_dir = false;  // named by a caller, and confined to the data directory
  };

  struct Resident {
    std::string name;
    uint64_t version = 0;  // counts all changes of the catalog, from 1
    std::shared_ptr<const Matrix> matrix;
    std::shared_ptr<const Backing> backing;  // of the matrix's bytes; null: they are the process' own
    Source source;
    std::shared_ptr<const RowNames> names;  // of its rows; null: there are none

    // Whether what has been read of the matrix until now was right: to be asked before an answer goes out.
    // kDataLoss (FILE_CHANGED) when its mapped file has been cut or written. A system call if it is mapped.
    absl::Status Intact() const;
  };

  // What `name` is to mean.
  struct Entry {
    std::shared_ptr<const Matrix> matrix;
    std::shared_ptr<const Backing> backing = nullptr;
    Source source = {};
    std::shared_ptr<const RowNames> names = nullptr;
  };

  // A `loading` catalog finds nothing (kUnavailable, LOADING) until it is opened.
  explicit Catalog(bool loading = false) : loading_(loading) {}
  Catalog(const Catalog&) = delete;
  Catalog& operator=(const Catalog&) = delete;

  void Open() ABSL_LOCKS_EXCLUDED(mutex_);

  // The collection of that name, or, for an empty one, the only one. kNotFound says what there is.
  absl::StatusOr<Resident> Find(absl::string_view name) const;

  // All of them, in order of name; also while loading.
  ResidentInfos Infos() const;
  std::vector<Resident> All() const;

  // From now on `name` means `matrix`. Returns the version.
  uint64_t Publish(const std::string& name, std::shared_ptr<const Matrix> matrix) {
    return Publish(name, Entry{std::move(matrix)}).version;
  }
  CollectionInfo Publish(const std::string& name, Entry entry);

  // The same, unless what `replaced` names has changed since: kAborted.
  absl::StatusOr<CollectionInfo> Replace(const Resident& replaced, Entry entry);

  // From now on each name means what the other one did. kNotFound.
  absl::StatusOr<std::pair<CollectionInfo, CollectionInfo>> Swap(const std::string& a, const std::string& b);

  // From now on `name` means nothing. kNotFound.
  absl::Status Drop(const std::string& name);

 private:
  using ByName = std::map<std::string, Resident, std::less<>>;
  // Never changes; replaced as a whole.
  struct State {
    ByName by_name;
    ResidentInfos infos;  // does not keep the matrices
  };

  std::shared_ptr<const State> Now() const ABSL_LOCKS_EXCLUDED(mutex_);
  // Returns what was there before, to be let go of after the lock: it may be large.
  std::shared_ptr<const State> Become(ByName by_name) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  Resident& Put(ByName& by_name, const std::string& name, Entry entry) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  mutable absl::Mutex mutex_;
  bool loading_ ABSL_GUARDED_BY(mutex_);
  std::shared_ptr<const State> state_ ABSL_GUARDED_BY(mutex_) = std::make_shared<State>(State{
      {}, std::make_shared<std::vector<CollectionInfo>>()});
  uint64_t versions_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace dotmax

#endif  // DOTMAX_SERVER_BATCH_CATALOG_H_
