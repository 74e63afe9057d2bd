#include "server/engine/balls.h"

#include <algorithm>
#include <array>
#include <limits>
#include <numeric>

#include "absl/algorithm/container.h"
#include "server/engine/pass.h"
#include "server/engine/reduce.h"
#include "server/engine/scorer.h"

namespace dotmax {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

// A query begins with its nearest tiles, kFirstTiles at most, until they hold this many rows: the best of its
// own cluster rules out the others, but a small ball's rows are too few to find it.
constexpr size_t kFirstTiles = 8;
constexpr int kFirstRows = 64;

struct Near {
  double score = -kInfinity;
  uint64_t ball = 0;
};
using Nearest = std::array<Near, kFirstTiles>;

// For queries [first, end): bounds[ball · stride + query], and the `most` nearest balls by descending score.
void MeasurePart(const Int8Codes& rows, const QueryBlock& block, const EncodedQueries& queries, size_t first,
                 size_t end, const TileMatmul* kernel, int columns, size_t most, double* bounds,
                 size_t stride, Nearest* nearest) {
  const Int8Codes& centres = *rows.centre_codes();
  const size_t count = end - first;
  bounds += first;
  nearest += first;
  CodeScorer scorer;
  scorer.Pack(kernel, columns, queries.codes_of(first), static_cast<int>(count), centres.code_dim());
  struct {
    std::array<double, kMaxColumns> scale, offset, code_error, projection_norm, tail_excess, norm;
  } by_query;
  for (size_t q = 0; q < count; ++q) {
    by_query.scale[q] = queries[first + q].scale;
    by_query.offset[q] = queries[first + q].offset;
    by_query.code_error[q] = queries[first + q].code_error;
    by_query.projection_norm[q] = queries[first + q].projection_norm;
    by_query.tail_excess[q] = queries[first + q].tail_excess;
    by_query.norm[q] = queries[first + q].norm;
  }
  const BallColumns query_columns = {by_query.scale.data(),       by_query.offset.data(),
                                     by_query.code_error.data(),  by_query.projection_norm.data(),
                                     by_query.tail_excess.data(), by_query.norm.data()};
  const bool inner_products = absl::c_all_of(
      block.questions, [](const Question* q) { return q->selection.metric == Metric::kInnerProduct; });
  std::array<double, kMaxColumns> centre_scores, least;  // the latter of `nearest`
  least.fill(-kInfinity);
  std::array<uint32_t, kMaxColumns + kSurvivorPadding> nearer;
  for (uint64_t t = 0; t < centres.tiles(); ++t) {
    const CodeTile& tile = centres.tile(t);
    const int32_t* scores = scorer.Score(centres.codes(t), tile.rows);
    for (int r = 0; r < tile.rows; ++r, scores += columns) {
      const uint64_t ball = centres.id(t, r);
      BallBounds(scores, query_columns, static_cast<int>(count), tile.code_norm, tile.code_error, tile.scale,
                 rows.radius(ball), centre_scores.data(), bounds + ball * stride);
      if (!inner_products) {
        double* const merits = bounds + ball * stride;
        const LengthRange lengths = Lengths(rows.tile(ball));
        for (size_t q = 0; q < count; ++q) {
          const Metric metric = block.metric(first + q);
          merits[q] = BestMerit(metric, merits[q], block.measured[first + q], lengths);
          centre_scores[q] = BestMerit(metric, centre_scores[q], block.measured[first + q], lengths);
        }
      }
      const size_t found = SelectReaching(centre_scores.data(), least.data(), count, nearer.data());
      for (size_t n = 0; n < found; ++n) {
        const uint32_t q = nearer[n];
        const double centre = centre_scores[q];
        if (centre <= nearest[q][most - 1].score) continue;
        size_t i = most - 1;
        for (; i > 0 && nearest[q][i - 1].score < centre; --i) nearest[q][i] = nearest[q][i - 1];
        nearest[q][i] = {centre, ball};
        least[q] = nearest[q][most - 1].score;
      }
    }
  }
}

}  // namespace

Balls MeasureBalls(const Int8Codes& rows, const QueryBlock& block, const EncodedQueries& queries,
                   const KernelByColumns& kernels, PassBuffers& buffers) {
  const size_t count = queries.queries.size();
  Balls balls;
  balls.bounds = buffers.ball_bounds.Reserve(rows.tiles() * count);
  const size_t most = std::min<uint64_t>(kFirstTiles, rows.tiles());
  std::vector<Nearest> nearest(count);
  buffers.InParts(count, [&](size_t, size_t first, size_t end) {
    const int columns = buffers.kernels.Int8Columns(end - first, rows.code_dim());
    MeasurePart(rows, block, queries, first, end, kernels[columns], columns, most, balls.bounds, count,
                nearest.data());
  });
  // A counting sort; a query's nearest tiles come first, and not again.
  balls.first.resize(rows.tiles() + 1);
  std::vector<size_t> taken(count);
  for (size_t q = 0; q < count; ++q) {
    for (int seen = 0; taken[q] < most && seen < kFirstRows; ++taken[q]) {
      seen += rows.tile(nearest[q][taken[q]].ball).rows;
    }
    for (size_t i = 0; i < taken[q]; ++i) {
      ++balls.first[nearest[q][i].ball + 1];
      balls.bounds[nearest[q][i].ball * count + q] =
          std::numeric_limits<double>::quiet_NaN();  // compares false
    }
  }
  std::partial_sum(balls.first.begin(), balls.first.end(), balls.first.begin());
  balls.queries.resize(balls.first.back());
  std::vector<uint32_t> next(balls.first.begin(), balls.first.end() - 1);
  for (size_t q = 0; q < count; ++q) {
    for (size_t i = 0; i < taken[q]; ++i)
      balls.queries[next[nearest[q][i].ball]++] = static_cast<uint32_t>(q);
  }
  return balls;
}

}  // namespace dotmax
