// What the methods of Client share: stubs, limits, statuses.
#ifndef DOTMAX_CLIENT_CPP_IMPL_H_
#define DOTMAX_CLIENT_CPP_IMPL_H_

#include <grpcpp/channel.h>
#include <grpcpp/client_context.h>
#include <grpcpp/support/status.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "client/cpp/credentials.h"
#include "client/cpp/wire.h"
#include "dotmax/client.h"
#include "dotmax/v1/collections.grpc.pb.h"
#include "dotmax/v1/dotmax.grpc.pb.h"
#include "google/rpc/status.pb.h"
#include "grpc/health/v1/health.grpc.pb.h"

namespace dotmax {

// What a request holds besides rows and exclusions, generously.
inline constexpr size_t kEnvelopeBytes = 4096;

// The server's status, its details as payloads by type URL.
absl::Status FromGrpc(const grpc::Status& status);
absl::Status FromRpc(const google::rpc::Status& status);

// kInvalidArgument when `rows` are no whole rows.
absl::Status CheckRows(const Rows& rows, absl::string_view name);

struct Client::Impl {
  Impl(const ClientOptions& client_options, std::shared_ptr<grpc::Channel> channel)
      : options(client_options),
        search(v1::Dotmax::NewStub(channel)),
        collections(v1::Collections::NewStub(channel)),
        health(grpc::health::v1::Health::NewStub(channel)) {}

  // What every call goes with.
  void Prepare(grpc::ClientContext& context, absl::Time deadline) const {
    if (deadline != absl::InfiniteFuture()) context.set_deadline(absl::ToChronoTime(deadline));
    AddToken(options.token, context);
  }

  absl::Time Deadline(std::optional<absl::Duration> timeout) const {
    return absl::Now() + timeout.value_or(options.timeout);
  }

  // What rows, exclusions or hits of one message may take, when the caller's limit is `max_message_bytes` (0:
  // none).
  size_t Budget(uint64_t max_message_bytes) const {
    uint64_t limit = options.max_message_bytes;
    if (max_message_bytes != 0) limit = std::min(limit, max_message_bytes);
    return std::max<uint64_t>(limit, kEnvelopeBytes + 1) - kEnvelopeBytes;
  }

  // One part of MaxInnerProduct: `start` with its queries, and rows of `base`, streamed in blocks.
  absl::Status StreamMax(v1::MaxInnerProductRequest start, const Rows& base, size_t budget,
                         absl::Time deadline, const std::function<void(uint64_t done)>& progress,
                         v1::SearchResponse* response) const;

  const ClientOptions options;
  const std::unique_ptr<v1::Dotmax::Stub> search;
  const std::unique_ptr<v1::Collections::Stub> collections;
  const std::unique_ptr<grpc::health::v1::Health::Stub> health;
};

}  // namespace dotmax

#endif  // DOTMAX_CLIENT_CPP_IMPL_H_
