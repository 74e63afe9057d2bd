#include "client/cpp/wire.h"

#include <utility>

namespace dotmax {
namespace {

constexpr std::pair<ElementType, v1::DType> kWireTypes[] = {
    {ElementType::kFloat32, v1::FLOAT32},   {ElementType::kFloat16, v1::FLOAT16},
    {ElementType::kBFloat16, v1::BFLOAT16}, {ElementType::kFloat64, v1::FLOAT64},
    {ElementType::kInt8, v1::INT8},
};

}  // namespace

ElementType TypeFromProto(v1::DType type) {
  for (const auto& [ours, wire] : kWireTypes) {
    if (wire == type) return ours;
  }
  return ElementType::kFloat32;
}

v1::Metric ToProto(ScoreMetric metric) {
  switch (metric) {
    case ScoreMetric::kCosine:
      return v1::COSINE;
    case ScoreMetric::kSquaredEuclidean:
      return v1::SQUARED_EUCLIDEAN;
    case ScoreMetric::kInnerProduct:
      break;
  }
  return v1::INNER_PRODUCT;
}

v1::SelfPairs ToProto(SelfPairs self) {
  switch (self) {
    case SelfPairs::kNotItself:
      return v1::NOT_ITSELF;
    case SelfPairs::kEachOnce:
      return v1::EACH_ONCE;
    case SelfPairs::kAll:
      break;
  }
  return v1::SELF_PAIRS_UNSPECIFIED;
}

void ToProto(const Rows& rows, size_t first, size_t count, v1::Matrix* matrix) {
  matrix->set_rows(count);
  matrix->set_dim(rows.dim);
  for (const auto& [ours, wire] : kWireTypes) {
    if (ours == rows.type) matrix->set_dtype(wire);
  }
  if (count > 0) {
    matrix->set_data(static_cast<const char*>(rows.data) + first * rows.row_bytes(),
                     count * rows.row_bytes());
  }
}

SearchResult ResultFromProto(const v1::SearchResponse& response) {
  SearchResult result;
  result.row_splits.assign(response.row_splits().begin(), response.row_splits().end());
  result.ids.assign(response.ids().begin(), response.ids().end());
  result.scores.assign(response.scores().begin(), response.scores().end());
  result.query_rows.assign(response.query_rows().begin(), response.query_rows().end());
  if (response.has_best()) {
    result.best = BestHit{response.best().query_row(), response.best().id(), response.best().score()};
  }
  result.truncated.assign(response.truncated().begin(), response.truncated().end());
  result.counts.assign(response.counts().begin(), response.counts().end());
  result.version = response.version();
  result.coverage = response.coverage();
  result.queue_seconds = response.stats().queue_seconds();
  result.compute_seconds = response.stats().compute_seconds();
  result.pairs_screened = response.stats().pairs_screened();
  result.pairs_survived = response.stats().pairs_survived();
  result.pairs_checked = response.stats().pairs_checked();
  result.pairs_rescored = response.stats().pairs_rescored();
  return result;
}

}  // namespace dotmax
