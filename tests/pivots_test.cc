#include "server/engine/pivots.h"

#include <cmath>
#include <cstdint>
#include <memory>
#include <numeric>
#include <utility>
#include <vector>

#include "gtest/gtest.h"
#include "server/base/dtype.h"
#include "server/engine/bound.h"
#include "tests/data.h"

namespace dotmax {
namespace {

double Norm(const float* x, uint32_t dim) {
  double squares = 0.0;
  for (uint32_t i = 0; i < dim; ++i) squares += static_cast<double>(x[i]) * x[i];
  return NormUpperBound(dim, squares);
}

double Dot(const float* a, const float* b, uint32_t dim) {
  double sum = 0.0;
  for (uint32_t i = 0; i < dim; ++i) sum += static_cast<double>(a[i]) * b[i];
  return sum;
}

class PivotsTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!HasInt8Kernel()) GTEST_SKIP() << "no kernel for codes here, and none are made";
  }

  // Rows 0, 1, 2, ... in balls of `ball_rows`, with at most `most` pivots.
  std::unique_ptr<const Int8Codes> Encode(const MatrixView& rows, int ball_rows, size_t most) {
    std::vector<double> norms;
    RowOrder order;
    order.by_norm = false;
    for (uint64_t r = 0; r < rows.rows; ++r) {
      norms.push_back(Norm(reinterpret_cast<const float*>(rows.row(r)), rows.dim));
      order.ids.push_back(static_cast<uint32_t>(r));
    }
    for (uint64_t left = rows.rows; left > 0; left -= order.tile_rows.back()) {
      order.tile_rows.push_back(static_cast<int>(std::min<uint64_t>(ball_rows, left)));
    }
    auto codes = Int8Codes::Encode(rows, norms, std::move(order), CodeLevels::Whole(rows.dim));
    EXPECT_TRUE(codes.ok()) << codes.status();
    auto pivots = MeasurePivots(**codes, most, kernels_);
    EXPECT_TRUE(pivots.ok()) << pivots.status();
    (*codes)->set_pivots(*std::move(pivots));
    return *std::move(codes);
  }

  // The promise of the whole file, and that it is a useful one: within `slack` of what it bounds.
  void ExpectBounds(const MatrixView& rows, const Int8Codes& codes, const MatrixView& queries, double slack) {
    const Pivots& pivots = *codes.pivots();
    const uint32_t dim = rows.dim;
    for (size_t p = 0; p < pivots.count(); ++p) {
      const float* const pivot = codes.centre(pivots.tile(p, codes.tiles()));
      EXPECT_GE(pivots.norms[p], std::sqrt(Dot(pivot, pivot, dim)) * (1.0 - 1e-15));
      for (uint64_t t = 0; t < codes.tiles(); ++t) {
        const float reach = BFloat16ToFloat32(pivots.reaches[p * codes.tiles() + t]);
        const float* const centre = codes.centre(t);
        double furthest = 0.0, magnitude = 0.0;
        for (int r = 0; r < codes.tile(t).rows; ++r) {
          const auto* const row = reinterpret_cast<const float*>(rows.row(codes.id(t, r)));
          double sum = 0.0;
          for (uint32_t i = 0; i < dim; ++i) sum += pivot[i] * (static_cast<double>(row[i]) - centre[i]);
          furthest = std::max(furthest, sum);
          magnitude = std::max(magnitude, codes.radius(t) * pivots.norms[p]);
        }
        ASSERT_GE(reach, furthest * (1.0 - 1e-12)) << "pivot " << p << ", ball " << t;
        ASSERT_LE(reach, furthest + slack * magnitude + 1e-5 * pivots.norms[p] + 1e-30)
            << "pivot " << p << ", ball " << t;
        for (uint64_t q = 0; q < queries.rows; ++q) {
          const auto* const query = reinterpret_cast<const float*>(queries.row(q));
          const double norm = Norm(query, dim);
          const double dot = Dot(query, pivot, dim);
          for (const double alpha : {0.0, std::max(0.0, dot) / (pivots.norms[p] * pivots.norms[p]), 1.0}) {
            if (!std::isfinite(alpha)) continue;
            const double rest = PivotRest(norm, dot - 1e-15 * norm * pivots.norms[p], alpha, pivots.norms[p]);
            const double centre_dot = Dot(query, centre, dim);
            const double bound = BallBound(centre_dot, 1e-13 * norm * pivots.norms[p],
                                           BallSpread(norm, codes.radius(t), alpha, reach, rest));
            for (int r = 0; r < codes.tile(t).rows; ++r) {
              const auto* const row = reinterpret_cast<const float*>(rows.row(codes.id(t, r)));
              ASSERT_LE(Dot(query, row, dim) - 1e-13 * norm * Norm(row, dim), bound)
                  << "query " << q << ", row " << codes.id(t, r) << ", pivot " << p << ", alpha " << alpha;
            }
          }
        }
      }
    }
  }

  Kernels kernels_;
};

TEST_F(PivotsTest, ReachesAndBoundsHold) {
  for (const uint32_t dim : {1, 3, 24, 100}) {
    const SharedMatrix rows = testing::RandomClustered(400, dim, 10, 0.3, 5);
    const SharedMatrix queries = testing::RandomClustered(12, dim, 10, 0.3, 5);
    for (const size_t most : {1, 7, 1000}) {
      const auto codes = Encode(rows.view, 40, most);
      EXPECT_EQ(codes->pivots()->count(), std::min<size_t>(most, 10));
      ExpectBounds(rows.view, *codes, queries.view, 0.06);
    }
  }
}

// More pivots than one block of queries, and tiles of one row, which lie where their centre is.
TEST_F(PivotsTest, ManyBallsOfOneRow) {
  const SharedMatrix rows = testing::RandomNormal(600, 5, 1);
  const auto codes = Encode(rows.view, 1, 1000);
  ASSERT_EQ(codes->pivots()->count(), 600u);
  ExpectBounds(rows.view, *codes, testing::RandomNormal(2, 5, 2).view, 1.0);
}

TEST_F(PivotsTest, NothingButZeros) {
  const SharedMatrix rows = testing::MakeMatrix(std::vector<double>(60, 0.0), 6);
  ExpectBounds(rows.view, *Encode(rows.view, 4, 5), testing::RandomNormal(2, 6, 2).view, 1.0);
}

TEST_F(PivotsTest, LargeAndSmallNumbers) {
  for (const double scale : {0x1p-35, 0x1p55}) {
    std::vector<double> values;
    testing::Random random(3);
    for (int i = 0; i < 200 * 8; ++i) values.push_back(scale * random.Normal());
    const SharedMatrix rows = testing::MakeMatrix(values, 8);
    ExpectBounds(rows.view, *Encode(rows.view, 20, 10), testing::RandomNormal(3, 8, 2).view, 0.06);
  }
}

// What is left of a query beside a multiple of a pivot, next to nothing and where nothing cancels.
TEST(PivotRestTest, IsAnUpperBound) {
  testing::Random random(9);
  constexpr uint32_t kDim = 16;
  for (int i = 0; i < 1000; ++i) {
    std::vector<float> pivot(kDim), query(kDim);
    const double apart = std::exp2(-i % 30);
    for (uint32_t d = 0; d < kDim; ++d) {
      pivot[d] = static_cast<float>(random.Normal());
      query[d] = static_cast<float>(2.0 * pivot[d] + apart * random.Normal());
    }
    const double norm = Norm(query.data(), kDim), pivot_norm = Norm(pivot.data(), kDim);
    const double dot = Dot(query.data(), pivot.data(), kDim);
    const double alpha = dot / (pivot_norm * pivot_norm);
    double squares = 0.0;
    for (uint32_t d = 0; d < kDim; ++d) {
      squares += (query[d] - alpha * pivot[d]) * (query[d] - alpha * pivot[d]);
    }
    const double rest = PivotRest(norm, dot - 1e-15 * norm * pivot_norm, alpha, pivot_norm);
    EXPECT_GE(rest, std::sqrt(squares));
    EXPECT_LE(rest, std::sqrt(squares) * (1.0 + 1e-6) + 1e-6 * norm);
  }
}

}  // namespace
}  // namespace dotmax
