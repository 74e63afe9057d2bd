// Takes TCP connections. gRPC could do so itself, but a listener of its (1.51) that once fails to take one,
// as when too many files are open, never takes another (grpc/grpc issue 20418).
#ifndef DOTMAX_SERVER_RPC_ACCEPTOR_H_
#define DOTMAX_SERVER_RPC_ACCEPTOR_H_

#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "server/base/log.h"

namespace dotmax {

// Not thread-safe.
class Acceptor {
 public:
  // Of the files that the process may open, these are left to others: a connection that would take one is
  // closed at once, so that the caller learns of it.
  static constexpr int kReservedFiles = 32;

  // Listens on "HOST:PORT" or "[IPV6]:PORT", on all that HOST means; 0.0.0.0 and [::] are IPv4 and IPv6. Port
  // 0 takes any free one. A connection is cut off when what was sent is not acknowledged within `patience`.
  // kUnavailable names the address, also when another process listens there. `log` outlives the acceptor.
  static absl::StatusOr<std::unique_ptr<Acceptor>> Listen(const std::string& address, absl::Duration patience,
                                                          Logger* log);
  ~Acceptor();  // Stop

  Acceptor(const Acceptor&) = delete;
  Acceptor& operator=(const Acceptor&) = delete;

  int port() const { return port_; }

  // Gives `take` each connection, a socket that does not block, from now on. It is called on the acceptor's
  // thread. At most once.
  void Start(std::function<void(int socket)> take);

  // Takes no more connections; none is given away when it returns.
  void Stop();

 private:
  explicit Acceptor(Logger* log) : log_(log) {}

  void Loop();
  // Takes all connections that wait at `listener`; false when it should be left alone for a while.
  bool TakeWaiting(int listener);
  void LogShortage(const char* event, int error);  // once in a while

  Logger* const log_;
  int port_ = 0;
  std::vector<int> listeners_;
  int stop_ = -1;  // an eventfd, readable once stopped
  std::function<void(int)> take_;
  absl::Time quiet_until_ = absl::InfinitePast();  // used by thread_ alone
  std::thread thread_;                             // last: it uses the rest
};

}  // namespace dotmax

#endif  // DOTMAX_SERVER_RPC_ACCEPTOR_H_
