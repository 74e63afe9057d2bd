#include "server/rpc/http.h"

#include <civetweb.h>

#include <cstring>
#include <utility>

#include "absl/memory/memory.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "server/rpc/address.h"

namespace dotmax {
namespace {

// /healthz, /readyz and /metrics are to be answered while people search by the page.
constexpr int kThreads = Page::kMaxSearches + 4;

// The page loads nothing from elsewhere, and is not to be part of another one.
constexpr absl::string_view kPageHeaders =
    "Content-Security-Policy: default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'\r\n"
    "X-Content-Type-Options: nosniff\r\nReferrer-Policy: no-referrer\r\n";

// Replies to GET and HEAD, refuses the rest. `more` are header lines. Returns the status, which tells
// civetweb that it is handled.
int Reply(mg_connection* connection, int status, absl::string_view content_type, absl::string_view body,
          std::string more = "") {
  const absl::string_view method = mg_get_request_info(connection)->request_method;
  if (method != "GET" && method != "HEAD") {
    status = 405;
    content_type = "text/plain; charset=utf-8";
    body = "GET only\n";
  }
  if (status == 405) more += "Allow: GET, HEAD\r\n";
  if (status == 401) more += "WWW-Authenticate: Bearer\r\n";
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
  const std::string threads = absl::StrCat(kThreads);
  const char* options[] = {"listening_ports",    address.c_str(), "num_threads", threads.c_str(),
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
  mg_set_request_handler(server->context_, "/", &HandlePage, server.get());
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

void HttpServer::SetPage(const Page* page) {
  absl::MutexLock lock(&page_mutex_);
  page_ = page;
}

int HttpServer::HandlePage(mg_connection* connection, void* self) {
  auto* const server = static_cast<HttpServer*>(self);
  const mg_request_info& info = *mg_get_request_info(connection);
  const absl::string_view method = info.request_method;
  if (method != "GET" && method != "HEAD") return ReplyText(connection, 405, "");
  Page::Request request = {.path = info.local_uri, .peer = absl::StrCat("http:", info.remote_addr)};
  if (const char* const authorization = mg_get_header(connection, "Authorization")) {
    request.authorization = authorization;
  }
  for (const char* const name : {"collection", "word", "metric", "top_k"}) {
    char value[4096];
    const char* const query = info.query_string == nullptr ? "" : info.query_string;
    const int length = mg_get_var(query, strlen(query), name, value, sizeof(value));
    if (length >= 0) request.parameters[name] = std::string(value, static_cast<size_t>(length));
    if (length == -2) return ReplyText(connection, 400, absl::StrCat(name, ": is too long\n"));
  }
  Page::Reply reply = {.status = 404, .content_type = "text/plain", .body = "there is no such page\n"};
  // Not to wait behind SetPage, which waits for searches: nobody could ask for /readyz then.
  if (!server->page_mutex_.ReaderTryLock()) return ReplyText(connection, 503, "shutting down\n");
  if (server->page_ != nullptr) reply = server->page_->Answer(request);
  server->page_mutex_.ReaderUnlock();
  std::string headers(kPageHeaders);
  if (!reply.retry_after.empty()) absl::StrAppend(&headers, "Retry-After: ", reply.retry_after, "\r\n");
  return Reply(connection, reply.status, reply.content_type, reply.body, std::move(headers));
}

}  // namespace dotmax
