// What is asked over HTTP: /metrics (Prometheus), /healthz (the process lives), /readyz (it wants requests),
// and the page for people.
#ifndef DOTMAX_SERVER_RPC_HTTP_H_
#define DOTMAX_SERVER_RPC_HTTP_H_

#include <atomic>
#include <memory>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "server/base/metrics.h"
#include "server/rpc/page.h"
#include "server/rpc/tokens.h"

struct mg_connection;
struct mg_context;

namespace dotmax {

// Thread-safe.
class HttpServer {
 public:
  // Serves from now on, not ready. `address` is "HOST:PORT", port 0 for any free one; kUnavailable names it
  // when it cannot be bound. /metrics needs one of `tokens` ("Authorization: Bearer TOKEN", otherwise 401)
  // unless that is null. `metrics` and `tokens` outlive the server.
  static absl::StatusOr<std::unique_ptr<HttpServer>> Start(const std::string& address, const Metrics* metrics,
                                                           const Tokens* tokens);

  ~HttpServer();  // ends running requests and joins the server's threads

  HttpServer(const HttpServer&) = delete;
  HttpServer& operator=(const HttpServer&) = delete;

  int port() const { return port_; }

  // Whether /readyz says 200 or 503.
  void SetReady(bool ready) { ready_.store(ready); }

  // Serves `page`, or 404 for it when null; at first null. Returns when nobody uses the one before any more.
  void SetPage(const Page* page) ABSL_LOCKS_EXCLUDED(page_mutex_);

 private:
  HttpServer(const Metrics* metrics, const Tokens* tokens) : metrics_(metrics), tokens_(tokens) {}

  static int HandleMetrics(mg_connection* connection, void* self);
  static int HandleHealthz(mg_connection* connection, void* self);
  static int HandleReadyz(mg_connection* connection, void* self);
  static int HandlePage(mg_connection* connection, void* self);

  const Metrics* const metrics_;
  const Tokens* const tokens_;
  std::atomic<bool> ready_{false};
  absl::Mutex page_mutex_;  // held, shared, for as long as the page is used
  const Page* page_ ABSL_GUARDED_BY(page_mutex_) = nullptr;
  int port_ = 0;
  mg_context* context_ = nullptr;
};

}  // namespace dotmax

#endif  // DOTMAX_SERVER_RPC_HTTP_H_
