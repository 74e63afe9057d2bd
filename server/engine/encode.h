// The queries of a block as the int8 screen wants them.
#ifndef DOTMAX_SERVER_ENGINE_ENCODE_H_
#define DOTMAX_SERVER_ENGINE_ENCODE_H_

#include <array>
#include <cstddef>
#include <vector>

#include "absl/status/statusor.h"
#include "server/engine/balls.h"
#include "server/engine/pass.h"
#include "server/engine/quantize.h"
#include "server/engine/reduce.h"

namespace dotmax {

// The lengths of queries side by side, by column, for vectors.
struct QueryColumns {
  void Set(size_t c, const QueryCode& query) {
    code_error[c] = query.code_error;
    projection_norm[c] = query.projection_norm;
    tail_excess[c] = query.tail_excess;
    scale[c] = query.scale;
    inverse_scale[c] = query.inverse_scale;
    offset[c] = query.offset;
  }
  // For inner products of at least these, by column.
  ThresholdColumns Wanting(const double* scores) const {
    return {scores,       code_error.data(), projection_norm.data(), tail_excess.data(), inverse_scale.data(),
            offset.data()};
  }

  std::array<double, kMaxColumns> code_error, projection_norm, tail_excess, scale, inverse_scale, offset;
};

struct EncodedBlock {
  EncodedQueries queries;
  EncodedQueries again;  // for a second look, if there is one
  EncodedRests rests;    // of the latter, or the former; none for short rows
  // If whole rows are deflated: what their parts along the direction are multiplied by and added to scores,
  // on the query's scale, by query.
  std::vector<double> along;
};

// Projects and encodes a block for `rows`, and for their fine codes, if there are any; or, `by_head`, for
// their head, and for them as a second look (they are unrotated, or share axes). By all workers of `buffers`;
// valid until the next call with these.
absl::StatusOr<EncodedBlock> EncodeBlock(const Int8Codes& rows, bool by_head, const QueryBlock& block,
                                         PassBuffers& buffers);

}  // namespace dotmax

#endif  // DOTMAX_SERVER_ENGINE_ENCODE_H_
