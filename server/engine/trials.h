// What searches by some codes take, measured: a few rows of the matrix are the queries.
#ifndef DOTMAX_SERVER_ENGINE_TRIALS_H_
#define DOTMAX_SERVER_ENGINE_TRIALS_H_

#include <algorithm>
#include <cstdint>
#include <limits>
#include <vector>

#include "absl/time/time.h"
#include "absl/types/span.h"
#include "server/base/types.h"
#include "server/engine/pass.h"
#include "server/engine/quantize.h"

namespace dotmax {

class Matrix;

// Seconds per query over all rows.
struct SearchTimes {
  double batch = std::numeric_limits<double>::infinity();
  double single = std::numeric_limits<double>::infinity();
  double deep = std::numeric_limits<double>::infinity();  // of a batch, for many hits

  // One set of codes serves large batches, bound by arithmetic, single queries, bound by memory, and large
  // top_k, bound by survivors: the product of their times weighs a share lost in one against the same share
  // won in another.
  double cost() const { return batch * single * deep; }
};

// Of two trials of the same.
inline SearchTimes Least(const SearchTimes& a, const SearchTimes& b) {
  return {std::min(a.batch, b.batch), std::min(a.single, b.single), std::min(a.deep, b.deep)};
}

// Times are those of the calling thread (thread_time.h). Not thread-safe.
class Trials {
 public:
  struct Result {
    SearchTimes times;
    uint64_t survived = 0;  // pairs of the batch
    // Pairs of the single queries.
    uint64_t single_screened = 0, single_survived = 0;
  };

  // Both outlive this; norms[i] ≥ ‖row i‖. REQUIRES: at least one row.
  Trials(const Matrix& matrix, absl::Span<const double> norms);

  // Finds what the queries must beat, themselves excluded, by the float32 screen; if that takes until then,
  // among some of the rows. False if there is nothing to beat; true before anything below.
  bool TakeSample(absl::Duration until);

  // The float32 screen's times, as that took, as if a single query cost its share of a batch; or measured.
  const SearchTimes& float32() const { return float32_; }
  void MeasureFloat32();

  // By the codes of some rows, a `share` of all, knowing what must be beaten. If `known` is not null, its
  // batches are not measured again.
  Result OfSome(const Int8Codes& codes, double share, const Result* known);

  // By those of all rows, and knowing nothing.
  SearchTimes OfAll(const Int8Codes& codes);

  // How many of the pairs of a batch and `rows` rows are screened, where a search leaves some out.
  double ScreenedShare(const Int8Codes& codes, uint64_t rows);

  // How far from a centre rows can be and still be ruled out by it: a ball's bound is a·centre + ‖a‖·radius,
  // and a·centre is about 0 for most. Most queries' scores per length are below this.
  double Reach() const;

  Kernels& kernels() { return buffers_.kernels; }

 private:
  // What a pass takes whatever rows there are, and what for each.
  struct PassTime {
    double preparation = std::numeric_limits<double>::infinity();
    double search = std::numeric_limits<double>::infinity();

    // Over all rows, from that over a share of them.
    double Of(double share) const { return preparation + search / share; }
  };

  PassTime Run(const Int8Codes* codes, uint64_t first, uint64_t queries, bool of_others = false,
               bool deep = false);
  Result Measure(const Int8Codes* codes, bool of_others, double share, const Result* known = nullptr);
  static double SecondsOfMemory(const Int8Codes& codes, double share, const Result& result);
  uint64_t SampleRow(uint64_t i) const;

  const Matrix& matrix_;
  const MatrixView& view_;
  const absl::Span<const double> norms_;
  SharedMatrix queries_;
  std::vector<double> thresholds_,
      deep_;  // the best score that another row gives each, and the kDeep-th best
  SearchTimes float32_;
  PassBuffers buffers_;
  Scratch scratch_;
};

}  // namespace dotmax

#endif  // DOTMAX_SERVER_ENGINE_TRIALS_H_
