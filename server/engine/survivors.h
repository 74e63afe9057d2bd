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
