#include "server/base/config.h"

#include <algorithm>
#include <limits>
#include <thread>

#include "absl/algorithm/container.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "server/base/flags.h"

namespace dotmax {
namespace {

constexpr int64_t kMaxThreads = 4096;
// Protobuf's own limit, which gRPC's int shares.
constexpr int64_t kMaxMessageBytes = std::numeric_limits<int32_t>::max();
// A hit takes at most 28 bytes on the wire, so one query row with this many fits into kMaxMessageBytes.
constexpr int64_t kMaxTopK = int64_t{1} << 26;

constexpr int64_t kDefaultMessageBytes = int64_t{64} << 20;
constexpr int64_t kDefaultTopK = 10000;
constexpr int64_t kDefaultQueueRequests = 2048;
constexpr int64_t kDefaultQueueRows = int64_t{1} << 18;
constexpr int64_t kDefaultQueueBytes = int64_t{1} << 30;
// Messages that are on their way, besides those that wait: this many of the largest, but no less than that.
constexpr int64_t kGrpcMessages = 4;
constexpr int64_t kLeastGrpcBytes = int64_t{1} << 30;
// Shorter than the 30 s that Kubernetes, and longer than the 10 s that Docker, waits before it kills.
constexpr absl::Duration kDefaultDrainTimeout = absl::Seconds(25);

// "NAME=PATH", or "PATH" for a collection named after the file: "data/glove.npy" is "glove". What stands
// before a '=' is only a name when it has no '/', so that a directory may have a '=' in it.
absl::StatusOr<MatrixSource> ParseMatrixSource(absl::string_view text) {
  MatrixSource source;
  const size_t equals = text.find('=');
  if (equals != text.npos && text.substr(0, equals).find('/') == text.npos) {
    source = {std::string(text.substr(0, equals)), std::string(text.substr(equals + 1))};
  } else {
    absl::string_view name = text.substr(text.rfind('/') + 1);
    if (const size_t dot = name.rfind('.'); dot != name.npos && dot > 0) name = name.substr(0, dot);
    source = {std::string(name), std::string(text)};
  }
  if (source.name.empty() || source.path.empty()) {
    return absl::InvalidArgumentError(absl::StrCat("--matrix=", text, ": expected [NAME=]PATH"));
  }
  return source;
}

}  // namespace

const char kVersion[] = DOTMAX_VERSION;

absl::StatusOr<Config> ParseConfig(int argc, const char* const* argv,
                                   absl::FunctionRef<const char*(const char*)> env) {
  Config config;
  bool version = false;
  std::vector<std::string> matrices;
  int64_t threads = 0;
  int64_t max_message_bytes = kDefaultMessageBytes;
  int64_t max_top_k = kDefaultTopK;
  int64_t max_queue_requests = kDefaultQueueRequests;
  int64_t max_queue_rows = kDefaultQueueRows;
  int64_t max_queue_bytes = kDefaultQueueBytes;
  int64_t max_grpc_bytes = 0;
  int64_t memory_limit = 0;
  config.drain_timeout = kDefaultDrainTimeout;
  absl::Duration slow_request;
  std::string log_level = "info";

  Flags flags("dotmax-server --matrix=[NAME=]PATH [FLAGS]",
              "Holds matrices in memory and answers, over gRPC, which of their rows have the largest inner "
              "products with the caller's query vectors, exactly.");
  flags.Add(
      {"matrix", "[NAME=]PATH",
       "A file to hold as collection NAME, by default the file's name without its extension: .npy, .fvecs, "
       ".bvecs, .ivecs, .fbin, .u8bin or .i8bin. Repeat for more.",
       "DOTMAX_MATRIX"},
      &matrices);
  flags.Add({"listen", "HOST:PORT", "Where gRPC is served; port 0 takes any free one.", "DOTMAX_LISTEN"},
            &config.listen);
  flags.Add({"metrics-listen", "HOST:PORT",
             "Where HTTP serves /metrics, /healthz, /readyz and a page for people; empty turns it off.",
             "DOTMAX_METRICS_LISTEN"},
            &config.metrics_listen);
  flags.Add(
      {"no-page", "",
       "No page for people, with live figures and, where an .ids file beside a matrix names its rows, "
       "searches by name. Those and what is resident need a token with scope search when there are tokens.",
       "DOTMAX_NO_PAGE"},
      &config.no_page);
  flags.Add({"threads", "N", "Threads that search; 0 means one per core.", "DOTMAX_THREADS"}, 0, kMaxThreads,
            &threads);
  flags.Add({"pin-threads", "",
             "Keep each search thread on a processor of its own, of those that the process may use.",
             "DOTMAX_PIN_THREADS"},
            &config.pin_threads);
  flags.Add({"mmap", "",
             "Map files instead of reading them, so that rows that searches leave alone can stay on disk. "
             "Searches of a collection whose file changes fail until it is loaded again.",
             "DOTMAX_MMAP"},
            &config.mmap);
  flags.Add({"data-dir", "DIR",
             "The directory of files that may be loaded by name while the server runs (LoadCollection). "
             "Without it, none.",
             "DOTMAX_DATA_DIR"},
            &config.data_dir);
  flags.Add({"memory-limit", "BYTES",
             "What the server may take in all; a matrix that would take more is refused. 0 means what the "
             "machine, or its container, has.",
             "DOTMAX_MEMORY_LIMIT"},
            0, std::numeric_limits<int64_t>::max(), &memory_limit);
  flags.Add({"max-message-bytes", "BYTES", "The largest request and the largest reply.",
             "DOTMAX_MAX_MESSAGE_BYTES"},
            1, kMaxMessageBytes, &max_message_bytes);
  flags.Add({"max-top-k", "K", "The largest top_k of a request.", "DOTMAX_MAX_TOP_K"}, 1, kMaxTopK,
            &max_top_k);
  flags.Add({"max-queue-requests", "N", "Searches that may wait; more are refused with RESOURCE_EXHAUSTED.",
             "DOTMAX_MAX_QUEUE_REQUESTS"},
            1, std::numeric_limits<int32_t>::max(), &max_queue_requests);
  flags.Add({"max-queue-rows", "N",
             "Query vectors that may wait; likewise. A request counts for a quarter of them at most.",
             "DOTMAX_MAX_QUEUE_ROWS"},
            1, std::numeric_limits<int64_t>::max(), &max_queue_rows);
  flags.Add({"max-queue-bytes", "BYTES", "Matrices that came with requests and may wait, in bytes; likewise.",
             "DOTMAX_MAX_QUEUE_BYTES"},
            1, std::numeric_limits<int64_t>::max(), &max_queue_bytes);
  flags.Add(
      {"max-grpc-bytes", "BYTES",
       "Memory for messages on their way in and out; beyond it gRPC slows callers down, then turns them "
       "away. 0 means four of the largest, and at least 1 GiB.",
       "DOTMAX_MAX_GRPC_BYTES"},
      0, std::numeric_limits<int64_t>::max(), &max_grpc_bytes);
  flags.Add(
      {"tokens-file", "FILE",
       "Whoever asks needs a token of this file, which has a line NAME SCOPES SHA256 [RATE] for each "
       "(see dotmax token --help) and is read again when it changes. Reflection needs a token of any scope; "
       "health stays open.",
       "DOTMAX_TOKENS_FILE"},
      &config.security.tokens);
  flags.Add(
      {"tls-cert", "FILE",
       "Serve gRPC over TLS, with this PEM certificate (chain). It, its key and --tls-client-ca are read "
       "again when they change; while they do not fit together, what they were holds.",
       "DOTMAX_TLS_CERT"},
      &config.security.certificate);
  flags.Add({"tls-key", "FILE", "The PEM private key of --tls-cert.", "DOTMAX_TLS_KEY"},
            &config.security.key);
  flags.Add({"tls-client-ca", "FILE",
             "Callers need a certificate that one of this PEM file's has signed; without --tokens-file its "
             "common name tells them apart.",
             "DOTMAX_TLS_CLIENT_CA"},
            &config.security.client_ca);
  flags.Add({"metrics-token", "", "GET /metrics needs a token of --tokens-file, too, of any scope.",
             "DOTMAX_METRICS_TOKEN"},
            &config.metrics_token);
  flags.Add({"access-log", "SHARE",
             "Log this share of the requests, from 0 to 1, a line each. What fails by the server's fault is "
             "always logged.",
             "DOTMAX_ACCESS_LOG"},
            0.0, 1.0, &config.access_log);
  flags.Add({"slow-request", "DURATION", "Log each request that takes longer; 0 means none.",
             "DOTMAX_SLOW_REQUEST"},
            &slow_request);
  flags.Add(
      {"drain-grace", "DURATION",
       "After SIGTERM or SIGINT: how long new requests are still served, while health says NOT_SERVING, "
       "so that load balancers can look elsewhere.",
       "DOTMAX_DRAIN_GRACE"},
      &config.drain_grace);
  flags.Add({"drain-timeout", "DURATION",
             "After that: how long accepted requests may take until they are cancelled. A second signal ends "
             "the process at once.",
             "DOTMAX_DRAIN_TIMEOUT"},
            &config.drain_timeout);
  flags.Add({"log-level", "LEVEL", "The least that is logged: debug (every request), info, warning or error.",
             "DOTMAX_LOG_LEVEL"},
            &log_level);
  flags.Add({"version", "", "Print the version and exit.", ""}, &version);

  const absl::StatusOr<Flags::Parsed> parsed = flags.Parse(argc, argv, env);
  if (!parsed.ok()) return parsed.status();
  if (parsed->help) config.print = flags.Help();
  if (version) config.print = absl::StrCat("dotmax-server ", kVersion, "\n");
  if (!config.print.empty()) return config;
  if (!parsed->positionals.empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat("unexpected argument ", parsed->positionals[0], "; files are given as --matrix=PATH"));
  }

  if (matrices.empty()) return absl::InvalidArgumentError("--matrix=[NAME=]PATH is required (see --help)");
  for (const std::string& text : matrices) {
    absl::StatusOr<MatrixSource> source = ParseMatrixSource(text);
    if (!source.ok()) return source.status();
    const auto same = absl::c_find_if(config.matrices,
                                      [&](const MatrixSource& other) { return other.name == source->name; });
    if (same != config.matrices.end()) {
      return absl::InvalidArgumentError(absl::StrCat("--matrix: both ", same->path, " and ", source->path,
                                                     " are named \"", source->name, "\"; give NAME=PATH"));
    }
    config.matrices.push_back(*std::move(source));
  }
  if (config.listen.empty()) return absl::InvalidArgumentError("--listen: expected HOST:PORT, got nothing");
  if (max_queue_bytes < max_message_bytes) {
    return absl::InvalidArgumentError(absl::StrCat("--max-queue-bytes=", max_queue_bytes,
                                                   " is below --max-message-bytes=", max_message_bytes,
                                                   ": some requests could never be queued"));
  }
  if (max_grpc_bytes > 0 && max_grpc_bytes < max_message_bytes) {
    return absl::InvalidArgumentError(absl::StrCat("--max-grpc-bytes=", max_grpc_bytes,
                                                   " is below --max-message-bytes=", max_message_bytes,
                                                   ": some requests could never arrive"));
  }
  if (config.drain_timeout < absl::ZeroDuration()) {
    return absl::InvalidArgumentError(
        absl::StrCat("--drain-timeout=", absl::FormatDuration(config.drain_timeout), " is negative"));
  }
  const SecurityFiles& files = config.security;
  if (files.certificate.empty() != files.key.empty()) {
    return absl::InvalidArgumentError("--tls-cert and --tls-key need each other");
  }
  if (!files.client_ca.empty() && files.certificate.empty()) {
    return absl::InvalidArgumentError("--tls-client-ca needs --tls-cert and --tls-key");
  }
  if (config.metrics_token && files.tokens.empty()) {
    return absl::InvalidArgumentError("--metrics-token needs --tokens-file");
  }
  const std::optional<LogLevel> level = ParseLogLevel(log_level);
  if (!level.has_value()) {
    return absl::InvalidArgumentError(
        absl::StrCat("--log-level=", log_level, ": expected debug, info, warning or error"));
  }

  // hardware_concurrency is 0 where the system does not say.
  const int cores = static_cast<int>(std::thread::hardware_concurrency());
  config.threads = threads > 0 ? static_cast<int>(threads) : std::max(cores, 1);
  config.max_message_bytes = max_message_bytes;
  config.max_top_k = static_cast<uint32_t>(max_top_k);
  config.max_queue_requests = max_queue_requests;
  config.max_queue_rows = max_queue_rows;
  config.max_queue_bytes = max_queue_bytes;
  config.max_grpc_bytes =
      max_grpc_bytes > 0 ? max_grpc_bytes : std::max(kLeastGrpcBytes, kGrpcMessages * max_message_bytes);
  if (slow_request > absl::ZeroDuration()) config.slow_request = slow_request;
  config.memory_limit = memory_limit;
  config.log_level = *level;
  return config;
}

}  // namespace dotmax
