// What connections and calls show to a server.
#ifndef DOTMAX_CLIENT_CPP_CREDENTIALS_H_
#define DOTMAX_CLIENT_CPP_CREDENTIALS_H_

#include <grpcpp/client_context.h>
#include <grpcpp/security/credentials.h>
#include <grpcpp/support/channel_arguments.h>

#include <memory>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "dotmax/client.h"

namespace dotmax {

// The credentials for a channel, which is to be made with `arguments`; those that go with them are added.
// Fails as Client::Create does.
absl::StatusOr<std::shared_ptr<grpc::ChannelCredentials>> ChannelCredentials(
    const std::optional<TlsOptions>& tls, grpc::ChannelArguments& arguments);

// Sends `token`, unless it is empty, along with a call.
void AddToken(const std::string& token, grpc::ClientContext& context);

}  // namespace dotmax

#endif  // DOTMAX_CLIENT_CPP_CREDENTIALS_H_
