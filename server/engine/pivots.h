// Pivots: what is known of how balls lie to one another, for queries that lie near one of them. A query's own
// part of ‖a‖·r shrinks to ‖a − αp‖·r, for the pivot p that it is nearest to, and what p adds to each ball is
// measured beforehand (BallSpread in bound.h). After the pivots of LAESA (Micó, Oncina, Vidal, 1994), with
// inner products for distances.
#ifndef DOTMAX_SERVER_ENGINE_PIVOTS_H_
#define DOTMAX_SERVER_ENGINE_PIVOTS_H_

#include <cstddef>
#include <cstdint>

#include "absl/status/statusor.h"
#include "server/engine/pass.h"
#include "server/engine/quantize.h"

namespace dotmax {

// At most `most` ≥ 1 pivots of `rows`, which have balls: centres evenly spread over them. As dear as a search
// of that many queries that leaves nothing out.
absl::StatusOr<Pivots> MeasurePivots(const Int8Codes& rows, size_t most, Kernels& kernels);

}  // namespace dotmax

#endif  // DOTMAX_SERVER_ENGINE_PIVOTS_H_
