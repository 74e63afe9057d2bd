// Running the dotmax command as a person or a script would.
#ifndef DOTMAX_TESTS_COMMAND_H_
#define DOTMAX_TESTS_COMMAND_H_

#include <string>

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

}  // namespace dotmax::testing

#endif  // DOTMAX_TESTS_COMMAND_H_
