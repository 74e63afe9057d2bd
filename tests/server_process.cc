#include "tests/server_process.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <signal.h>
#include <spawn.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <fstream>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "gtest/gtest.h"

namespace dotmax::testing {

ServerProcess::ServerProcess(const std::vector<std::string>& args) {
  const char* program = std::getenv("DOTMAX_SERVER_BINARY");
  if (program == nullptr) {
    ADD_FAILURE() << "DOTMAX_SERVER_BINARY is not set; run the tests with ctest";
    exit_code_ = -1;
    return;
  }
  std::vector<std::string> words = {program, "--listen=127.0.0.1:0", "--metrics-listen=127.0.0.1:0"};
  words.insert(words.end(), args.begin(), args.end());
  std::vector<char*> argv;
  for (std::string& word : words) argv.push_back(word.data());
  argv.push_back(nullptr);

  int ends[2];
  EXPECT_EQ(pipe2(ends, O_CLOEXEC), 0);
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
  posix_spawn_file_actions_adddup2(&actions, ends[1], STDOUT_FILENO);
  posix_spawn_file_actions_adddup2(&actions, ends[1], STDERR_FILENO);
  const int error = posix_spawn(&pid_, program, &actions, nullptr, argv.data(), environ);
  posix_spawn_file_actions_destroy(&actions);
  close(ends[1]);
  if (error != 0) {
    ADD_FAILURE() << program << ": " << std::strerror(error);
    close(ends[0]);
    exit_code_ = -1;
    return;
  }
  reader_ = std::thread([this, fd = ends[0]] { Read(fd); });
}

ServerProcess::~ServerProcess() {
  if (!reader_.joinable()) return;
  Signal(SIGKILL);
  reader_.join();
}

void ServerProcess::Read(int fd) {
  char buffer[4096];
  for (ssize_t got; (got = read(fd, buffer, sizeof(buffer))) > 0;) {
    absl::MutexLock lock(&mutex_);
    output_.append(buffer, got);
  }
  close(fd);
  // Waits without reaping, so that the process id stays ours until exit_code_ says that it is not.
  siginfo_t info = {};
  waitid(P_PID, pid_, &info, WEXITED | WNOWAIT);
  absl::MutexLock lock(&mutex_);
  int status = 0;
  waitpid(pid_, &status, 0);
  exit_code_ = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

void ServerProcess::Signal(int signal) const {
  absl::MutexLock lock(&mutex_);
  if (!exit_code_.has_value()) kill(pid_, signal);
}

bool ServerProcess::AwaitOutput(const std::string& text) const {
  absl::MutexLock lock(&mutex_);
  const auto settled = [&]() ABSL_SHARED_LOCKS_REQUIRED(mutex_) {
    return exit_code_.has_value() || absl::StrContains(output_, text);
  };
  mutex_.AwaitWithTimeout(absl::Condition(&settled), kPatience);
  return absl::StrContains(output_, text);
}

bool ServerProcess::AwaitListening() const {
  const bool ready = AwaitOutput("\"event\":\"ready\"");
  if (!ready) ADD_FAILURE() << "the server is not ready:\n" << output();
  return ready;
}

int ServerProcess::AwaitExit() const {
  absl::MutexLock lock(&mutex_);
  const auto exited = [this]() ABSL_SHARED_LOCKS_REQUIRED(mutex_) { return exit_code_.has_value(); };
  mutex_.AwaitWithTimeout(absl::Condition(&exited), kPatience);
  return exit_code_.value_or(-1);
}

std::string ServerProcess::output() const {
  absl::MutexLock lock(&mutex_);
  return output_;
}

int ServerProcess::LoggedPort(const std::string& key) const {
  const std::string text = output();
  const std::string label = absl::StrCat("\"", key, "\":");
  const size_t at = text.find(label);
  return at == text.npos ? 0 : std::atoi(text.c_str() + at + label.size());
}

std::string ServerProcess::grpc_address() const { return absl::StrCat("127.0.0.1:", grpc_port()); }

bool ServerProcess::AwaitIdle() const {
  const absl::Time patience = absl::Now() + absl::Seconds(30);
  while (!absl::StrContains(HttpGet(http_port(), "/metrics").body, "\ndotmax_rpcs_in_flight 0\n")) {
    if (absl::Now() > patience) return false;
    absl::SleepFor(absl::Milliseconds(20));
  }
  return true;
}

HttpReply HttpGet(int port, const std::string& path, const std::string& method, const std::string& token) {
  HttpReply reply;
  const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in address = {};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<uint16_t>(port));
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  const std::string request =
      absl::StrCat(method, " ", path, " HTTP/1.1\r\nHost: test\r\nConnection: close\r\n",
                   token.empty() ? "" : absl::StrCat("Authorization: Bearer ", token, "\r\n"), "\r\n");
  std::string text;
  if (connect(fd, reinterpret_cast<const sockaddr*>(&address), sizeof(address)) == 0 &&
      send(fd, request.data(), request.size(), MSG_NOSIGNAL) == static_cast<ssize_t>(request.size())) {
    char buffer[4096];
    for (ssize_t got; (got = recv(fd, buffer, sizeof(buffer), 0)) > 0;) text.append(buffer, got);
  }
  close(fd);
  const size_t blank = text.find("\r\n\r\n");
  if (!absl::StartsWith(text, "HTTP/1.1 ") || blank == text.npos) return reply;
  reply.status = std::atoi(text.c_str() + sizeof("HTTP/1.1 ") - 1);
  reply.headers = text.substr(0, blank);
  reply.body = text.substr(blank + 4);
  return reply;
}

NpyFile::NpyFile(const MatrixView& matrix) : path_(absl::StrCat(::testing::TempDir(), "/dotmax-XXXXXX.npy")) {
  std::string descr;
  switch (matrix.dtype) {
    case DType::kFloat16:
      descr = "<f2";
      break;
    case DType::kFloat32:
      descr = "<f4";
      break;
    case DType::kFloat64:
      descr = "<f8";
      break;
    case DType::kInt8:
      descr = "|i1";
      break;
    case DType::kBFloat16:
      ADD_FAILURE() << ".npy has no bfloat16";
      break;
  }
  std::string header = absl::StrCat("{'descr': '", descr, "', 'fortran_order': False, 'shape': (",
                                    matrix.rows, ", ", matrix.dim, "), }");
  constexpr size_t kPrefix = 10;  // magic, version, length
  header.append(63 - (kPrefix + header.size()) % 64, ' ');
  header += '\n';
  const int fd = mkstemps(path_.data(), 4);
  EXPECT_GE(fd, 0) << path_;
  close(fd);
  std::ofstream file(path_, std::ios::binary);
  file.write("\x93NUMPY\x01\x00", 8);
  file.put(static_cast<char>(header.size() & 0xff)).put(static_cast<char>(header.size() >> 8));
  file << header;
  file.write(reinterpret_cast<const char*>(matrix.data), static_cast<std::streamsize>(matrix.bytes()));
  file.close();
  EXPECT_TRUE(file.good()) << path_;
}

NpyFile::~NpyFile() { unlink(path_.c_str()); }

}  // namespace dotmax::testing
