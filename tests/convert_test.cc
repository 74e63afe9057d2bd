#include "server/rpc/convert.h"

#include <cmath>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"
#include "gtest/gtest.h"
#include "server/base/errors.h"
#include "tests/data.h"

namespace dotmax {
namespace {

using ::testing::HasSubstr;
using testing::MakeMatrix;

constexpr DType kAllDTypes[] = {DType::kFloat32, DType::kFloat16, DType::kBFloat16, DType::kFloat64,
                                DType::kInt8};
constexpr v1::DType kAllWireDTypes[] = {v1::FLOAT32, v1::FLOAT16, v1::BFLOAT16, v1::FLOAT64, v1::INT8};

v1::Matrix Message(const SharedMatrix& matrix, v1::DType dtype = v1::FLOAT32) {
  v1::Matrix message;
  message.set_rows(matrix.view.rows);
  message.set_dim(matrix.view.dim);
  message.set_dtype(dtype);
  message.set_data(matrix.view.data, matrix.view.bytes());
  return message;
}

// 2 × 3 of 1 to 6.
v1::Matrix Good() { return Message(MakeMatrix({1, 2, 3, 4, 5, 6}, 3)); }

// Expects that `message`, as "queries", is refused.
void ExpectRefused(const v1::Matrix& message, const std::string& field, const std::string& reason,
                   const std::vector<std::string>& words) {
  SCOPED_TRACE(reason);
  const absl::Status status = MatrixFromProto(message, "queries").status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(ErrorField(status), field);
  EXPECT_EQ(ErrorReason(status), reason);
  EXPECT_THAT(std::string(status.message()), HasSubstr(field));
  for (const std::string& word : words) EXPECT_THAT(std::string(status.message()), HasSubstr(word));
}

TEST(MatrixFromProtoTest, DataOfEveryDTypeIsBorrowedNotCopied) {
  for (int i = 0; i < 5; ++i) {
    const SharedMatrix original = MakeMatrix({1, -2, 3, -4, 5, -6}, 2, kAllDTypes[i]);
    const v1::Matrix message = Message(original, kAllWireDTypes[i]);
    const absl::StatusOr<SharedMatrix> matrix = MatrixFromProto(message, "queries");
    ASSERT_TRUE(matrix.ok()) << matrix.status();
    EXPECT_EQ(matrix->view.rows, 3u);
    EXPECT_EQ(matrix->view.dim, 2u);
    EXPECT_EQ(matrix->view.dtype, kAllDTypes[i]);
    EXPECT_EQ(static_cast<const void*>(matrix->view.data), message.data().data());
  }
}

TEST(MatrixFromProtoTest, ValuesAreFloat32) {
  v1::Matrix message;
  message.set_rows(2);
  message.set_dim(2);
  for (const float value : {1.0f, 2.0f, 3.0f, 4.5f}) message.add_values(value);
  const absl::StatusOr<SharedMatrix> matrix = MatrixFromProto(message, "queries");
  ASSERT_TRUE(matrix.ok()) << matrix.status();
  EXPECT_EQ(matrix->view.dtype, DType::kFloat32);
  float last;
  std::memcpy(&last, matrix->view.row(1) + sizeof(float), sizeof(last));
  EXPECT_EQ(last, 4.5f);
}

TEST(MatrixFromProtoTest, NoRowsNeedNothing) {
  const absl::StatusOr<SharedMatrix> matrix = MatrixFromProto(v1::Matrix(), "queries");
  ASSERT_TRUE(matrix.ok()) << matrix.status();
  EXPECT_EQ(matrix->view.rows, 0u);
}

TEST(MatrixFromProtoTest, AByteCountOtherThanTheShapesIsRefusedWithBoth) {
  for (const int change : {-1, +1}) {
    v1::Matrix message = Good();
    message.mutable_data()->resize(24 + change);
    ExpectRefused(message, "queries.data", "WRONG_BYTE_COUNT",
                  {std::to_string(24 + change), "24", "2 rows of dim 3", "float32"});
  }
  v1::Matrix wider = Good();
  wider.set_dtype(v1::FLOAT64);
  ExpectRefused(wider, "queries.data", "WRONG_BYTE_COUNT", {"24 bytes", "48", "float64"});
  v1::Matrix no_rows = Good();
  no_rows.set_rows(0);
  ExpectRefused(no_rows, "queries.data", "WRONG_BYTE_COUNT", {"24 bytes", "0 rows"});
}

TEST(MatrixFromProtoTest, AShapeBeyond64BitsIsCountedRight) {
  v1::Matrix message = Good();
  message.set_rows(uint64_t{1} << 62);
  message.set_dim(4);
  message.clear_data();
  message.set_data("x");
  // 2^62 · 4 · 4 bytes are 0 modulo 2^64.
  ExpectRefused(message, "queries.data", "WRONG_BYTE_COUNT", {"1 bytes", "73786976294838206464"});
}

TEST(MatrixFromProtoTest, AValueCountOtherThanTheShapesIsRefusedWithBoth) {
  v1::Matrix message;
  message.set_rows(2);
  message.set_dim(2);
  for (int i = 0; i < 3; ++i) message.add_values(1);
  ExpectRefused(message, "queries.values", "WRONG_VALUE_COUNT", {"3 values", "4"});
}

TEST(MatrixFromProtoTest, ExactlyOneOfDataAndValuesIsTaken) {
  v1::Matrix both = Good();
  both.add_values(1);
  ExpectRefused(both, "queries.values", "DATA_AND_VALUES", {"24 bytes", "1 number"});
  v1::Matrix neither = Good();
  neither.clear_data();
  ExpectRefused(neither, "queries.data", "MISSING_DATA", {"neither", "24 bytes"});
  v1::Matrix doubles = Good();
  doubles.clear_data();
  doubles.set_dtype(v1::FLOAT64);
  for (int i = 0; i < 6; ++i) doubles.add_values(1);
  ExpectRefused(doubles, "queries.dtype", "VALUES_ARE_FLOAT32", {"float64"});
}

TEST(MatrixFromProtoTest, ShapesAndDTypesThatAreNoneAreRefused) {
  v1::Matrix unknown = Good();
  unknown.set_dtype(static_cast<v1::DType>(77));
  ExpectRefused(unknown, "queries.dtype", "UNKNOWN_DTYPE", {"77"});
  v1::Matrix flat = Good();
  flat.set_dim(0);
  ExpectRefused(flat, "queries.dim", "DIM_ZERO", {"2 rows"});
  v1::Matrix wide = Good();
  wide.set_dim(65537);
  ExpectRefused(wide, "queries.dim", "DIM_TOO_LARGE", {"65537", "65536"});
}

TEST(MatrixFromProtoTest, ANumberThatIsNotFiniteIsRefusedWithItsPlace) {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  const double infinity = std::numeric_limits<double>::infinity();
  for (int i = 0; i < 4; ++i) {  // int8 has none
    ExpectRefused(Message(MakeMatrix({1, 2, 3, 4, nan, 6}, 3, kAllDTypes[i]), kAllWireDTypes[i]),
                  "queries.data", "NOT_FINITE", {"row 1, column 1", "nan"});
    ExpectRefused(Message(MakeMatrix({1, 2, -infinity, 4, nan, 6}, 3, kAllDTypes[i]), kAllWireDTypes[i]),
                  "queries.data", "NOT_FINITE", {"row 0, column 2", "-inf"});
  }
  v1::Matrix values;
  values.set_rows(1);
  values.set_dim(2);
  values.add_values(0);
  values.add_values(static_cast<float>(infinity));
  ExpectRefused(values, "queries.values", "NOT_FINITE", {"row 0, column 1", "inf"});
}

TEST(AnswerToProtoTest, HitsBecomeParallelArrays) {
  Answer answer;
  answer.hits = {{3.5, 0, 7}, {2.5, 0, 1}, {-1, 1, 2}};
  answer.row_splits = {0, 2, 3};
  answer.best = answer.hits[0];
  answer.rows_held = answer.rows_searched = 9;
  answer.stats = {0.5, 0.25, 18, 5, 4, 3};
  v1::SearchResponse rows;
  AnswerToProto(answer, Reduction::kPerRow, &rows);
  EXPECT_THAT(rows.row_splits(), ::testing::ElementsAre(0, 2, 3));
  EXPECT_THAT(rows.ids(), ::testing::ElementsAre(7, 1, 2));
  EXPECT_THAT(rows.scores(), ::testing::ElementsAre(3.5, 2.5, -1));
  EXPECT_EQ(rows.query_rows_size(), 0);
  EXPECT_EQ(rows.best().id(), 7u);
  EXPECT_EQ(rows.best().score(), 3.5);
  EXPECT_EQ(rows.coverage(), 1.0);
  EXPECT_EQ(rows.stats().pairs_screened(), 18u);
  EXPECT_EQ(rows.stats().pairs_survived(), 5u);
  EXPECT_EQ(rows.stats().pairs_checked(), 4u);
  EXPECT_EQ(rows.stats().pairs_rescored(), 3u);
  EXPECT_EQ(rows.stats().queue_seconds(), 0.5);
  EXPECT_EQ(rows.stats().compute_seconds(), 0.25);

  answer.row_splits.clear();
  v1::SearchResponse global;
  AnswerToProto(answer, Reduction::kGlobal, &global);
  EXPECT_EQ(global.row_splits_size(), 0);
  EXPECT_THAT(global.query_rows(), ::testing::ElementsAre(0, 0, 1));
}

TEST(AnswerToProtoTest, WhatWasAskedOfARange) {
  Answer answer;
  answer.row_splits = {0, 0, 0};
  answer.truncated = {true, false};
  answer.counts = {7, 0};
  v1::SearchResponse response;
  AnswerToProto(answer, Reduction::kPerRow, &response);
  EXPECT_THAT(response.truncated(), ::testing::ElementsAre(true, false));
  EXPECT_THAT(response.counts(), ::testing::ElementsAre(7, 0));
}

TEST(PairsAnswerToProtoTest, HitsBecomeParallelArrays) {
  PairsAnswer answer;
  answer.hits = {{0, {3.5, 1, 7}}, {2, {2.5, 0, 9}}};
  answer.best = answer.hits[0];
  answer.stats = {0.5, 0.25, 18, 5, 4, 3};
  v1::BatchMaxInnerProductResponse response;
  PairsAnswerToProto(answer, &response);
  EXPECT_THAT(response.pairs(), ::testing::ElementsAre(0, 2));
  EXPECT_THAT(response.query_rows(), ::testing::ElementsAre(1, 0));
  EXPECT_THAT(response.ids(), ::testing::ElementsAre(7, 9));
  EXPECT_THAT(response.scores(), ::testing::ElementsAre(3.5, 2.5));
  EXPECT_EQ(response.best().pair(), 0u);
  EXPECT_EQ(response.best().query_row(), 1u);
  EXPECT_EQ(response.best().id(), 7u);
  EXPECT_EQ(response.best().score(), 3.5);
  EXPECT_EQ(response.stats().pairs_screened(), 18u);
  v1::BatchMaxInnerProductResponse empty;
  PairsAnswerToProto(PairsAnswer(), &empty);
  EXPECT_FALSE(empty.has_best());
}

TEST(AnswerToProtoTest, AnEmptyCollectionIsWhollyCovered) {
  v1::SearchResponse response;
  AnswerToProto(Answer(), Reduction::kGlobal, &response);
  EXPECT_FALSE(response.has_best());
  EXPECT_EQ(response.coverage(), 1.0);
}

google::rpc::Status Details(const grpc::Status& status) {
  google::rpc::Status details;
  EXPECT_TRUE(details.ParseFromString(status.error_details()));
  EXPECT_EQ(details.code(), static_cast<int>(status.error_code()));
  EXPECT_EQ(details.message(), status.error_message());
  return details;
}

TEST(ToGrpcStatusTest, AFieldBecomesErrorInfoAndBadRequest) {
  const grpc::Status status = ToGrpcStatus(InvalidField("queries.dim", "DIM_MISMATCH", "queries.dim: 3 ..."));
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(status.error_message(), "queries.dim: 3 ...");
  const google::rpc::Status details = Details(status);
  ASSERT_EQ(details.details_size(), 2);
  google::rpc::ErrorInfo info;
  ASSERT_TRUE(details.details(0).UnpackTo(&info));
  EXPECT_EQ(info.reason(), "DIM_MISMATCH");
  EXPECT_EQ(info.domain(), "dotmax");
  google::rpc::BadRequest bad_request;
  ASSERT_TRUE(details.details(1).UnpackTo(&bad_request));
  ASSERT_EQ(bad_request.field_violations_size(), 1);
  EXPECT_EQ(bad_request.field_violations(0).field(), "queries.dim");
  EXPECT_EQ(bad_request.field_violations(0).description(), "queries.dim: 3 ...");
}

TEST(ToGrpcStatusTest, ExhaustionTellsWhenToRetry) {
  const google::rpc::Status details =
      Details(ToGrpcStatus(Error(absl::StatusCode::kResourceExhausted, "QUEUE_FULL", "full")));
  ASSERT_EQ(details.details_size(), 2);
  google::rpc::RetryInfo retry;
  ASSERT_TRUE(details.details(1).UnpackTo(&retry));
  EXPECT_GT(retry.retry_delay().nanos(), 0);
}

TEST(ToGrpcStatusTest, ADelayThatIsKnownIsTold) {
  const google::rpc::Status details =
      Details(ToGrpcStatus(RetryAfter(absl::Milliseconds(2500), "RATE_LIMITED", "later")));
  ASSERT_EQ(details.details_size(), 2);
  google::rpc::RetryInfo retry;
  ASSERT_TRUE(details.details(1).UnpackTo(&retry));
  EXPECT_EQ(retry.retry_delay().seconds(), 2);
  EXPECT_EQ(retry.retry_delay().nanos(), 500'000'000);
}

TEST(ToGrpcStatusTest, AStatusWithoutReasonGetsItsCodeAsOne) {
  google::rpc::ErrorInfo info;
  const google::rpc::Status details = Details(ToGrpcStatus(absl::InternalError("broken")));
  ASSERT_EQ(details.details_size(), 1);
  ASSERT_TRUE(details.details(0).UnpackTo(&info));
  EXPECT_EQ(info.reason(), "INTERNAL");
  EXPECT_TRUE(ToGrpcStatus(absl::OkStatus()).ok());
}

}  // namespace
}  // namespace dotmax
