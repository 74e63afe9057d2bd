// The client's values as messages hold them.
#ifndef DOTMAX_CLIENT_CPP_WIRE_H_
#define DOTMAX_CLIENT_CPP_WIRE_H_

#include <cstddef>
#include <utility>

#include "dotmax/client.h"
#include "dotmax/v1/dotmax.pb.h"

namespace dotmax {

inline constexpr std::pair<ElementType, v1::DType> kWireTypes[] = {
    {ElementType::kFloat32, v1::FLOAT32},   {ElementType::kFloat16, v1::FLOAT16},
    {ElementType::kBFloat16, v1::BFLOAT16}, {ElementType::kFloat64, v1::FLOAT64},
    {ElementType::kInt8, v1::INT8},
};

v1::Metric ToProto(ScoreMetric metric);

// Rows [first, first + count) of `rows`.
void ToProto(const Rows& rows, size_t first, size_t count, v1::Matrix* matrix);

SearchResult ResultFromProto(const v1::SearchResponse& response);

}  // namespace dotmax

#endif  // DOTMAX_CLIENT_CPP_WIRE_H_
