// The service dotmax.v1.Dotmax: one reactor per RPC, in front of a Searcher.
#ifndef DOTMAX_SERVER_RPC_SEARCH_H_
#define DOTMAX_SERVER_RPC_SEARCH_H_

#include "dotmax/v1/dotmax.grpc.pb.h"
#include "server/rpc/call.h"

namespace dotmax {

// Takes requests as bytes: what does not parse, generated code would refuse as UNIMPLEMENTED, without a word
// and uncounted. Its streams would end as cancelled.
using RawDotmax = v1::Dotmax::WithRawCallbackMethod_Search<v1::Dotmax::WithRawCallbackMethod_SearchStream<
    v1::Dotmax::WithRawCallbackMethod_MaxInnerProduct<v1::Dotmax::WithRawCallbackMethod_MaxInnerProductStream<
        v1::Dotmax::WithRawCallbackMethod_BatchMaxInnerProduct<
            v1::Dotmax::WithRawCallbackMethod_BatchMaxInnerProductStream<v1::Dotmax::Service>>>>>>;

// Thread-safe. `backend` and `open` outlive the server that it is registered with.
class SearchService final : public RawDotmax {
 public:
  SearchService(const Backend& backend, OpenCalls* open) : backend_(backend), open_(open) {}

  grpc::ServerUnaryReactor* Search(grpc::CallbackServerContext* context, const grpc::ByteBuffer* request,
                                   grpc::ByteBuffer* response) override;
  grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer>* SearchStream(
      grpc::CallbackServerContext* context) override;
  grpc::ServerUnaryReactor* MaxInnerProduct(grpc::CallbackServerContext* context,
                                            const grpc::ByteBuffer* request,
                                            grpc::ByteBuffer* response) override;
  grpc::ServerReadReactor<grpc::ByteBuffer>* MaxInnerProductStream(grpc::CallbackServerContext* context,
                                                                   grpc::ByteBuffer* response) override;
  grpc::ServerUnaryReactor* BatchMaxInnerProduct(grpc::CallbackServerContext* context,
                                                 const grpc::ByteBuffer* request,
                                                 grpc::ByteBuffer* response) override;
  grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer>* BatchMaxInnerProductStream(
      grpc::CallbackServerContext* context) override;

 private:
  const Backend& backend_;
  OpenCalls* const open_;
};

}  // namespace dotmax

#endif  // DOTMAX_SERVER_RPC_SEARCH_H_
