// One answer from those of successive blocks of a base: the same, hit for hit, as a search of them all at
// once.
//
//   Merge merge(query_rows, selection);
//   for each block:
//     answer = search(block, merge.ForBlock(block.rows));
//     merge.Add(std::move(answer), block.rows);
//   merge.Take();
#ifndef DOTMAX_SERVER_BASE_MERGE_H_
#define DOTMAX_SERVER_BASE_MERGE_H_

#include <cstdint>
#include <utility>
#include <vector>

#include "server/base/searcher.h"
#include "server/base/types.h"

namespace dotmax {

// Holds O(query rows · top_k), whatever the number of blocks. Not thread-safe.
class Merge {
 public:
  // `selection` is that of the whole base, from whose first row its exclusions count.
  // REQUIRES: selection.self is kAll.
  Merge(uint64_t query_rows, Selection selection);

  // What to ask of the next `rows` rows: exclusions within them, by their ids in the block, and bounds that
  // leave out whatever could not be among the best of all any more. O(query rows · log(exclusions)), and the
  // exclusions within the block.
  Selection ForBlock(uint64_t rows) const;

  // Adds the answer to that question, of the `rows` rows after all others. Ids are the block's own.
  void Add(Answer block, uint64_t rows);

  // Of the blocks added.
  uint64_t rows() const { return rows_; }

  // The answer so far; of no block, that of an empty base. REQUIRES: nothing is called afterwards.
  Answer Take() { return std::move(all_); }

 private:
  uint64_t groups() const { return selection_.reduction == Reduction::kGlobal ? 1 : query_rows_; }
  // Whether later hits have to beat the worst one of `group`.
  bool IsFull(uint64_t group) const;
  const Hit& Worst(uint64_t group) const;
  void MergeHits(const Answer& block);

  const uint64_t query_rows_;
  const Selection selection_;
  uint64_t rows_ = 0;
  Answer all_;  // as if of the first rows_ rows
};

}  // namespace dotmax

#endif  // DOTMAX_SERVER_BASE_MERGE_H_
