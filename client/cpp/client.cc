#include "dotmax/client.h"

#include <grpcpp/channel.h>
#include <grpcpp/client_context.h>
#include <grpcpp/create_channel.h>
#include <grpcpp/security/credentials.h>
#include <grpcpp/support/channel_arguments.h>

#include <algorithm>
#include <limits>
#include <utility>

#include "absl/strings/cord.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/types/optional.h"
#include "dotmax/v1/collections.grpc.pb.h"
#include "dotmax/v1/dotmax.grpc.pb.h"
#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"
#include "grpc/health/v1/health.grpc.pb.h"

namespace dotmax {
namespace {

// What a request holds besides the query rows, generously.
constexpr size_t kEnvelopeBytes = 4096;

// UNAVAILABLE means that nothing was done: a connection that failed, a server that is draining. Every call
// here may be repeated. Reconnecting begins sooner than the last attempt.
constexpr char kServiceConfig[] = R"({"methodConfig": [{
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

constexpr std::pair<ElementType, v1::DType> kTypes[] = {
    {ElementType::kFloat32, v1::FLOAT32},   {ElementType::kFloat16, v1::FLOAT16},
    {ElementType::kBFloat16, v1::BFLOAT16}, {ElementType::kFloat64, v1::FLOAT64},
    {ElementType::kInt8, v1::INT8},
};

v1::DType ToProto(ElementType type) {
  for (const auto& [ours, wire] : kTypes) {
    if (ours == type) return wire;
  }
  return v1::DTYPE_UNSPECIFIED;
}

ElementType FromProto(v1::DType type) {
  for (const auto& [ours, wire] : kTypes) {
    if (wire == type) return ours;
  }
  return ElementType::kFloat32;
}

// The server's status, its details as payloads by type URL.
absl::Status FromGrpc(const grpc::Status& status) {
  if (status.ok()) return absl::OkStatus();
  absl::Status result(static_cast<absl::StatusCode>(status.error_code()), status.error_message());
  google::rpc::Status details;
  if (details.ParseFromString(status.error_details())) {
    for (const google::protobuf::Any& any : details.details()) {
      result.SetPayload(any.type_url(), absl::Cord(any.value()));
    }
  }
  return result;
}

// The detail of type Message that a status carries, if any.
template <typename Message>
absl::optional<Message> Detail(const absl::Status& status) {
  const auto payload =
      status.GetPayload(absl::StrCat("type.googleapis.com/", Message::descriptor()->full_name()));
  Message message;
  if (!payload.has_value() || !message.ParseFromString(std::string(*payload))) return absl::nullopt;
  return message;
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
  result.coverage = response.coverage();
  result.queue_seconds = response.stats().queue_seconds();
  result.compute_seconds = response.stats().compute_seconds();
  result.pairs_screened = response.stats().pairs_screened();
  result.pairs_survived = response.stats().pairs_survived();
  result.pairs_checked = response.stats().pairs_checked();
  result.pairs_rescored = response.stats().pairs_rescored();
  return result;
}

// Adds the answer for query rows [first_row, ...) to the answer for those before.
void Append(SearchResult part, uint64_t first_row, const SearchOptions& options, SearchResult& all) {
  for (uint64_t& row : part.query_rows) row += first_row;
  if (part.best.has_value()) {
    part.best->query_row += first_row;
    // Ties go to the lower query row: to what is there.
    if (!all.best.has_value() || part.best->score > all.best->score) all.best = part.best;
  }
  if (options.global) {
    // Two sorted lists; on ties what is there comes first.
    SearchResult merged;
    size_t i = 0, j = 0;
    while (merged.ids.size() < std::max(options.top_k, 1u) && (i < all.ids.size() || j < part.ids.size())) {
      const bool ours = j == part.ids.size() || (i < all.ids.size() && all.scores[i] >= part.scores[j]);
      const SearchResult& from = ours ? all : part;
      const size_t at = ours ? i++ : j++;
      merged.ids.push_back(from.ids[at]);
      merged.scores.push_back(from.scores[at]);
      merged.query_rows.push_back(from.query_rows[at]);
    }
    all.ids = std::move(merged.ids);
    all.scores = std::move(merged.scores);
    all.query_rows = std::move(merged.query_rows);
  } else {
    const uint64_t offset = all.ids.size();
    for (size_t i = 1; i < part.row_splits.size(); ++i) all.row_splits.push_back(offset + part.row_splits[i]);
    all.ids.insert(all.ids.end(), part.ids.begin(), part.ids.end());
    all.scores.insert(all.scores.end(), part.scores.begin(), part.scores.end());
  }
  all.coverage = std::min(all.coverage, part.coverage);
  all.queue_seconds += part.queue_seconds;
  all.compute_seconds += part.compute_seconds;
  all.pairs_screened += part.pairs_screened;
  all.pairs_survived += part.pairs_survived;
  all.pairs_checked += part.pairs_checked;
  all.pairs_rescored += part.pairs_rescored;
}

void SetDeadline(grpc::ClientContext& context, absl::Time deadline) {
  if (deadline != absl::InfiniteFuture()) context.set_deadline(absl::ToChronoTime(deadline));
}

}  // namespace

struct Client::Impl {
  Impl(const ClientOptions& client_options, std::shared_ptr<grpc::Channel> channel)
      : options(client_options),
        search(v1::Dotmax::NewStub(channel)),
        collections(v1::Collections::NewStub(channel)),
        health(grpc::health::v1::Health::NewStub(channel)) {}

  absl::Time Deadline(std::optional<absl::Duration> timeout) const {
    return absl::Now() + timeout.value_or(options.timeout);
  }

  const ClientOptions options;
  const std::unique_ptr<v1::Dotmax::Stub> search;
  const std::unique_ptr<v1::Collections::Stub> collections;
  const std::unique_ptr<grpc::health::v1::Health::Stub> health;
};

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
  return Client(std::make_unique<Impl>(
      options, grpc::CreateCustomChannel(options.target, grpc::InsecureChannelCredentials(), arguments)));
}

absl::StatusOr<SearchResult> Client::Search(const Rows& queries, const SearchOptions& options) const {
  if (queries.dim == 0 ? queries.bytes != 0 : queries.bytes % queries.row_bytes() != 0) {
    return absl::InvalidArgumentError(absl::StrCat(
        "queries: ", queries.bytes, " bytes are not a whole number of rows of dim ", queries.dim));
  }
  const absl::Time deadline = impl_->Deadline(options.timeout);
  // A reply has up to 24 bytes per hit (id as varint, score, query row); it must fit, too.
  constexpr size_t kBytesPerHit = 24;
  size_t limit = impl_->options.max_message_bytes;
  if (options.max_message_bytes != 0) limit = std::min<uint64_t>(limit, options.max_message_bytes);
  const size_t budget = std::max(limit, kEnvelopeBytes) - kEnvelopeBytes;
  const size_t reply_row_bytes = options.global ? 0 : kBytesPerHit * std::max<size_t>(options.top_k, 1);
  const size_t rows_per_message =
      std::max<size_t>(1, budget / std::max({queries.row_bytes(), reply_row_bytes, size_t{1}}));

  SearchResult result;
  for (size_t first = 0; first == 0 || first < queries.count(); first += rows_per_message) {
    const size_t rows = std::min(rows_per_message, queries.count() - first);
    v1::SearchRequest request;
    request.set_collection(options.collection);
    request.set_top_k(options.top_k);
    request.set_reduction(options.global ? v1::GLOBAL : v1::PER_ROW);
    v1::Matrix& matrix = *request.mutable_queries();
    matrix.set_rows(rows);
    matrix.set_dim(queries.dim);
    matrix.set_dtype(ToProto(queries.type));
    if (rows > 0) {
      matrix.set_data(static_cast<const char*>(queries.data) + first * queries.row_bytes(),
                      rows * queries.row_bytes());
    }
    grpc::ClientContext context;
    SetDeadline(context, deadline);
    v1::SearchResponse response;
    const grpc::Status status = impl_->search->Search(&context, request, &response);
    if (!status.ok()) return FromGrpc(status);
    if (first == 0) {
      result = ResultFromProto(response);
    } else {
      Append(ResultFromProto(response), first, options, result);
    }
  }
  return result;
}

absl::StatusOr<ServerDescription> Client::Describe() const {
  grpc::ClientContext context;
  SetDeadline(context, impl_->Deadline(std::nullopt));
  v1::ListCollectionsResponse response;
  const grpc::Status status = impl_->collections->ListCollections(&context, {}, &response);
  if (!status.ok()) return FromGrpc(status);
  ServerDescription server;
  server.max_top_k = response.limits().max_top_k();
  server.max_message_bytes = response.limits().max_message_bytes();
  for (const v1::Collection& c : response.collections()) {
    CollectionDescription& description = server.collections.emplace_back();
    description = {c.name(), c.rows(), c.dim(), FromProto(c.dtype()), c.resident_bytes(), c.screen(), {}};
    for (const v1::ScreenEstimate& estimate : c.estimates()) {
      description.estimates.push_back({estimate.screen(), estimate.batch_query_seconds(), std::nullopt});
      if (estimate.has_single_query_seconds()) {
        description.estimates.back().single_query_seconds = estimate.single_query_seconds();
      }
    }
  }
  return server;
}

absl::Status Client::CheckHealth() const {
  grpc::ClientContext context;
  SetDeadline(context, impl_->Deadline(std::nullopt));
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
