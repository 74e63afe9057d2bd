// Results as text: an aligned table for people, JSON for programs.
#ifndef DOTMAX_CLIENT_CLI_FORMAT_H_
#define DOTMAX_CLIENT_CLI_FORMAT_H_

#include <string>
#include <vector>

#include "dotmax/client.h"

namespace dotmax {

// Names for what would otherwise be numbers; empty where there are none.
struct Names {
  std::vector<std::string> queries;  // by query row
  std::vector<std::string> rows;     // by id
};

// Columns as wide as their widest cell, two blanks between them.
std::string Table(const std::vector<std::vector<std::string>>& rows);

// One line per hit: query, rank, id, name if any, score.
std::string HitsTable(const SearchResult& result, const Names& names);

// One JSON object per line. Per query row:
//   {"query_row":0,"query":"king","hits":[{"id":691,"name":"king","score":33.1},...]}
// Global: one line, its hits with their query rows. With "truncated":true where there are more within a
// range. Scores read back as the same float64.
std::string HitsJson(const SearchResult& result, const Names& names);

// How many hits there are within a range, per query row or of all.
std::string CountsTable(const SearchResult& result, const Names& names, bool global);
// {"query_row":0,"query":"king","count":7} by line, or {"count":7}.
std::string CountsJson(const SearchResult& result, const Names& names, bool global);

std::string InfoTable(const ServerDescription& server);
std::string InfoJson(const ServerDescription& server);

}  // namespace dotmax

#endif  // DOTMAX_CLIENT_CLI_FORMAT_H_
