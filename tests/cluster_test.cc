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

constexpr uint32_t kDim = 24;
constexpr uint64_t kRows = 3000;
constexpr uint64_t kClusters = 20;  // row i belongs to cluster i mod 20

struct Encoded {
  SharedMatrix rows;
  std::vector<double> norms;
  std::unique_ptr<const Int8Codes> codes;
};

Encoded EncodeClustered(double spread) {
  Encoded out = {testing::RandomClustered(kRows, kDim, kClusters, spread, 5), {}, nullptr};
  std::vector<double> row(kDim);
  for (uint64_t r = 0; r < kRows; ++r) {
    ToFloat64(out.rows.view.row(r), DType::kFloat32, kDim, row.data());
    out.norms.push_back(NormUpperBound(kDim, std::inner_product(row.begin(), row.end(), row.begin(), 0.0)));
  }
  std::vector<uint32_t> ids(kRows);
  std::iota(ids.begin(), ids.end(), 0);
  auto codes = Int8Codes::Encode(out.rows.view, out.norms, RowOrder::Even(ids), IdentityAxes(kDim));
  EXPECT_TRUE(codes.ok());
  out.codes = *std::move(codes);
  return out;
}

class ClusterTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!TileMatmul::Create(TileKind::kInt8, 16, 64, 16).ok()) GTEST_SKIP() << "8-bit sums saturate here";
  }
  Kernels kernels_;
};

// Twice as many centres as clusters: every cluster gets one, so no tile mixes rows of two.
TEST_F(ClusterTest, SeparateClustersAreToldApart) {
  const Encoded base = EncodeClustered(0.05);
  const auto centres = LearnCentres(base.rows.view, base.norms, *base.codes, 40, 1.0, kernels_);
  ASSERT_TRUE(centres.ok());
  const absl::StatusOr<RowOrder> order = GroupByCentre(base.norms, *base.codes, *centres, kernels_);
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
  const Encoded base = EncodeClustered(10.0);
  for (const int count : {1, 3, 300, 5000}) {
    const auto centres = LearnCentres(base.rows.view, base.norms, *base.codes, count,
                                      std::numeric_limits<double>::infinity(), kernels_);
    ASSERT_TRUE(centres.ok());
    EXPECT_LE(centres->size(), static_cast<size_t>(count) * kDim);
    const absl::StatusOr<RowOrder> order = GroupByCentre(base.norms, *base.codes, *centres, kernels_);
    ASSERT_TRUE(order.ok());
    EXPECT_EQ(std::set<uint32_t>(order->ids.begin(), order->ids.end()).size(), kRows);
    EXPECT_EQ(order->ids.size(), kRows);
    EXPECT_EQ(std::accumulate(order->tile_rows.begin(), order->tile_rows.end(), 0), int{kRows});
    EXPECT_GE(*std::min_element(order->tile_rows.begin(), order->tile_rows.end()), 1);
    EXPECT_LE(*std::max_element(order->tile_rows.begin(), order->tile_rows.end()), Int8Codes::kTileRows);
  }
}

TEST_F(ClusterTest, GivesUpOnRowsThatDoNotCluster) {
  const Encoded base = EncodeClustered(10.0);
  const auto centres = LearnCentres(base.rows.view, base.norms, *base.codes, 40, 0.5, kernels_);
  ASSERT_TRUE(centres.ok());
  EXPECT_TRUE(centres->empty());
}

}  // namespace
}  // namespace dotmax
