#include "server/engine/planner.h"

#include <algorithm>
#include <deque>
#include <limits>
#include <numeric>
#include <utility>
#include <vector>

#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "server/engine/cluster.h"
#include "server/engine/matrix.h"
#include "server/engine/pass.h"
#include "server/engine/rotate.h"
#include "server/engine/topk.h"

namespace dotmax {
namespace {

// Candidates below dim, which stands for no rotation. More axes than these are as dear as all of them.
constexpr uint32_t kCandidateAxes[] = {28, 44, 60, 76, 92, 124, 188, 252};
// A matrix below this is searched in about the time that measuring takes.
constexpr uint64_t kMinRowsToMeasure = 8192;
constexpr uint64_t kSampleTiles = 16;
constexpr uint64_t kSampleQueries = 32;
// Alternating short runs, and the least of each: machines are noisy.
constexpr int kRepetitions = 3;

// Clusters are learnt from so many rows, for so many rows each; and must leave out at least this share of the
// pairs, of which each then costs more, in tiles of few rows and queries.
constexpr uint64_t kClusterSample = 16384;
constexpr uint64_t kRowsPerCluster = 96;
constexpr double kLoosest = 0.8;  // see LearnCentres
constexpr double kMaxShare = 0.2;
constexpr double kSlowdown = 3.0;

absl::Status Never() { return absl::OkStatus(); }

// Rows as queries, and what each must beat: the best score that another row gives it.
struct Sample {
  SharedMatrix queries;
  std::vector<double> thresholds;
  double float32_seconds = 0.0;  // per row of the base, for all queries
};

class Planner {
 public:
  Planner(const Matrix& matrix, absl::Span<const double> norms)
      : matrix_(matrix), view_(matrix.view()), norms_(norms) {
    order_.resize(view_.rows);
    std::iota(order_.begin(), order_.end(), 0);
    std::stable_sort(order_.begin(), order_.end(),
                     [&](uint32_t a, uint32_t b) { return norms_[a] > norms_[b]; });
  }

  std::unique_ptr<const Int8Codes> Encode(uint32_t count) {
    absl::StatusOr<Axes> axes = count >= view_.dim ? IdentityAxes(view_.dim) : PrincipalAxes(view_, count);
    return axes.ok() ? Encode(order_, *std::move(axes)) : nullptr;
  }

  // Null when that fails.
  std::unique_ptr<const Int8Codes> EncodeClusters(uint32_t count) {
    const std::unique_ptr<const Int8Codes> codes = Encode(order_, IdentityAxes(view_.dim));
    if (codes == nullptr) return nullptr;
    const auto centres = LearnCentres(view_, norms_, *codes, static_cast<int>(count),
                                      std::numeric_limits<double>::infinity(), buffers_.kernels);
    return centres.ok() ? EncodeClusters(*codes, *centres) : nullptr;
  }

  // Null when the float32 screen is faster, unless int8 is insisted on.
  std::unique_ptr<const Int8Codes> EncodeFastest(bool insist) {
    if (!TakeSample()) return Encode(view_.dim);
    // Runs of rows as they will stand in tiles.
    std::vector<uint32_t> sample;
    const uint64_t tiles = view_.rows / Int8Codes::kTileRows;
    for (uint64_t i = 0; i < std::min(kSampleTiles, tiles); ++i) {
      const auto first = order_.begin() + i * tiles / std::min(kSampleTiles, tiles) * Int8Codes::kTileRows;
      sample.insert(sample.end(), first, first + Int8Codes::kTileRows);
    }

    uint32_t most = 0;
    for (const uint32_t count : kCandidateAxes) most = count < view_.dim ? count : most;
    Axes principal;
    if (most > 0) {
      absl::StatusOr<Axes> axes = PrincipalAxes(view_, most);
      if (axes.ok()) principal = *std::move(axes);
    }
    double least = sample_.float32_seconds * sample.size();
    least *= least / kSampleQueries;  // see Cost: as if one query cost its share
    if (insist) least = std::numeric_limits<double>::infinity();
    Axes best;
    for (uint32_t count : kCandidateAxes) {
      if (count > principal.count) break;
      Consider(sample, FirstAxes(principal, count), least, best);
    }
    Consider(sample, IdentityAxes(view_.dim), least, best);
    if (best.count == 0) return nullptr;
    std::unique_ptr<const Int8Codes> codes = TryClusters(sample, least);
    return codes != nullptr ? std::move(codes) : Encode(order_, std::move(best));
  }

 private:
  // The rows in `codes`, which are unrotated, grouped; null when that fails.
  std::unique_ptr<const Int8Codes> EncodeClusters(const Int8Codes& codes, absl::Span<const float> centres) {
    absl::StatusOr<RowOrder> order = GroupByCentre(norms_, codes, centres, buffers_.kernels);
    if (!order.ok()) return nullptr;
    auto encoded = Int8Codes::Encode(view_, norms_, *std::move(order), IdentityAxes(view_.dim));
    return encoded.ok() ? *std::move(encoded) : nullptr;
  }

  // Null unless rows lie in such clusters that a search can leave most of them out. Costs are those of
  // `sample`, by norm.
  std::unique_ptr<const Int8Codes> TryClusters(const std::vector<uint32_t>& sample, double least) {
    std::vector<uint32_t> rows;
    const uint64_t count = std::min(view_.rows, kClusterSample);
    for (uint64_t i = 0; i < count; ++i) rows.push_back(order_[i * view_.rows / count]);
    const std::unique_ptr<const Int8Codes> codes = Encode(std::move(rows), IdentityAxes(view_.dim));
    if (codes == nullptr) return nullptr;
    const int clusters = static_cast<int>(std::clamp(view_.rows / kRowsPerCluster, uint64_t{1}, count / 8));
    const auto centres = LearnCentres(view_, norms_, *codes, clusters, kLoosest, buffers_.kernels);
    if (!centres.ok() || centres->empty()) return nullptr;
    const std::unique_ptr<const Int8Codes> grouped = EncodeClusters(*codes, *centres);
    if (grouped == nullptr) return nullptr;
    scratch_.pairs_screened = 0;
    Run(*grouped, 0, kSampleQueries);
    const double share = static_cast<double>(scratch_.pairs_screened) / (count * kSampleQueries);
    if (share > kMaxShare) return nullptr;
    const std::unique_ptr<const Int8Codes> by_norm = Encode(sample, IdentityAxes(view_.dim));
    const double whole = Cost(*by_norm) * kSlowdown * kSlowdown * share * share;
    if (whole >= least) return nullptr;
    const std::unique_ptr<const Int8Codes> all = Encode(order_, IdentityAxes(view_.dim));
    return all != nullptr ? EncodeClusters(*all, *centres) : nullptr;
  }

  std::unique_ptr<const Int8Codes> Encode(std::vector<uint32_t> order, Axes axes) {
    auto codes = Int8Codes::Encode(view_, norms_, RowOrder::Even(std::move(order)), std::move(axes));
    return codes.ok() ? *std::move(codes) : nullptr;
  }

  bool TakeSample() {
    std::vector<uint64_t> rows;
    auto bytes = std::make_shared<std::vector<std::byte>>(kSampleQueries * view_.row_bytes());
    for (uint64_t i = 0; i < kSampleQueries; ++i) {
      rows.push_back((2 * i + 1) * view_.rows / (2 * kSampleQueries));
      std::copy_n(view_.row(rows.back()), view_.row_bytes(), bytes->data() + i * view_.row_bytes());
    }
    sample_.queries = {{bytes->data(), kSampleQueries, view_.dim, view_.dtype}, bytes};

    std::deque<TopK> top;
    std::vector<TopK*> best;
    for (uint64_t i = 0; i < kSampleQueries; ++i) best.push_back(&top.emplace_back(2));
    const QueryBlock block = buffers_.Prepare(sample_.queries.view, 0, best, 2);
    const auto pass = MakeFloat32Pass(matrix_, block, buffers_);
    if (!pass.ok()) return false;
    const absl::Time start = absl::Now();
    (*pass)->Work(0, scratch_, Never);
    sample_.float32_seconds = absl::ToDoubleSeconds(absl::Now() - start) / view_.rows;
    const PairScorer scorer(sample_.queries.view, view_);
    for (uint64_t i = 0; i < kSampleQueries; ++i) {
      double threshold = -std::numeric_limits<double>::infinity();
      for (const Hit& hit : top[i].Take(scorer)) {
        if (hit.id != rows[i]) threshold = std::max(threshold, hit.score);
      }
      sample_.thresholds.push_back(threshold);
    }
    return true;
  }

  // Seconds of a pass of `queries` sample queries from `first` on over the sample rows.
  double Run(const Int8Codes& codes, uint64_t first, uint64_t queries) {
    std::deque<TopK> top;
    std::vector<TopK*> best;
    for (uint64_t i = 0; i < queries; ++i) {
      best.push_back(&top.emplace_back(1));
      best.back()->RaiseThreshold(sample_.thresholds[first + i]);
    }
    const QueryBlock block = buffers_.Prepare(sample_.queries.view, first, best, 1);
    const auto pass = MakeInt8Pass(view_, codes, block, buffers_);
    if (!pass.ok()) return std::numeric_limits<double>::infinity();
    const absl::Time start = absl::Now();
    for (int round = 0; round < (*pass)->rounds(); ++round) (*pass)->Work(round, scratch_, Never);
    return absl::ToDoubleSeconds(absl::Now() - start);
  }

  // One set of codes serves large batches, bound by arithmetic and survivors, and single queries, bound by
  // memory: the product of both times weighs a share lost in one against the same share won in the other.
  double Cost(const Int8Codes& codes) {
    double batch = std::numeric_limits<double>::infinity();
    double single = batch;
    for (int i = 0; i < kRepetitions; ++i) {
      batch = std::min(batch, Run(codes, 0, kSampleQueries));
      double sum = 0.0;
      for (uint64_t q = 0; q < kSampleQueries; q += 8) sum += Run(codes, q, 1);
      single = std::min(single, sum / (kSampleQueries / 8));
    }
    return batch * single;
  }

  void Consider(const std::vector<uint32_t>& sample, Axes axes, double& least, Axes& best) {
    const std::unique_ptr<const Int8Codes> codes = Encode(sample, axes);
    if (codes == nullptr) return;
    const double cost = Cost(*codes);
    if (cost >= least) return;
    least = cost;
    best = std::move(axes);
  }

  const Matrix& matrix_;
  const MatrixView& view_;
  const absl::Span<const double> norms_;
  std::vector<uint32_t> order_;  // by descending norm
  Sample sample_;
  PassBuffers buffers_;
  Scratch scratch_;
};

}  // namespace

std::unique_ptr<const Int8Codes> PlanCodes(const Matrix& matrix, absl::Span<const double> norms,
                                           const ScreenOptions& options) {
  if (options.kind == ScreenOptions::Kind::kFloat32 || matrix.view().rows > UINT32_MAX) return nullptr;
  if (!TileMatmul::Create(TileKind::kInt8, 16, 64, 16).ok()) return nullptr;  // without VNNI, say
  Planner planner(matrix, norms);
  if (options.kind == ScreenOptions::Kind::kInt8 && options.axes + options.clusters != 0) {
    if (options.clusters != 0) return planner.EncodeClusters(options.clusters);
    return planner.Encode(std::min(options.axes, matrix.view().dim));
  }
  if (matrix.view().rows < kMinRowsToMeasure) return planner.Encode(matrix.view().dim);
  return planner.EncodeFastest(options.kind == ScreenOptions::Kind::kInt8);
}

}  // namespace dotmax
