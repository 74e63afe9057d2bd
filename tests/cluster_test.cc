#include "server/engine/cluster.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <set>

#include "gtest/gtest.h"
#include "server/base/dtype.h"
#include "server/engine/bound.h"
#include "tests/data.h"

namespace dotmax {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr uint32_t kDim = 24;
constexpr uint64_t kRows = 3000;
constexpr uint64_t kClusters = 20;  // row i belongs to cluster i mod 20

struct Encoded {
  SharedMatrix rows;
  std::vector<double> norms;
  std::unique_ptr<const Int8Codes> codes;
};

Encoded Encode(SharedMatrix rows) {
  Encoded out = {std::move(rows), {}, nullptr};
  std::vector<double> row(kDim);
  for (uint64_t r = 0; r < kRows; ++r) {
    ToFloat64(out.rows.view.row(r), DType::kFloat32, kDim, row.data());
    out.norms.push_back(NormUpperBound(kDim, std::inner_product(row.begin(), row.end(), row.begin(), 0.0)));
  }
  std::vector<uint32_t> ids(kRows);
  std::iota(ids.begin(), ids.end(), 0);
  auto codes = Int8Codes::Encode(out.rows.view, out.norms, RowOrder::Even(ids), CodeLevels::Whole(kDim));
  EXPECT_TRUE(codes.ok());
  out.codes = *std::move(codes);
  return out;
}

Encoded EncodeClustered(double spread) {
  return Encode(testing::RandomClustered(kRows, kDim, kClusters, spread, 5));
}

// Rows in all, and those in balls wider than `limit`.
struct Widths {
  uint64_t rows_beyond = 0;
  uint64_t rows = 0;
};
Widths Measure(const Encoded& base, RowOrder order, double limit) {
  Widths widths;
  std::set<uint32_t> seen(order.ids.begin(), order.ids.end());
  EXPECT_EQ(seen.size(), order.ids.size()) << "a row stands twice";
  const auto codes = Int8Codes::Encode(base.rows.view, base.norms, std::move(order), CodeLevels::Whole(kDim));
  EXPECT_TRUE(codes.ok());
  for (uint64_t t = 0; t < (*codes)->tiles(); ++t) {
    widths.rows += (*codes)->tile(t).rows;
    if ((*codes)->radius(t) > limit) widths.rows_beyond += (*codes)->tile(t).rows;
  }
  return widths;
}

// RandomClustered's clusters are √24 · spread wide, and about √48 apart.
constexpr double kSpread = 0.1;
constexpr double kReach = 1.0;

class ClusterTest : public ::testing::Test {
 protected:
  // In whole tiles.
  absl::StatusOr<RowOrder> Group(Encoded& base, const std::vector<float>& centres, const Grouping& grouping) {
    const auto groups =
        GroupByCentre(base.rows.view, base.norms, std::move(base.codes), centres, grouping, kernels_);
    if (!groups.ok()) return groups.status();
    return CutIntoBalls(*groups);
  }
  // Of rows in about 40 clusters, once these are learnt and the rows grouped.
  Widths LearnAndMeasure(SharedMatrix rows) {
    Encoded base = Encode(std::move(rows));
    const auto centres =
        LearnCentres(base.rows.view, base.norms, *base.codes, 40, kInfinity, kReach, kernels_);
    EXPECT_TRUE(centres.ok()) << centres.status();
    const auto order = Group(base, *centres, {kReach, 8});
    EXPECT_TRUE(order.ok()) << order.status();
    return Measure(base, *order, kReach);
  }
  void SetUp() override {
    if (!HasInt8Kernel()) GTEST_SKIP() << "no kernel for codes here, and none are made";
  }
  Kernels kernels_;
};

// Twice as many centres as clusters: every cluster gets one, so no tile mixes rows of two.
TEST_F(ClusterTest, SeparateClustersAreToldApart) {
  Encoded base = EncodeClustered(0.05);
  const auto centres = LearnCentres(base.rows.view, base.norms, *base.codes, 40, 1.0, kInfinity, kernels_);
  ASSERT_TRUE(centres.ok());
  const absl::StatusOr<RowOrder> order = Group(base, *centres, {kInfinity, 1});
  ASSERT_TRUE(order.ok());
  EXPECT_FALSE(order->by_norm);
  size_t first = 0;
  for (const int rows : order->tile_rows) {
    for (int r = 0; r < rows; ++r) {
      EXPECT_EQ(order->ids[first + r] % kClusters, order->ids[first] % kClusters) << "tile at " << first;
    }
    first += rows;
  }
  EXPECT_EQ(first, kRows);
}

TEST_F(ClusterTest, EveryRowIsGroupedOnceInTilesOfTheRightSize) {
  for (const int count : {1, 3, 300, 5000}) {
    Encoded base = EncodeClustered(10.0);
    const auto centres =
        LearnCentres(base.rows.view, base.norms, *base.codes, count, kInfinity, kInfinity, kernels_);
    ASSERT_TRUE(centres.ok());
    EXPECT_LE(centres->size(), static_cast<size_t>(count) * kDim);
    const absl::StatusOr<RowOrder> order = Group(base, *centres, {kInfinity, 1});
    ASSERT_TRUE(order.ok());
    EXPECT_EQ(std::set<uint32_t>(order->ids.begin(), order->ids.end()).size(), kRows);
    EXPECT_EQ(order->ids.size(), kRows);
    EXPECT_EQ(std::accumulate(order->tile_rows.begin(), order->tile_rows.end(), 0), int{kRows});
    EXPECT_GE(*std::min_element(order->tile_rows.begin(), order->tile_rows.end()), 1);
    EXPECT_LE(*std::max_element(order->tile_rows.begin(), order->tile_rows.end()), Int8Codes::kTileRows);
  }
}

TEST_F(ClusterTest, EndsAtItsDeadline) {
  Encoded base = EncodeClustered(0.1);
  const auto centres = LearnCentres(base.rows.view, base.norms, *base.codes, 40, kInfinity, kReach, kernels_,
                                    absl::ZeroDuration());
  EXPECT_EQ(centres.status().code(), absl::StatusCode::kDeadlineExceeded);
  const std::vector<float> centre(kDim, 1.0f);
  const auto groups = GroupByCentre(base.rows.view, base.norms, std::move(base.codes), centre, {kReach, 8},
                                    kernels_, absl::ZeroDuration());
  EXPECT_EQ(groups.status().code(), absl::StatusCode::kDeadlineExceeded);
}

TEST_F(ClusterTest, GivesUpOnRowsThatDoNotCluster) {
  const Encoded base = EncodeClustered(10.0);
  const auto centres = LearnCentres(base.rows.view, base.norms, *base.codes, 40, 0.5, kInfinity, kernels_);
  ASSERT_TRUE(centres.ok());
  EXPECT_TRUE(centres->empty());
}

// Half of the clusters have no centre when grouping begins: their rows are found to be out of reach, and are
// clustered again, instead of widening foreign balls.
TEST_F(ClusterTest, ClustersWithoutACentreGetOne) {
  Encoded base = EncodeClustered(kSpread);
  std::vector<float> centres;
  for (uint64_t c = 0; c < kClusters / 2; ++c) {
    const auto* const row = reinterpret_cast<const float*>(base.rows.view.row(c));
    centres.insert(centres.end(), row, row + kDim);
  }
  const auto order = Group(base, centres, {kReach, 8});
  ASSERT_TRUE(order.ok());
  const Widths widths = Measure(base, *order, kReach);
  EXPECT_EQ(widths.rows, kRows);
  EXPECT_EQ(widths.rows_beyond, 0u);
}

// Rows outside of all clusters stand in tiles of their own.
TEST_F(ClusterTest, OutliersSpoilNoBall) {
  constexpr uint64_t kOutliers = 100;
  const SharedMatrix clustered = testing::RandomClustered(kRows - kOutliers, kDim, kClusters, kSpread, 5);
  const SharedMatrix outliers = testing::RandomNormal(kOutliers, kDim, 6);
  std::vector<double> values, row(kDim);
  for (uint64_t r = 0; r < kRows; ++r) {
    const bool in = r < kRows - kOutliers;
    ToFloat64(in ? clustered.view.row(r) : outliers.view.row(r - (kRows - kOutliers)), DType::kFloat32, kDim,
              row.data());
    values.insert(values.end(), row.begin(), row.end());
  }
  const Widths widths = LearnAndMeasure(testing::MakeMatrix(values, kDim));
  EXPECT_EQ(widths.rows, kRows);
  EXPECT_LE(widths.rows_beyond, kOutliers + 16);
}

// The largest has a fourth of the rows, the smallest a few: all get balls, but for what is too small for one.
TEST_F(ClusterTest, ClustersOfVeryDifferentSizes) {
  std::vector<uint64_t> clusters;
  for (uint64_t c = 0; clusters.size() < kRows; c = (c + 1) % 40) {
    for (uint64_t i = 0; i < kRows / 4 / (c + 1) && clusters.size() < kRows; ++i) clusters.push_back(c);
  }
  const SharedMatrix all = testing::RandomClustered(kRows * 40, kDim, 40, kSpread, 5);
  std::vector<double> values, row(kDim);
  for (uint64_t r = 0; r < kRows; ++r) {
    ToFloat64(all.view.row(r * 40 + clusters[r]), DType::kFloat32, kDim, row.data());
    values.insert(values.end(), row.begin(), row.end());
  }
  EXPECT_LE(LearnAndMeasure(testing::MakeMatrix(values, kDim)).rows_beyond, 32u);
}

}  // namespace
}  // namespace dotmax
