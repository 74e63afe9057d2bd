// The service dotmax.v1.Dotmax: one reactor per RPC, in front of a Searcher.
#ifndef DOTMAX_SERVER_RPC_SEARCH_H_
#define DOTMAX_SERVER_RPC_SEARCH_H_

#include "dotmax/v1/dotmax.grpc.pb.h"
#include "server/rpc/call.h"

namespace dotmax {

// Thread-safe. `backend` and `open` outlive the server that it is registered with. Takes requests as bytes:
// what does not parse, generated code would refuse as UNIMPLEMENTED, without a word and uncounted.
class SearchService final : public v1::Dotmax::WithRawCallbackMethod_Search<v1::Dotmax::Service> {
 public:
  SearchService(const Backend& backend, OpenCalls* open) : backend_(backend), open_(open) {}

  grpc::ServerUnaryReactor* Search(grpc::CallbackServerContext* context, const grpc::ByteBuffer* request,
                                   grpc::ByteBuffer* response) override;

 private:
  const Backend& backend_;
  OpenCalls* const open_;
};

}  // namespace dotmax

#endif  // DOTMAX_SERVER_RPC_SEARCH_H_
