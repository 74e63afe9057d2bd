#include "server/rpc/http.h"

#include <civetweb.h>

#include "absl/memory/memory.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "server/rpc/address.h"

namespace dotmax {
namespace {

// Replies to GET and HEAD, refuses the rest. Returns the status, which tells civetweb that it is handled.
int Reply(mg_connection* connection, int status, absl::string_view content_type, absl::string_view body) {
  const absl::string_view method = mg_get_request_info(connection)->request_method;
  if (method != "GET" && method != "HEAD") {
    status = 405;
    content_type = "text/plain; charset=utf-8";
    body = "GET only\n";
  }
  absl::string_view more;
  if (status == 405) more = "Allow: GET, HEAD\r\n";
  if (status == 401) more = "WWW-Authenticate: Bearer\r\n";
  mg_printf(connection,
            "HTTP/1.1 %d %s\r\nContent-Type: %.*s\r\nContent-Length: %zu\r\nCache-Control: no-store\r\n"
            "Connection: close\r\n%.*s\r\n",
            status, mg_get_response_code_text(connection, status), static_cast<int>(content_type.size()),
            content_type.data(), body.size(), static_cast<int>(more.size()), more.data());
  if (method != "HEAD") mg_write(connection, body.data(), body.size());
  return status;
}

int ReplyText(mg_connection* connection, int status, absl::string_view body) {
  return Reply(connection, status, "text/plain; charset=utf-8", body);
}

}  // namespace

absl::StatusOr<std::unique_ptr<HttpServer>> HttpServer::Start(const std::string& address,
                                                              const Metrics* metrics, const Tokens* tokens) {
  auto server = absl::WrapUnique(new HttpServer(metrics, tokens));
  const char* options[] = {"listening_ports",    address.c_str(), "num_threads", "2",
                           "request_timeout_ms", "10000",         nullptr};
  const mg_callbacks callbacks = {};
  server->context_ = mg_start(&callbacks, nullptr, options);
  mg_server_port port = {};
  if (server->context_ == nullptr || mg_get_server_ports(server->context_, 1, &port) < 1) {
    return BindError(address);
  }
  server->port_ = port.port;
  mg_set_request_handler(server->context_, "/metrics$", &HandleMetrics, server.get());
  mg_set_request_handler(server->context_, "/healthz$", &HandleHealthz, server.get());
  mg_set_request_handler(server->context_, "/readyz$", &HandleReadyz, server.get());
  return server;
}

HttpServer::~HttpServer() {
  if (context_ != nullptr) mg_stop(context_);
}

int HttpServer::HandleMetrics(mg_connection* connection, void* self) {
  const auto* const server = static_cast<HttpServer*>(self);
  if (server->tokens_ != nullptr) {
    const char* const authorization = mg_get_header(connection, "Authorization");
    const absl::Status status = server->tokens_->Identify(authorization == nullptr ? "" : authorization);
    if (!status.ok()) return ReplyText(connection, 401, absl::StrCat(status.message(), "\n"));
  }
  return Reply(connection, 200, "text/plain; version=0.0.4; charset=utf-8", server->metrics_->Text());
}

int HttpServer::HandleHealthz(mg_connection* connection, void* /*self*/) {
  return ReplyText(connection, 200, "ok\n");
}

int HttpServer::HandleReadyz(mg_connection* connection, void* self) {
  return static_cast<HttpServer*>(self)->ready_.load() ? ReplyText(connection, 200, "ready\n")
                                                       : ReplyText(connection, 503, "not ready\n");
}

}  // namespace dotmax
