// Client's searches: of a collection, by rows of a collection, and of two matrices.
#include <algorithm>
#include <optional>
#include <utility>

#include "absl/functional/function_ref.h"
#include "absl/strings/str_cat.h"
#include "client/cpp/impl.h"
#include "client/cpp/join.h"

namespace dotmax {
namespace {

// Asks about query rows [0, total) in parts that fit into messages, and joins the results. `ask(first, rows,
// version, response)` asks about [first, first + rows), and of the version that the first part was answered
// from.
absl::StatusOr<SearchResult> InParts(
    const SearchOptions& options, uint64_t total, size_t row_bytes, size_t budget,
    absl::FunctionRef<absl::Status(uint64_t first, uint64_t rows, std::optional<uint64_t> version,
                                   v1::SearchResponse* response)>
        ask) {
  if (absl::Status s = CheckExclusions(options, total); !s.ok()) return s;
  SearchResult result;
  std::optional<uint64_t> version = options.version;
  uint64_t first = 0;
  do {
    const uint64_t rows = total == 0 ? 0 : RowsOfPart(options, first, total, row_bytes, budget);
    v1::SearchResponse response;
    if (absl::Status s = ask(first, rows, version, &response); !s.ok()) return s;
    if (first == 0) {
      result = ResultFromProto(response);
      if (result.version != 0) version = result.version;
    } else {
      Append(ResultFromProto(response), first, options, result);
    }
    first += rows;
  } while (first < total);
  return result;
}

void Tell(const SearchOptions& options, uint64_t done, uint64_t total) {
  if (options.progress) options.progress(done, total);
}

}  // namespace

absl::Status CheckRows(const Rows& rows, absl::string_view name) {
  if (rows.dim == 0 ? rows.bytes == 0 : rows.bytes % rows.row_bytes() == 0) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(name, ": ", rows.bytes, " bytes are not a whole number of rows of dim ", rows.dim));
}

absl::StatusOr<SearchResult> Client::Search(const Rows& queries, const SearchOptions& options) const {
  if (absl::Status s = CheckRows(queries, "queries"); !s.ok()) return s;
  const absl::Time deadline = impl_->Deadline(options.timeout);
  return InParts(
      options, queries.count(), queries.row_bytes(), impl_->Budget(options.max_message_bytes),
      [&](uint64_t first, uint64_t rows, std::optional<uint64_t> version, v1::SearchResponse* response) {
        v1::SearchRequest request = RequestOf(options, first, rows, version);
        ToProto(queries, first, rows, request.mutable_queries());
        grpc::ClientContext context;
        impl_->Prepare(context, deadline);
        const grpc::Status status = impl_->search->Search(&context, request, response);
        Tell(options, first + rows, queries.count());
        return FromGrpc(status);
      });
}

absl::StatusOr<SearchResult> Client::SearchRows(const CollectionRows& queries, SelfPairs self,
                                                const SearchOptions& options) const {
  const absl::Time deadline = impl_->Deadline(options.timeout);
  // How many rows there are, for the parts; not needed where one reply holds the hits of any number.
  uint64_t total = queries.rows;
  if (total == 0 && !(options.global && options.exclude.ids.empty())) {
    const absl::StatusOr<ServerDescription> server = Describe();
    if (!server.ok()) return server.status();
    const std::string& name = queries.collection.empty() ? options.collection : queries.collection;
    for (const CollectionDescription& c : server->collections) {
      if (c.name != name && !(name.empty() && server->collections.size() == 1)) continue;
      total = c.rows - std::min(c.rows, queries.first);
    }
  }
  return InParts(
      options, total, /*row_bytes=*/0, impl_->Budget(options.max_message_bytes),
      [&](uint64_t first, uint64_t rows, std::optional<uint64_t> version, v1::SearchResponse* response) {
        v1::SearchRequest request = RequestOf(options, first, rows, version);
        request.set_self_pairs(ToProto(self));
        v1::RowRange* const range = request.mutable_resident_queries();
        range->set_collection(queries.collection);
        range->set_first(queries.first + first);
        range->set_rows(rows);
        grpc::ClientContext context;
        impl_->Prepare(context, deadline);
        const grpc::Status status = impl_->search->Search(&context, request, response);
        Tell(options, first + rows, total);
        return FromGrpc(status);
      });
}

absl::Status Client::Impl::StreamMax(v1::MaxInnerProductRequest start, const Rows& base, size_t budget,
                                     absl::Time deadline, const std::function<void(uint64_t done)>& progress,
                                     v1::SearchResponse* response) const {
  // Large enough to cost little each, small enough that the first ones are searched while others are sent.
  constexpr size_t kBlockBytes = size_t{4} << 20;
  grpc::ClientContext context;
  Prepare(context, deadline);
  const auto stream = search->MaxInnerProductStream(&context, response);
  v1::MaxInnerProductStreamRequest message;
  *message.mutable_start() = std::move(start);
  bool open = stream->Write(message);
  const size_t block_rows =
      std::max<size_t>(1, std::min(budget, kBlockBytes) / std::max<size_t>(base.row_bytes(), 1));
  for (size_t first = 0; open && first < base.count(); first += block_rows) {
    const size_t rows = std::min(block_rows, base.count() - first);
    ToProto(base, first, rows, message.mutable_base());
    open = stream->Write(message);
    if (open) progress(first + rows);
  }
  if (open) stream->WritesDone();
  return FromGrpc(stream->Finish());
}

absl::StatusOr<SearchResult> Client::MaxInnerProduct(const Rows& queries, const Rows& base,
                                                     const SearchOptions& options) const {
  if (absl::Status s = CheckRows(queries, "queries"); !s.ok()) return s;
  if (absl::Status s = CheckRows(base, "base"); !s.ok()) return s;
  const absl::Time deadline = impl_->Deadline(options.timeout);
  const size_t budget = impl_->Budget(options.max_message_bytes);
  const uint64_t pairs = queries.count() * base.count();
  return InParts(
      options, queries.count(), queries.row_bytes(), budget,
      [&](uint64_t first, uint64_t rows, std::optional<uint64_t> /*version*/, v1::SearchResponse* response) {
        v1::MaxInnerProductRequest request;
        AskOf(options, first, rows, &request);
        ToProto(queries, first, rows, request.mutable_queries());
        if (request.ByteSizeLong() + base.bytes > budget) {
          return impl_->StreamMax(
              std::move(request), base, budget, deadline,
              [&](uint64_t done) { Tell(options, first * base.count() + rows * done, pairs); }, response);
        }
        ToProto(base, 0, base.count(), request.mutable_base());
        grpc::ClientContext context;
        impl_->Prepare(context, deadline);
        const grpc::Status status = impl_->search->MaxInnerProduct(&context, request, response);
        Tell(options, (first + rows) * base.count(), pairs);
        return FromGrpc(status);
      });
}

}  // namespace dotmax
