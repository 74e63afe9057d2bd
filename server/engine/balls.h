// The balls around tiles of near rows, as the queries of a block see them: which tiles come first, and which
// may be left out.
#ifndef DOTMAX_SERVER_ENGINE_BALLS_H_
#define DOTMAX_SERVER_ENGINE_BALLS_H_

#include <cstddef>
#include <cstdint>
#include <vector>

#include "server/engine/pass.h"
#include "server/engine/quantize.h"

namespace dotmax {

// Queries for some rows' codes: `stride` bytes each.
struct EncodedQueries {
  const QueryCode& operator[](size_t q) const { return queries[q]; }
  const int8_t* codes_of(size_t q) const { return codes + q * stride; }

  std::vector<QueryCode> queries;
  const int8_t* codes = nullptr;
  size_t stride = 0;
};

// What the balls around tiles say of each query; valid until the next is measured.
struct Balls {
  double* bounds = nullptr;  // upper bounds of scaled merits: tile · queries + query
  // Queries by the tiles with the largest scores of their centres: those of tile t are at first[t] to
  // first[t + 1].
  std::vector<uint32_t> queries, first;
};

// For the queries of a block, encoded for `rows`, which have centre codes: scored against these by the
// workers of `buffers`, and its kernels, of which `kernels` has those for all widths of up to as many
// queries. Costs a row's score and about ten instructions per ball and query.
Balls MeasureBalls(const Int8Codes& rows, const QueryBlock& block, const EncodedQueries& queries,
                   const KernelByColumns& kernels, PassBuffers& buffers);

}  // namespace dotmax

#endif  // DOTMAX_SERVER_ENGINE_BALLS_H_
