// Rows of a matrix that are equal: documents that come twice, rows of zeros. Of such rows the int8 screen
// knows the first alone, as no bound can tell them apart, and a hit of that one is a hit of all.
#ifndef DOTMAX_SERVER_ENGINE_COPIES_H_
#define DOTMAX_SERVER_ENGINE_COPIES_H_

#include <cstdint>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/types/span.h"
#include "server/base/types.h"

namespace dotmax {

// Immutable once taken.
class Copies {
 public:
  Copies() = default;  // there are none

  // Takes out of `ids` every row whose elements are those of an earlier one. REQUIRES: `ids` ascend where
  // norms[id] are the same, and those stand together; rows of the same elements have the same norms.
  static Copies TakeFrom(std::vector<uint32_t>& ids, const MatrixView& rows, absl::Span<const double> norms);

  bool empty() const { return ids_.empty(); }

  // Those of a row that was left, ascending.
  absl::Span<const uint32_t> of(uint64_t id) const {
    if (ids_.empty()) return {};
    const auto range = ranges_.find(static_cast<uint32_t>(id));
    return range == ranges_.end() ? absl::Span<const uint32_t>() : Of(range->second);
  }

  uint64_t bytes() const;

 private:
  struct Range {
    uint32_t first = 0, count = 0;
  };
  absl::Span<const uint32_t> Of(Range range) const {
    return absl::MakeConstSpan(ids_).subspan(range.first, range.count);
  }

  absl::flat_hash_map<uint32_t, Range> ranges_;  // in ids_, by the first row's id
  std::vector<uint32_t> ids_;
};

}  // namespace dotmax

#endif  // DOTMAX_SERVER_ENGINE_COPIES_H_
