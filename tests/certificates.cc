#include "tests/certificates.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "gtest/gtest.h"

namespace dotmax::testing {
namespace {

constexpr char kNewKey[] = " -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes";

void OpenSsl(const std::string& arguments) {
  const std::string command = absl::StrCat("openssl ", arguments, " >/dev/null 2>&1");
  EXPECT_EQ(std::system(command.c_str()), 0) << command;
}

}  // namespace

TempDirectory::TempDirectory() : path_(absl::StrCat(::testing::TempDir(), "/dotmax-XXXXXX")) {
  EXPECT_NE(mkdtemp(path_.data()), nullptr) << path_;
}
TempDirectory::~TempDirectory() { std::filesystem::remove_all(path_); }

void Replace(const std::string& path, const std::string& text) {
  const std::string beside = path + ".new";
  std::ofstream(beside) << text;
  EXPECT_EQ(std::rename(beside.c_str(), path.c_str()), 0) << path;
}

std::string ReadFile(const std::string& path) {
  std::ifstream file(path);
  EXPECT_TRUE(file.good()) << path;
  return std::string(std::istreambuf_iterator<char>(file), {});
}

CertificateAuthority::CertificateAuthority() {
  OpenSsl(absl::StrCat("req -x509 -days 2 -subj /CN=authority", kNewKey, " -keyout ", directory_ / "ca.key",
                       " -out ", certificate()));
  // `openssl ca` is the one of its commands that takes any time of expiry, in all versions.
  Replace(directory_ / "index", "");
  Replace(directory_ / "config",
          absl::StrCat("[ca]\ndefault_ca=authority\n[authority]\ndefault_md=sha256\nrand_serial=yes\n"
                       "unique_subject=no\ncopy_extensions=copy\npolicy=policy\ndatabase=",
                       directory_ / "index", "\nnew_certs_dir=", directory_ / ".",
                       "\n[policy]\ncommonName=supplied\n"));
}

CertificateFiles CertificateAuthority::Issue(const std::string& common_name, int days) {
  const std::string stem = directory_ / absl::StrCat("issued", ++issued_);
  const CertificateFiles files = {stem + ".pem", stem + ".key"};
  OpenSsl(absl::StrCat("req -subj /CN=", common_name, " -addext subjectAltName=IP:127.0.0.1", kNewKey,
                       " -keyout ", files.key, " -out ", stem, ".csr"));
  const auto time = [](int day) {
    return absl::FormatTime("%Y%m%d%H%M%SZ", absl::Now() + day * absl::Hours(24), absl::UTCTimeZone());
  };
  OpenSsl(absl::StrCat("ca -batch -notext -config ", directory_ / "config", " -cert ", certificate(),
                       " -keyfile ", directory_ / "ca.key", " -startdate ", time(std::min(days, 0) - 1),
                       " -enddate ", time(days), " -in ", stem, ".csr -out ", files.certificate));
  return files;
}

}  // namespace dotmax::testing
