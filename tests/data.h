// Seeded inputs for tests and benchmarks. The same call gives the same bytes on every machine.
#ifndef DOTMAX_TESTS_DATA_H_
#define DOTMAX_TESTS_DATA_H_

#include <cstdint>
#include <vector>

#include "server/base/types.h"

namespace dotmax::testing {

// Reproducible on every platform. Not thread-safe.
class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed) {}
  uint64_t Next();   // all 64-bit values
  double Uniform();  // [0, 1)
  double Normal();   // mean 0, variance 1

 private:
  uint64_t state_;
};

// Packs `values` (row-major, values.size() / dim rows) into `dtype`, rounding to nearest even.
SharedMatrix MakeMatrix(const std::vector<double>& values, uint32_t dim, DType dtype = DType::kFloat32);

// Independent standard normal elements (int8: scaled by 40 and clamped).
SharedMatrix RandomNormal(uint64_t rows, uint32_t dim, uint64_t seed, DType dtype = DType::kFloat32);

// Rows around `clusters` standard normal centres (row i around number i mod clusters), each element `spread`
// standard deviations off.
SharedMatrix RandomClustered(uint64_t rows, uint32_t dim, uint64_t clusters, double spread, uint64_t seed);

// Normal rows times lengths exp(spread · N(0, 1)); every hundredth row is zero if they differ.
SharedMatrix RandomOfLengths(uint64_t rows, uint32_t dim, double spread, uint64_t seed);

// Rows `first`, first + 1, ... first + rows - 1 of `matrix`, sharing its bytes.
SharedMatrix Slice(const SharedMatrix& matrix, uint64_t first, uint64_t rows);

}  // namespace dotmax::testing

#endif  // DOTMAX_TESTS_DATA_H_
