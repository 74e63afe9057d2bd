#include "server/load/warm_up.h"

#include <algorithm>
#include <cstdint>
#include <utility>

#include "absl/status/statusor.h"
#include "absl/time/clock.h"

namespace dotmax {
namespace {

// The narrowest and the widest block of the engine: they have kernels of their own.
constexpr uint64_t kWidths[] = {1, 256};

}  // namespace

void WarmUp(Searcher& searcher, absl::Time deadline) {
  const ResidentInfos infos = searcher.Collections();
  for (const CollectionInfo& info : *infos) {
    if (info.rows == 0) continue;
    for (const uint64_t width : kWidths) {
      if (absl::Now() >= deadline) return;
      Query query;
      query.resident = ResidentRows{info.name, 0, std::min(width, info.rows)};
      query.collection = info.name;
      query.limits.deadline = deadline;
      SearchAndWait(searcher, std::move(query)).IgnoreError();
    }
  }
}

}  // namespace dotmax
