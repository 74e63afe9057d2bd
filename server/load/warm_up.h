// The first searches of a server, which make what later ones find made.
#ifndef DOTMAX_SERVER_LOAD_WARM_UP_H_
#define DOTMAX_SERVER_LOAD_WARM_UP_H_

#include "absl/time/time.h"
#include "server/base/searcher.h"

namespace dotmax {

// Searches each collection for one of its own rows and for a whole block of them, so that kernels exist and
// codes are in memory. Returns when that is done, or soon after `deadline`: nothing depends on it but the
// time of the next searches.
void WarmUp(Searcher& searcher, absl::Time deadline);

}  // namespace dotmax

#endif  // DOTMAX_SERVER_LOAD_WARM_UP_H_
