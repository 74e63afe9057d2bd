// dotmax-server: flags → Config → the parts, wired together → wait for a signal → drain.
#include <pthread.h>
#include <signal.h>
#include <unistd.h>

#include <cstdlib>
#include <iostream>
#include <memory>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "server/base/config.h"
#include "server/base/log.h"
#include "server/base/metrics.h"
#include "server/base/process.h"
#include "server/batch/catalog.h"
#include "server/batch/dispatcher.h"
#include "server/engine/engine.h"
#include "server/engine/matrix.h"
#include "server/engine/reduce.h"
#include "server/engine/tile.h"
#include "server/engine/vnni.h"
#include "server/rpc/http.h"
#include "server/rpc/listener.h"
#include "server/rpc/security.h"
#include "server/store/ingest.h"

namespace dotmax {
namespace {

// Blocked in every thread, and taken one by one with sigwait: no handler ever runs.
sigset_t StopSignals() {
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGINT);
  sigaddset(&signals, SIGTERM);
  return signals;
}

// Before there is anything to drain, a stop signal that has come ends the process as if never blocked.
void DieIfSignalled() {
  const sigset_t signals = StopSignals();
  pthread_sigmask(SIG_UNBLOCK, &signals, nullptr);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
}

absl::StatusOr<std::shared_ptr<const Matrix>> Load(const MatrixSource& source, bool map, Logger& log) {
  constexpr absl::Duration kProgressInterval = absl::Seconds(1);
  const absl::Time started = absl::Now();
  absl::Time next = started + kProgressInterval;
  ReadOptions options;
  options.map = map;
  options.progress = [&](uint64_t done, uint64_t total) {
    DieIfSignalled();
    if (absl::Now() < next) return;
    next += kProgressInterval;
    log.Write(LogLevel::kInfo, "loading",
              {{"collection", source.name}, {"path", source.path}, {"bytes", done}, {"of", total}});
  };
  absl::StatusOr<SharedMatrix> rows = ReadMatrix(source.path, options);
  if (!rows.ok()) return rows.status();
  auto matrix = std::make_shared<const Matrix>(*std::move(rows));
  DieIfSignalled();
  log.Write(LogLevel::kInfo, "loaded",
            {{"collection", source.name},
             {"path", source.path},
             {"rows", matrix->view().rows},
             {"dim", static_cast<uint64_t>(matrix->view().dim)},
             {"dtype", DTypeName(matrix->view().dtype)},
             {"resident_bytes", matrix->resident_bytes()},
             {"screen", matrix->screen()},
             {"seconds", absl::ToDoubleSeconds(absl::Now() - started)}});
  return matrix;
}

// oneDNN's for an ordinary shape, or why there is none.
std::string KernelName(TileKind kind) {
  const auto kernel = TileMatmul::Create(kind, 256, 128, 256);
  return kernel.ok() ? (*kernel)->implementation() : std::string(kernel.status().message());
}

absl::Status Serve(const Config& config) {
  Logger log(config.log_level, STDERR_FILENO);
  Metrics metrics(kVersion, OneDnnVersion());

  const absl::StatusOr<std::unique_ptr<Security>> security = Security::Load(config.security, &metrics, &log);
  if (!security.ok()) return security.status();

  std::unique_ptr<HttpServer> http;
  if (!config.metrics_listen.empty()) {
    absl::StatusOr<std::unique_ptr<HttpServer>> started = HttpServer::Start(
        config.metrics_listen, &metrics, config.metrics_token ? (*security)->tokens() : nullptr);
    if (!started.ok()) return started.status();
    http = *std::move(started);
  }

  const auto catalog = std::make_shared<Catalog>();
  for (const MatrixSource& source : config.matrices) {
    absl::StatusOr<std::shared_ptr<const Matrix>> matrix = Load(source, config.mmap, log);
    if (!matrix.ok()) return matrix.status();
    catalog->Publish(source.name, *std::move(matrix));
  }
  Dispatcher dispatcher(std::make_unique<Engine>(config.threads, config.pin_threads), catalog,
                        {.requests = config.max_queue_requests, .bytes = config.max_queue_bytes});
  metrics.SetResident(*catalog->Infos());

  const Backend backend = {
      .searcher = &dispatcher,
      .metrics = &metrics,
      .log = &log,
      .tokens = (*security)->tokens(),
      .limits = {.max_top_k = config.max_top_k, .max_message_bytes = config.max_message_bytes},
      .max_grpc_bytes = config.max_grpc_bytes,
      .logged = {.share = config.access_log, .slow = config.slow_request}};
  absl::StatusOr<std::unique_ptr<Listener>> listener =
      Listener::Start(config.listen, (*security)->Credentials(), backend);
  if (!listener.ok()) return listener.status();
  if (http != nullptr) http->SetReady(true);
  log.Write(LogLevel::kInfo, "listening",
            {{"version", kVersion},
             {"onednn", OneDnnVersion()},
             {"float32_kernel", KernelName(TileKind::kFloat32)},
             {"int8_kernel", HasVnniKernel() ? "avx512_vnni" : KernelName(TileKind::kInt8)},
             {"simd", SimdName()},
             {"threads", config.threads},
             {"tls", config.security.certificate.empty() ? "off"
                     : config.security.client_ca.empty() ? "on"
                                                         : "with client certificates"},
             {"tokens", config.security.tokens.empty() ? "off" : "on"},
             {"grpc_port", (*listener)->port()},
             {"http_port", http != nullptr ? http->port() : 0}});

  int signal = 0;
  const sigset_t signals = StopSignals();
  sigwait(&signals, &signal);
  const absl::Time deadline = absl::Now() + config.drain_timeout;
  if (http != nullptr) http->SetReady(false);
  (*listener)->Drain();
  log.Write(LogLevel::kInfo, "draining", {{"signal", strsignal(signal)}});
  (*listener)->Shutdown(deadline);
  dispatcher.Shutdown();
  log.Write(LogLevel::kInfo, "stopped");
  return absl::OkStatus();
}

int Main(int argc, char** argv) {
  const absl::StatusOr<Config> config =
      ParseConfig(argc, argv, [](const char* name) { return getenv(name); });
  if (!config.ok()) {
    std::cerr << "dotmax-server: " << config.status().message() << "\n";
    return 2;
  }
  if (!config->print.empty()) {
    std::cout << config->print;
    return 0;
  }
  // Debian builds Abseil with its search for lock cycles on: a global lock and a graph at every Lock.
  absl::SetMutexDeadlockDetectionMode(absl::OnDeadlockCycle::kIgnore);
  // Before any thread exists: they inherit the mask, and read the environment.
  const sigset_t signals = StopSignals();
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  signal(SIGPIPE, SIG_IGN);
  RaiseFileLimit();
  setenv("GRPC_VERBOSITY", "NONE", /*replace=*/0);  // its lines are not JSON; our own errors say enough

  if (const absl::Status status = Serve(*config); !status.ok()) {
    std::cerr << "dotmax-server: " << status.message() << "\n";
    return 1;
  }
  return 0;
}

}  // namespace
}  // namespace dotmax

int main(int argc, char** argv) { return dotmax::Main(argc, argv); }
