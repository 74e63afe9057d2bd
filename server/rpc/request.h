// What a request asks for, as server/base says it; whatever a request can get wrong is refused here, by field
// and value, before anything is computed. Whether a collection exists and has the right dim is for the
// searcher to say.
#ifndef DOTMAX_SERVER_RPC_REQUEST_H_
#define DOTMAX_SERVER_RPC_REQUEST_H_

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "dotmax/v1/dotmax.pb.h"
#include "server/base/searcher.h"
#include "server/base/types.h"

namespace dotmax {

// What requests of this server meet.
struct RequestLimits {
  uint32_t max_top_k = 1000;
  uint64_t max_message_bytes = uint64_t{64} << 20;  // of a request, and of a reply
};

// The question of a request, without its deadline. Borrows the bytes of `request`. `resident` is what the
// searcher holds: a reply that cannot be sent is refused before it is computed.
absl::StatusOr<Query> QueryFromProto(const v1::SearchRequest& request, const RequestLimits& limits,
                                     const std::vector<CollectionInfo>& resident);
absl::StatusOr<Query> QueryFromProto(const v1::MaxInnerProductRequest& request, const RequestLimits& limits);

// Borrows the bytes of `request`, and has no owner.
absl::StatusOr<PairsQuery> PairsFromProto(const v1::BatchMaxInnerProductRequest& request);

// The rows of A: those sent, or those of a collection in `resident`; 0 when there is no such collection.
uint64_t QueryRows(const Query& query, const std::vector<CollectionInfo>& resident);

// The rows of the collection that `name` means (empty: the only one), or 0.
uint64_t RowsOf(const std::vector<CollectionInfo>& resident, absl::string_view name);

// The parts of QueryFromProto, for streams, which learn the rows of A and B later. `at` precedes fields in
// messages: "start.".

// What does not depend on any rows.
absl::StatusOr<Selection> SelectionFromProto(const v1::MaxInnerProductRequest& request,
                                             const RequestLimits& limits, absl::string_view at);

// The exclusions, sorted by row, into `selection`.
absl::Status ExclusionsFromProto(const v1::Exclusions& exclude, absl::string_view at, uint64_t query_rows,
                                 Selection& selection);

// With all hits of a range asked for (tell_truncated): as many as the limits allow, of `rows` rows.
void FitTopK(const RequestLimits& limits, uint64_t query_rows, uint64_t rows, Selection& selection);

// Whether the reply fits into a message.
absl::Status CheckReply(const RequestLimits& limits, absl::string_view at, uint64_t query_rows, uint64_t rows,
                        const Selection& selection);

// An upper bound of the reply's size on the wire, for `query_rows` rows over `rows` of the base; saturates.
uint64_t MaxReplyBytes(uint64_t query_rows, uint64_t rows, const Selection& selection);

// kInvalidArgument under "base.dim", by the names of both, when matrices that both have rows differ in dim.
absl::Status CheckDims(const MatrixView& queries, absl::string_view queries_name, const MatrixView& base,
                       absl::string_view base_name);

// The same failure, its message begun with "message 7: ". Ok stays ok.
absl::Status InMessage(uint64_t number, const absl::Status& status);

}  // namespace dotmax

#endif  // DOTMAX_SERVER_RPC_REQUEST_H_
