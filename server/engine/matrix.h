// The resident side of a search: B, and what the screen keeps beside it. Immutable once built, so any
// number of searches read one snapshot without locks.
#ifndef DOTMAX_SERVER_ENGINE_MATRIX_H_
#define DOTMAX_SERVER_ENGINE_MATRIX_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "server/base/types.h"

namespace dotmax {

class Matrix {
 public:
  // REQUIRES: every element of `rows` is finite; dim ≤ kMaxDim, and dim ≥ 1 unless rows = 0.
  explicit Matrix(SharedMatrix rows);

  Matrix(const Matrix&) = delete;
  Matrix& operator=(const Matrix&) = delete;

  const MatrixView& view() const { return rows_.view; }
  // The caller's rows and everything kept beside them.
  uint64_t resident_bytes() const;
  // How hopeless pairs are ruled out, for people: "float32".
  std::string screen() const;

 private:
  const SharedMatrix rows_;
};

}  // namespace dotmax

#endif  // DOTMAX_SERVER_ENGINE_MATRIX_H_
