// What an operator may choose, from flags and their environment equivalents.
#ifndef DOTMAX_SERVER_BASE_CONFIG_H_
#define DOTMAX_SERVER_BASE_CONFIG_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "server/base/log.h"

namespace dotmax {

extern const char kVersion[];  // "0.1.0"

struct MatrixSource {
  std::string name;  // of the collection
  std::string path;
};

// What guards the gRPC port; paths of PEM files but for the first. Empty: without it.
struct SecurityFiles {
  std::string tokens;
  std::string certificate, key;  // both or none
  std::string client_ca;         // only with those: callers need a certificate of its
};

struct Config {
  // Not empty after --help or --version: print it and exit 0. Nothing else is set then.
  std::string print;

  std::string listen = "0.0.0.0:50051";
  std::string metrics_listen = "0.0.0.0:9464";  // empty: no HTTP
  std::vector<MatrixSource> matrices;           // at least one, names unique
  int threads = 0;                              // ≥ 1 once parsed
  bool pin_threads = false;
  bool mmap = false;
  std::string data_dir;       // empty: no files are loaded by name
  uint64_t memory_limit = 0;  // 0: what the machine has
  uint64_t max_message_bytes = 0;
  uint32_t max_top_k = 0;
  uint64_t max_queue_requests = 0;
  uint64_t max_queue_rows = 0;
  uint64_t max_queue_bytes = 0;  // ≥ max_message_bytes: an empty queue takes any request
  uint64_t max_grpc_bytes = 0;   // ≥ max_message_bytes
  SecurityFiles security;
  bool metrics_token = false;  // only with tokens
  bool no_page = false;
  double access_log = 0;  // the share of requests, in [0, 1]
  absl::Duration slow_request = absl::InfiniteDuration();
  absl::Duration drain_grace, drain_timeout;
  LogLevel log_level = LogLevel::kInfo;
};

// kInvalidArgument names the flag, the value, and what was expected. `env` is getenv or a test's own.
absl::StatusOr<Config> ParseConfig(int argc, const char* const* argv,
                                   absl::FunctionRef<const char*(const char*)> env);

}  // namespace dotmax

#endif  // DOTMAX_SERVER_BASE_CONFIG_H_
