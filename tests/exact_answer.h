// The answer to any question, by the oracle's scores of all pairs.
#ifndef DOTMAX_TESTS_EXACT_ANSWER_H_
#define DOTMAX_TESTS_EXACT_ANSWER_H_

#include "dotmax/v1/dotmax.pb.h"
#include "server/base/searcher.h"
#include "server/base/types.h"

namespace dotmax::testing {

// Without stats. Looks at every part of `selection`, self_first included.
Answer ExactAnswer(const MatrixView& a, const MatrixView& b, const Selection& selection);

// Expects that `response` says the same, field by field.
void ExpectAnswer(const v1::SearchResponse& response, const Answer& expected, const Selection& selection);

}  // namespace dotmax::testing

#endif  // DOTMAX_TESTS_EXACT_ANSWER_H_
