// Certificate authorities and what they sign, made by the openssl command.
#ifndef DOTMAX_TESTS_CERTIFICATES_H_
#define DOTMAX_TESTS_CERTIFICATES_H_

#include <string>

namespace dotmax::testing {

// PEM files.
struct CertificateFiles {
  std::string certificate, key;
};

// A directory of its own, removed with the object.
class TempDirectory {
 public:
  TempDirectory();
  ~TempDirectory();

  TempDirectory(const TempDirectory&) = delete;
  TempDirectory& operator=(const TempDirectory&) = delete;

  std::string operator/(const std::string& name) const { return path_ + "/" + name; }

 private:
  std::string path_;
};

// Writes `text` to a file beside `path` and renames it to that.
void Replace(const std::string& path, const std::string& text);
std::string ReadFile(const std::string& path);

class CertificateAuthority {
 public:
  CertificateAuthority();

  std::string certificate() const { return directory_ / "ca.pem"; }

  // A certificate of `common_name` for 127.0.0.1, valid for `days`; negative: expired for as long. The files
  // live as long as the authority.
  CertificateFiles Issue(const std::string& common_name, int days = 2);

 private:
  const TempDirectory directory_;
  int issued_ = 0;
};

}  // namespace dotmax::testing

#endif  // DOTMAX_TESTS_CERTIFICATES_H_
