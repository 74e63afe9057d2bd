#include "server/rpc/convert.h"

#include <bit>
#include <optional>
#include <sstream>
#include <string>

#include "absl/numeric/int128.h"
#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "google/rpc/error_details.pb.h"
#include "server/base/dtype.h"
#include "server/base/errors.h"

namespace dotmax {
namespace {

static_assert(std::endian::native == std::endian::little, "the wire's byte order is taken as it comes");

// What a refused caller is asked to wait when nobody knows better: a few searches of ordinary size.
constexpr absl::Duration kRetryDelay = absl::Milliseconds(100);

std::string Decimal(absl::uint128 value) {
  std::ostringstream text;  // StrCat takes no uint128 before Abseil 2023
  text << value;
  return std::move(text).str();
}

std::optional<DType> DTypeFromProto(v1::DType dtype) {
  switch (dtype) {
    case v1::DTYPE_UNSPECIFIED:
    case v1::FLOAT32:
      return DType::kFloat32;
    case v1::FLOAT16:
      return DType::kFloat16;
    case v1::BFLOAT16:
      return DType::kBFloat16;
    case v1::FLOAT64:
      return DType::kFloat64;
    case v1::INT8:
      return DType::kInt8;
    default:
      return std::nullopt;
  }
}

v1::DType DTypeToProto(DType dtype) {
  switch (dtype) {
    case DType::kFloat32:
      return v1::FLOAT32;
    case DType::kFloat16:
      return v1::FLOAT16;
    case DType::kBFloat16:
      return v1::BFLOAT16;
    case DType::kFloat64:
      return v1::FLOAT64;
    case DType::kInt8:
      return v1::INT8;
  }
  return v1::DTYPE_UNSPECIFIED;
}

// InvalidField for a part of a matrix: the message opens with the field, as every message about one does.
absl::Status InvalidPart(absl::string_view matrix, absl::string_view part, absl::string_view reason,
                         absl::string_view what) {
  const std::string field = absl::StrCat(matrix, ".", part);
  return InvalidField(field, reason, absl::StrCat(field, ": ", what));
}

void StatsToProto(const SearchStats& stats, v1::SearchStats* out) {
  out->set_queue_seconds(stats.queue_seconds);
  out->set_compute_seconds(stats.compute_seconds);
  out->set_pairs_screened(stats.pairs_screened);
  out->set_pairs_survived(stats.pairs_survived);
  out->set_pairs_checked(stats.pairs_checked);
  out->set_pairs_rescored(stats.pairs_rescored);
}

}  // namespace

absl::StatusOr<SharedMatrix> MatrixFromProto(const v1::Matrix& matrix, absl::string_view field) {
  const std::optional<DType> dtype = DTypeFromProto(matrix.dtype());
  if (!dtype.has_value()) {
    return InvalidPart(field, "dtype", "UNKNOWN_DTYPE", absl::StrCat(matrix.dtype(), " is no DType"));
  }
  if (matrix.dim() == 0 && matrix.rows() > 0) {
    return InvalidPart(field, "dim", "DIM_ZERO", absl::StrCat("0, but there are ", matrix.rows(), " rows"));
  }
  if (matrix.dim() > kMaxDim) {
    return InvalidPart(field, "dim", "DIM_TOO_LARGE",
                       absl::StrCat(matrix.dim(), " is above the limit of ", kMaxDim));
  }
  if (!matrix.data().empty() && matrix.values_size() > 0) {
    return InvalidPart(field, "values", "DATA_AND_VALUES",
                       absl::StrCat("both data (", matrix.data().size(), " bytes) and values (",
                                    matrix.values_size(), " numbers) are set; send one of them"));
  }
  const absl::uint128 elements = absl::uint128(matrix.rows()) * matrix.dim();
  const std::string shape = absl::StrCat(matrix.rows(), " rows of dim ", matrix.dim());
  MatrixView view{nullptr, matrix.rows(), matrix.dim(), *dtype};
  const bool by_values = matrix.values_size() > 0;
  if (by_values) {
    if (*dtype != DType::kFloat32) {
      return InvalidPart(field, "dtype", "VALUES_ARE_FLOAT32",
                         absl::StrCat(DTypeName(*dtype), ", but values are float32; send data instead"));
    }
    if (elements != static_cast<uint64_t>(matrix.values_size())) {
      return InvalidPart(
          field, "values", "WRONG_VALUE_COUNT",
          absl::StrCat(matrix.values_size(), " values, but ", shape, " take ", Decimal(elements)));
    }
    view.data = reinterpret_cast<const std::byte*>(matrix.values().data());
  } else {
    const absl::uint128 bytes = elements * ByteWidth(*dtype);
    if (matrix.data().empty() && matrix.rows() > 0) {
      return InvalidPart(field, "data", "MISSING_DATA",
                         absl::StrCat("neither data nor values is set, but ", shape, " in ",
                                      DTypeName(*dtype), " take ", Decimal(bytes), " bytes"));
    }
    if (bytes != matrix.data().size()) {
      return InvalidPart(field, "data", "WRONG_BYTE_COUNT",
                         absl::StrCat(matrix.data().size(), " bytes, but ", shape, " in ", DTypeName(*dtype),
                                      " take ", Decimal(bytes)));
    }
    view.data = reinterpret_cast<const std::byte*>(matrix.data().data());
  }
  if (const std::optional<ElementPosition> at = FirstNonFinite(view); at.has_value()) {
    return InvalidPart(field, by_values ? "values" : "data", "NOT_FINITE",
                       absl::StrCat("row ", at->row, ", column ", at->column, " is ", at->value));
  }
  return SharedMatrix{view, nullptr};
}

void AnswerToProto(const Answer& answer, Reduction reduction, v1::SearchResponse* response) {
  const int hits = static_cast<int>(answer.hits.size());
  response->mutable_ids()->Reserve(hits);
  response->mutable_scores()->Reserve(hits);
  for (const Hit& hit : answer.hits) {
    response->mutable_ids()->AddAlreadyReserved(hit.id);
    response->mutable_scores()->AddAlreadyReserved(hit.score);
  }
  if (reduction == Reduction::kGlobal) {
    response->mutable_query_rows()->Reserve(hits);
    for (const Hit& hit : answer.hits) response->mutable_query_rows()->AddAlreadyReserved(hit.query_row);
  } else {
    response->mutable_row_splits()->Add(answer.row_splits.begin(), answer.row_splits.end());
  }
  if (answer.best.has_value()) {
    response->mutable_best()->set_query_row(answer.best->query_row);
    response->mutable_best()->set_id(answer.best->id);
    response->mutable_best()->set_score(answer.best->score);
  }
  response->set_coverage(answer.rows_held == 0 ? 1.0
                                               : static_cast<double>(answer.rows_searched) /
                                                     static_cast<double>(answer.rows_held));
  response->mutable_truncated()->Add(answer.truncated.begin(), answer.truncated.end());
  response->mutable_counts()->Add(answer.counts.begin(), answer.counts.end());
  response->set_version(answer.version);
  StatsToProto(answer.stats, response->mutable_stats());
}

void PairsAnswerToProto(const PairsAnswer& answer, v1::BatchMaxInnerProductResponse* response) {
  const int hits = static_cast<int>(answer.hits.size());
  response->mutable_pairs()->Reserve(hits);
  response->mutable_query_rows()->Reserve(hits);
  response->mutable_ids()->Reserve(hits);
  response->mutable_scores()->Reserve(hits);
  for (const PairsAnswer::PairHit& hit : answer.hits) {
    response->mutable_pairs()->AddAlreadyReserved(hit.pair);
    response->mutable_query_rows()->AddAlreadyReserved(hit.hit.query_row);
    response->mutable_ids()->AddAlreadyReserved(hit.hit.id);
    response->mutable_scores()->AddAlreadyReserved(hit.hit.score);
  }
  if (answer.best.has_value()) {
    response->mutable_best()->set_pair(answer.best->pair);
    response->mutable_best()->set_query_row(answer.best->hit.query_row);
    response->mutable_best()->set_id(answer.best->hit.id);
    response->mutable_best()->set_score(answer.best->hit.score);
  }
  StatsToProto(answer.stats, response->mutable_stats());
}

void CollectionToProto(const CollectionInfo& info, v1::Collection* collection) {
  collection->set_name(info.name);
  collection->set_rows(info.rows);
  collection->set_dim(info.dim);
  collection->set_dtype(DTypeToProto(info.dtype));
  collection->set_resident_bytes(info.resident_bytes);
  collection->set_screen(info.screen);
  collection->set_version(info.version);
  collection->set_file_changed(!info.intact);
  for (const ScreenEstimate& estimate : info.estimates) {
    v1::ScreenEstimate* const out = collection->add_estimates();
    out->set_screen(estimate.screen);
    out->set_batch_query_seconds(estimate.batch_query_seconds);
    if (estimate.single_query_seconds) out->set_single_query_seconds(*estimate.single_query_seconds);
  }
}

google::rpc::Status StatusToProto(const absl::Status& status) {
  const std::string message(status.message());
  google::rpc::Status wire;
  wire.set_code(static_cast<int>(status.code()));
  wire.set_message(message);

  google::rpc::ErrorInfo info;
  info.set_reason(ErrorReason(status).value_or(absl::StatusCodeToString(status.code())));
  info.set_domain("dotmax");
  wire.add_details()->PackFrom(info);
  if (const std::optional<std::string> field = ErrorField(status); field.has_value()) {
    google::rpc::BadRequest bad_request;
    google::rpc::BadRequest::FieldViolation* violation = bad_request.add_field_violations();
    violation->set_field(*field);
    violation->set_description(message);
    wire.add_details()->PackFrom(bad_request);
  }
  if (status.code() == absl::StatusCode::kResourceExhausted) {
    google::rpc::RetryInfo retry;
    absl::Duration nanos = ErrorRetryDelay(status).value_or(kRetryDelay);
    retry.mutable_retry_delay()->set_seconds(absl::IDivDuration(nanos, absl::Seconds(1), &nanos));
    retry.mutable_retry_delay()->set_nanos(static_cast<int32_t>(absl::ToInt64Nanoseconds(nanos)));
    wire.add_details()->PackFrom(retry);
  }
  return wire;
}

grpc::Status ToGrpcStatus(const absl::Status& status) {
  if (status.ok()) return grpc::Status::OK;
  return grpc::Status(static_cast<grpc::StatusCode>(status.code()), std::string(status.message()),
                      StatusToProto(status).SerializeAsString());
}

}  // namespace dotmax
