// dotmax-server: flags → Config → the parts, wired together → load → wait for a signal → drain.
#include <malloc.h>
#include <pthread.h>
#include <signal.h>
#include <unistd.h>

#include <cstdlib>
#include <iostream>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "absl/cleanup/cleanup.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "server/base/config.h"
#include "server/base/log.h"
#include "server/base/metrics.h"
#include "server/base/process.h"
#include "server/batch/catalog.h"
#include "server/batch/dispatcher.h"
#include "server/engine/amx.h"
#include "server/engine/code_kernel.h"
#include "server/engine/engine.h"
#include "server/engine/reduce.h"
#include "server/engine/tile.h"
#include "server/load/loader.h"
#include "server/load/warm_up.h"
#include "server/rpc/http.h"
#include "server/rpc/listener.h"
#include "server/rpc/page.h"
#include "server/rpc/security.h"
#include "server/store/file.h"

namespace dotmax {
namespace {

// A large collection is better served cold than not at all.
constexpr absl::Duration kWarmUpTimeout = absl::Seconds(10);

// Large messages come and go, and memory should be back at its level soon after them. What malloc can free
// only as whole pages between others' blocks, it does when told to.
constexpr absl::Duration kTrimInterval = absl::Seconds(5);

// Blocked in every thread, and taken one by one with sigtimedwait: no handler ever runs.
sigset_t StopSignals() {
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGINT);
  sigaddset(&signals, SIGTERM);
  return signals;
}

// While it exists, a stop signal ends the process at once, as if nobody had ever waited for any: before there
// is anything to drain, and the second time.
class DieIfSignalled {
 public:
  DieIfSignalled() : signals_(StopSignals()) { pthread_sigmask(SIG_UNBLOCK, &signals_, nullptr); }
  ~DieIfSignalled() { pthread_sigmask(SIG_BLOCK, &signals_, nullptr); }

  DieIfSignalled(const DieIfSignalled&) = delete;
  DieIfSignalled& operator=(const DieIfSignalled&) = delete;

 private:
  const sigset_t signals_;
};

// oneDNN's for an ordinary shape, or why there is none.
std::string KernelName(TileKind kind) {
  const auto kernel = TileMatmul::Create(kind, 256, 128, 256);
  return kernel.ok() ? (*kernel)->implementation() : std::string(kernel.status().message());
}

std::string Int8KernelName() {
  if (HasAmxKernel()) return "amx_int8";
  const CodeKernel own;
  return own.exists() ? own.name() : KernelName(TileKind::kInt8);
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

  Loader::Options load = {.map = config.mmap,
                          .data_dir = std::nullopt,
                          .memory_limit = config.memory_limit,
                          .names = http != nullptr && !config.no_page};
  if (!config.data_dir.empty()) {
    absl::StatusOr<DataDir> opened = DataDir::Open(config.data_dir);
    if (!opened.ok()) return opened.status();
    load.data_dir.emplace(*std::move(opened));
  }
  const auto catalog = std::make_shared<Catalog>(/*loading=*/true);
  Dispatcher dispatcher(
      std::make_unique<Engine>(config.threads, config.pin_threads), catalog,
      {.requests = config.max_queue_requests, .rows = config.max_queue_rows, .bytes = config.max_queue_bytes},
      [&metrics](const Dispatcher::PassReport& pass) {
        if (pass.rows > 0) metrics.PassDone(pass.requests, pass.rows);
        metrics.SetQueue(pass.waiting.requests, pass.waiting.rows, pass.waiting.bytes);
      });
  const Page page(&dispatcher, &metrics, (*security)->tokens());
  const absl::Cleanup unserve_page = [&http] {
    if (http != nullptr) http->SetPage(nullptr);
  };
  if (http != nullptr && !config.no_page) http->SetPage(&page);
  Loader loader(catalog, std::move(load), &log, &metrics);

  const Backend backend = {
      .searcher = &dispatcher,
      .admin = &loader,
      .metrics = &metrics,
      .log = &log,
      .tokens = (*security)->tokens(),
      .limits = {.max_top_k = config.max_top_k, .max_message_bytes = config.max_message_bytes},
      .max_grpc_bytes = config.max_grpc_bytes,
      .logged = {.share = config.access_log, .slow = config.slow_request}};
  absl::StatusOr<std::unique_ptr<Listener>> listener =
      Listener::Start(config.listen, (*security)->Credentials(), backend);
  if (!listener.ok()) return listener.status();
  log.Write(LogLevel::kInfo, "listening",
            {{"version", kVersion},
             {"onednn", OneDnnVersion()},
             {"float32_kernel", KernelName(TileKind::kFloat32)},
             {"int8_kernel", Int8KernelName()},
             {"simd", SimdName()},
             {"threads", config.threads},
             {"tls", config.security.certificate.empty() ? "off"
                     : config.security.client_ca.empty() ? "on"
                                                         : "with client certificates"},
             {"tokens", config.security.tokens.empty() ? "off" : "on"},
             {"grpc_port", (*listener)->port()},
             {"http_port", http != nullptr ? http->port() : 0}});
  {
    const DieIfSignalled while_loading;
    for (const MatrixSource& source : config.matrices) {
      if (absl::Status s = loader.LoadTrusted(source.name, source.path); !s.ok()) return s;
    }
    catalog->Open();
    WarmUp(dispatcher, absl::Now() + kWarmUpTimeout);
  }
  (*listener)->SetServing(true);
  if (http != nullptr) http->SetReady(true);
  log.Write(LogLevel::kInfo, "ready", {{"collections", static_cast<uint64_t>(catalog->All().size())}});

  sigset_t signals = StopSignals();
  sigaddset(&signals, SIGHUP);
  const timespec interval = absl::ToTimespec(kTrimInterval);
  int signal = 0;
  while ((signal = sigtimedwait(&signals, nullptr, &interval)) < 0 || signal == SIGHUP) {
    if (signal == SIGHUP) loader.ReloadAll();
    if (signal < 0) malloc_trim(0);
  }

  const DieIfSignalled while_draining;
  (*listener)->SetServing(false);
  if (http != nullptr) http->SetReady(false);
  log.Write(LogLevel::kInfo, "stopping",
            {{"signal", strsignal(signal)}, {"grace_seconds", absl::ToDoubleSeconds(config.drain_grace)}});
  absl::SleepFor(config.drain_grace);
  const absl::Time deadline = absl::Now() + config.drain_timeout;
  loader.Drain();
  (*listener)->Drain();
  log.Write(LogLevel::kInfo, "draining");
  (*listener)->Shutdown(deadline);
  dispatcher.Shutdown();
  const bool idle = loader.AwaitEnd(deadline);
  log.Write(LogLevel::kInfo, "stopped", {{"abandoned_loads", idle ? 0 : 1}});
  // Nobody waits any more for what it makes, which may take long.
  if (!idle) _exit(0);
  return absl::OkStatus();
}

// By default glibc's malloc learns from large blocks that are freed to keep up to 64 MiB for every thread.
// Here large messages and matrices come and go, and memory should be back at its level after them.
void SetMemoryPolicy() {
  mallopt(M_MMAP_THRESHOLD, 1 << 20);  // larger blocks are the system's
  mallopt(M_TRIM_THRESHOLD, 4 << 20);
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
  sigset_t signals = StopSignals();
  sigaddset(&signals, SIGHUP);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  signal(SIGPIPE, SIG_IGN);
  RaiseFileLimit();
  SetMemoryPolicy();
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
