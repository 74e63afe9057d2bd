// Between the wire and server/base: the only place that knows both, and the only one that turns an
// absl::Status into a grpc::Status.
#ifndef DOTMAX_SERVER_RPC_CONVERT_H_
#define DOTMAX_SERVER_RPC_CONVERT_H_

#include <grpcpp/support/status.h>

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "dotmax/v1/collections.pb.h"
#include "dotmax/v1/dotmax.pb.h"
#include "dotmax/v1/matrix.pb.h"
#include "server/base/searcher.h"
#include "server/base/types.h"

namespace dotmax {

// What requests of this server meet.
struct RequestLimits {
  uint32_t max_top_k = 1000;
  uint64_t max_message_bytes = uint64_t{64} << 20;  // of a request, and of a reply
};

// The matrix of a message, checked as proto/dotmax/v1/matrix.proto says, without a copy: it borrows the
// bytes of `matrix` and has no owner. `field` is its name in the request ("queries").
absl::StatusOr<SharedMatrix> MatrixFromProto(const v1::Matrix& matrix, absl::string_view field);

// The question of a request, without its deadline. Borrows the bytes of `request`. `resident` is what the
// searcher holds: a reply that cannot be sent is refused before it is computed. Whether the collection
// exists and has the right dim is for the searcher to say.
absl::StatusOr<Query> QueryFromProto(const v1::SearchRequest& request, const RequestLimits& limits,
                                     const std::vector<CollectionInfo>& resident);

// An upper bound of the reply's size on the wire, for `queries` rows over `rows` resident ones; saturates.
uint64_t MaxReplyBytes(uint64_t queries, uint64_t rows, uint32_t top_k, Reduction reduction);

void AnswerToProto(const Answer& answer, Reduction reduction, v1::SearchResponse* response);

void CollectionToProto(const CollectionInfo& info, v1::Collection* collection);

// The same code and message, with google.rpc details: always ErrorInfo (domain "dotmax"), BadRequest when
// the status names a field, RetryInfo with RESOURCE_EXHAUSTED.
grpc::Status ToGrpcStatus(const absl::Status& status);

}  // namespace dotmax

#endif  // DOTMAX_SERVER_RPC_CONVERT_H_
