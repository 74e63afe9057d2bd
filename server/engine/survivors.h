// Putting survivors in order.
#ifndef DOTMAX_SERVER_ENGINE_SURVIVORS_H_
#define DOTMAX_SERVER_ENGINE_SURVIVORS_H_

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>

#include "absl/types/span.h"
#include "server/engine/aligned.h"
#include "server/engine/reduce.h"

namespace dotmax {

inline constexpr int kBlockRows = 16;

// Kernels score whole blocks of rows: moves the survivors [first, end) of the first `rows` rows to the front;
// returns how many.
inline size_t KeepRows(Survivor* first, Survivor* end, int rows) {
  if (rows % kBlockRows == 0) return end - first;
  return std::remove_if(first, end, [rows](Survivor s) { return s.row >= rows; }) - first;
}

// Sorts by key(survivor) < kKeys; those of one key stay in order. O(survivors + kKeys).
template <size_t kKeys, class Key>
void SortSurvivors(absl::Span<Survivor> survivors, AlignedArray<Survivor>& scratch, Key key) {
  std::array<uint32_t, kKeys + 1> next = {};
  for (const Survivor& s : survivors) ++next[key(s) + 1];
  for (size_t i = 1; i < next.size(); ++i) next[i] += next[i - 1];
  Survivor* const sorted = scratch.Reserve(survivors.size());
  for (const Survivor& s : survivors) sorted[next[key(s)]++] = s;
  std::copy_n(sorted, survivors.size(), survivors.begin());
}

}  // namespace dotmax

#endif  // DOTMAX_SERVER_ENGINE_SURVIVORS_H_
