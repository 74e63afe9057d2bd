#include "tests/command.h"

#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"

namespace dotmax::testing {

Ran RunCommand(const std::string& command) {
  FILE* const pipe = popen(command.c_str(), "r");
  std::string output;
  char block[4096];
  for (size_t n; (n = fread(block, 1, sizeof(block), pipe)) > 0;) output.append(block, n);
  return {WEXITSTATUS(pclose(pipe)), output};
}

Ran Shell(const std::string& arguments) {
  return RunCommand(absl::StrCat("'", std::getenv("DOTMAX_BINARY"), "' 2>&1 ", arguments));
}

pid_t Spawn(std::vector<std::string> words, int output) {
  std::vector<char*> argv;
  for (std::string& word : words) argv.push_back(word.data());
  argv.push_back(nullptr);
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
  posix_spawn_file_actions_adddup2(&actions, output, STDOUT_FILENO);
  posix_spawn_file_actions_adddup2(&actions, output, STDERR_FILENO);
  pid_t pid = -1;
  const int error = posix_spawn(&pid, argv[0], &actions, nullptr, argv.data(), environ);
  posix_spawn_file_actions_destroy(&actions);
  if (error == 0) return pid;
  ADD_FAILURE() << words[0] << ": " << std::strerror(error);
  return -1;
}

CommandProcess::CommandProcess(std::vector<std::string> arguments) {
  arguments.insert(arguments.begin(), std::getenv("DOTMAX_BINARY"));
  const int nowhere = open("/dev/null", O_WRONLY | O_CLOEXEC);
  pid_ = Spawn(std::move(arguments), nowhere);
  close(nowhere);
}

void CommandProcess::Signal(int signal) const {
  if (pid_ > 0) kill(pid_, signal);
}

void CommandProcess::Kill() {
  if (pid_ <= 0) return;
  kill(pid_, SIGKILL);
  waitpid(pid_, nullptr, 0);
  pid_ = -1;
}

}  // namespace dotmax::testing
