#include "server/batch/pass_costs.h"

#include <algorithm>
#include <bit>

namespace dotmax {
namespace {

constexpr double kNews = 0.25;    // a pass' share of the average: machines are noisy, and loads change
constexpr double kNearly = 1.05;  // what smaller passes may cost

}  // namespace

size_t PassCosts::SizeOf(uint64_t rows) {
  return std::min<size_t>(std::bit_width(std::max<uint64_t>(rows, 1) - 1), kSizes - 1);
}

void PassCosts::Record(uint64_t rows, double seconds) {
  double& average = row_seconds_[SizeOf(rows)];
  const double now = seconds / static_cast<double>(rows);
  average = average == 0.0 ? now : average + kNews * (now - average);
}

std::optional<double> PassCosts::Seconds(uint64_t rows) const {
  const size_t size = SizeOf(rows);
  // A larger pass is cheaper by the row, a smaller one takes less in all.
  for (size_t i = size; i < kSizes; ++i) {
    if (row_seconds_[i] > 0.0) return row_seconds_[i] * static_cast<double>(rows);
  }
  for (size_t i = size; i-- > 0;) {
    if (row_seconds_[i] > 0.0) return row_seconds_[i] * static_cast<double>(uint64_t{1} << i);
  }
  return std::nullopt;
}

double PassCosts::RowSeconds() const {
  double best = 0.0;
  for (const double seconds : row_seconds_) {
    if (seconds > 0.0 && (best == 0.0 || seconds < best)) best = seconds;
  }
  return best;
}

uint64_t PassCosts::EnoughRows(uint64_t most) const {
  const size_t largest = SizeOf(most);
  if (row_seconds_[largest] == 0.0) return most;
  const double enough = kNearly * RowSeconds();
  for (size_t i = 0; i < largest; ++i) {
    if (row_seconds_[i] > 0.0 && row_seconds_[i] <= enough) return uint64_t{1} << i;
  }
  return most;
}

}  // namespace dotmax
