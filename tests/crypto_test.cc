#include "server/base/crypto.h"

#include <string>

#include "absl/strings/escaping.h"
#include "absl/time/clock.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/certificates.h"

namespace dotmax {
namespace {

absl::StatusOr<absl::Time> CheckFiles(const std::string& certificate, const std::string& key) {
  const absl::StatusOr<Pem> first = ReadPem(certificate), second = ReadPem(key);
  if (!first.ok()) return first.status();
  if (!second.ok()) return second.status();
  return CheckKeyPair(*first, *second);
}

using ::testing::AllOf;
using ::testing::HasSubstr;

std::string Hex(const Sha256Digest& digest) {
  return absl::BytesToHexString(std::string(digest.begin(), digest.end()));
}

// FIPS 180-2, appendix B, and the empty message.
TEST(CryptoTest, Sha256IsThatOfTheStandard) {
  EXPECT_EQ(Hex(Sha256("")), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  EXPECT_EQ(Hex(Sha256("abc")), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  EXPECT_EQ(Hex(Sha256(std::string(1'000'000, 'a'))),
            "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
}

TEST(CryptoTest, DigestsAreEqualInAllBitsOnly) {
  const Sha256Digest digest = Sha256("abc");
  EXPECT_TRUE(EqualInConstantTime(digest, Sha256("abc")));
  for (size_t i = 0; i < digest.size(); ++i) {
    Sha256Digest other = digest;
    other[i] ^= 0x80;
    EXPECT_FALSE(EqualInConstantTime(digest, other)) << i;
  }
}

TEST(CryptoTest, APairTellsItsExpiry) {
  testing::CertificateAuthority authority;
  for (const int days : {3, -3}) {
    const testing::CertificateFiles files = authority.Issue("server", days);
    const absl::StatusOr<absl::Time> expiry = CheckFiles(files.certificate, files.key);
    ASSERT_TRUE(expiry.ok()) << expiry.status();
    EXPECT_NEAR(absl::ToDoubleHours(*expiry - absl::Now()), 24.0 * days, 0.1);
  }
}

TEST(CryptoTest, FilesThatAreNoPairAreNamed) {
  testing::CertificateAuthority authority;
  const testing::CertificateFiles one = authority.Issue("one"), two = authority.Issue("two");
  const auto refusal = [](const std::string& certificate, const std::string& key) {
    const absl::Status status = CheckFiles(certificate, key).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    return std::string(status.message());
  };
  EXPECT_THAT(refusal(one.certificate, two.key), AllOf(HasSubstr(one.certificate), HasSubstr(two.key)));
  EXPECT_THAT(refusal(one.key, one.key), AllOf(HasSubstr(one.key), HasSubstr("no PEM certificate")));
  EXPECT_THAT(refusal(one.certificate, one.certificate),
              AllOf(HasSubstr(one.certificate), HasSubstr("no PEM private key")));
  EXPECT_THAT(refusal("/absent.pem", one.key), HasSubstr("/absent.pem: cannot be read"));
  EXPECT_THAT(refusal(one.certificate, "/absent.key"), HasSubstr("/absent.key: cannot be read"));

  EXPECT_TRUE(CheckCertificates(*ReadPem(authority.certificate())).ok());
  EXPECT_THAT(CheckCertificates(*ReadPem(one.key)).message(), HasSubstr(one.key));
}

TEST(CryptoTest, AKeyWithAPassphraseIsRefusedWithoutAskingForIt) {
  testing::CertificateAuthority authority;
  const testing::CertificateFiles files = authority.Issue("server");
  const std::string locked = files.key + ".locked";
  ASSERT_EQ(
      std::system(
          ("openssl ec -aes128 -passout pass:x -in " + files.key + " -out " + locked + " 2>&1").c_str()),
      0);
  EXPECT_THAT(CheckFiles(files.certificate, locked).status().message(), HasSubstr("passphrase"));
}

}  // namespace
}  // namespace dotmax
