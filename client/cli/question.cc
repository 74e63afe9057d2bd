#include "client/cli/question.h"

#include <algorithm>
#include <cmath>
#include <iostream>
#include <optional>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "client/cli/npy.h"

namespace dotmax {
namespace {

absl::Status ParseScore(const std::string& flag, const std::string& text, std::optional<double>* score) {
  if (text.empty()) return absl::OkStatus();
  double value;
  if (!absl::SimpleAtod(text, &value) || std::isnan(value)) {
    return absl::InvalidArgumentError(absl::StrCat(flag, ": \"", text, "\" is not a number"));
  }
  *score = value;
  return absl::OkStatus();
}

}  // namespace

void QuestionFlags::AddTo(Flags& flags) {
  flags.Add({"metric", "METRIC",
             "What is scored: inner_product, cosine (0 where a row is zero), or squared_euclidean, of which "
             "the smallest is the best.",
             ""},
            &metric);
  flags.Add({"top-k", "K",
             "How many hits, per query row or globally. By default 1, or with a range all within it, up to "
             "what the server allows.",
             ""},
            &top_k);
  flags.Add(
      {"min-score", "SCORE", "The range: only hits that score at least this. Not for squared_euclidean.", ""},
      &min_score);
  flags.Add({"max-score", "SCORE", "The range of squared_euclidean: only hits that score at most this.", ""},
            &max_score);
  flags.Add({"count", "", "Only count the hits within the range, per query row or globally.", ""}, &count);
  flags.Add({"output", "FILE.npy",
             "Write the answer to this file instead of printing it: an array of records with the fields "
             "query_row, id (both <u8) and score (<f8), best first, so that "
             "numpy.load(FILE)[\"score\"] are the scores. With --count an array of counts (<u8).",
             ""},
            &output);
}

absl::StatusOr<SearchOptions> QuestionFlags::Options() const {
  SearchOptions options;
  if (metric == "cosine") {
    options.metric = ScoreMetric::kCosine;
  } else if (metric == "squared_euclidean") {
    options.metric = ScoreMetric::kSquaredEuclidean;
  } else if (metric != "inner_product") {
    return absl::InvalidArgumentError(
        absl::StrCat("--metric: \"", metric, "\" is none of inner_product, cosine and squared_euclidean"));
  }
  if (absl::Status s = ParseScore("--min-score", min_score, &options.min_score); !s.ok()) return s;
  if (absl::Status s = ParseScore("--max-score", max_score, &options.max_score); !s.ok()) return s;
  const bool smallest = options.metric == ScoreMetric::kSquaredEuclidean;
  if (smallest ? options.min_score.has_value() : options.max_score.has_value()) {
    return absl::InvalidArgumentError(smallest ? "--min-score: squared_euclidean takes --max-score"
                                               : absl::StrCat("--max-score: ", metric, " takes --min-score"));
  }
  const bool range = options.min_score.has_value() || options.max_score.has_value();
  options.count_only = count;
  if (count && !range) {
    return absl::InvalidArgumentError(
        absl::StrCat("--count: counts within a range; give ", smallest ? "--max-score" : "--min-score"));
  }
  if (count && !top_k.empty()) return absl::InvalidArgumentError("--count: there are no hits for --top-k");
  options.top_k = range ? 0 : 1;
  if (!top_k.empty() && (!absl::SimpleAtoi(top_k, &options.top_k) || options.top_k == 0)) {
    return absl::InvalidArgumentError(
        absl::StrCat("--top-k: \"", top_k, "\" is not an integer from 1 to ", UINT32_MAX));
  }
  if (!output.empty() && !absl::EndsWith(output, ".npy")) {
    return absl::InvalidArgumentError(absl::StrCat("--output: ", output, " does not end in .npy"));
  }
  return options;
}

ExitCode QuestionFlags::Give(const SearchResult& result, const SearchOptions& options, const Names& names,
                             const CommonFlags& common) const {
  if (std::find(result.truncated.begin(), result.truncated.end(), true) != result.truncated.end()) {
    std::cerr << "dotmax: there are more hits within the range than these; the best ones are shown\n";
  }
  if (!output.empty()) {
    const absl::Status status = WriteNpy(result, options.count_only, output);
    return status.ok() ? kOk : Fail(status);
  }
  if (options.count_only) {
    return Print(common.WantsTable() ? CountsTable(result, names, options.global)
                                     : CountsJson(result, names, options.global));
  }
  return Print(common.WantsTable() ? HitsTable(result, names) : HitsJson(result, names));
}

}  // namespace dotmax
