#include "server/rpc/security.h"

#include <fcntl.h>
#include <grpcpp/security/tls_certificate_provider.h>
#include <grpcpp/security/tls_credentials_options.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <utility>
#include <vector>

#include "absl/memory/memory.h"
#include "absl/strings/str_cat.h"
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
    if (absl::Status s = self->LoadCertificates(); !s.ok()) return s;
    metrics->ConfigLoaded(kCertificateFlag, true);
    std::vector<std::string> paths = {files.certificate, files.key};
    if (!files.client_ca.empty()) paths.push_back(files.client_ca);
    self->watch_certificates_.emplace(std::move(paths),
                                      [self] { self->Reloaded(kCertificateFlag, self->LoadCertificates()); });
  }
  return security;
}

Security::MemoryFile::MemoryFile() : fd_(memfd_create("dotmax-tls", MFD_CLOEXEC)) {}
Security::MemoryFile::~MemoryFile() { close(fd_); }

std::string Security::MemoryFile::path() const { return absl::StrCat("/proc/self/fd/", fd_); }

// In one step, as gRPC may read at any time, and ends the process if it finds a certificate without a key: a
// new file takes the number, and so the path, of the old one.
absl::Status Security::MemoryFile::Write(absl::string_view text) {
  const int fresh = memfd_create("dotmax-tls", MFD_CLOEXEC);
  size_t done = 0;
  while (done < text.size()) {
    const ssize_t written = write(fresh, text.data() + done, text.size() - done);
    if (written <= 0) break;
    done += written;
  }
  const bool replaced = done == text.size() && dup3(fresh, fd_, O_CLOEXEC) == fd_;
  const absl::Status status =
      replaced ? absl::OkStatus() : absl::ErrnoToStatus(errno, "cannot keep certificates in memory");
  if (fresh >= 0) close(fresh);
  return status;
}

absl::Status Security::LoadCertificates() {
  const absl::StatusOr<Pem> certificate = ReadPem(files_.certificate);
  if (!certificate.ok()) return certificate.status();
  const absl::StatusOr<Pem> key = ReadPem(files_.key);
  if (!key.ok()) return key.status();
  const absl::StatusOr<absl::Time> expiry = CheckKeyPair(*certificate, *key);
  if (!expiry.ok()) return expiry.status();
  if (!files_.client_ca.empty()) {
    const absl::StatusOr<Pem> client_ca = ReadPem(files_.client_ca);
    if (!client_ca.ok()) return client_ca.status();
    if (absl::Status s = CheckCertificates(*client_ca); !s.ok()) return s;
    if (absl::Status s = client_ca_.Write(client_ca->text); !s.ok()) return s;
  }
  if (absl::Status s = pair_.Write(absl::StrCat(key->text, "\n", certificate->text)); !s.ok()) return s;
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
  const auto provider = std::make_shared<grpc::experimental::FileWatcherCertificateProvider>(
      pair_.path(), pair_.path(), files_.client_ca.empty() ? "" : client_ca_.path(),
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
