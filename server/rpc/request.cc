#include "server/rpc/request.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <optional>
#include <string>
#include <utility>

#include "absl/numeric/int128.h"
#include "absl/strings/cord.h"
#include "absl/strings/str_cat.h"
#include "server/base/errors.h"
#include "server/rpc/convert.h"

namespace dotmax {
namespace {

std::optional<Reduction> ReductionFromProto(v1::Reduction reduction) {
  switch (reduction) {
    case v1::REDUCTION_UNSPECIFIED:
    case v1::PER_ROW:
      return Reduction::kPerRow;
    case v1::GLOBAL:
      return Reduction::kGlobal;
    default:
      return std::nullopt;
  }
}

std::optional<Metric> MetricFromProto(v1::Metric metric) {
  switch (metric) {
    case v1::METRIC_UNSPECIFIED:
    case v1::INNER_PRODUCT:
      return Metric::kInnerProduct;
    case v1::COSINE:
      return Metric::kCosine;
    case v1::SQUARED_EUCLIDEAN:
      return Metric::kSquaredEuclidean;
    default:
      return std::nullopt;
  }
}

std::optional<Selection::Self> SelfFromProto(v1::SelfPairs self) {
  switch (self) {
    case v1::SELF_PAIRS_UNSPECIFIED:
      return Selection::Self::kAll;
    case v1::NOT_ITSELF:
      return Selection::Self::kNotItself;
    case v1::EACH_ONCE:
      return Selection::Self::kOnce;
    default:
      return std::nullopt;
  }
}

// The message opens with the field, as every message about one does.
absl::Status Invalid(absl::string_view at, absl::string_view name, absl::string_view reason,
                     absl::string_view what) {
  const std::string field = absl::StrCat(at, name);
  return InvalidField(field, reason, absl::StrCat(field, ": ", what));
}

absl::StatusOr<Metric> CheckedMetric(v1::Metric wire, absl::string_view at) {
  const std::optional<Metric> metric = MetricFromProto(wire);
  if (metric.has_value()) return *metric;
  return Invalid(at, "metric", "UNKNOWN_METRIC", absl::StrCat(wire, " is no Metric"));
}

// The range of a request, as Selection::bounds.
template <typename Request>
absl::StatusOr<std::vector<double>> Bounds(const Request& request, Metric metric, absl::string_view at) {
  const bool smallest_is_best = metric == Metric::kSquaredEuclidean;
  const char* const name = smallest_is_best ? "max_score" : "min_score";
  const char* const other = smallest_is_best ? "min_score" : "max_score";
  if (smallest_is_best ? request.has_min_score() : request.has_max_score()) {
    const v1::Metric named =
        request.metric() == v1::METRIC_UNSPECIFIED ? v1::INNER_PRODUCT : request.metric();
    return Invalid(at, other, "BOUND_OF_ANOTHER_METRIC",
                   absl::StrCat(smallest_is_best ? request.min_score() : request.max_score(), ", but ",
                                v1::Metric_Name(named), " takes ", name, ": its best score is the ",
                                smallest_is_best ? "smallest" : "largest"));
  }
  if (smallest_is_best ? !request.has_max_score() : !request.has_min_score()) return std::vector<double>();
  const double bound = smallest_is_best ? request.max_score() : request.min_score();
  if (std::isnan(bound)) return Invalid(at, name, "NOT_A_NUMBER", "nan bounds nothing");
  return std::vector<double>{bound};
}

template <typename Request>
absl::StatusOr<Selection> SelectionOf(const Request& request, const RequestLimits& limits,
                                      absl::string_view at) {
  Selection selection;
  const std::optional<Reduction> reduction = ReductionFromProto(request.reduction());
  if (!reduction.has_value()) {
    return Invalid(at, "reduction", "UNKNOWN_REDUCTION",
                   absl::StrCat(request.reduction(), " is no Reduction"));
  }
  selection.reduction = *reduction;
  const absl::StatusOr<Metric> metric = CheckedMetric(request.metric(), at);
  if (!metric.ok()) return metric.status();
  selection.metric = *metric;
  if (request.top_k() > limits.max_top_k) {
    return Invalid(at, "top_k", "TOP_K_TOO_LARGE",
                   absl::StrCat(request.top_k(), " is above the server's limit of ", limits.max_top_k,
                                " (--max-top-k)"));
  }
  absl::StatusOr<std::vector<double>> bounds = Bounds(request, selection.metric, at);
  if (!bounds.ok()) return bounds.status();
  selection.bounds = *std::move(bounds);
  selection.count_only = request.count_only();
  if (selection.count_only && selection.bounds.empty()) {
    return Invalid(at, "count_only", "NO_RANGE",
                   absl::StrCat("true, but there is no range to count in; set ",
                                selection.metric == Metric::kSquaredEuclidean ? "max_score" : "min_score"));
  }
  if (selection.count_only && request.top_k() > 0) {
    return Invalid(at, "top_k", "COUNT_WITH_TOP_K",
                   absl::StrCat(request.top_k(), ", but count_only returns no hits; leave it 0"));
  }
  selection.tell_truncated = !selection.bounds.empty() && request.top_k() == 0 && !selection.count_only;
  selection.top_k = std::max<uint32_t>(request.top_k(), 1);
  return selection;
}

// Bytes of the largest varint up to `value`.
uint64_t VarintBytes(uint64_t value) { return (std::bit_width(value | 1) + 6) / 7; }

uint64_t Saturated(absl::uint128 value) {
  return absl::Uint128High64(value) > 0 ? std::numeric_limits<uint64_t>::max() : absl::Uint128Low64(value);
}

const CollectionInfo* Find(const std::vector<CollectionInfo>& resident, absl::string_view name) {
  if (name.empty() && resident.size() == 1) return &resident[0];
  const auto found =
      std::find_if(resident.begin(), resident.end(), [&](const auto& info) { return info.name == name; });
  return found == resident.end() ? nullptr : &*found;
}

// The collection that A's resident rows are of.
const CollectionInfo* ResidentCollection(const Query& query, const std::vector<CollectionInfo>& resident) {
  const std::string& name = query.resident->collection;
  return Find(resident, name.empty() ? query.collection : name);
}

// Sets A of `query`: rows that are sent, or resident ones.
absl::Status QueriesFromProto(const v1::SearchRequest& request, const std::vector<CollectionInfo>& resident,
                              Query& query) {
  if (request.has_queries() == request.has_resident_queries()) {
    return Invalid("", "queries", request.has_queries() ? "TWO_QUERIES" : "NO_QUERIES",
                   absl::StrCat(request.has_queries() ? "both" : "neither",
                                " of queries and resident_queries are set; send one of them"));
  }
  const std::optional<Selection::Self> self = SelfFromProto(request.self_pairs());
  if (!self.has_value()) {
    return Invalid("", "self_pairs", "UNKNOWN_SELF_PAIRS",
                   absl::StrCat(request.self_pairs(), " is no SelfPairs"));
  }
  query.selection.self = *self;
  if (request.has_queries()) {
    if (*self != Selection::Self::kAll) {
      return Invalid(
          "", "self_pairs", "NO_RESIDENT_QUERIES",
          absl::StrCat(v1::SelfPairs_Name(request.self_pairs()),
                       " needs resident_queries: queries that are sent are no rows of a collection"));
    }
    absl::StatusOr<SharedMatrix> rows = MatrixFromProto(request.queries(), "queries");
    if (!rows.ok()) return rows.status();
    query.rows = *std::move(rows);
    return absl::OkStatus();
  }
  const v1::RowRange& range = request.resident_queries();
  query.resident = ResidentRows{range.collection(), range.first(), range.rows()};
  const CollectionInfo* const from = ResidentCollection(query, resident);
  if (*self != Selection::Self::kAll && from != Find(resident, query.collection)) {
    return Invalid("", "self_pairs", "TWO_COLLECTIONS",
                   absl::StrCat(v1::SelfPairs_Name(request.self_pairs()), ", but the queries are rows of \"",
                                range.collection(), "\" and \"", query.collection, "\" is searched"));
  }
  if (from != nullptr && (range.first() > from->rows || range.rows() > from->rows - range.first())) {
    return Error(absl::StatusCode::kOutOfRange, "ROWS_OUT_OF_RANGE",
                 absl::StrCat("resident_queries: ", range.rows(), " rows from ", range.first(),
                              " on, but collection \"", from->name, "\" has ", from->rows));
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status CheckDims(const MatrixView& queries, absl::string_view queries_name, const MatrixView& base,
                       absl::string_view base_name) {
  if (queries.rows == 0 || base.rows == 0 || queries.dim == base.dim) return absl::OkStatus();
  return Invalid(base_name, ".dim", "DIM_MISMATCH",
                 absl::StrCat(base.dim, ", but ", queries_name, ".dim is ", queries.dim));
}

absl::Status InMessage(uint64_t number, const absl::Status& status) {
  if (status.ok()) return status;
  absl::Status named(status.code(), absl::StrCat("message ", number, ": ", status.message()));
  status.ForEachPayload(
      [&](absl::string_view url, const absl::Cord& payload) { named.SetPayload(url, payload); });
  return named;
}

uint64_t RowsOf(const std::vector<CollectionInfo>& resident, absl::string_view name) {
  const CollectionInfo* const found = Find(resident, name);
  return found == nullptr ? 0 : found->rows;
}

uint64_t QueryRows(const Query& query, const std::vector<CollectionInfo>& resident) {
  if (!query.resident.has_value()) return query.rows.view.rows;
  if (query.resident->rows > 0) return query.resident->rows;
  const CollectionInfo* const from = ResidentCollection(query, resident);
  return from == nullptr ? 0 : from->rows - std::min(from->rows, query.resident->first);
}

uint64_t MaxReplyBytes(uint64_t query_rows, uint64_t rows, const Selection& selection) {
  // Tags and lengths of the arrays, best, coverage, stats, and what SearchResult adds, each at its largest.
  constexpr uint64_t kFixedBytes = 256;
  constexpr uint64_t kScoreBytes = 8;
  const bool global = selection.reduction == Reduction::kGlobal;
  const uint32_t top_k = selection.count_only ? 0 : selection.top_k;
  const absl::uint128 pairs = absl::uint128(query_rows) * rows;
  const absl::uint128 hits = global ? std::min<absl::uint128>(top_k, pairs)
                                    : absl::uint128(query_rows) * std::min<uint64_t>(top_k, rows);
  const uint64_t hit_bytes = kScoreBytes + VarintBytes(rows) + (global ? VarintBytes(query_rows) : 0);
  const absl::uint128 splits = global ? absl::uint128(0) : absl::uint128(query_rows) + 1;
  const absl::uint128 groups = global ? absl::uint128(1) : absl::uint128(query_rows);
  uint64_t group_bytes = 0;
  if (selection.tell_truncated) group_bytes += 1;
  if (selection.count_only) group_bytes += VarintBytes(global ? Saturated(pairs) : rows);
  return Saturated(kFixedBytes + hits * hit_bytes + splits * VarintBytes(Saturated(hits)) +
                   groups * group_bytes);
}

absl::StatusOr<Selection> SelectionFromProto(const v1::MaxInnerProductRequest& request,
                                             const RequestLimits& limits, absl::string_view at) {
  return SelectionOf(request, limits, at);
}

absl::Status ExclusionsFromProto(const v1::Exclusions& exclude, absl::string_view at, uint64_t query_rows,
                                 Selection& selection) {
  const auto& splits = exclude.row_splits();
  const auto& ids = exclude.ids();
  if (splits.empty() && ids.empty()) return absl::OkStatus();
  const auto malformed = [&](absl::string_view what) {
    return Invalid(at, "exclude.row_splits", "MALFORMED_SPLITS", what);
  };
  if (static_cast<uint64_t>(splits.size()) != absl::uint128(query_rows) + 1) {
    return malformed(absl::StrCat(splits.size(), " splits, but ", query_rows, " query rows take one more"));
  }
  if (splits[0] != 0) return malformed(absl::StrCat("the first is ", splits[0], ", not 0"));
  for (int i = 1; i < splits.size(); ++i) {
    if (splits[i] < splits[i - 1]) {
      return malformed(
          absl::StrCat("split ", i, " is ", splits[i], ", below the one before it, ", splits[i - 1]));
    }
  }
  const uint64_t last = splits[splits.size() - 1];
  if (last != static_cast<uint64_t>(ids.size())) {
    return malformed(absl::StrCat("the last is ", last, ", but there are ", ids.size(), " ids"));
  }
  if (ids.empty()) return absl::OkStatus();
  selection.excluded_splits.assign(splits.begin(), splits.end());
  selection.excluded.assign(ids.begin(), ids.end());
  for (int i = 1; i < splits.size(); ++i) {
    std::sort(selection.excluded.begin() + static_cast<int64_t>(splits[i - 1]),
              selection.excluded.begin() + static_cast<int64_t>(splits[i]));
  }
  return absl::OkStatus();
}

void FitTopK(const RequestLimits& limits, uint64_t query_rows, uint64_t rows, Selection& selection) {
  if (!selection.tell_truncated) return;
  const auto fits = [&](uint32_t top_k) {
    selection.top_k = top_k;
    return MaxReplyBytes(query_rows, rows, selection) <= limits.max_message_bytes;
  };
  // 1 even if that is too much, which CheckReply will say.
  uint32_t low = 1, high = std::max<uint32_t>(limits.max_top_k, 1);
  while (low < high) {
    const uint32_t middle = high - (high - low) / 2;
    if (fits(middle)) {
      low = middle;
    } else {
      high = middle - 1;
    }
  }
  selection.top_k = low;
}

absl::Status CheckReply(const RequestLimits& limits, absl::string_view at, uint64_t query_rows, uint64_t rows,
                        const Selection& selection) {
  const uint64_t reply = MaxReplyBytes(query_rows, rows, selection);
  if (reply <= limits.max_message_bytes) return absl::OkStatus();
  const bool counts = selection.count_only;
  return Invalid(
      at, counts ? "count_only" : "top_k", "REPLY_TOO_LARGE",
      absl::StrCat(counts ? "true" : absl::StrCat(selection.top_k), " for ", query_rows,
                   " query rows makes a reply of up to ", reply, " bytes, above the message limit of ",
                   limits.max_message_bytes, " (--max-message-bytes); send fewer rows at a time"));
}

absl::StatusOr<Query> QueryFromProto(const v1::SearchRequest& request, const RequestLimits& limits,
                                     const std::vector<CollectionInfo>& resident) {
  Query query;
  absl::StatusOr<Selection> selection = SelectionOf(request, limits, "");
  if (!selection.ok()) return selection.status();
  query.selection = *std::move(selection);
  query.collection = request.collection();
  if (request.has_version()) query.version = request.version();
  if (absl::Status s = QueriesFromProto(request, resident, query); !s.ok()) return s;
  // Of a collection that is not there nothing is known; the searcher will say it.
  if (query.resident.has_value() && ResidentCollection(query, resident) == nullptr) return query;
  const uint64_t query_rows = QueryRows(query, resident);
  const uint64_t rows = RowsOf(resident, query.collection);
  if (absl::Status s = ExclusionsFromProto(request.exclude(), "", query_rows, query.selection); !s.ok()) {
    return s;
  }
  FitTopK(limits, query_rows, rows, query.selection);
  if (absl::Status s = CheckReply(limits, "", query_rows, rows, query.selection); !s.ok()) return s;
  return query;
}

absl::StatusOr<Query> QueryFromProto(const v1::MaxInnerProductRequest& request, const RequestLimits& limits) {
  Query query;
  absl::StatusOr<Selection> selection = SelectionOf(request, limits, "");
  if (!selection.ok()) return selection.status();
  query.selection = *std::move(selection);
  if (!request.collection().empty()) {
    return Invalid(
        "", "collection", "COLLECTION_AND_BASE",
        absl::StrCat("\"", request.collection(),
                     "\", but here B comes with the request; Search and MaxInnerProductStream take "
                     "collections"));
  }
  absl::StatusOr<SharedMatrix> rows = MatrixFromProto(request.queries(), "queries");
  if (!rows.ok()) return rows.status();
  query.rows = *std::move(rows);
  absl::StatusOr<SharedMatrix> base = MatrixFromProto(request.base(), "base");
  if (!base.ok()) return base.status();
  query.base = *std::move(base);
  const MatrixView& a = query.rows.view;
  const MatrixView& b = query.base->view;
  if (absl::Status s = CheckDims(a, "queries", b, "base"); !s.ok()) return s;
  if (absl::Status s = ExclusionsFromProto(request.exclude(), "", a.rows, query.selection); !s.ok()) return s;
  FitTopK(limits, a.rows, b.rows, query.selection);
  if (absl::Status s = CheckReply(limits, "", a.rows, b.rows, query.selection); !s.ok()) return s;
  return query;
}

absl::StatusOr<PairsQuery> PairsFromProto(const v1::BatchMaxInnerProductRequest& request) {
  PairsQuery query;
  const absl::StatusOr<Metric> metric = CheckedMetric(request.metric(), "");
  if (!metric.ok()) return metric.status();
  query.metric = *metric;
  query.pairs.reserve(request.pairs_size());
  for (int p = 0; p < request.pairs_size(); ++p) {
    const std::string queries_name = absl::StrCat("pairs[", p, "].queries");
    const std::string base_name = absl::StrCat("pairs[", p, "].base");
    const absl::StatusOr<SharedMatrix> queries = MatrixFromProto(request.pairs(p).queries(), queries_name);
    if (!queries.ok()) return queries.status();
    const absl::StatusOr<SharedMatrix> base = MatrixFromProto(request.pairs(p).base(), base_name);
    if (!base.ok()) return base.status();
    if (absl::Status s = CheckDims(queries->view, queries_name, base->view, base_name); !s.ok()) return s;
    query.pairs.push_back({queries->view, base->view});
  }
  return query;
}

}  // namespace dotmax
