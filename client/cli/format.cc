#include "client/cli/format.h"

#include <algorithm>

#include "absl/functional/function_ref.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "server/base/json.h"

namespace dotmax {
namespace {

using Row = std::vector<std::string>;

const char* TypeName(ElementType type) {
  switch (type) {
    case ElementType::kFloat32:
      return "float32";
    case ElementType::kFloat16:
      return "float16";
    case ElementType::kBFloat16:
      return "bfloat16";
    case ElementType::kFloat64:
      return "float64";
    case ElementType::kInt8:
      return "int8";
  }
  return "unknown";
}

// Code points, which is what most terminals give one column each.
size_t Width(absl::string_view text) {
  return std::count_if(text.begin(), text.end(), [](char c) { return (c & 0xc0) != 0x80; });
}

std::string NameOr(const std::vector<std::string>& names, uint64_t i) {
  return i < names.size() ? names[i] : absl::StrCat(i);
}

// What a JSON object says of its query row.
std::string QueryFields(const Names& names, uint64_t query_row) {
  std::string out = absl::StrCat("\"query_row\":", query_row);
  if (!names.queries.empty())
    absl::StrAppend(&out, ",\"query\":", JsonString(NameOr(names.queries, query_row)));
  return out;
}

// Calls visit(query row, rank from 1, hit) for every hit.
void ForEachHit(const SearchResult& result,
                absl::FunctionRef<void(uint64_t query_row, size_t rank, size_t hit)> visit) {
  if (result.row_splits.empty()) {
    for (size_t hit = 0; hit < result.query_rows.size(); ++hit) visit(result.query_rows[hit], hit + 1, hit);
    return;
  }
  for (size_t row = 0; row < result.query_count(); ++row) {
    for (size_t hit = result.begin(row); hit < result.end(row); ++hit) {
      visit(row, hit - result.begin(row) + 1, hit);
    }
  }
}

}  // namespace

std::string Table(const std::vector<std::vector<std::string>>& rows) {
  std::vector<size_t> widths;
  for (const std::vector<std::string>& row : rows) {
    widths.resize(std::max(widths.size(), row.size()));
    for (size_t c = 0; c < row.size(); ++c) widths[c] = std::max(widths[c], Width(row[c]));
  }
  std::string out;
  for (const std::vector<std::string>& row : rows) {
    for (size_t c = 0; c < row.size(); ++c) {
      absl::StrAppend(&out, row[c]);
      if (c + 1 < row.size()) out.append(widths[c] - Width(row[c]) + 2, ' ');
    }
    out += '\n';
  }
  return out;
}

std::string HitsTable(const SearchResult& result, const Names& names) {
  const bool named = !names.rows.empty();
  std::vector<Row> rows = {named ? Row{"query", "rank", "id", "name", "score"}
                                 : Row{"query", "rank", "id", "score"}};
  ForEachHit(result, [&](uint64_t query_row, size_t rank, size_t hit) {
    Row row = {NameOr(names.queries, query_row), absl::StrCat(rank), absl::StrCat(result.ids[hit])};
    if (named) row.push_back(NameOr(names.rows, result.ids[hit]));
    row.push_back(JsonNumber(result.scores[hit]));
    rows.push_back(std::move(row));
  });
  return Table(rows);
}

std::string HitsJson(const SearchResult& result, const Names& names) {
  const bool global = result.row_splits.empty();
  const auto query_fields = [&](uint64_t query_row) { return QueryFields(names, query_row); };
  const auto hit_object = [&](uint64_t query_row, size_t hit) {
    std::string out = "{";
    if (global) absl::StrAppend(&out, query_fields(query_row), ",");
    absl::StrAppend(&out, "\"id\":", result.ids[hit]);
    if (!names.rows.empty())
      absl::StrAppend(&out, ",\"name\":", JsonString(NameOr(names.rows, result.ids[hit])));
    return absl::StrCat(out, ",\"score\":", JsonNumber(result.scores[hit]), "}");
  };
  std::vector<std::vector<std::string>> hits(global ? 1 : result.query_count());
  ForEachHit(result, [&](uint64_t query_row, size_t, size_t hit) {
    hits[global ? 0 : query_row].push_back(hit_object(query_row, hit));
  });
  std::string out;
  for (size_t line = 0; line < hits.size(); ++line) {
    absl::StrAppend(
        &out, "{", global ? "" : query_fields(line) + ",", "\"hits\":[", absl::StrJoin(hits[line], ","), "]",
        line < result.truncated.size() && result.truncated[line] ? ",\"truncated\":true" : "", "}\n");
  }
  return out;
}

std::string CountsTable(const SearchResult& result, const Names& names, bool global) {
  std::vector<Row> rows = {global ? Row{"count"} : Row{"query", "count"}};
  for (size_t i = 0; i < result.counts.size(); ++i) {
    const std::string count = absl::StrCat(result.counts[i]);
    rows.push_back(global ? Row{count} : Row{NameOr(names.queries, i), count});
  }
  return Table(rows);
}

std::string CountsJson(const SearchResult& result, const Names& names, bool global) {
  std::string out;
  for (size_t i = 0; i < result.counts.size(); ++i) {
    absl::StrAppend(&out, "{", global ? "" : QueryFields(names, i) + ",", "\"count\":", result.counts[i],
                    "}\n");
  }
  return out;
}

std::string InfoTable(const ServerDescription& server) {
  std::vector<Row> rows = {{"collection", "version", "rows", "dim", "dtype", "resident bytes", "screen"}};
  for (const CollectionDescription& c : server.collections) {
    rows.push_back({c.name, absl::StrCat(c.version), absl::StrCat(c.rows), absl::StrCat(c.dim),
                    TypeName(c.type), absl::StrCat(c.resident_bytes),
                    c.file_changed ? "its file has changed: reload it" : c.screen});
  }
  std::vector<Row> estimates = {{"collection", "screen considered", "us per query alone", "in a batch"}};
  const auto microseconds = [](double seconds) { return absl::StrFormat("%.1f", seconds * 1e6); };
  for (const CollectionDescription& c : server.collections) {
    for (const ScreenTiming& e : c.estimates) {
      estimates.push_back({c.name, e.screen,
                           e.single_query_seconds ? microseconds(*e.single_query_seconds) : "-",
                           microseconds(e.batch_query_seconds)});
    }
  }
  const std::string considered = estimates.size() > 1 ? Table(estimates) : "";
  return absl::StrCat(Table(rows), considered, "limits: top_k ", server.max_top_k, ", message ",
                      server.max_message_bytes, " bytes\n");
}

std::string InfoJson(const ServerDescription& server) {
  std::vector<std::string> collections;
  for (const CollectionDescription& c : server.collections) {
    std::vector<std::string> estimates;
    for (const ScreenTiming& e : c.estimates) {
      estimates.push_back(absl::StrCat("{\"screen\":", JsonString(e.screen),
                                       ",\"batch_query_seconds\":", JsonNumber(e.batch_query_seconds)));
      if (e.single_query_seconds) {
        absl::StrAppend(&estimates.back(), ",\"single_query_seconds\":", JsonNumber(*e.single_query_seconds));
      }
      estimates.back() += "}";
    }
    collections.push_back(absl::StrCat(
        "{\"name\":", JsonString(c.name), ",\"version\":", c.version, ",\"rows\":", c.rows,
        ",\"dim\":", c.dim, ",\"dtype\":\"", TypeName(c.type), "\",\"resident_bytes\":", c.resident_bytes,
        ",\"screen\":", JsonString(c.screen), c.file_changed ? ",\"file_changed\":true" : "",
        ",\"estimates\":[", absl::StrJoin(estimates, ","), "]}"));
  }
  return absl::StrCat("{\"collections\":[", absl::StrJoin(collections, ","),
                      "],\"limits\":{\"max_top_k\":", server.max_top_k,
                      ",\"max_message_bytes\":", server.max_message_bytes, "}}\n");
}

}  // namespace dotmax
