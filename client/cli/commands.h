// The commands of dotmax, one function each: `argv[0]` is the command's name.
#ifndef DOTMAX_CLIENT_CLI_COMMANDS_H_
#define DOTMAX_CLIENT_CLI_COMMANDS_H_

#include "client/cli/common.h"

namespace dotmax {

ExitCode Search(int argc, const char* const* argv);
ExitCode Max(int argc, const char* const* argv);
ExitCode Pairs(int argc, const char* const* argv);
ExitCode Convert(int argc, const char* const* argv);
ExitCode Eval(int argc, const char* const* argv);
ExitCode Bench(int argc, const char* const* argv);
ExitCode Load(int argc, const char* const* argv);
ExitCode Reload(int argc, const char* const* argv);
ExitCode Swap(int argc, const char* const* argv);
ExitCode Drop(int argc, const char* const* argv);
ExitCode Info(int argc, const char* const* argv);
ExitCode Health(int argc, const char* const* argv);
ExitCode Token(int argc, const char* const* argv);

}  // namespace dotmax

#endif  // DOTMAX_CLIENT_CLI_COMMANDS_H_
