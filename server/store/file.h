// Regular files that are read or replaced, and a directory that names of such files are confined to.
#ifndef DOTMAX_SERVER_STORE_FILE_H_
#define DOTMAX_SERVER_STORE_FILE_H_

#include <cstddef>
#include <cstdint>
#include <ostream>
#include <string>
#include <utility>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace dotmax {

// An open file. Closed with the object; movable.
class File {
 public:
  // Never waits, also not for the other end of a pipe. kNotFound, kPermissionDenied, ...: the system's
  // answer.
  static absl::StatusOr<File> Open(const std::string& path);

  File(File&& other) noexcept : fd_(other.fd_) { other.fd_ = -1; }
  File& operator=(File&&) = delete;
  ~File();

  int fd() const { return fd_; }

  // kInvalidArgument for what is no regular file.
  absl::StatusOr<uint64_t> Size() const;

  // Reads exactly `bytes` from `offset`; kInvalidArgument when the file ends before.
  absl::Status Read(uint64_t offset, size_t bytes, void* to) const;

 private:
  friend class DataDir;
  explicit File(int fd) : fd_(fd) {}

  int fd_;
};

// Replaces the file at `path` by what `write` writes, all or nothing: a file beside it takes its name when it
// is complete. Fails with what `write` fails with, or, also when the stream has gone bad meanwhile, with the
// system's answer.
absl::Status ReplaceFile(const std::string& path, absl::FunctionRef<absl::Status(std::ostream&)> write);

// A directory whose files may be named by callers from outside. What a name means is found and opened in one
// step: neither "..", nor a symbolic link, nor a change in between leads out of it. Thread-safe; movable.
class DataDir {
 public:
  static absl::StatusOr<DataDir> Open(const std::string& path);

  // `path` is relative to the directory, or begins with it as it was given to Open. kPermissionDenied, with
  // reason PATH_NOT_ALLOWED, when it leads out of the directory; otherwise as File::Open.
  absl::StatusOr<File> OpenFile(const std::string& path) const;

 private:
  DataDir(std::string path, File directory) : path_(std::move(path)), directory_(std::move(directory)) {}

  std::string path_;  // without a slash at its end
  File directory_;
};

}  // namespace dotmax

#endif  // DOTMAX_SERVER_STORE_FILE_H_
