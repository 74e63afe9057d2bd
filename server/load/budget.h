// Whether a matrix has room: what loading it takes at its peak, and what the machine has left.
#ifndef DOTMAX_SERVER_LOAD_BUDGET_H_
#define DOTMAX_SERVER_LOAD_BUDGET_H_

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "server/base/types.h"

namespace dotmax {

// An upper bound of the memory that is taken while a matrix of this shape is read (unless it is mapped), and
// its codes are chosen and made; most of it stays. For float32 rows, about 1.5 times their bytes; for int8
// rows, three times. Saturates.
uint64_t PeakLoadBytes(const MatrixView& shape, bool mapped);

// What this process may still take: the least of what the machine has available and what is left of the
// memory limits of its cgroups (version 1 or 2), not counting cached files as taken. Without `root`/proc, the
// largest number. `root` is "" or a test's own.
uint64_t AvailableBytes(const std::string& root = "");

// What this process has taken: memory that no file backs. 0 if the system does not say.
uint64_t OwnBytes();

// kResourceExhausted (NOT_ENOUGH_MEMORY), with both figures, when the matrix does not fit into what is left
// of `limit`, or, if that is 0, into AvailableBytes().
absl::Status CheckMemory(const MatrixView& shape, bool mapped, uint64_t limit);

}  // namespace dotmax

#endif  // DOTMAX_SERVER_LOAD_BUDGET_H_
