#include "server/engine/balls.h"

#include <algorithm>
#include <array>
#include <limits>
#include <numeric>

#include "absl/algorithm/container.h"
#include "server/base/dtype.h"
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

// For queries [first, end): centres[ball · stride + query], and the `most` nearest balls by descending merit
// of their centres.
void MeasurePart(const Int8Codes& rows, const QueryBlock& block, const EncodedQueries& queries, size_t first,
                 size_t end, const TileMatmul* kernel, int columns, size_t most, double* centres_of,
                 size_t stride, CodeScorer& scorer, Nearest* nearest) {
  const Int8Codes& centres = *rows.centre_codes();
  const size_t count = end - first;
  centres_of += first;
  nearest += first;
  scorer.Pack(kernel, columns, queries.codes_of(first), static_cast<int>(count), centres.code_dim());
  struct {
    std::array<double, kMaxColumns> scale, offset, code_error, projection_norm, tail_excess;
  } by_query;
  for (size_t q = 0; q < count; ++q) {
    by_query.scale[q] = queries[first + q].scale;
    by_query.offset[q] = queries[first + q].offset;
    by_query.code_error[q] = queries[first + q].code_error;
    by_query.projection_norm[q] = queries[first + q].projection_norm;
    by_query.tail_excess[q] = queries[first + q].tail_excess;
  }
  const CentreColumns query_columns = {by_query.scale.data(), by_query.offset.data(),
                                       by_query.code_error.data(), by_query.projection_norm.data(),
                                       by_query.tail_excess.data()};
  const bool inner_products = absl::c_all_of(
      block.questions, [](const Question* q) { return q->selection.metric == Metric::kInnerProduct; });
  std::array<double, kMaxColumns> merits, least;  // the latter of `nearest`
  least.fill(-kInfinity);
  std::array<uint32_t, kMaxColumns + kSurvivorPadding> nearer;
  for (uint64_t t = 0; t < centres.tiles(); ++t) {
    const CodeTile& tile = centres.tile(t);
    const int32_t* scores = scorer.Score(centres.codes(t), tile.rows);
    for (int r = 0; r < tile.rows; ++r, scores += columns) {
      const uint64_t ball = centres.id(t, r);
      double* const most_of_centre = centres_of + ball * stride;
      MostOfCentre(scores, query_columns, static_cast<int>(count), tile.code_norm, tile.code_error,
                   tile.scale, most_of_centre);
      const double* near = most_of_centre;
      if (!inner_products) {
        const LengthRange lengths = Lengths(rows.tile(ball));
        for (size_t q = 0; q < count; ++q) {
          merits[q] =
              BestMerit(block.metric(first + q), most_of_centre[q], block.measured[first + q], lengths);
        }
        near = merits.data();
      }
      const size_t found = SelectReaching(near, least.data(), count, nearer.data());
      for (size_t n = 0; n < found; ++n) {
        const uint32_t q = nearer[n];
        const double score = near[q];
        if (score <= nearest[q][most - 1].score) continue;
        size_t i = most - 1;
        for (; i > 0 && nearest[q][i - 1].score < score; --i) nearest[q][i] = nearest[q][i - 1];
        nearest[q][i] = {score, ball};
        least[q] = nearest[q][most - 1].score;
      }
    }
  }
}

// Of queries [first, end), the pivot that each has the smallest angle with.
void FindPivots(const Int8Codes& rows, const double* centres_of, size_t stride, size_t first, size_t end,
                uint32_t* nearest) {
  const Pivots& pivots = *rows.pivots();
  std::array<double, kMaxColumns> largest;
  largest.fill(-kInfinity);
  for (size_t p = 0; p < pivots.count(); ++p) {
    const double* const scores = centres_of + pivots.tile(p, rows.tiles()) * stride;
    const double inverse_norm = 1.0 / pivots.norms[p];
    for (size_t q = first; q < end; ++q) {
      const double cosine = scores[q] * inverse_norm;
      const bool nearer = cosine > largest[q];
      largest[q] = nearer ? cosine : largest[q];
      nearest[q] = nearer ? static_cast<uint32_t>(p) : nearest[q];
    }
  }
}

}  // namespace

Balls::Balls(const Int8Codes& rows, const QueryBlock& block, const EncodedQueries& queries,
             const KernelByColumns& kernels, PassBuffers& buffers)
    : rows_(&rows) {
  const size_t count = queries.queries.size();
  for (size_t q = 0; q < count; ++q) norms_.push_back(queries[q].norm);
  alphas_.resize(count);
  rests_ = norms_;
  if (rows.pivots() != nullptr) pivots_.resize(count);
  centres_ = buffers.ball_centres.Reserve(rows.tiles() * count);
  const size_t most = std::min<uint64_t>(kFirstTiles, rows.tiles());
  std::vector<Nearest> nearest(count);
  buffers.InParts(count, [&](size_t part, size_t first, size_t end) {
    const int columns = buffers.kernels.Int8Columns(end - first, rows.code_dim());
    MeasurePart(rows, block, queries, first, end, kernels[columns], columns, most, centres_, count,
                buffers.parts[part].scorer, nearest.data());
    if (!pivots_.empty()) FindPivots(rows, centres_, count, first, end, pivots_.data());
  });
  // A counting sort; a query's nearest tiles come first, and not again.
  first_.resize(rows.tiles() + 1);
  std::vector<size_t> taken(count);
  for (size_t q = 0; q < count; ++q) {
    for (int seen = 0; taken[q] < most && seen < kFirstRows; ++taken[q]) {
      seen += rows.tile(nearest[q][taken[q]].ball).rows;
    }
    for (size_t i = 0; i < taken[q]; ++i) {
      ++first_[nearest[q][i].ball + 1];
      centres_[nearest[q][i].ball * count + q] = std::numeric_limits<double>::quiet_NaN();  // compares false
    }
  }
  for (uint64_t t = 0; t < rows.tiles(); ++t) {
    if (first_[t + 1] > 0) first_tiles_.push_back(t);
  }
  std::partial_sum(first_.begin(), first_.end(), first_.begin());
  beginners_.resize(first_.back());
  std::vector<uint32_t> next(first_.begin(), first_.end() - 1);
  for (size_t q = 0; q < count; ++q) {
    for (size_t i = 0; i < taken[q]; ++i) beginners_[next[nearest[q][i].ball]++] = static_cast<uint32_t>(q);
  }
}

void Balls::UsePivots(absl::FunctionRef<double(size_t query, uint64_t tile)> least_dot) {
  for (size_t q = 0; q < pivots_.size(); ++q) {
    const double norm = rows_->pivots()->norms[pivots_[q]];
    const double dot = least_dot(q, rows_->pivots()->tile(pivots_[q], rows_->tiles()));
    // What is left of the query is least for the multiple of the pivot that it projects to.
    const double alpha = dot / (norm * norm);
    if (!(alpha > 0.0 && alpha < kInfinity)) continue;
    alphas_[q] = alpha;
    rests_[q] = PivotRest(norms_[q], dot, alpha, norm);
  }
}

float Balls::Reach(size_t query, uint64_t tile) const {
  if (pivots_.empty()) return 0.0f;
  return BFloat16ToFloat32(rows_->pivots()->reaches[pivots_[query] * rows_->tiles() + tile]);
}

void Balls::BoundScores(uint64_t tile, double* bounds) const {
  const size_t count = norms_.size();
  std::array<float, kMaxColumns> reaches;
  for (size_t q = 0; q < count; ++q) reaches[q] = Reach(q, tile);
  BallBounds(centres_ + tile * count, {norms_.data(), alphas_.data(), rests_.data(), reaches.data()}, count,
             rows_->radius(tile), bounds);
}

void Balls::BoundScoresOf(size_t query, uint64_t first, uint64_t end, double* bounds) const {
  for (uint64_t t = first; t < end; ++t)
    bounds[t - first] = BoundScore(query, t, centres_[t * norms_.size() + query]);
}

double Balls::BoundScore(size_t query, uint64_t tile, double centre) const {
  return BallBound(
      centre, 0.0,
      BallSpread(norms_[query], rows_->radius(tile), alphas_[query], Reach(query, tile), rests_[query]));
}

}  // namespace dotmax
