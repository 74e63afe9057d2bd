// The seam between those who receive requests to change what is resident (rpc) and those who do it (load).
#ifndef DOTMAX_SERVER_BASE_COLLECTIONS_H_
#define DOTMAX_SERVER_BASE_COLLECTIONS_H_

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>

#include "absl/functional/any_invocable.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "server/base/searcher.h"

namespace dotmax {

struct LoadProgress {
  enum class Stage : uint8_t {
    kWaiting,    // for the loads before it
    kReading,    // the file
    kPreparing,  // choosing how to search it, and encoding it
  };
  Stage stage = Stage::kWaiting;
  uint64_t bytes_done = 0, bytes_total = 0;  // of the rows; 0 before the file is open
};

// Thread-safe. No call waits for a load.
class CollectionAdmin {
 public:
  // Called a few times a second at most, and never after Done.
  using Progress = absl::AnyInvocable<void(const LoadProgress&)>;
  // Called exactly once per call, on an unspecified thread (possibly before the call returns).
  using Done = absl::AnyInvocable<void(absl::StatusOr<CollectionInfo>)>;
  // Set by the caller to withdraw the request; may be null.
  using Cancelled = std::shared_ptr<const std::atomic<bool>>;

  virtual ~CollectionAdmin() = default;

  // Loads the file at `path`, within the data directory, beside what there is; then `name` means it, for
  // whoever asks from then on, under a new version. Fails, and changes nothing, with a status made by
  // server/base/errors.h: kInvalidArgument (a name that cannot be), kPermissionDenied (PATH_NOT_ALLOWED,
  // FILE_NOT_READABLE), kNotFound (FILE_NOT_FOUND), kFailedPrecondition (MALFORMED_FILE), kResourceExhausted
  // (NOT_ENOUGH_MEMORY; LOAD_QUEUE_FULL), kCancelled, kUnavailable (shutting down).
  virtual void Load(std::string name, std::string path, Cancelled cancelled, Progress progress,
                    Done done) = 0;

  // The same from the file that `name` was loaded from. kNotFound (COLLECTION_NOT_FOUND), kAborted
  // (COLLECTION_CHANGED: what `name` means has changed meanwhile), kFailedPrecondition (NO_FILE).
  virtual void Reload(std::string name, Cancelled cancelled, Progress progress, Done done) = 0;

  // From now on each name means what the other one did, both under new versions. kNotFound,
  // kInvalidArgument when they are the same.
  virtual absl::StatusOr<std::pair<CollectionInfo, CollectionInfo>> Swap(const std::string& a,
                                                                         const std::string& b) = 0;

  // From now on `name` means nothing. kNotFound.
  virtual absl::Status Drop(const std::string& name) = 0;
};

}  // namespace dotmax

#endif  // DOTMAX_SERVER_BASE_COLLECTIONS_H_
