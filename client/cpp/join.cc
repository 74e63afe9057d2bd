#include "client/cpp/join.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "client/cpp/impl.h"

namespace dotmax {
namespace {

constexpr size_t kVarintBytes = 10;  // at most

bool HasRange(const SearchOptions& options) {
  return options.min_score.has_value() || options.max_score.has_value();
}

// Whether all hits of a range are wanted.
bool WantsAll(const SearchOptions& options) {
  return HasRange(options) && options.top_k == 0 && !options.count_only;
}

bool IsBetter(ScoreMetric metric, double a, double b) {
  return metric == ScoreMetric::kSquaredEuclidean ? a < b : a > b;
}

// Two sorted lists; on ties what is there comes first.
void MergeGlobal(const SearchResult& part, const SearchOptions& options, SearchResult& all) {
  const size_t wanted =
      WantsAll(options) ? std::numeric_limits<size_t>::max() : std::max<size_t>(options.top_k, 1);
  const auto cut = [](const SearchResult& list) { return !list.truncated.empty() && list.truncated[0]; };
  SearchResult merged;
  size_t i = 0, j = 0;
  while (merged.ids.size() < wanted && (i < all.ids.size() || j < part.ids.size())) {
    // Of a list that was cut short nothing is known from its end on.
    if ((i == all.ids.size() && cut(all)) || (j == part.ids.size() && cut(part))) break;
    const bool ours = j == part.ids.size() ||
                      (i < all.ids.size() && !IsBetter(options.metric, part.scores[j], all.scores[i]));
    const SearchResult& from = ours ? all : part;
    const size_t at = ours ? i++ : j++;
    merged.ids.push_back(from.ids[at]);
    merged.scores.push_back(from.scores[at]);
    merged.query_rows.push_back(from.query_rows[at]);
  }
  all.ids = std::move(merged.ids);
  all.scores = std::move(merged.scores);
  all.query_rows = std::move(merged.query_rows);
  if (!part.truncated.empty() && !all.truncated.empty()) {
    all.truncated[0] = all.truncated[0] || part.truncated[0];
  }
  if (!part.counts.empty() && !all.counts.empty()) all.counts[0] += part.counts[0];
}

}  // namespace

absl::Status CheckExclusions(const SearchOptions& options, uint64_t query_rows) {
  const std::vector<uint64_t>& splits = options.exclude.row_splits;
  const size_t ids = options.exclude.ids.size();
  if (splits.empty() && ids == 0) return absl::OkStatus();
  if (splits.size() != query_rows + 1 || splits.front() != 0 || splits.back() != ids ||
      !std::is_sorted(splits.begin(), splits.end())) {
    return absl::InvalidArgumentError(
        absl::StrCat("exclude.row_splits: ", splits.size(), " splits; ", query_rows,
                     " query rows take one more, from 0, ascending, to the number of ids, ", ids));
  }
  return absl::OkStatus();
}

uint64_t RowsOfPart(const SearchOptions& options, uint64_t first, uint64_t total, size_t row_bytes,
                    size_t budget) {
  // A reply has up to 24 bytes per hit (id as varint, score, query row); and per query row a split, and what
  // a range adds.
  constexpr size_t kBytesPerHit = 24;
  // How many hits a query row gets room for when all are wanted: the default of the server's limit.
  constexpr size_t kHitsOfRange = 10'000;
  const size_t hits = options.count_only  ? 0
                      : WantsAll(options) ? kHitsOfRange
                                          : std::max<size_t>(options.top_k, 1);
  const size_t reply_bytes = options.global ? 0 : hits * kBytesPerHit + 2 * kVarintBytes;
  const uint64_t most =
      std::clamp<uint64_t>(budget / std::max({row_bytes, reply_bytes, size_t{1}}), 1, total - first);
  if (options.exclude.ids.empty()) return most;
  const std::vector<uint64_t>& splits = options.exclude.row_splits;
  uint64_t rows = 0;
  for (uint64_t bytes = 0; rows < most; ++rows) {
    const uint64_t excluded = splits[first + rows + 1] - splits[first + rows];
    bytes += row_bytes + (excluded + 1) * kVarintBytes;
    if (bytes > budget) break;
  }
  return std::max<uint64_t>(rows, 1);
}

template <typename Request>
void AskOf(const SearchOptions& options, uint64_t first, uint64_t rows, Request* request) {
  request->set_top_k(options.count_only ? 0 : options.top_k);
  request->set_reduction(options.global ? v1::GLOBAL : v1::PER_ROW);
  request->set_metric(ToProto(options.metric));
  if (options.min_score.has_value()) request->set_min_score(*options.min_score);
  if (options.max_score.has_value()) request->set_max_score(*options.max_score);
  request->set_count_only(options.count_only);
  if (options.exclude.ids.empty()) return;
  const std::vector<uint64_t>& splits = options.exclude.row_splits;
  const std::vector<uint64_t>& ids = options.exclude.ids;
  v1::Exclusions* const exclude = request->mutable_exclude();
  for (uint64_t i = first; i <= first + rows; ++i) exclude->add_row_splits(splits[i] - splits[first]);
  exclude->mutable_ids()->Add(ids.begin() + static_cast<int64_t>(splits[first]),
                              ids.begin() + static_cast<int64_t>(splits[first + rows]));
}

template void AskOf(const SearchOptions&, uint64_t, uint64_t, v1::SearchRequest*);
template void AskOf(const SearchOptions&, uint64_t, uint64_t, v1::MaxInnerProductRequest*);

v1::SearchRequest RequestOf(const SearchOptions& options, uint64_t first, uint64_t rows,
                            std::optional<uint64_t> version) {
  v1::SearchRequest request;
  AskOf(options, first, rows, &request);
  request.set_collection(options.collection);
  if (version.has_value()) request.set_version(*version);
  return request;
}

void Append(SearchResult part, uint64_t first_row, const SearchOptions& options, SearchResult& all) {
  for (uint64_t& row : part.query_rows) row += first_row;
  if (part.best.has_value()) {
    part.best->query_row += first_row;
    // Ties go to the lower query row: to what is there.
    if (!all.best.has_value() || IsBetter(options.metric, part.best->score, all.best->score)) {
      all.best = part.best;
    }
  }
  if (options.global) {
    MergeGlobal(part, options, all);
  } else {
    const uint64_t offset = all.ids.size();
    for (size_t i = 1; i < part.row_splits.size(); ++i) all.row_splits.push_back(offset + part.row_splits[i]);
    all.ids.insert(all.ids.end(), part.ids.begin(), part.ids.end());
    all.scores.insert(all.scores.end(), part.scores.begin(), part.scores.end());
    all.truncated.insert(all.truncated.end(), part.truncated.begin(), part.truncated.end());
    all.counts.insert(all.counts.end(), part.counts.begin(), part.counts.end());
  }
  all.coverage = std::min(all.coverage, part.coverage);
  all.queue_seconds += part.queue_seconds;
  all.compute_seconds += part.compute_seconds;
  all.pairs_screened += part.pairs_screened;
  all.pairs_survived += part.pairs_survived;
  all.pairs_checked += part.pairs_checked;
  all.pairs_rescored += part.pairs_rescored;
}

}  // namespace dotmax
