// Seeded inputs for tests and benchmarks. The same call gives the same bytes on every machine.
#ifndef DOTMAX_TESTS_DATA_H_
#define DOTMAX_TESTS_DATA_H_

#include <cstdint>
#include <vector>

#include "server/base/types.h"

namespace dotmax::testing {

// Packs `values` (row-major, values.size() / dim rows) into `dtype`, rounding to nearest even.
SharedMatrix MakeMatrix(const std::vector<double>& values, uint32_t dim, DType dtype = DType::kFloat32);

// Independent standard normal elements (int8: scaled by 40 and clamped).
SharedMatrix RandomNormal(uint64_t rows, uint32_t dim, uint64_t seed, DType dtype = DType::kFloat32);

// Rows `first`, first + 1, ... first + rows - 1 of `matrix`, sharing its bytes.
SharedMatrix Slice(const SharedMatrix& matrix, uint64_t first, uint64_t rows);

}  // namespace dotmax::testing

#endif  // DOTMAX_TESTS_DATA_H_
