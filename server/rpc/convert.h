// Values between the wire and server/base, and the only place that turns an absl::Status into the wire's.
// What a request asks for is in request.h.
#ifndef DOTMAX_SERVER_RPC_CONVERT_H_
#define DOTMAX_SERVER_RPC_CONVERT_H_

#include <grpcpp/support/status.h>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "dotmax/v1/collections.pb.h"
#include "dotmax/v1/dotmax.pb.h"
#include "dotmax/v1/matrix.pb.h"
#include "google/rpc/status.pb.h"
#include "server/base/searcher.h"
#include "server/base/types.h"

namespace dotmax {

// The matrix of a message, checked as proto/dotmax/v1/matrix.proto says, without a copy: it borrows the
// bytes of `matrix` and has no owner. `field` is its name in the request ("queries").
absl::StatusOr<SharedMatrix> MatrixFromProto(const v1::Matrix& matrix, absl::string_view field);

void AnswerToProto(const Answer& answer, Reduction reduction, v1::SearchResponse* response);

void PairsAnswerToProto(const PairsAnswer& answer, v1::BatchMaxInnerProductResponse* response);

void CollectionToProto(const CollectionInfo& info, v1::Collection* collection);

// The same code and message, with google.rpc details: always ErrorInfo (domain "dotmax"), BadRequest when
// the status names a field, RetryInfo with RESOURCE_EXHAUSTED. REQUIRES: !status.ok().
google::rpc::Status StatusToProto(const absl::Status& status);

// The same, for the end of a call; OK stays OK.
grpc::Status ToGrpcStatus(const absl::Status& status);

}  // namespace dotmax

#endif  // DOTMAX_SERVER_RPC_CONVERT_H_
