// What passes over one matrix were measured to take, by how many query rows they had.
#ifndef DOTMAX_SERVER_BATCH_PASS_COSTS_H_
#define DOTMAX_SERVER_BATCH_PASS_COSTS_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>

namespace dotmax {

// Not thread-safe.
class PassCosts {
 public:
  // A pass of rows ≥ 1 took so many seconds.
  void Record(uint64_t rows, double seconds);

  // What so many rows take, more or less, in as many passes as they need; in passes of sizes that were never
  // seen, rather less than more. None before anything was measured.
  std::optional<double> Seconds(uint64_t rows) const;

  // Per row, in the cheapest passes that were seen; 0 before.
  double RowSeconds() const;

  // The fewest rows at which a pass is nearly as cheap per row as it gets: more of them only make others
  // wait. At most `most`, and that until it was measured.
  uint64_t EnoughRows(uint64_t most) const;

 private:
  // Sizes up to 2^i and above 2^(i - 1) are alike, as far as passes go: 256 rows.
  static constexpr size_t kSizes = 9;
  static size_t SizeOf(uint64_t rows);

  std::array<double, kSizes> row_seconds_ = {};  // averages that forget; 0: not measured
};

}  // namespace dotmax

#endif  // DOTMAX_SERVER_BATCH_PASS_COSTS_H_
