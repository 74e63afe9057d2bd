// Chooses how a matrix is screened, by measuring.
#ifndef DOTMAX_SERVER_ENGINE_PLANNER_H_
#define DOTMAX_SERVER_ENGINE_PLANNER_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/types/span.h"
#include "server/base/searcher.h"
#include "server/base/types.h"
#include "server/engine/copies.h"
#include "server/engine/quantize.h"
#include "server/engine/supports.h"

namespace dotmax {

// How a matrix is screened.
struct ScreenOptions {
  enum class Kind {
    kMeasured,  // whatever is fastest, by measurement
    kFloat32,
    kInt8,  // where it can serve; otherwise kFloat32
  };
  Kind kind = Kind::kMeasured;
  uint32_t axes = 0;        // for kInt8: how many; 0: measured, dim: unrotated
  bool two_levels = false;  // for some axes: followed by a second look along all
  uint32_t head = 0;        // so many axes, less than `axes`, come first for few queries: of these, or, with
                            // two levels, of others before whole rows
  bool deflated = false;    // for whole rows, at whatever level: without one direction (deflation.h)
  bool spread = false;      // the same: along other axes (spread.h)
  uint32_t clusters = 0;    // for kInt8, unrotated: rows grouped around so many centres; 0: measured
};

// For a matrix that is searched once, for so many queries: nothing that only more searches repay.
ScreenOptions ScreenForOnce(uint64_t queries);

class Matrix;

struct ScreenPlan {
  std::unique_ptr<const Int8Codes> codes;  // null for the float32 screen
  std::vector<ScreenEstimate> estimates;   // of what was measured, if anything
  Copies copies = {};                      // of rows in codes
  Supports supports = {};                  // of all rows, where they have few elements that are not 0
};

// Chooses, within about two seconds, and encodes; slow processors choose within about five where rows are
// long, or seem to lie in clusters. The choice changes the speed of a search, never its answer. `matrix` is
// complete but for its codes; norms[i] ≥ ‖row i‖. REQUIRES: at least one row; magnitudes as Int8Codes::Encode
// wants them.
ScreenPlan PlanScreen(const Matrix& matrix, absl::Span<const double> norms, const ScreenOptions& options);

// For people: "float32", "int8, 92 of 100 axes", "int8, 100 of 100 axes, 60 first", "int8, 60 of 768 axes,
// then all", "int8, 768 of 768 axes, deflated, spread", "int8, 100 of 100 axes, 1,024 clusters".
std::string ScreenName(const Int8Codes* codes);

}  // namespace dotmax

#endif  // DOTMAX_SERVER_ENGINE_PLANNER_H_
