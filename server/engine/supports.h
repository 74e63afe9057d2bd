// Which elements of rows are not zero. Where rows have few of them, as words of documents are, or marks of
// categories, most pairs of rows have none in common and score exactly 0, or are as far from each other as
// their lengths say, which is often as good as the k-th best: no bound of an error can tell, and float64
// takes a hundred times as long as these bits.
#ifndef DOTMAX_SERVER_ENGINE_SUPPORTS_H_
#define DOTMAX_SERVER_ENGINE_SUPPORTS_H_

#include <cstddef>
#include <cstdint>
#include <vector>

#include "absl/types/span.h"
#include "server/base/types.h"

namespace dotmax {

// Immutable.
class Supports {
 public:
  Supports() = default;  // of no rows

  // Empty for rows that have so many that few pairs have none in common, and for short ones.
  static Supports Of(const MatrixView& rows);

  bool empty() const { return bits_.empty(); }
  // A bit for each element, in so many words.
  size_t words() const { return words_; }
  // Those of a row with as many elements.
  static void Find(absl::Span<const double> row, uint64_t* bits);

  // Whether row `id` and that of `bits` have none in common: then each of their products is 0.
  bool IsApart(uint64_t id, const uint64_t* bits) const {
    uint64_t common = 0;
    for (size_t i = 0; i < words_; ++i) common |= bits_[id * words_ + i] & bits[i];
    return common == 0;
  }

  // The sum of a row's squares in float64, in some order.
  double squares(uint64_t id) const { return squares_[id]; }

  uint64_t bytes() const { return bits_.size() * sizeof(bits_[0]) + squares_.size() * sizeof(squares_[0]); }

 private:
  size_t words_ = 0;
  std::vector<uint64_t> bits_;  // by row
  std::vector<double> squares_;
};

}  // namespace dotmax

#endif  // DOTMAX_SERVER_ENGINE_SUPPORTS_H_
