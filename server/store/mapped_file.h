// A file mapped into memory, which survives that the file becomes shorter.
//
// The system answers an access beyond a mapped file's end with SIGBUS, which ends the process. So all
// mappings of the process are listed, and one handler of that signal puts zeros where a listed file has lost
// its bytes: whoever reads them goes on, and learns afterwards, from Intact, that what was read is worthless.
#ifndef DOTMAX_SERVER_STORE_MAPPED_FILE_H_
#define DOTMAX_SERVER_STORE_MAPPED_FILE_H_

#include <sys/stat.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <utility>

#include "absl/status/statusor.h"
#include "server/base/types.h"
#include "server/store/file.h"

namespace dotmax {

// Thread-safe. Unmapped with the object.
class MappedFile : public Backing {
 public:
  static constexpr int kMost = 1024;  // at once

  // Maps the first `bytes` ≥ 1, read-only. kResourceExhausted when kMost files are mapped already.
  static absl::StatusOr<std::shared_ptr<const MappedFile>> Map(File file, uint64_t bytes);

  ~MappedFile() override;

  const std::byte* data() const { return data_; }

  // Whether the file has neither changed nor lost bytes since it was mapped. A system call.
  bool Intact() const override;

 private:
  struct Place;
  struct List;

  MappedFile(File file, const struct stat& was, const std::byte* data, uint64_t bytes, Place* place)
      : file_(std::move(file)), was_(was), data_(data), bytes_(bytes), place_(place) {}

  const File file_;
  const struct stat was_;
  const std::byte* const data_;
  const uint64_t bytes_;
  Place* const place_;
};

}  // namespace dotmax

#endif  // DOTMAX_SERVER_STORE_MAPPED_FILE_H_
