// Groups rows that lie near each other, so that a search can rule out whole groups by the ball around them.
// k-means (Lloyd, Least Squares Quantization in PCM, 1982) on 8-bit codes: what groups come out changes the
// speed of a search, never its answer.
#ifndef DOTMAX_SERVER_ENGINE_CLUSTER_H_
#define DOTMAX_SERVER_ENGINE_CLUSTER_H_

#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "server/base/types.h"
#include "server/engine/pass.h"
#include "server/engine/quantize.h"

namespace dotmax {

// At most `count` ≥ 1 centres (each dim float32) of the rows in `codes`, which are unrotated; norms[i] is
// about ‖row i‖. Starts from rows far from the centres so far (after Bahmani et al., Scalable K-Means++,
// 2012), and gives up, with no centres, unless a fair part of the others have one of these within `loosest`
// times their own squared norm. Where more than a few rows stay farther than `reach` from every centre, there
// may be up to eight times as many. Fails with kDeadlineExceeded soon after `deadline`, by ThreadTime().
absl::StatusOr<std::vector<float>> LearnCentres(const MatrixView& rows, absl::Span<const double> norms,
                                                const Int8Codes& codes, int count, double loosest,
                                                double reach, Kernels& kernels,
                                                absl::Duration deadline = absl::InfiniteDuration());

struct Grouping {
  // Rows farther than this from their centre are of no use in a ball. They are clustered again among
  // themselves; those that are left at last stand by norm in tiles of their own, and spoil nobody's ball.
  double reach;
  // Of fewer rows no group is made: a ball costs about as much as a few rows.
  int least_rows;
};

struct Groups {
  struct Group {
    std::vector<float> centre;
    std::vector<uint32_t> ids;     // near ones first
    std::vector<float> distances;  // theirs from the centre
  };
  std::vector<Group> groups;
  std::vector<uint32_t> left;  // descending norm
};

// The rows in `codes` by their nearest centre. Fails with kDeadlineExceeded soon after `deadline`, by
// ThreadTime().
absl::StatusOr<Groups> GroupByCentre(const MatrixView& rows, absl::Span<const double> norms,
                                     std::unique_ptr<const Int8Codes> codes, std::vector<float> centres,
                                     const Grouping& grouping, Kernels& kernels,
                                     absl::Duration deadline = absl::InfiniteDuration());

// Groups in balls: as few as can be, all about as large, and their rows about as far from the centre. What is
// left in whole tiles.
RowOrder CutIntoBalls(const Groups& groups);

}  // namespace dotmax

#endif  // DOTMAX_SERVER_ENGINE_CLUSTER_H_
