// The naive exact reference: every score of the rows of A and B as the metric's true value rounded once, by
// integers that are wide enough to hold it. Shares nothing with the engine but base/types.h, so that the two
// can only agree by both being right; it is itself checked against Python's math.fsum and fractions
// (tests/oracle_test.cc).
#ifndef DOTMAX_TESTS_ORACLE_H_
#define DOTMAX_TESTS_ORACLE_H_

#include <vector>

#include "server/base/types.h"

namespace dotmax::testing {

// The true inner product, cosine or squared distance of row `i` of `a` and row `j` of `b`, rounded to nearest
// even; ±infinity when that is beyond float64; +0.0 for zero. O(dim) with a large constant; a cosine takes
// some 50 products of integers besides.
double ExactScore(const MatrixView& a, uint64_t i, const MatrixView& b, uint64_t j,
                  Metric metric = Metric::kInnerProduct);

// What a search must answer, in the order of BetterBy. kPerRow: concatenated over query rows, each with
// min(top_k, b.rows) hits; kGlobal: min(top_k, a.rows · b.rows) hits.
std::vector<Hit> ExactTopK(const MatrixView& a, const MatrixView& b, uint32_t top_k, Reduction reduction,
                           Metric metric = Metric::kInnerProduct);

}  // namespace dotmax::testing

#endif  // DOTMAX_TESTS_ORACLE_H_
