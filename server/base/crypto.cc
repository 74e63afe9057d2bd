#include "server/base/crypto.h"

#include <openssl/bio.h>
#include <openssl/crypto.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/sha.h>
#include <openssl/x509.h>

#include <ctime>
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

absl::StatusOr<File> Open(const std::string& path) {
  File file(BIO_new_file(path.c_str(), "r"));
  ERR_clear_error();  // a queue of the thread, which others must not find full
  if (file == nullptr) return absl::InvalidArgumentError(absl::StrCat(path, ": cannot be read"));
  return file;
}

absl::StatusOr<Certificate> ReadCertificate(const std::string& path) {
  absl::StatusOr<File> file = Open(path);
  if (!file.ok()) return file.status();
  Certificate certificate(PEM_read_bio_X509(file->get(), nullptr, &NoPassphrase, nullptr));
  ERR_clear_error();
  if (certificate == nullptr) {
    return absl::InvalidArgumentError(absl::StrCat(path, ": there is no PEM certificate in it"));
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

absl::StatusOr<absl::Time> CheckKeyPair(const std::string& certificate, const std::string& key) {
  const absl::StatusOr<Certificate> read = ReadCertificate(certificate);
  if (!read.ok()) return read.status();
  const absl::StatusOr<File> file = Open(key);
  if (!file.ok()) return file.status();
  const Key private_key(PEM_read_bio_PrivateKey(file->get(), nullptr, &NoPassphrase, nullptr));
  const bool match = private_key != nullptr && X509_check_private_key(read->get(), private_key.get()) == 1;
  ERR_clear_error();
  if (private_key == nullptr) {
    return absl::InvalidArgumentError(
        absl::StrCat(key, ": there is no PEM private key without a passphrase in it"));
  }
  if (!match) {
    return absl::InvalidArgumentError(
        absl::StrCat(key, ": not the private key of the certificate in ", certificate));
  }
  std::tm expiry = {};
  if (ASN1_TIME_to_tm(X509_get0_notAfter(read->get()), &expiry) != 1) {
    return absl::InvalidArgumentError(absl::StrCat(certificate, ": its expiry is no time"));
  }
  return absl::FromTM(expiry, absl::UTCTimeZone());
}

absl::Status CheckCertificates(const std::string& path) { return ReadCertificate(path).status(); }

}  // namespace dotmax
