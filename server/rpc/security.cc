#include "server/rpc/security.h"

#include <grpcpp/security/tls_certificate_provider.h>
#include <grpcpp/security/tls_credentials_options.h>

#include <utility>
#include <vector>

#include "absl/memory/memory.h"
#include "absl/time/clock.h"
#include "server/base/crypto.h"

namespace dotmax {
namespace {

constexpr char kTokensFlag[] = "tokens-file";
constexpr char kCertificateFlag[] = "tls-cert";

}  // namespace

absl::StatusOr<std::unique_ptr<Security>> Security::Load(const SecurityFiles& files, Metrics* metrics,
                                                         Logger* log) {
  auto security = absl::WrapUnique(new Security(files, metrics, log));
  Security* const self = security.get();
  if (!files.tokens.empty()) {
    absl::StatusOr<std::unique_ptr<Tokens>> tokens = Tokens::Load(files.tokens);
    if (!tokens.ok()) return tokens.status();
    self->tokens_ = *std::move(tokens);
    metrics->ConfigLoaded(kTokensFlag, true);
    self->watch_tokens_.emplace(std::vector<std::string>{files.tokens},
                                [self] { self->Reloaded(kTokensFlag, self->tokens_->Reload()); });
  }
  if (!files.certificate.empty()) {
    if (absl::Status s = self->CheckCertificates(); !s.ok()) return s;
    metrics->ConfigLoaded(kCertificateFlag, true);
    std::vector<std::string> paths = {files.certificate, files.key};
    if (!files.client_ca.empty()) paths.push_back(files.client_ca);
    self->watch_certificates_.emplace(
        std::move(paths), [self] { self->Reloaded(kCertificateFlag, self->CheckCertificates()); });
  }
  return security;
}

absl::Status Security::CheckCertificates() {
  const absl::StatusOr<absl::Time> expiry = CheckKeyPair(files_.certificate, files_.key);
  if (!expiry.ok()) return expiry.status();
  if (!files_.client_ca.empty()) {
    if (absl::Status s = dotmax::CheckCertificates(files_.client_ca); !s.ok()) return s;
  }
  metrics_->SetCertificateExpiry(*expiry);
  if (*expiry <= absl::Now()) {
    log_->Write(LogLevel::kError, "certificate_expired",
                {{"path", files_.certificate}, {"expiry", absl::FormatTime(*expiry, absl::UTCTimeZone())}});
  }
  return absl::OkStatus();
}

void Security::Reloaded(const char* flag, const absl::Status& status) {
  metrics_->ConfigLoaded(flag, status.ok());
  if (status.ok()) {
    log_->Write(LogLevel::kInfo, "reloaded", {{"flag", flag}});
  } else {
    log_->Write(LogLevel::kError, "not_reloaded", {{"flag", flag}, {"message", status.message()}});
  }
}

std::shared_ptr<grpc::ServerCredentials> Security::Credentials() const {
  if (files_.certificate.empty()) return grpc::InsecureServerCredentials();
  // gRPC looks at the files by itself, as often as we do.
  const auto provider = std::make_shared<grpc::experimental::FileWatcherCertificateProvider>(
      files_.key, files_.certificate, files_.client_ca,
      static_cast<unsigned>(absl::ToInt64Seconds(FileWatch::kInterval)));
  grpc::experimental::TlsServerCredentialsOptions options(provider);
  options.watch_identity_key_cert_pairs();
  if (files_.client_ca.empty()) {
    options.set_cert_request_type(GRPC_SSL_DONT_REQUEST_CLIENT_CERTIFICATE);
  } else {
    options.watch_root_certs();
    options.set_cert_request_type(GRPC_SSL_REQUEST_AND_REQUIRE_CLIENT_CERTIFICATE_AND_VERIFY);
  }
  return grpc::experimental::TlsServerCredentials(options);
}

}  // namespace dotmax
