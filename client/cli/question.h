// The flags that say what is asked, and what becomes of the answer.
#ifndef DOTMAX_CLIENT_CLI_QUESTION_H_
#define DOTMAX_CLIENT_CLI_QUESTION_H_

#include <string>

#include "absl/status/statusor.h"
#include "client/cli/common.h"
#include "client/cli/format.h"
#include "dotmax/client.h"
#include "server/base/flags.h"

namespace dotmax {

struct QuestionFlags {
  std::string metric = "inner_product";
  std::string top_k;
  std::string min_score;
  std::string max_score;
  bool count = false;
  std::string output;

  void AddTo(Flags& flags);

  // But for `global`, progress and where the question goes. kInvalidArgument names the flag.
  absl::StatusOr<SearchOptions> Options() const;

  // Prints or writes the answer to a question of `options`.
  ExitCode Give(const SearchResult& result, const SearchOptions& options, const Names& names,
                const CommonFlags& common) const;
};

}  // namespace dotmax

#endif  // DOTMAX_CLIENT_CLI_QUESTION_H_
