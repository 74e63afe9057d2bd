#include "dotmax/client.h"

#include <grpcpp/create_channel.h>
#include <grpcpp/support/channel_arguments.h>

#include <limits>
#include <utility>

#include "absl/strings/cord.h"
#include "absl/strings/str_cat.h"
#include "absl/types/optional.h"
#include "client/cpp/credentials.h"
#include "client/cpp/impl.h"
#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"

namespace dotmax {
namespace {

// Servers that one name stands for take turns. UNAVAILABLE means that nothing was done: a connection that
// failed, a server that is draining. Every call here may be repeated. Reconnecting begins sooner than the
// last attempt.
constexpr char kServiceConfig[] = R"({"loadBalancingConfig": [{"round_robin": {}}], "methodConfig": [{
  "name": [{}],
  "retryPolicy": {
    "maxAttempts": 4,
    "initialBackoff": "0.1s",
    "maxBackoff": "1s",
    "backoffMultiplier": 2,
    "retryableStatusCodes": ["UNAVAILABLE"]
  }
}]})";
constexpr int kReconnectBackoffMs = 100;

// The detail of type Message that a status carries, if any.
template <typename Message>
absl::optional<Message> Detail(const absl::Status& status) {
  const auto payload =
      status.GetPayload(absl::StrCat("type.googleapis.com/", Message::descriptor()->full_name()));
  Message message;
  if (!payload.has_value() || !message.ParseFromString(std::string(*payload))) return absl::nullopt;
  return message;
}

}  // namespace

absl::Status FromGrpc(const grpc::Status& status) {
  if (status.ok()) return absl::OkStatus();
  google::rpc::Status rpc;
  if (!rpc.ParseFromString(status.error_details())) rpc.Clear();
  rpc.set_code(status.error_code());
  rpc.set_message(status.error_message());
  return FromRpc(rpc);
}

absl::Status FromRpc(const google::rpc::Status& status) {
  absl::Status result(static_cast<absl::StatusCode>(status.code()), status.message());
  for (const google::protobuf::Any& any : status.details()) {
    result.SetPayload(any.type_url(), absl::Cord(any.value()));
  }
  return result;
}

size_t Rows::row_bytes() const {
  switch (type) {
    case ElementType::kFloat64:
      return size_t{dim} * 8;
    case ElementType::kFloat32:
      return size_t{dim} * 4;
    case ElementType::kFloat16:
    case ElementType::kBFloat16:
      return size_t{dim} * 2;
    case ElementType::kInt8:
      return dim;
  }
  return 0;
}

Client::Client(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Client::Client(Client&&) noexcept = default;
Client& Client::operator=(Client&&) noexcept = default;
Client::~Client() = default;

absl::StatusOr<Client> Client::Create(const ClientOptions& options) {
  if (options.target.empty()) return absl::InvalidArgumentError("target is empty");
  if (options.max_message_bytes <= kEnvelopeBytes ||
      options.max_message_bytes > static_cast<size_t>(std::numeric_limits<int>::max())) {
    return absl::InvalidArgumentError(absl::StrCat("max_message_bytes is ", options.max_message_bytes,
                                                   "; it must be from ", kEnvelopeBytes + 1, " to 2^31 - 1"));
  }
  grpc::ChannelArguments arguments;
  arguments.SetMaxReceiveMessageSize(static_cast<int>(options.max_message_bytes));
  arguments.SetMaxSendMessageSize(static_cast<int>(options.max_message_bytes));
  arguments.SetServiceConfigJSON(kServiceConfig);
  arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, kReconnectBackoffMs);
  // A request that gRPC does not keep whole is never tried again; by default it keeps 256 KiB.
  arguments.SetInt(GRPC_ARG_PER_RPC_RETRY_BUFFER_SIZE, static_cast<int>(options.max_message_bytes));
  absl::StatusOr<std::shared_ptr<grpc::ChannelCredentials>> credentials =
      ChannelCredentials(options.tls, arguments);
  if (!credentials.ok()) return credentials.status();
  return Client(std::make_unique<Impl>(
      options, grpc::CreateCustomChannel(options.target, *std::move(credentials), arguments)));
}

absl::Status Client::CheckHealth() const {
  grpc::ClientContext context;
  impl_->Prepare(context, impl_->Deadline(std::nullopt));
  grpc::health::v1::HealthCheckResponse response;
  const grpc::Status status = impl_->health->Check(&context, {}, &response);
  if (!status.ok()) return FromGrpc(status);
  if (response.status() == grpc::health::v1::HealthCheckResponse::SERVING) return absl::OkStatus();
  return absl::UnavailableError(absl::StrCat(
      "the server is ", grpc::health::v1::HealthCheckResponse::ServingStatus_Name(response.status())));
}

std::string StatusReason(const absl::Status& status) {
  const auto info = Detail<google::rpc::ErrorInfo>(status);
  return info.has_value() ? info->reason() : "";
}

std::vector<FieldViolation> StatusFieldViolations(const absl::Status& status) {
  std::vector<FieldViolation> violations;
  if (const auto request = Detail<google::rpc::BadRequest>(status)) {
    for (const auto& v : request->field_violations()) violations.push_back({v.field(), v.description()});
  }
  return violations;
}

}  // namespace dotmax
