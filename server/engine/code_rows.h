// Rows of 8-bit codes where they lie.
#ifndef DOTMAX_SERVER_ENGINE_CODE_ROWS_H_
#define DOTMAX_SERVER_ENGINE_CODE_ROWS_H_

#include <cstddef>
#include <cstdint>

#include "server/engine/aligned.h"

namespace dotmax {

// Each row's codes side by side; or the first of them in one place, so that they can be read alone, and the
// others in another.
struct CodeRows {
  // One row after another.
  struct Plane {
    const uint8_t* row(size_t i) const { return codes + i * dim; }

    const uint8_t* codes = nullptr;
    size_t dim = 0;
  };

  size_t dim() const { return head.dim + rest.dim; }
  // Those from one row on.
  CodeRows From(size_t row) const { return {{head.row(row), head.dim}, {rest.row(row), rest.dim}, ahead}; }

  // Where there is a rest, head.dim is a multiple of kHeadMultiple.
  Plane head, rest = {};
  // What to ask for beside them, if anything: a kernel may.
  ReadAhead* ahead = nullptr;
};

inline constexpr size_t kHeadMultiple = 64;  // bytes of a vector and of a cache line

}  // namespace dotmax

#endif  // DOTMAX_SERVER_ENGINE_CODE_ROWS_H_
