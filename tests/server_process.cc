#include "tests/server_process.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <system_error>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/time/time.h"
#include "gtest/gtest.h"
#include "tests/command.h"

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
  int ends[2];
  EXPECT_EQ(pipe2(ends, O_CLOEXEC), 0);
  pid_ = Spawn(std::move(words), ends[1]);
  close(ends[1]);
  if (pid_ < 0) {
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
  return Becomes([this] {
    return absl::StrContains(HttpGet(http_port(), "/metrics").body, "\ndotmax_rpcs_in_flight 0\n");
  });
}

double ServerProcess::Sample(const std::string& name_and_labels) const {
  const std::string text = absl::StrCat("\n", HttpGet(http_port(), "/metrics").body);
  const size_t at = text.find(absl::StrCat("\n", name_and_labels, " "));
  return at == text.npos ? 0 : std::atof(text.c_str() + at + name_and_labels.size() + 2);
}

ProcessUse ServerProcess::Use() const {
  const std::string process = absl::StrCat("/proc/", pid_);
  ProcessUse use;
  std::ifstream status(process + "/status");
  for (std::string line; std::getline(status, line);) {
    uint64_t value = 0;
    const std::vector<std::string> words = absl::StrSplit(line, absl::ByAnyChar(" \t"), absl::SkipEmpty());
    if (words.size() < 2 || !absl::SimpleAtoi(words[1], &value)) continue;
    if (words[0] == "RssAnon:") use.anonymous_bytes = value << 10;
    if (words[0] == "Threads:") use.threads = value;
  }
  // Fields 14 and 15 of proc(5); the second is the name, in parentheses.
  std::ifstream stat(process + "/stat");
  std::string line;
  std::getline(stat, line);
  const std::vector<std::string> fields =
      absl::StrSplit(line.substr(std::min(line.rfind(')'), line.size())), ' ');
  uint64_t user = 0, system = 0;
  if (fields.size() > 13 && absl::SimpleAtoi(fields[12], &user) && absl::SimpleAtoi(fields[13], &system)) {
    use.cpu_seconds = static_cast<double>(user + system) / static_cast<double>(sysconf(_SC_CLK_TCK));
  }
  std::error_code error;
  for (std::filesystem::directory_iterator at(process + "/fd", error), end; !error && at != end;
       at.increment(error)) {
    ++use.open_fds;
  }
  return use;
}

int ConnectTo(int port) {
  const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in address = {};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<uint16_t>(port));
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  if (connect(fd, reinterpret_cast<const sockaddr*>(&address), sizeof(address)) == 0) return fd;
  close(fd);
  return -1;
}

HttpReply HttpGet(int port, const std::string& path, const std::string& method, const std::string& token) {
  HttpReply reply;
  const int fd = ConnectTo(port);
  if (fd < 0) return reply;
  const std::string request =
      absl::StrCat(method, " ", path, " HTTP/1.1\r\nHost: test\r\nConnection: close\r\n",
                   token.empty() ? "" : absl::StrCat("Authorization: Bearer ", token, "\r\n"), "\r\n");
  std::string text;
  if (send(fd, request.data(), request.size(), MSG_NOSIGNAL) == static_cast<ssize_t>(request.size())) {
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
