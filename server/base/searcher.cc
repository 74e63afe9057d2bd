#include "server/base/searcher.h"

#include <utility>

#include "absl/synchronization/notification.h"

namespace dotmax {

absl::StatusOr<Answer> SearchAndWait(Searcher& searcher, Query query) {
  absl::StatusOr<Answer> result;
  absl::Notification done;
  searcher.Search(std::move(query), [&](absl::StatusOr<Answer> answer) {
    result = std::move(answer);
    done.Notify();
  });
  done.WaitForNotification();
  return result;
}

}  // namespace dotmax
