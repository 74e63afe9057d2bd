#include "server/rpc/listener.h"

#include <grpcpp/alarm.h>
#include <grpcpp/client_context.h>
#include <grpcpp/create_channel.h>
#include <grpcpp/ext/channelz_service_plugin.h>
#include <grpcpp/ext/proto_server_reflection_plugin.h>
#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/health_check_service_interface.h>
#include <grpcpp/resource_quota.h>
#include <grpcpp/server_builder.h>
#include <grpcpp/support/server_interceptor.h>

#include <algorithm>
#include <optional>
#include <thread>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/memory/memory.h"
#include "absl/strings/match.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "server/base/process.h"
#include "server/rpc/metadata.h"

namespace dotmax {
namespace {

constexpr const char* kServices[] = {v1::Dotmax::service_full_name(), v1::Collections::service_full_name()};

// Searches get about five times as much of a processor that gRPC wants, too.
constexpr int kNiceness = 7;

// A few round trips; see Shutdown.
constexpr absl::Duration kSettle = absl::Milliseconds(200);

// Calls of one connection at a time; more wait at the caller. As many as may wait in the queue by default,
// and far above what one process needs.
constexpr int kMaxConnectionCalls = 1024;
// Of one call. A token, a trace and a request id take a tenth of it; it comes before any check of the token.
constexpr int kMaxMetadataBytes = 8 << 10;
// Threads for what gRPC serves by blocking ones: a reflection stream holds one while it is open. All else is
// served by callbacks.
constexpr int kMaxBlockingThreads = 16;
// A peer that is gone without a word is noticed within their sum, and its calls are cancelled.
constexpr absl::Duration kKeepaliveTime = absl::Seconds(60);
constexpr absl::Duration kKeepaliveTimeout = absl::Seconds(20);
// Callers may look for a dead server as often, also between calls; gRPC's 5 minutes would cut off usual
// settings of clients. Those that do not keep to it are cut off after kMaxPingStrikes.
constexpr absl::Duration kLeastPingInterval = absl::Seconds(10);
constexpr int kMaxPingStrikes = 2;

int Milliseconds(absl::Duration duration) { return static_cast<int>(absl::ToInt64Milliseconds(duration)); }

void SetBounds(const Backend& backend, grpc::ServerBuilder& builder) {
  builder.SetMaxReceiveMessageSize(static_cast<int>(backend.limits.max_message_bytes));
  builder.SetMaxSendMessageSize(static_cast<int>(backend.limits.max_message_bytes));
  grpc::ResourceQuota quota("dotmax-server");
  quota.Resize(backend.max_grpc_bytes);
  quota.SetMaxThreads(kMaxBlockingThreads);
  builder.SetResourceQuota(quota);
  builder.SetSyncServerOption(grpc::ServerBuilder::NUM_CQS, 1);  // each takes threads from the start
  const std::pair<const char*, int> arguments[] = {
      {GRPC_ARG_MAX_CONCURRENT_STREAMS, kMaxConnectionCalls},
      {GRPC_ARG_MAX_METADATA_SIZE, kMaxMetadataBytes},
      {GRPC_ARG_KEEPALIVE_TIME_MS, Milliseconds(kKeepaliveTime)},
      {GRPC_ARG_KEEPALIVE_TIMEOUT_MS, Milliseconds(kKeepaliveTimeout)},
      {GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1},
      {GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0},  // no limit on ours
      {GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS, Milliseconds(kLeastPingInterval)},
      {GRPC_ARG_HTTP2_MAX_PING_STRIKES, kMaxPingStrikes},
  };
  for (const auto& [key, value] : arguments) builder.AddChannelArgument(key, value);
}

// Cancels a call that comes without a token that is good for it.
class TokenGuard final : public grpc::experimental::Interceptor {
 public:
  TokenGuard(const Tokens& tokens, std::optional<Scope> scope, grpc::ServerContextBase* context)
      : tokens_(tokens), scope_(scope), context_(context) {}

  void Intercept(grpc::experimental::InterceptorBatchMethods* methods) override {
    if (methods->QueryInterceptionHookPoint(
            grpc::experimental::InterceptionHookPoints::POST_RECV_INITIAL_METADATA) &&
        !Admit(ReadMetadata(*methods->GetRecvInitialMetadata()).authorization).ok()) {
      context_->TryCancel();
    }
    methods->Proceed();
  }

 private:
  absl::Status Admit(absl::string_view authorization) const {
    if (!scope_.has_value()) return tokens_.Identify(authorization);
    return tokens_.Admit(authorization, *scope_, absl::Now()).status();
  }

  const Tokens& tokens_;
  const std::optional<Scope> scope_;  // none: any token will do
  grpc::ServerContextBase* const context_;
};

// Guards what gRPC itself serves to anyone: reflection, and channelz, which names who is connected. Our own
// calls are guarded by CallRecord, which can say more than that they are cancelled, and health is open.
class GrpcServicesGuard final : public grpc::experimental::ServerInterceptorFactoryInterface {
 public:
  explicit GrpcServicesGuard(const Tokens& tokens) : tokens_(tokens) {}

  grpc::experimental::Interceptor* CreateServerInterceptor(grpc::experimental::ServerRpcInfo* info) override {
    if (absl::StartsWith(info->method(), "/grpc.reflection.")) {
      return new TokenGuard(tokens_, std::nullopt, info->server_context());
    }
    if (absl::StartsWith(info->method(), "/grpc.channelz.")) {
      return new TokenGuard(tokens_, Scope::kAdmin, info->server_context());
    }
    return nullptr;
  }

 private:
  const Tokens& tokens_;
};

// Every RPC of a service, as its .proto has it.
void Declare(const char* service_name, Metrics* metrics) {
  const google::protobuf::ServiceDescriptor* const service =
      google::protobuf::DescriptorPool::generated_pool()->FindServiceByName(service_name);
  for (int i = 0; i < service->method_count(); ++i) {
    const google::protobuf::MethodDescriptor& method = *service->method(i);
    const bool in = method.client_streaming(), out = method.server_streaming();
    const char* const type = in ? (out ? "bidi_stream" : "client_stream") : (out ? "server_stream" : "unary");
    metrics->Declare({type, service_name, method.name().c_str()});
  }
}

}  // namespace

// Keeps the threads that call us back awake. gRPC has them wait a second for an event and, if none came,
// sleep for a tenth of one whatever comes: who asked an idle server waited up to 98 ms. So something happens
// more often: a call with a callback, over a channel that fails all calls at once.
class Listener::Waker {
 public:
  Waker() : nowhere_(grpc::CreateChannel("", nullptr)) {
    absl::MutexLock lock(&mutex_);
    Rest();
  }
  ~Waker() {
    absl::MutexLock lock(&mutex_);
    stopping_ = true;
    alarm_->Cancel();
    mutex_.Await(absl::Condition(&stopped_));
  }

 private:
  static constexpr absl::Duration kInterval = absl::Milliseconds(400);

  void Rest() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    context_.emplace();
    alarm_.emplace();  // the last one may not have returned yet
    alarm_->Set(absl::ToChronoTime(absl::Now() + kInterval), [this](bool) { Wake(); });
  }

  void Wake() {
    nowhere_.UnaryCall(&*context_, "/", {}, &nothing_, &no_reply_, [this](const grpc::Status&) {
      absl::MutexLock lock(&mutex_);
      stopped_ = stopping_;
      if (!stopped_) Rest();
    });
  }

  grpc::GenericStub nowhere_;
  std::optional<grpc::ClientContext> context_;
  const grpc::ByteBuffer nothing_{/*slices=*/nullptr, 0};
  grpc::ByteBuffer no_reply_;

  absl::Mutex mutex_;
  std::optional<grpc::Alarm> alarm_ ABSL_GUARDED_BY(mutex_);
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  bool stopped_ ABSL_GUARDED_BY(mutex_) = false;
};

Listener::Listener(const Backend& backend)
    : backend_(backend), search_(backend_, &open_), collections_(backend_, &open_) {}

absl::StatusOr<std::unique_ptr<Listener>> Listener::Start(
    const std::string& address, std::shared_ptr<grpc::ServerCredentials> credentials,
    const Backend& backend) {
  absl::StatusOr<std::unique_ptr<Acceptor>> acceptor =
      Acceptor::Listen(address, kKeepaliveTimeout, backend.log);
  if (!acceptor.ok()) return acceptor.status();
  auto listener = absl::WrapUnique(new Listener(backend));
  listener->acceptor_ = *std::move(acceptor);
  for (const char* service : kServices) Declare(service, backend.metrics);
  // Switches of the process: gRPC has no others.
  grpc::EnableDefaultHealthCheckService(true);
  grpc::reflection::InitProtoReflectionServerBuilderPlugin();
  grpc::channelz::experimental::InitChannelzService();

  grpc::ServerBuilder builder;
  SetBounds(backend, builder);
  if (backend.tokens != nullptr) {
    std::vector<std::unique_ptr<grpc::experimental::ServerInterceptorFactoryInterface>> guards;
    guards.push_back(std::make_unique<GrpcServicesGuard>(*backend.tokens));
    builder.experimental().SetInterceptorCreators(std::move(guards));
  }
  listener->connections_ = builder.experimental().AddExternalConnectionAcceptor(
      grpc::ServerBuilder::experimental_type::ExternalConnectionType::FROM_FD, std::move(credentials));
  builder.RegisterService(&listener->search_);
  builder.RegisterService(&listener->collections_);
  // Whoever has been let in is ahead of whoever asks: gRPC's threads give way to the engine's.
  std::thread([&] {
    GiveWay(kNiceness);
    listener->server_ = builder.BuildAndStart();
  }).join();
  if (listener->server_ == nullptr) return absl::InternalError("gRPC does not start");
  listener->SetServing(false);
  listener->waker_ = std::make_unique<Waker>();
  listener->acceptor_->Start([connections = listener->connections_.get()](int socket) {
    grpc::experimental::ExternalConnectionAcceptor::NewConnectionParameters connection;
    connection.fd = socket;
    connections->HandleNewConnection(&connection);
  });
  return listener;
}

Listener::~Listener() { Shutdown(absl::InfinitePast()); }

void Listener::SetServing(bool serving) {
  grpc::HealthCheckServiceInterface* health = server_->GetHealthCheckService();
  health->SetServingStatus("", serving);
  for (const char* service : kServices) health->SetServingStatus(service, serving);
}

void Listener::Drain() {
  open_.Close();
  SetServing(false);
}

void Listener::Shutdown(absl::Time deadline) {
  if (server_ == nullptr) return;
  Drain();
  open_.Await(deadline);

  // What reaches gRPC between its own shutdown and the caller's learning of it, it ends with CANCELLED, which
  // nobody retries. So callers that still knock are first left without a reply, until they wait for one, then
  // told to go (GOAWAY), then cut off: they see UNAVAILABLE.
  open_.HoldLate();
  absl::SleepFor(kSettle);
  acceptor_->Stop();
  waker_.reset();
  // Health watches and reflection streams, which never end by themselves, are cut off with them.
  server_->Shutdown(absl::ToChronoTime(absl::Now() + kSettle));
  server_.reset();
}

}  // namespace dotmax
