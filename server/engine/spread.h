// Rows and queries along axes that each mix up to 1,024 coordinates.
#ifndef DOTMAX_SERVER_ENGINE_SPREAD_H_
#define DOTMAX_SERVER_ENGINE_SPREAD_H_

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/types/span.h"
#include "server/base/types.h"
#include "server/engine/deflation.h"

namespace dotmax {

// The orthogonal matrix S = H·D: random signs, and the Walsh–Hadamard transform of blocks of 4^m coordinates,
// of 2^-m·(±1). No coordinate of Sx is much larger than the others where a few of x are, and 8-bit steps are
// as coarse as the largest asks for (Suresh, Yu, Kumar, McMahan, Distributed Mean Estimation with Limited
// Communication, 2017). Since (Sa)·(Sb) = a·b, codes of Sx serve as those of x do. Immutable.
class Spread {
 public:
  explicit Spread(uint32_t dim);

  // For codes of `rows`, deflated unless that is null, if these become clearly closer by a
  // sample of `ids`, which are by norm; null otherwise.
  static std::shared_ptr<const Spread> IfCloser(const MatrixView& rows, absl::Span<const uint32_t> ids,
                                                const Deflation* deflation);

  uint32_t dim() const { return static_cast<uint32_t>(factors_.size()); }

  // Makes x Sx, in float32, dim numbers: at most 2·dim·log₄ dim additions.
  void Apply(float* x) const;
  // How far that is from Sx, of about this length, at most.
  double Error(double length) const;

  uint64_t bytes() const { return factors_.size() * sizeof(float); }

 private:
  std::vector<float> factors_;    // ±2^-m
  std::vector<uint32_t> blocks_;  // 4^m
};

}  // namespace dotmax

#endif  // DOTMAX_SERVER_ENGINE_SPREAD_H_
