// One question over many query rows, asked in parts: how it is cut, and how the results are joined.
#ifndef DOTMAX_CLIENT_CPP_JOIN_H_
#define DOTMAX_CLIENT_CPP_JOIN_H_

#include <cstddef>
#include <cstdint>
#include <optional>

#include "absl/status/status.h"
#include "dotmax/client.h"
#include "dotmax/v1/dotmax.pb.h"

namespace dotmax {

// kInvalidArgument unless the exclusions of `options` are of `query_rows` rows.
absl::Status CheckExclusions(const SearchOptions& options, uint64_t query_rows);

// How many of the query rows [first, total), of `row_bytes` each when sent, go into one message with their
// exclusions, and their hits into one reply: at least 1.
uint64_t RowsOfPart(const SearchOptions& options, uint64_t first, uint64_t total, size_t row_bytes,
                    size_t budget);

// What is asked of query rows [first, first + rows), but for A, B and the collection. Request is
// SearchRequest or MaxInnerProductRequest.
template <typename Request>
void AskOf(const SearchOptions& options, uint64_t first, uint64_t rows, Request* request);

// The same, and which collection and version is asked: all but the queries.
v1::SearchRequest RequestOf(const SearchOptions& options, uint64_t first, uint64_t rows,
                            std::optional<uint64_t> version);

// Adds the result for query rows [first_row, ...) to the result for those before.
void Append(SearchResult part, uint64_t first_row, const SearchOptions& options, SearchResult& all);

}  // namespace dotmax

#endif  // DOTMAX_CLIENT_CPP_JOIN_H_
