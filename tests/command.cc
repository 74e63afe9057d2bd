#include "tests/command.h"

#include <sys/wait.h>

#include <cstdio>
#include <cstdlib>

#include "absl/strings/str_cat.h"

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

}  // namespace dotmax::testing
