// The real dotmax-server, as a child process on free ports of 127.0.0.1; and the little that tests need to
// prepare for it and to ask it over HTTP.
#ifndef DOTMAX_TESTS_SERVER_PROCESS_H_
#define DOTMAX_TESTS_SERVER_PROCESS_H_

#include <sys/types.h>

#include <cstdint>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "server/base/types.h"

namespace dotmax::testing {

// Whether `holds` comes true within `patience`.
template <typename Condition>
bool Becomes(const Condition& holds, absl::Duration patience = absl::Seconds(30)) {
  const absl::Time deadline = absl::Now() + patience;
  while (!holds()) {
    if (absl::Now() > deadline) return false;
    absl::SleepFor(absl::Milliseconds(20));
  }
  return true;
}

// What the system says of a process.
struct ProcessUse {
  double cpu_seconds = 0.0;      // user and system, of all threads
  uint64_t anonymous_bytes = 0;  // resident memory, without that of files
  uint64_t open_fds = 0;
  uint64_t threads = 0;
};

// Thread-safe. Every wait is bounded by kPatience, which only a hung server uses up.
class ServerProcess {
 public:
  static constexpr absl::Duration kPatience = absl::Seconds(60);

  // Runs the program that the environment's DOTMAX_SERVER_BINARY names. Unless `args` say otherwise, it
  // listens on port 0 of 127.0.0.1, for gRPC and HTTP.
  explicit ServerProcess(const std::vector<std::string>& args);
  ~ServerProcess();  // kills it if it still runs

  ServerProcess(const ServerProcess&) = delete;
  ServerProcess& operator=(const ServerProcess&) = delete;

  // Waits until the server has loaded all and logs that it is ready; false when it ends instead.
  bool AwaitListening() const;
  // As logged; 0 before.
  int grpc_port() const { return LoggedPort("grpc_port"); }
  int http_port() const { return LoggedPort("http_port"); }
  std::string grpc_address() const;  // "127.0.0.1:PORT"

  void Signal(int signal) const;
  pid_t pid() const { return pid_; }

  // Waits until it has exited. Its exit code, 128 + the signal that killed it, or -1 when it still runs.
  int AwaitExit() const;

  // Waits until it has no call in flight, as its metrics say; false when that takes half a minute.
  bool AwaitIdle() const;

  // The value of a sample of /metrics, 0 when it is not there.
  double Sample(const std::string& name_and_labels) const;

  // All 0 once it has exited.
  ProcessUse Use() const;

  // Waits until the output (stdout and stderr) holds `text`; false when the server ends without.
  bool AwaitOutput(const std::string& text) const;
  std::string output() const;

 private:
  void Read(int fd);
  int LoggedPort(const std::string& key) const;

  pid_t pid_ = -1;
  mutable absl::Mutex mutex_;
  std::string output_ ABSL_GUARDED_BY(mutex_);
  std::optional<int> exit_code_ ABSL_GUARDED_BY(mutex_);
  std::thread reader_;  // last: it uses the rest
};

// A TCP connection to 127.0.0.1:port, which the caller closes; -1 if there is none.
int ConnectTo(int port);

struct HttpReply {
  int status = 0;
  std::string headers;
  std::string body;
};

// GET (or `method`) http://127.0.0.1:port/path, with a bearer token if one is given. A status of 0 when there
// is no reply.
HttpReply HttpGet(int port, const std::string& path, const std::string& method = "GET",
                  const std::string& token = "");

// A matrix as a .npy file (version 1.0) of its own, removed with the object.
// REQUIRES: the dtype is not bfloat16, which the format cannot say.
class NpyFile {
 public:
  explicit NpyFile(const MatrixView& matrix);
  ~NpyFile();

  NpyFile(const NpyFile&) = delete;
  NpyFile& operator=(const NpyFile&) = delete;

  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

}  // namespace dotmax::testing

#endif  // DOTMAX_TESTS_SERVER_PROCESS_H_
