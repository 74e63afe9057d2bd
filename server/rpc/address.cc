#include "server/rpc/address.h"

#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"

namespace dotmax {
namespace {

// Binds a socket of its own to each meaning of `address`, and tells what came of it.
std::string Reason(const std::string& address) {
  const absl::StatusOr<Addresses> found = Resolve(address);
  if (!found.ok()) return std::string(found.status().message());
  std::string reason = "no address could be used";
  for (const addrinfo* at = found->get(); at != nullptr; at = at->ai_next) {
    const int fd = socket(at->ai_family, at->ai_socktype | SOCK_CLOEXEC, at->ai_protocol);
    const int reuse = 1;  // as listeners do: a port in TIME_WAIT is free
    if (fd >= 0) setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &reuse, sizeof(reuse));
    if (fd < 0 || bind(fd, at->ai_addr, at->ai_addrlen) != 0) reason = std::strerror(errno);
    if (fd >= 0) close(fd);
  }
  return reason;
}

}  // namespace

absl::StatusOr<Addresses> Resolve(const std::string& address) {
  const size_t colon = address.rfind(':');
  if (colon == address.npos) return absl::InvalidArgumentError("expected HOST:PORT");
  absl::string_view host = absl::string_view(address).substr(0, colon);
  if (absl::ConsumePrefix(&host, "[")) absl::ConsumeSuffix(&host, "]");
  addrinfo hints = {};
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_PASSIVE | AI_NUMERICSERV;
  addrinfo* found = nullptr;
  const int error = getaddrinfo(std::string(host).c_str(), address.c_str() + colon + 1, &hints, &found);
  if (error != 0) return absl::InvalidArgumentError(gai_strerror(error));
  return Addresses(found);
}

absl::Status BindError(const std::string& address) {
  return absl::UnavailableError(absl::StrCat("cannot listen on ", address, ": ", Reason(address)));
}

}  // namespace dotmax
