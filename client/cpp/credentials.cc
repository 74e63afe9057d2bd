#include "client/cpp/credentials.h"

#include <fstream>
#include <iterator>
#include <utility>

#include "absl/strings/str_cat.h"

namespace dotmax {
namespace {

absl::StatusOr<std::string> ReadFile(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::string text(std::istreambuf_iterator<char>(file), {});
  if (!file.is_open()) return absl::NotFoundError(absl::StrCat(path, ": cannot be read"));
  return text;
}

}  // namespace

absl::StatusOr<std::shared_ptr<grpc::ChannelCredentials>> ChannelCredentials(
    const std::optional<TlsOptions>& tls, grpc::ChannelArguments& arguments) {
  if (!tls.has_value()) return grpc::InsecureChannelCredentials();
  if (tls->certificate_file.empty() != tls->key_file.empty()) {
    return absl::InvalidArgumentError("a client's certificate and its key need each other");
  }
  grpc::SslCredentialsOptions files;
  for (const auto& [path, text] : {std::pair(&tls->ca_file, &files.pem_root_certs),
                                   std::pair(&tls->certificate_file, &files.pem_cert_chain),
                                   std::pair(&tls->key_file, &files.pem_private_key)}) {
    if (path->empty()) continue;
    absl::StatusOr<std::string> read = ReadFile(*path);
    if (!read.ok()) return read.status();
    *text = *std::move(read);
  }
  if (!tls->server_name.empty()) arguments.SetSslTargetNameOverride(tls->server_name);
  return grpc::SslCredentials(files);
}

void AddToken(const std::string& token, grpc::ClientContext& context) {
  if (!token.empty()) context.AddMetadata("authorization", absl::StrCat("Bearer ", token));
}

}  // namespace dotmax
