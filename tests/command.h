// Running the dotmax command as a person or a script would.
#ifndef DOTMAX_TESTS_COMMAND_H_
#define DOTMAX_TESTS_COMMAND_H_

#include <sys/types.h>

#include <string>
#include <vector>

namespace dotmax::testing {

struct Ran {
  int exit_code;
  std::string output;
};

// What a shell makes of `command`, and its standard output.
Ran RunCommand(const std::string& command);

// `dotmax ARGUMENTS` in a shell, so that a test may redirect; with standard error. The environment's
// DOTMAX_BINARY names the program.
Ran Shell(const std::string& arguments);

// Starts the program words[0] with the rest as arguments, nothing to read, and `output` for both outputs. Its
// process id, which the caller waits for; -1 and a failure of the test if it cannot be started.
pid_t Spawn(std::vector<std::string> words, int output);

// `dotmax ARGUMENTS` as a process of its own, whose output nobody wants; killed with the object.
class CommandProcess {
 public:
  explicit CommandProcess(std::vector<std::string> arguments);
  ~CommandProcess() { Kill(); }

  CommandProcess(const CommandProcess&) = delete;
  CommandProcess& operator=(const CommandProcess&) = delete;

  void Signal(int signal) const;
  void Kill();  // and waits until it is gone

 private:
  pid_t pid_ = -1;
};

}  // namespace dotmax::testing

#endif  // DOTMAX_TESTS_COMMAND_H_
