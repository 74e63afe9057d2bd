// The little cryptography that the server and the command do themselves, by OpenSSL. Thread-safe.
#ifndef DOTMAX_SERVER_BASE_CRYPTO_H_
#define DOTMAX_SERVER_BASE_CRYPTO_H_

#include <array>
#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"

namespace dotmax {

using Sha256Digest = std::array<uint8_t, 32>;

Sha256Digest Sha256(absl::string_view bytes);

// Takes as long for any two digests.
bool EqualInConstantTime(const Sha256Digest& a, const Sha256Digest& b);

// What a PEM file holds.
struct Pem {
  std::string path;  // for messages
  std::string text;
};

// kInvalidArgument names the file that cannot be read.
absl::StatusOr<Pem> ReadPem(const std::string& path);

// When the first certificate of `certificate` expires, whose private key is that of `key`, without a
// passphrase. kInvalidArgument names the file that holds no such thing or does not match.
absl::StatusOr<absl::Time> CheckKeyPair(const Pem& certificate, const Pem& key);

// Whether `pem` holds at least one certificate; kInvalidArgument names it.
absl::Status CheckCertificates(const Pem& pem);

}  // namespace dotmax

#endif  // DOTMAX_SERVER_BASE_CRYPTO_H_
