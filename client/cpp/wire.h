// The client's values as messages hold them.
#ifndef DOTMAX_CLIENT_CPP_WIRE_H_
#define DOTMAX_CLIENT_CPP_WIRE_H_

#include <cstddef>

#include "dotmax/client.h"
#include "dotmax/v1/dotmax.pb.h"
#include "dotmax/v1/matrix.pb.h"

namespace dotmax {

ElementType TypeFromProto(v1::DType type);  // kFloat32 for one that this client does not know
v1::Metric ToProto(ScoreMetric metric);
v1::SelfPairs ToProto(SelfPairs self);

// Rows [first, first + count) of `rows`.
void ToProto(const Rows& rows, size_t first, size_t count, v1::Matrix* matrix);

SearchResult ResultFromProto(const v1::SearchResponse& response);

}  // namespace dotmax

#endif  // DOTMAX_CLIENT_CPP_WIRE_H_
