#include "tests/wire.h"

#include <grpcpp/completion_queue.h>
#include <grpcpp/create_channel.h>
#include <grpcpp/generic/generic_stub.h>

#include <chrono>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"
#include "grpc/health/v1/health.grpc.pb.h"
#include "gtest/gtest.h"

namespace dotmax::testing {
namespace {

v1::DType DTypeOf(DType dtype) {
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

}  // namespace

std::shared_ptr<grpc::Channel> Channel(const std::string& address) {
  grpc::ChannelArguments arguments;
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  arguments.SetMaxReceiveMessageSize(-1);
  arguments.SetMaxSendMessageSize(-1);
  return grpc::CreateCustomChannel(address, grpc::InsecureChannelCredentials(), arguments);
}

v1::Matrix MatrixOf(const SharedMatrix& matrix) {
  v1::Matrix message;
  message.set_rows(matrix.view.rows);
  message.set_dim(matrix.view.dim);
  message.set_dtype(DTypeOf(matrix.view.dtype));
  message.set_data(matrix.view.data, matrix.view.bytes());
  return message;
}

v1::SearchRequest SearchRequestOf(const std::string& collection, const SharedMatrix& queries, uint32_t top_k,
                                  v1::Reduction reduction) {
  v1::SearchRequest request;
  request.set_collection(collection);
  *request.mutable_queries() = MatrixOf(queries);
  request.set_top_k(top_k);
  request.set_reduction(reduction);
  return request;
}

WireError ErrorOf(const grpc::Status& status) {
  WireError error;
  error.code = status.error_code();
  error.message = status.error_message();
  google::rpc::Status details;
  EXPECT_TRUE(details.ParseFromString(status.error_details()));
  for (const google::protobuf::Any& detail : details.details()) {
    google::rpc::ErrorInfo info;
    google::rpc::BadRequest bad_request;
    google::rpc::RetryInfo retry;
    if (detail.UnpackTo(&info)) {
      EXPECT_EQ(info.domain(), "dotmax");
      error.reason = info.reason();
    } else if (detail.UnpackTo(&bad_request)) {
      EXPECT_EQ(bad_request.field_violations_size(), 1);
      error.field = bad_request.field_violations(0).field();
      EXPECT_EQ(bad_request.field_violations(0).description(), status.error_message());
    } else if (detail.UnpackTo(&retry)) {
      error.retry_info = true;
      error.retry_delay =
          absl::Seconds(retry.retry_delay().seconds()) + absl::Nanoseconds(retry.retry_delay().nanos());
    }
  }
  return error;
}

std::string CallRaw(const std::shared_ptr<grpc::Channel>& channel, const std::string& method,
                    const std::string& bytes, grpc::Status* status, const std::string& token) {
  grpc::GenericStub stub(channel);
  grpc::CompletionQueue queue;
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::minutes(1));
  if (!token.empty()) context.AddMetadata("authorization", absl::StrCat("Bearer ", token));
  const auto wait = [&queue] {
    void* tag = nullptr;
    bool ok = false;
    return queue.Next(&tag, &ok) && ok;
  };
  const auto call = stub.PrepareCall(&context, method, &queue);
  call->StartCall(nullptr);
  wait();
  const grpc::Slice slice(bytes);
  call->WriteLast(grpc::ByteBuffer(&slice, 1), grpc::WriteOptions(), nullptr);
  wait();
  grpc::ByteBuffer buffer;
  call->Read(&buffer, nullptr);
  std::string reply;
  if (wait()) {
    std::vector<grpc::Slice> slices;
    EXPECT_TRUE(buffer.Dump(&slices).ok());
    for (const grpc::Slice& part : slices)
      reply.append(reinterpret_cast<const char*>(part.begin()), part.size());
  }
  call->Finish(status, nullptr);
  wait();
  return reply;
}

std::string HealthOf(const std::shared_ptr<grpc::Channel>& channel, const std::string& service) {
  grpc::ClientContext context;
  grpc::health::v1::HealthCheckRequest request;
  request.set_service(service);
  grpc::health::v1::HealthCheckResponse response;
  const grpc::Status status = grpc::health::v1::Health::NewStub(channel)->Check(&context, request, &response);
  if (!status.ok()) return absl::StatusCodeToString(static_cast<absl::StatusCode>(status.error_code()));
  return grpc::health::v1::HealthCheckResponse::ServingStatus_Name(response.status());
}

}  // namespace dotmax::testing
