// Client::MaxOfPairs: many pairs of matrices, in as many messages as they take.
#include <utility>

#include "absl/strings/str_cat.h"
#include "client/cpp/impl.h"

namespace dotmax {
namespace {

// What a pair takes beside its rows: shapes, tags and lengths.
constexpr size_t kPairBytes = 64;

size_t BytesOf(const RowsPair& pair) { return pair.queries.bytes + pair.base.bytes + kPairBytes; }

// Adds the best of pair `pair`.
void Add(const PairsResult::Best& hit, ScoreMetric metric, PairsResult& result) {
  result.pairs.push_back(hit.pair);
  result.query_rows.push_back(hit.query_row);
  result.ids.push_back(hit.id);
  result.scores.push_back(hit.score);
  const bool smallest = metric == ScoreMetric::kSquaredEuclidean;
  // Ties go to the lower pair: to what is there.
  if (!result.best.has_value() ||
      (smallest ? hit.score < result.best->score : hit.score > result.best->score)) {
    result.best = hit;
  }
}

// Pairs [first, first + count) of all: one message.
struct Group {
  size_t first = 0;
  size_t count = 0;
};

// A stream that is written one message ahead of what is read. The server reads one ahead, too, so that
// neither waits for the other.
class PairsStream {
 public:
  PairsStream(v1::Dotmax::Stub& stub, grpc::ClientContext* context, absl::Span<const RowsPair> pairs,
              const PairsOptions& options, PairsResult& result)
      : pairs_(pairs),
        options_(options),
        result_(result),
        stream_(stub.BatchMaxInnerProductStream(context)) {}

  absl::Status Run(const std::vector<Group>& groups) {
    size_t read = 0;
    bool open = true;
    for (size_t written = 0; open && written < groups.size(); ++written) {
      open = stream_->Write(RequestOf(groups[written]));
      if (open && written > read) open = Read(groups[read++]);
    }
    if (open) stream_->WritesDone();
    while (open && read < groups.size()) open = Read(groups[read++]);
    const absl::Status status = FromGrpc(stream_->Finish());
    if (status.ok() && !open) return absl::InternalError("the server ended the stream too early");
    return status;
  }

 private:
  v1::BatchMaxInnerProductRequest RequestOf(const Group& group) const {
    v1::BatchMaxInnerProductRequest request;
    request.set_metric(ToProto(options_.metric));
    for (const RowsPair& pair : pairs_.subspan(group.first, group.count)) {
      v1::MatrixPair* const out = request.add_pairs();
      ToProto(pair.queries, 0, pair.queries.count(), out->mutable_queries());
      ToProto(pair.base, 0, pair.base.count(), out->mutable_base());
    }
    return request;
  }

  // The response for `group`. The server has counted pairs of this stream alone.
  bool Read(const Group& group) {
    v1::BatchMaxInnerProductResponse response;
    if (!stream_->Read(&response)) return false;
    for (int i = 0; i < response.ids_size(); ++i) {
      const uint64_t pair = response.pairs(i) - counted_ + group.first;
      Add({pair, response.query_rows(i), response.ids(i), response.scores(i)}, options_.metric, result_);
    }
    counted_ += group.count;
    result_.queue_seconds += response.stats().queue_seconds();
    result_.compute_seconds += response.stats().compute_seconds();
    return true;
  }

  const absl::Span<const RowsPair> pairs_;
  const PairsOptions& options_;
  PairsResult& result_;
  uint64_t counted_ = 0;
  const std::unique_ptr<
      grpc::ClientReaderWriter<v1::BatchMaxInnerProductRequest, v1::BatchMaxInnerProductResponse>>
      stream_;
};

}  // namespace

absl::StatusOr<PairsResult> Client::MaxOfPairs(absl::Span<const RowsPair> pairs,
                                               const PairsOptions& options) const {
  for (size_t p = 0; p < pairs.size(); ++p) {
    if (absl::Status s = CheckRows(pairs[p].queries, absl::StrCat("pairs[", p, "].queries")); !s.ok())
      return s;
    if (absl::Status s = CheckRows(pairs[p].base, absl::StrCat("pairs[", p, "].base")); !s.ok()) return s;
  }
  const absl::Time deadline = impl_->Deadline(options.timeout);
  const size_t budget = impl_->Budget(options.max_message_bytes);
  PairsResult result;
  for (size_t next = 0; next < pairs.size();) {
    if (BytesOf(pairs[next]) > budget) {
      // Alone larger than a message.
      const absl::StatusOr<SearchResult> best =
          MaxInnerProduct(pairs[next].queries, pairs[next].base,
                          {.global = true,
                           .metric = options.metric,
                           .timeout = deadline - absl::Now(),
                           .max_message_bytes = options.max_message_bytes});
      if (!best.ok()) {
        return absl::Status(best.status().code(),
                            absl::StrCat("pairs[", next, "]: ", best.status().message()));
      }
      if (best->best.has_value()) {
        Add({next, best->best->query_row, best->best->id, best->best->score}, options.metric, result);
      }
      result.queue_seconds += best->queue_seconds;
      result.compute_seconds += best->compute_seconds;
      ++next;
      continue;
    }
    std::vector<Group> groups;
    while (next < pairs.size() && BytesOf(pairs[next]) <= budget) {
      Group& group = groups.emplace_back(Group{next, 0});
      for (size_t bytes = 0; next < pairs.size() && bytes + BytesOf(pairs[next]) <= budget; ++next) {
        bytes += BytesOf(pairs[next]);
        ++group.count;
      }
    }
    grpc::ClientContext context;
    impl_->Prepare(context, deadline);
    PairsStream stream(*impl_->search, &context, pairs, options, result);
    if (absl::Status s = stream.Run(groups); !s.ok()) return s;
  }
  return result;
}

}  // namespace dotmax
