// Groups rows that lie near each other, so that a search can rule out whole groups by the ball around them.
// k-means (Lloyd, Least Squares Quantization in PCM, 1982) on 8-bit codes: what groups come out changes the
// speed of a search, never its answer.
#ifndef DOTMAX_SERVER_ENGINE_CLUSTER_H_
#define DOTMAX_SERVER_ENGINE_CLUSTER_H_

#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "server/base/types.h"
#include "server/engine/pass.h"
#include "server/engine/quantize.h"

namespace dotmax {

// At most `count` ≥ 1 centres (each dim float32) of the rows in `codes`, which are unrotated; norms[i] is
// about ‖row i‖. Starts from rows far from the centres so far (after Bahmani et al., Scalable K-Means++,
// 2012), and gives up, with no centres, if the mean squared distance to these is still above `loosest` times
// the mean squared norm.
absl::StatusOr<std::vector<float>> LearnCentres(const MatrixView& rows, absl::Span<const double> norms,
                                                const Int8Codes& codes, int count, double loosest,
                                                Kernels& kernels);

// The rows in `codes` in tiles, each of rows that share their nearest centre.
absl::StatusOr<RowOrder> GroupByCentre(absl::Span<const double> norms, const Int8Codes& codes,
                                       absl::Span<const float> centres, Kernels& kernels);

}  // namespace dotmax

#endif  // DOTMAX_SERVER_ENGINE_CLUSTER_H_
