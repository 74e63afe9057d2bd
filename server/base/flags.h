// Command-line flags with environment equivalents, as a table: parse, explain, refuse by name.
//
//   std::string listen = "0.0.0.0:50051";
//   Flags flags("dotmax-server [FLAGS]", "Answers ...");
//   flags.Add({"listen", "HOST:PORT", "Where gRPC is served.", "DOTMAX_LISTEN"}, &listen);
//   absl::StatusOr<Flags::Parsed> parsed = flags.Parse(argc, argv, getenv);
#ifndef DOTMAX_SERVER_BASE_FLAGS_H_
#define DOTMAX_SERVER_BASE_FLAGS_H_

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"

namespace dotmax {

class Flags {
 public:
  struct Spec {
    std::string name;     // without dashes: "max-message-bytes"
    std::string metavar;  // what --help shows as the value: "BYTES"; empty for a boolean
    std::string help;     // one or two sentences
    std::string env;      // environment equivalent, empty for none
  };

  struct Parsed {
    bool help = false;                     // --help or -h was given; print Help() and exit 0
    std::vector<std::string> positionals;  // what is not a flag, in order; all after "--"
  };

  // `usage` is the first line of --help, `description` the paragraph under it.
  Flags(std::string usage, std::string description);

  // Registers a flag whose value goes to *value, which also holds the default that --help shows. `value`
  // must outlive Parse. A repeatable flag (vector) collects every occurrence; its environment equivalent
  // is a comma-separated list, and is ignored when the flag is given.
  void Add(Spec spec, std::string* value);
  void Add(Spec spec, bool* value);  // --name, --name=true, --name=false
  void Add(Spec spec, int64_t min, int64_t max, int64_t* value);
  void Add(Spec spec, double min, double max, double* value);
  void Add(Spec spec, absl::Duration* value);  // "500ms", "2s"
  void Add(Spec spec, std::vector<std::string>* value);

  // Sets the values: defaults, then the environment, then arguments. Accepts --name=value and
  // --name value. kInvalidArgument names the flag (or variable), the value, and what was expected; an
  // unknown flag suggests the nearest one. `env` is getenv or a test's own.
  absl::StatusOr<Parsed> Parse(int argc, const char* const* argv,
                               absl::FunctionRef<const char*(const char*)> env);

  // The text of --help, with defaults and environment equivalents, at most 100 columns.
  std::string Help() const;

 private:
  struct Flag {
    Spec spec;
    std::string default_text;
    std::function<absl::Status(absl::string_view text)> set;
    std::function<void()> clear;  // repeatable flags only
  };

  std::string usage_;
  std::string description_;
  std::vector<Flag> flags_;
};

}  // namespace dotmax

#endif  // DOTMAX_SERVER_BASE_FLAGS_H_
