#include "server/store/mapped_file.h"

#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <utility>

#include "absl/memory/memory.h"
#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

namespace dotmax {

// A place in the list. The handler reads it while others change it: `begin` is set last and cleared first, so
// that whoever finds an address in [begin, end) finds the rest as well. Faults are of addresses that somebody
// reads, whose mapping stays until that is done.
struct MappedFile::Place {
  std::atomic<uintptr_t> begin{0}, end{0};
  std::atomic<bool> lost{false};
  std::atomic<bool> taken{false};
};

static_assert(std::atomic<uintptr_t>::is_always_lock_free && std::atomic<bool>::is_always_lock_free,
              "a signal handler may not wait");

// The process has one handler of a signal, hence one list, which is never destroyed.
struct MappedFile::List {
  static Place places[kMost];
  static struct sigaction previous;

  static uintptr_t PageBytes() { return static_cast<uintptr_t>(getpagesize()); }

  // Calls only what is safe in a signal handler.
  static void OnBusError(int signal, siginfo_t* info, void* context) {
    const int error = errno;
    const auto address = reinterpret_cast<uintptr_t>(info->si_addr);
    for (Place& place : places) {
      const uintptr_t begin = place.begin.load(std::memory_order_acquire);
      const uintptr_t end = place.end.load(std::memory_order_relaxed);
      if (begin == 0 || address < begin || address >= end) continue;
      place.lost.store(true);
      // What is behind is lost, too, and need not fault page by page.
      const uintptr_t from = address / PageBytes() * PageBytes();
      void* const zeros = mmap(reinterpret_cast<void*>(from), end - from, PROT_READ,
                               MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE, -1, 0);
      errno = error;
      if (zeros != MAP_FAILED) return;
      break;
    }
    // Not ours: as if this handler did not exist. The access is tried again.
    if ((previous.sa_flags & SA_SIGINFO) != 0) {
      previous.sa_sigaction(signal, info, context);
    } else if (previous.sa_handler != SIG_DFL && previous.sa_handler != SIG_IGN) {
      previous.sa_handler(signal);
    } else {
      sigaction(SIGBUS, &previous, nullptr);
    }
    errno = error;
  }

  static bool Install() {
    struct sigaction action = {};
    action.sa_sigaction = &OnBusError;
    action.sa_flags = SA_SIGINFO | SA_RESTART;
    sigemptyset(&action.sa_mask);
    return sigaction(SIGBUS, &action, &previous) == 0;
  }

  static Place* Take() {
    for (Place& place : places) {
      if (!place.taken.exchange(true)) return &place;
    }
    return nullptr;
  }
};

constinit MappedFile::Place MappedFile::List::places[kMost];
constinit struct sigaction MappedFile::List::previous = {};

absl::StatusOr<std::shared_ptr<const MappedFile>> MappedFile::Map(File file, uint64_t bytes) {
  static const bool installed = List::Install();
  if (!installed) return absl::InternalError("cannot be mapped: SIGBUS cannot be handled");
  struct stat was;
  if (fstat(file.fd(), &was) != 0) return absl::ErrnoToStatus(errno, "cannot be examined");
  Place* const place = List::Take();
  if (place == nullptr) {
    return absl::ResourceExhaustedError(absl::StrCat("cannot be mapped: ", kMost, " files are"));
  }
  void* const memory = mmap(nullptr, bytes, PROT_READ, MAP_SHARED, file.fd(), 0);
  if (memory == MAP_FAILED) {
    const int error = errno;
    place->taken.store(false);
    return absl::ErrnoToStatus(error, "cannot be mapped");
  }
  const auto begin = reinterpret_cast<uintptr_t>(memory);
  const uintptr_t pages = (bytes + List::PageBytes() - 1) / List::PageBytes();
  place->lost.store(false, std::memory_order_relaxed);
  place->end.store(begin + pages * List::PageBytes(), std::memory_order_relaxed);
  place->begin.store(begin, std::memory_order_release);
  return absl::WrapUnique(
      new MappedFile(std::move(file), was, static_cast<const std::byte*>(memory), bytes, place));
}

MappedFile::~MappedFile() {
  place_->begin.store(0, std::memory_order_release);
  munmap(const_cast<std::byte*>(data_), bytes_);
  place_->taken.store(false);
}

bool MappedFile::Intact() const {
  // The signal comes of whole pages only, and a file may have been cut and written again since.
  struct stat now;
  return !place_->lost.load() && fstat(file_.fd(), &now) == 0 && now.st_size == was_.st_size &&
         now.st_mtim.tv_sec == was_.st_mtim.tv_sec && now.st_mtim.tv_nsec == was_.st_mtim.tv_nsec;
}

}  // namespace dotmax
