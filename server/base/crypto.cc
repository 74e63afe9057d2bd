#include "server/base/crypto.h"

#include <openssl/bio.h>
#include <openssl/crypto.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/sha.h>
#include <openssl/x509.h>

#include <ctime>
#include <fstream>
#include <iterator>
#include <memory>

#include "absl/strings/str_cat.h"

namespace dotmax {
namespace {

static_assert(std::tuple_size<Sha256Digest>::value == SHA256_DIGEST_LENGTH);

template <auto kFree>
struct Free {
  template <typename T>
  void operator()(T* object) const {
    kFree(object);
  }
};
using Certificate = std::unique_ptr<X509, Free<X509_free>>;
using File = std::unique_ptr<BIO, Free<BIO_free_all>>;
using Key = std::unique_ptr<EVP_PKEY, Free<EVP_PKEY_free>>;

// OpenSSL would ask at the terminal.
int NoPassphrase(char* /*buffer*/, int /*size*/, int /*writing*/, void* /*data*/) { return 0; }

File Open(const Pem& pem) {
  return File(BIO_new_mem_buf(pem.text.data(), static_cast<int>(pem.text.size())));
}

absl::StatusOr<Certificate> FirstCertificate(const Pem& pem) {
  Certificate certificate(PEM_read_bio_X509(Open(pem).get(), nullptr, &NoPassphrase, nullptr));
  ERR_clear_error();  // a queue of the thread, which others must not find full
  if (certificate == nullptr) {
    return absl::InvalidArgumentError(absl::StrCat(pem.path, ": there is no PEM certificate in it"));
  }
  return certificate;
}

}  // namespace

Sha256Digest Sha256(absl::string_view bytes) {
  Sha256Digest digest;
  SHA256(reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size(), digest.data());
  return digest;
}

bool EqualInConstantTime(const Sha256Digest& a, const Sha256Digest& b) {
  return CRYPTO_memcmp(a.data(), b.data(), a.size()) == 0;
}

absl::StatusOr<Pem> ReadPem(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  Pem pem = {path, std::string(std::istreambuf_iterator<char>(file), {})};
  if (!file.is_open()) return absl::InvalidArgumentError(absl::StrCat(path, ": cannot be read"));
  return pem;
}

absl::StatusOr<absl::Time> CheckKeyPair(const Pem& certificate, const Pem& key) {
  const absl::StatusOr<Certificate> first = FirstCertificate(certificate);
  if (!first.ok()) return first.status();
  const Key private_key(PEM_read_bio_PrivateKey(Open(key).get(), nullptr, &NoPassphrase, nullptr));
  const bool match = private_key != nullptr && X509_check_private_key(first->get(), private_key.get()) == 1;
  ERR_clear_error();
  if (private_key == nullptr) {
    return absl::InvalidArgumentError(
        absl::StrCat(key.path, ": there is no PEM private key without a passphrase in it"));
  }
  if (!match) {
    return absl::InvalidArgumentError(
        absl::StrCat(key.path, ": not the private key of the certificate in ", certificate.path));
  }
  std::tm expiry = {};
  if (ASN1_TIME_to_tm(X509_get0_notAfter(first->get()), &expiry) != 1) {
    return absl::InvalidArgumentError(absl::StrCat(certificate.path, ": its expiry is no time"));
  }
  return absl::FromTM(expiry, absl::UTCTimeZone());
}

absl::Status CheckCertificates(const Pem& pem) { return FirstCertificate(pem).status(); }

}  // namespace dotmax
