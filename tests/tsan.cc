// Linked into every program that ThreadSanitizer watches, and into no other: tells it what absl::Mutex,
// CondVar and Notification order. Debian's Abseil is not compiled for it, and waits by futexes, which it does
// not see: all that they protect, in dotmax and in gRPC, would seem to be a race. These definitions come
// before the library's in the whole process; they call the library's, and say what that has done.
#include <dlfcn.h>

#include <cstdlib>
#include <cstring>

#include "absl/synchronization/mutex.h"
#include "absl/synchronization/notification.h"
#include "absl/time/time.h"

extern "C" {
void __tsan_acquire(void* address);
void __tsan_release(void* address);
void AnnotateIgnoreReadsBegin(const char* file, int line);
void AnnotateIgnoreReadsEnd(const char* file, int line);
}

namespace absl {
ABSL_NAMESPACE_BEGIN
namespace {

// The next definition of a member function.
template <typename Member>
void* Next(Member member) {
  void* here;  // with which such a pointer begins
  std::memcpy(&here, &member, sizeof(here));
  Dl_info info;
  if (dladdr(here, &info) == 0 || info.dli_saddr != here) std::abort();
  return dlsym(RTLD_NEXT, info.dli_sname);
}
template <typename Result, typename T, typename... Parameters>
auto* Library(Result (T::*here)(Parameters...)) {
  return reinterpret_cast<Result (*)(T*, Parameters...)>(Next(here));
}
template <typename Result, typename T, typename... Parameters>
auto* Library(Result (T::*here)(Parameters...) const) {
  return reinterpret_cast<Result (*)(const T*, Parameters...)>(Next(here));
}

// Calls the library's definition of a member function that is defined here, too.
template <auto kHere, typename T, typename... Arguments>
auto Call(T* object, const Arguments&... arguments) {
  static auto* const library = Library(kHere);
  return library(object, arguments...);
}

// A time in which the thread may not hold `mutex`. Whoever gives up a mutex still looks at what others wait
// for, and holds it as far as the library is concerned: such reads are no races.
class MayNotHold {
 public:
  explicit MayNotHold(Mutex* mutex) {
    __tsan_release(mutex);
    AnnotateIgnoreReadsBegin(__FILE__, __LINE__);
  }
  ~MayNotHold() { AnnotateIgnoreReadsEnd(__FILE__, __LINE__); }
};

// The same; ends with the mutex held.
class Waits : public MayNotHold {
 public:
  explicit Waits(Mutex* mutex) : MayNotHold(mutex), mutex_(mutex) {}
  ~Waits() { __tsan_acquire(mutex_); }

 private:
  Mutex* const mutex_;
};

}  // namespace

void Mutex::Lock() {
  Call<&Mutex::Lock>(this);
  __tsan_acquire(this);
}
void Mutex::ReaderLock() {
  Call<&Mutex::ReaderLock>(this);
  __tsan_acquire(this);
}
bool Mutex::TryLock() {
  const bool locked = Call<&Mutex::TryLock>(this);
  if (locked) __tsan_acquire(this);
  return locked;
}
bool Mutex::ReaderTryLock() {
  const bool locked = Call<&Mutex::ReaderTryLock>(this);
  if (locked) __tsan_acquire(this);
  return locked;
}
void Mutex::Unlock() {
  const MayNotHold unlocks(this);
  Call<&Mutex::Unlock>(this);
}
void Mutex::ReaderUnlock() {
  const MayNotHold unlocks(this);
  Call<&Mutex::ReaderUnlock>(this);
}
void Mutex::Await(const Condition& condition) {
  const Waits waits(this);
  Call<&Mutex::Await>(this, condition);
}
bool Mutex::AwaitWithTimeout(const Condition& condition, Duration timeout) {
  const Waits waits(this);
  return Call<&Mutex::AwaitWithTimeout>(this, condition, timeout);
}
bool Mutex::AwaitWithDeadline(const Condition& condition, Time deadline) {
  const Waits waits(this);
  return Call<&Mutex::AwaitWithDeadline>(this, condition, deadline);
}
void Mutex::LockWhen(const Condition& condition) {
  const Waits waits(this);
  Call<&Mutex::LockWhen>(this, condition);
}
bool Mutex::LockWhenWithTimeout(const Condition& condition, Duration timeout) {
  const Waits waits(this);
  return Call<&Mutex::LockWhenWithTimeout>(this, condition, timeout);
}
bool Mutex::LockWhenWithDeadline(const Condition& condition, Time deadline) {
  const Waits waits(this);
  return Call<&Mutex::LockWhenWithDeadline>(this, condition, deadline);
}
void CondVar::Wait(Mutex* mutex) {
  const Waits waits(mutex);
  Call<&CondVar::Wait>(this, mutex);
}
bool CondVar::WaitWithTimeout(Mutex* mutex, Duration timeout) {
  const Waits waits(mutex);
  return Call<&CondVar::WaitWithTimeout>(this, mutex, timeout);
}
bool CondVar::WaitWithDeadline(Mutex* mutex, Time deadline) {
  const Waits waits(mutex);
  return Call<&CondVar::WaitWithDeadline>(this, mutex, deadline);
}

void Notification::Notify() {
  __tsan_release(this);
  Call<&Notification::Notify>(this);
}
void Notification::WaitForNotification() const {
  Call<&Notification::WaitForNotification>(this);
  __tsan_acquire(const_cast<Notification*>(this));
}
bool Notification::WaitForNotificationWithTimeout(Duration timeout) const {
  const bool notified = Call<&Notification::WaitForNotificationWithTimeout>(this, timeout);
  if (notified) __tsan_acquire(const_cast<Notification*>(this));
  return notified;
}

ABSL_NAMESPACE_END
}  // namespace absl
