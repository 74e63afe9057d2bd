#include "server/rpc/listener.h"

#include <grpcpp/ext/proto_server_reflection_plugin.h>
#include <grpcpp/health_check_service_interface.h>
#include <grpcpp/security/server_credentials.h>
#include <grpcpp/server_builder.h>

#include <algorithm>

#include "absl/memory/memory.h"
#include "absl/time/clock.h"
#include "server/rpc/address.h"

namespace dotmax {
namespace {

// A few round trips; see Shutdown.
constexpr absl::Duration kSettle = absl::Milliseconds(200);

}  // namespace

Listener::Listener(const Backend& backend)
    : backend_(backend), search_(backend_, &open_), collections_(backend_, &open_) {}

absl::StatusOr<std::unique_ptr<Listener>> Listener::Start(const std::string& address,
                                                          const Backend& backend) {
  auto listener = absl::WrapUnique(new Listener(backend));
  // Both are switches of the process: gRPC has no others.
  grpc::EnableDefaultHealthCheckService(true);
  grpc::reflection::InitProtoReflectionServerBuilderPlugin();

  grpc::ServerBuilder builder;
  // By default a second server on the same port would silently take half of the connections.
  builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);
  builder.SetMaxReceiveMessageSize(static_cast<int>(backend.limits.max_message_bytes));
  builder.SetMaxSendMessageSize(static_cast<int>(backend.limits.max_message_bytes));
  builder.AddListeningPort(address, grpc::InsecureServerCredentials(), &listener->port_);
  builder.RegisterService(&listener->search_);
  builder.RegisterService(&listener->collections_);
  listener->server_ = builder.BuildAndStart();
  if (listener->server_ == nullptr || listener->port_ == 0) return BindError(address);
  listener->SetServing(false);
  return listener;
}

Listener::~Listener() { Shutdown(absl::InfinitePast()); }

void Listener::SetServing(bool serving) {
  grpc::HealthCheckServiceInterface* health = server_->GetHealthCheckService();
  for (const char* service : {"", v1::Dotmax::service_full_name(), v1::Collections::service_full_name()}) {
    health->SetServingStatus(service, serving);
  }
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
  // Health watches and reflection streams, which never end by themselves, are cut off with them.
  server_->Shutdown(absl::ToChronoTime(absl::Now() + kSettle));
  server_.reset();
}

}  // namespace dotmax
