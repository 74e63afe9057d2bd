// What is resident: collections by name, and the matrix that each means now.
#ifndef DOTMAX_SERVER_BATCH_CATALOG_H_
#define DOTMAX_SERVER_BATCH_CATALOG_H_

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
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
  struct Resident {
    std::string name;
    uint64_t version = 0;  // counts all publications of the catalog, from 1
    std::shared_ptr<const Matrix> matrix;
  };

  Catalog() = default;
  Catalog(const Catalog&) = delete;
  Catalog& operator=(const Catalog&) = delete;

  // The collection of that name, or, for an empty one, the only one. kNotFound says what there is.
  absl::StatusOr<Resident> Find(absl::string_view name) const;

  // All of them, in order of name.
  ResidentInfos Infos() const;

  // From now on `name` means `matrix`. Returns the version.
  uint64_t Publish(const std::string& name, std::shared_ptr<const Matrix> matrix);

 private:
  // Never changes; replaced as a whole.
  struct State {
    std::map<std::string, Resident, std::less<>> by_name;
    std::vector<CollectionInfo> infos;
  };

  std::shared_ptr<const State> Now() const ABSL_LOCKS_EXCLUDED(mutex_);

  mutable absl::Mutex mutex_;
  std::shared_ptr<const State> state_ ABSL_GUARDED_BY(mutex_) = std::make_shared<State>();
  uint64_t versions_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace dotmax

#endif  // DOTMAX_SERVER_BATCH_CATALOG_H_
