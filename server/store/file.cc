#include "server/store/file.h"

#include <fcntl.h>
#include <linux/openat2.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <climits>
#include <cstdio>
#include <fstream>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"
#include "absl/strings/strip.h"
#include "server/base/errors.h"

namespace dotmax {
namespace {

constexpr int kFlags = O_RDONLY | O_CLOEXEC | O_NONBLOCK;

absl::Status Outside() {
  return Error(absl::StatusCode::kPermissionDenied, "PATH_NOT_ALLOWED", "is not within the data directory");
}

// Where an open file is.
absl::StatusOr<std::string> PathOf(int fd) {
  char path[PATH_MAX];
  const ssize_t length = readlink(absl::StrCat("/proc/self/fd/", fd).c_str(), path, sizeof(path));
  if (length < 0 || length == sizeof(path)) return absl::InternalError("cannot be located");
  return std::string(path, static_cast<size_t>(length));
}

}  // namespace

absl::StatusOr<File> File::Open(const std::string& path) {
  const int fd = open(path.c_str(), kFlags);
  if (fd < 0) return absl::ErrnoToStatus(errno, "cannot be opened");
  return File(fd);
}

File::~File() {
  if (fd_ >= 0) close(fd_);
}

absl::StatusOr<uint64_t> File::Size() const {
  struct stat info;
  if (fstat(fd_, &info) != 0) return absl::ErrnoToStatus(errno, "cannot be examined");
  if (S_ISDIR(info.st_mode)) return absl::InvalidArgumentError("is a directory");
  if (!S_ISREG(info.st_mode)) return absl::InvalidArgumentError("is not a regular file");
  return static_cast<uint64_t>(info.st_size);
}

absl::Status File::Read(uint64_t offset, size_t bytes, void* to) const {
  for (size_t done = 0; done < bytes;) {
    const ssize_t n =
        pread(fd_, static_cast<char*>(to) + done, bytes - done, static_cast<off_t>(offset + done));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return absl::ErrnoToStatus(errno, "cannot be read");
    if (n == 0) return absl::InvalidArgumentError("became shorter while being read");
    done += static_cast<size_t>(n);
  }
  return absl::OkStatus();
}

absl::Status ReplaceFile(const std::string& path, absl::FunctionRef<absl::Status(std::ostream&)> write) {
  const std::string part = absl::StrCat(path, ".", getpid(), ".part");
  errno = 0;
  std::ofstream file(part, std::ios::binary);
  absl::Status status = file.is_open() ? write(file) : absl::OkStatus();
  const bool wrote = file.good();
  file.close();
  if (status.ok() && (!wrote || !file.good() || std::rename(part.c_str(), path.c_str()) != 0)) {
    status = absl::ErrnoToStatus(errno == 0 ? EIO : errno, "cannot be written");
  }
  if (!status.ok()) std::remove(part.c_str());
  return status;
}

absl::StatusOr<DataDir> DataDir::Open(const std::string& path) {
  const int fd = open(path.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) return absl::ErrnoToStatus(errno, absl::StrCat(path, ": cannot be opened"));
  return DataDir(std::string(absl::StripSuffix(path, "/")), File(fd));
}

absl::StatusOr<File> DataDir::OpenFile(const std::string& path) const {
  absl::string_view name = path;
  if (absl::StartsWith(name, "/") && !absl::ConsumePrefix(&name, absl::StrCat(path_, "/"))) return Outside();
  while (absl::ConsumePrefix(&name, "/")) {
  }
  for (const absl::string_view part : absl::StrSplit(name, '/')) {
    if (part == "..") return Outside();
  }
  const std::string relative(name);
  open_how how = {};
  how.flags = kFlags;
  how.resolve = RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS;
  int fd = static_cast<int>(syscall(SYS_openat2, directory_.fd(), relative.c_str(), &how, sizeof(how)));
  if (fd >= 0) return File(fd);
  if (errno == EXDEV || errno == ELOOP) return Outside();
  // Older than Linux 5.6, or a sandbox that does not know the call and says so one way or the other.
  if (errno != ENOSYS && errno != EPERM) return absl::ErrnoToStatus(errno, "cannot be opened");
  fd = openat(directory_.fd(), relative.c_str(), kFlags);
  if (fd < 0) return absl::ErrnoToStatus(errno, "cannot be opened");
  File file(fd);
  // Of what is open, not of a name that may mean something else by now.
  const absl::StatusOr<std::string> at = PathOf(file.fd());
  const absl::StatusOr<std::string> root = PathOf(directory_.fd());
  if (!at.ok()) return at.status();
  if (!root.ok()) return root.status();
  if (*root != "/" && !absl::StartsWith(*at, absl::StrCat(*root, "/"))) return Outside();
  return file;
}

}  // namespace dotmax
