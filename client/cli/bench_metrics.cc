#include "client/cli/bench_metrics.h"

#include <netdb.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include <algorithm>
#include <limits>
#include <map>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"

namespace dotmax {
namespace {

// A socket connected to HOST:PORT, or -1.
int Connect(const std::string& host, const std::string& port, absl::Duration timeout) {
  addrinfo hints = {};
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* found = nullptr;
  if (getaddrinfo(host.c_str(), port.c_str(), &hints, &found) != 0) return -1;
  const absl::Cleanup free_found = [found] { freeaddrinfo(found); };
  const timeval limit = absl::ToTimeval(timeout);
  for (const addrinfo* at = found; at != nullptr; at = at->ai_next) {
    const int fd = socket(at->ai_family, at->ai_socktype | SOCK_CLOEXEC, at->ai_protocol);
    if (fd < 0) continue;
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit));  // of connect, too
    if (connect(fd, at->ai_addr, at->ai_addrlen) == 0) return fd;
    close(fd);
  }
  return -1;
}

// What `line` says of the series `name` if its labels hold `label`: the value, and its labels.
struct Sample {
  absl::string_view labels;
  double value = 0;
};
std::optional<Sample> SampleOf(absl::string_view line, absl::string_view name, absl::string_view label) {
  if (!absl::ConsumePrefix(&line, name) || line.empty() || (line[0] != '{' && line[0] != ' ')) {
    return std::nullopt;
  }
  const size_t blank = line.rfind(' ');
  Sample sample = {line.substr(0, blank), 0};
  if (!absl::StrContains(sample.labels, label) || !absl::SimpleAtod(line.substr(blank + 1), &sample.value)) {
    return std::nullopt;
  }
  return sample;
}

// Of all series of that name whose labels hold `label`.
double Sum(absl::string_view text, absl::string_view name, absl::string_view label = "") {
  double sum = 0;
  for (const absl::string_view line : absl::StrSplit(text, '\n')) {
    if (const std::optional<Sample> sample = SampleOf(line, name, label)) sum += sample->value;
  }
  return sum;
}

// How many are at most as much as each bucket's end.
std::map<double, double> Buckets(absl::string_view text, absl::string_view name, absl::string_view label) {
  constexpr absl::string_view kEnd = "le=\"";
  std::map<double, double> buckets;
  for (const absl::string_view line : absl::StrSplit(text, '\n')) {
    const std::optional<Sample> sample = SampleOf(line, absl::StrCat(name, "_bucket"), label);
    const size_t at = sample ? sample->labels.find(kEnd) : absl::string_view::npos;
    if (at == absl::string_view::npos) continue;
    const absl::string_view rest = sample->labels.substr(at + kEnd.size());
    double end;
    if (absl::SimpleAtod(rest.substr(0, rest.find('"')), &end)) buckets[end] += sample->value;
  }
  return buckets;
}

// Even within the bucket; the last one, without an end, counts as its beginning.
double Quantile(const std::map<double, double>& buckets, double q) {
  const double rank = q * buckets.rbegin()->second;
  double begin = 0, below = 0;
  for (const auto& [end, count] : buckets) {
    if (count >= rank && count > below) {
      return end == std::numeric_limits<double>::infinity()
                 ? begin
                 : begin + (end - begin) * (rank - below) / (count - below);
    }
    begin = end;
    below = count;
  }
  return begin;
}

std::optional<ServerFigures::Distribution> Between(absl::string_view before, absl::string_view after,
                                                   absl::string_view name, absl::string_view label = "") {
  std::map<double, double> buckets = Buckets(after, name, label);
  for (const auto& [end, count] : Buckets(before, name, label)) buckets[end] -= count;
  if (buckets.empty() || buckets.rbegin()->second <= 0) return std::nullopt;
  const std::string sum_name = absl::StrCat(name, "_sum");
  const double sum = Sum(after, sum_name, label) - Sum(before, sum_name, label);
  const double count = buckets.rbegin()->second;
  return ServerFigures::Distribution{count, sum / count, Quantile(buckets, 0.5), Quantile(buckets, 0.99)};
}

}  // namespace

absl::StatusOr<std::string> FetchMetrics(const std::string& address, const std::string& token,
                                         absl::Duration timeout) {
  const size_t colon = address.rfind(':');
  if (colon == 0 || colon == address.npos || colon + 1 == address.size()) {
    return absl::InvalidArgumentError(absl::StrCat("\"", address, "\" is not HOST:PORT"));
  }
  std::string host = address.substr(0, colon);
  if (host.size() > 2 && host.front() == '[' && host.back() == ']') host = host.substr(1, host.size() - 2);
  const int fd = Connect(host, address.substr(colon + 1), timeout);
  if (fd < 0) return absl::UnavailableError(absl::StrCat(address, ": no connection for /metrics"));
  const absl::Cleanup close_fd = [fd] { close(fd); };
  // A reply of HTTP/1.0 ends with the connection, in one piece.
  const std::string authorization =
      token.empty() ? "" : absl::StrCat("Authorization: Bearer ", token, "\r\n");
  const std::string request =
      absl::StrCat("GET /metrics HTTP/1.0\r\nHost: ", address, "\r\n", authorization, "\r\n");
  std::string reply;
  if (send(fd, request.data(), request.size(), MSG_NOSIGNAL) == static_cast<ssize_t>(request.size())) {
    char block[16384];
    for (ssize_t got; (got = recv(fd, block, sizeof(block), 0)) > 0;) reply.append(block, got);
  }
  const size_t blank = reply.find("\r\n\r\n");
  const absl::string_view status = absl::string_view(reply).substr(0, reply.find("\r\n"));
  if (blank == reply.npos || !absl::StartsWith(status, "HTTP/1.") || !absl::StrContains(status, " 200 ")) {
    return absl::UnavailableError(
        absl::StrCat(address, "/metrics: ", status.empty() ? absl::string_view("no reply") : status));
  }
  return reply.substr(blank + 4);
}

ServerFigures FiguresBetween(absl::string_view before, absl::string_view after) {
  const auto counted = [&](absl::string_view name) { return Sum(after, name) - Sum(before, name); };
  ServerFigures figures;
  figures.queue_seconds = Between(before, after, "dotmax_search_queue_seconds");
  figures.compute_seconds = Between(before, after, "dotmax_search_compute_seconds");
  figures.total_seconds = Between(before, after, "grpc_server_handling_seconds", "grpc_method=\"Search\"");
  figures.batch_query_rows = Between(before, after, "dotmax_batch_query_rows");
  figures.pairs_screened = counted("dotmax_pairs_screened_total");
  figures.pairs_survived = counted("dotmax_pairs_survived_total");
  figures.pairs_checked = counted("dotmax_pairs_checked_total");
  figures.pairs_rescored = counted("dotmax_pairs_rescored_total");
  return figures;
}

}  // namespace dotmax
