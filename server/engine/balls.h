// The balls around tiles of near rows, as the queries of a block see them: which tiles come first, and which
// may be left out.
#ifndef DOTMAX_SERVER_ENGINE_BALLS_H_
#define DOTMAX_SERVER_ENGINE_BALLS_H_

#include <cstddef>
#include <cstdint>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/types/span.h"
#include "server/engine/pass.h"
#include "server/engine/quantize.h"

namespace dotmax {

// Queries for some rows' codes: `stride` bytes each.
template <class Code>
struct Encoded {
  const Code& operator[](size_t q) const { return queries[q]; }
  const int8_t* codes_of(size_t q) const { return codes + q * stride; }

  std::vector<Code> queries;
  const int8_t* codes = nullptr;
  size_t stride = 0;
};
using EncodedQueries = Encoded<QueryCode>;
using EncodedRests = Encoded<QueryRest>;  // what those miss

// What the balls around tiles say of each query; valid until the next are made.
class Balls {
 public:
  Balls() = default;
  // For the queries of a block, encoded for `rows`, which have centre codes and outlive this: scored against
  // these by the workers of `buffers`, and its kernels, of which `kernels` has those for all widths of up to
  // as many queries. Costs a row's score and about ten instructions per ball and query.
  Balls(const Int8Codes& rows, const QueryBlock& block, const EncodedQueries& queries,
        const KernelByColumns& kernels, PassBuffers& buffers);

  // From now on bounds take pivots into account, if the rows have any. least_dot(query, tile) ≤ the query ·
  // the tile's centre.
  void UsePivots(absl::FunctionRef<double(size_t query, uint64_t tile)> least_dot);

  // The tiles that some queries begin with, ascending: those whose centres' scores are among a query's
  // largest.
  const std::vector<uint64_t>& first_tiles() const { return first_tiles_; }
  // The queries that begin with a tile.
  absl::Span<const uint32_t> beginners(uint64_t tile) const {
    return absl::MakeConstSpan(beginners_).subspan(first_[tile], first_[tile + 1] - first_[tile]);
  }

  // For each query, bounds[q] ≥ its scores in the tile; not a number for those that begin with it.
  void BoundScores(uint64_t tile, double* bounds) const;
  // Likewise for one query: bounds[i] of the tile first + i.
  void BoundScoresOf(size_t query, uint64_t first, uint64_t end, double* bounds) const;
  // The same for one query, from centre ≥ the query · the tile's centre.
  double BoundScore(size_t query, uint64_t tile, double centre) const;

 private:
  // How far the rows of a tile reach in the direction of a query's pivot.
  float Reach(size_t query, uint64_t tile) const;

  const Int8Codes* rows_ = nullptr;
  double* centres_ = nullptr;  // upper bounds of a·centre: tile · queries + query
  std::vector<uint64_t> first_tiles_;
  std::vector<uint32_t> beginners_, first_;  // those of tile t are at first_[t] to first_[t + 1]
  // By query, what BallSpread asks of it.
  std::vector<double> norms_, alphas_, rests_;
  std::vector<uint32_t> pivots_;  // that each has the smallest angle with; empty if the rows have none
};

}  // namespace dotmax

#endif  // DOTMAX_SERVER_ENGINE_BALLS_H_
