// The queries of a block as the int8 screen wants them.
#ifndef DOTMAX_SERVER_ENGINE_ENCODE_H_
#define DOTMAX_SERVER_ENGINE_ENCODE_H_

#include "absl/status/statusor.h"
#include "server/engine/balls.h"
#include "server/engine/pass.h"
#include "server/engine/quantize.h"

namespace dotmax {

struct EncodedBlock {
  EncodedQueries queries;
  EncodedQueries fine;  // for the rows' fine codes, if there are any
};

// Projects and encodes a block for `rows`, by all workers of `buffers`; valid until the next call with these.
absl::StatusOr<EncodedBlock> EncodeBlock(const Int8Codes& rows, const QueryBlock& block,
                                         PassBuffers& buffers);

}  // namespace dotmax

#endif  // DOTMAX_SERVER_ENGINE_ENCODE_H_
