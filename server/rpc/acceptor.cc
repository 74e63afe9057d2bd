#include "server/rpc/acceptor.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "absl/memory/memory.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "server/rpc/address.h"

namespace dotmax {
namespace {

// Between attempts while the system has no room for connections.
constexpr int kPauseMs = 100;
constexpr absl::Duration kLogInterval = absl::Minutes(1);

void Set(int socket, int level, int option, int value) {
  setsockopt(socket, level, option, &value, sizeof(value));
}

// A socket that listens on `address`, and sets its port if that was 0; -1 if that cannot be.
int ListenOn(sockaddr* address, socklen_t size, absl::Duration patience) {
  const int fd = socket(address->sa_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (fd < 0) return -1;
  Set(fd, SOL_SOCKET, SO_REUSEADDR, 1);  // a port in TIME_WAIT is free
  if (address->sa_family == AF_INET6) Set(fd, IPPROTO_IPV6, IPV6_V6ONLY, 0);
  // Connections inherit these.
  Set(fd, IPPROTO_TCP, TCP_NODELAY, 1);
  Set(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, static_cast<int>(absl::ToInt64Milliseconds(patience)));
  if (bind(fd, address, size) == 0 && listen(fd, SOMAXCONN) == 0 && getsockname(fd, address, &size) == 0) {
    return fd;
  }
  close(fd);
  return -1;
}

// Both families have their port in the same place.
in_port_t& PortOf(sockaddr_storage& address) { return reinterpret_cast<sockaddr_in&>(address).sin_port; }

bool IsAnyIpv4(const sockaddr_storage& address) {
  return address.ss_family == AF_INET &&
         reinterpret_cast<const sockaddr_in&>(address).sin_addr.s_addr == htonl(INADDR_ANY);
}

}  // namespace

absl::StatusOr<std::unique_ptr<Acceptor>> Acceptor::Listen(const std::string& address,
                                                           absl::Duration patience, Logger* log) {
  const absl::StatusOr<Addresses> found = Resolve(address);
  if (!found.ok()) return BindError(address);
  auto acceptor = absl::WrapUnique(new Acceptor(log));
  acceptor->stop_ = eventfd(0, EFD_CLOEXEC);
  if (acceptor->stop_ < 0) return absl::UnavailableError(absl::StrCat("eventfd: ", std::strerror(errno)));
  in_port_t port = 0;
  for (const addrinfo* at = found->get(); at != nullptr; at = at->ai_next) {
    sockaddr_storage meaning = {};
    std::memcpy(&meaning, at->ai_addr, at->ai_addrlen);
    if (port != 0) PortOf(meaning) = port;  // the same for all
    int fd = -1;
    if (IsAnyIpv4(meaning)) {
      sockaddr_storage any = {};
      any.ss_family = AF_INET6;
      PortOf(any) = PortOf(meaning);
      fd = ListenOn(reinterpret_cast<sockaddr*>(&any), sizeof(sockaddr_in6), patience);
      if (fd >= 0) meaning = any;
    }
    if (fd < 0) fd = ListenOn(reinterpret_cast<sockaddr*>(&meaning), at->ai_addrlen, patience);
    if (fd < 0) continue;
    port = PortOf(meaning);
    acceptor->listeners_.push_back(fd);
  }
  if (acceptor->listeners_.empty()) return BindError(address);
  acceptor->port_ = ntohs(port);
  return acceptor;
}

Acceptor::~Acceptor() {
  Stop();
  if (stop_ >= 0) close(stop_);
}

void Acceptor::Start(std::function<void(int)> take) {
  take_ = std::move(take);
  thread_ = std::thread([this] { Loop(); });
}

void Acceptor::Stop() {
  if (thread_.joinable()) {
    const uint64_t one = 1;
    (void)!write(stop_, &one, sizeof(one));
    thread_.join();
  }
  for (const int listener : listeners_) close(listener);
  listeners_.clear();
}

void Acceptor::Loop() {
  std::vector<pollfd> polled = {{.fd = stop_, .events = POLLIN, .revents = 0}};
  for (const int listener : listeners_) polled.push_back({.fd = listener, .events = POLLIN, .revents = 0});
  bool pause = false;
  for (;;) {
    const int ready = pause ? poll(polled.data(), 1, kPauseMs) : poll(polled.data(), polled.size(), -1);
    if (ready > 0 && polled[0].revents != 0) return;
    pause = false;
    for (const int listener : listeners_) pause = !TakeWaiting(listener) || pause;
  }
}

bool Acceptor::TakeWaiting(int listener) {
  for (;;) {
    const int socket = accept4(listener, nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (socket >= 0) {
      rlimit limit = {};
      getrlimit(RLIMIT_NOFILE, &limit);
      // New ones have the lowest number that is free.
      if (static_cast<rlim_t>(socket) + kReservedFiles < limit.rlim_cur) {
        take_(socket);
      } else {
        close(socket);
        LogShortage("connection_refused", EMFILE);
      }
    } else if (errno == EAGAIN) {
      return true;
    } else if (errno != EINTR && errno != ECONNABORTED) {
      LogShortage("accept_failed", errno);
      return false;
    }
  }
}

void Acceptor::LogShortage(const char* event, int error) {
  const absl::Time now = absl::Now();
  if (now < quiet_until_) return;
  quiet_until_ = now + kLogInterval;
  log_->Write(LogLevel::kWarning, event, {{"reason", std::strerror(error)}});
}

}  // namespace dotmax
