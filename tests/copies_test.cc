#include "server/engine/copies.h"

#include <cmath>
#include <numeric>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/base/dtype.h"
#include "tests/data.h"

namespace dotmax {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

std::vector<double> NormsOf(const MatrixView& rows) {
  std::vector<double> norms, row(rows.dim);
  for (uint64_t id = 0; id < rows.rows; ++id) {
    ToFloat64(rows.row(id), rows.dtype, rows.dim, row.data());
    norms.push_back(std::sqrt(std::inner_product(row.begin(), row.end(), row.begin(), 0.0)));
  }
  return norms;
}

TEST(CopiesTest, FirstRowsAreLeft) {
  const std::vector<double> values = {3,    4, 0,     // 0
                                      4,    3, 0,     // 1: as long
                                      0,    0, 0,     // 2
                                      3,    4, -0.0,  // 3: is 0
                                      4,    3, 0,     // 4: is 1
                                      -3,   4, 0,     // 5: as long
                                      -0.0, 0, -0.0,  // 6: is 2
                                      3,    4, 0,     // 7: is 0
                                      1,    0, 0};    // 8
  for (const DType dtype :
       {DType::kFloat32, DType::kFloat16, DType::kBFloat16, DType::kFloat64, DType::kInt8}) {
    const SharedMatrix rows = testing::MakeMatrix(values, 3, dtype);
    std::vector<uint32_t> ids = {0, 1, 3, 4, 5, 7, 8, 2, 6};  // by norm
    const Copies copies = Copies::TakeFrom(ids, rows.view, NormsOf(rows.view));
    EXPECT_THAT(ids, ElementsAre(0, 1, 5, 8, 2));
    EXPECT_FALSE(copies.empty());
    EXPECT_GT(copies.bytes(), 0u);
    EXPECT_THAT(copies.of(0), ElementsAre(3, 7));
    EXPECT_THAT(copies.of(1), ElementsAre(4));
    EXPECT_THAT(copies.of(2), ElementsAre(6));
    EXPECT_THAT(copies.of(5), IsEmpty());
    EXPECT_THAT(copies.of(8), IsEmpty());
  }
}

TEST(CopiesTest, DifferentRowsHaveNone) {
  const SharedMatrix rows = testing::RandomNormal(1000, 5, 1);
  std::vector<uint32_t> ids(1000);
  std::iota(ids.begin(), ids.end(), 0);
  const std::vector<uint32_t> all = ids;
  const std::vector<double> alike(1000, 1.0);  // which says nothing
  const Copies copies = Copies::TakeFrom(ids, rows.view, alike);
  EXPECT_EQ(ids, all);
  EXPECT_TRUE(copies.empty());
  EXPECT_THAT(copies.of(7), IsEmpty());
}

TEST(CopiesTest, ManyOfFew) {
  constexpr uint64_t kRows = 5000, kDifferent = 7;
  std::vector<double> values;
  for (uint64_t id = 0; id < kRows; ++id) values.insert(values.end(), {1.0 * (id % kDifferent), -1.0});
  const SharedMatrix rows = testing::MakeMatrix(values, 2);
  std::vector<uint32_t> ids(kRows);
  std::iota(ids.begin(), ids.end(), 0);
  const Copies copies = Copies::TakeFrom(ids, rows.view, std::vector<double>(kRows, 1.0));
  EXPECT_THAT(ids, ElementsAre(0, 1, 2, 3, 4, 5, 6));
  for (uint64_t first = 0; first < kDifferent; ++first) {
    uint64_t next = first;
    for (const uint32_t id : copies.of(first)) EXPECT_EQ(id, next += kDifferent);
    EXPECT_GE(next + kDifferent, kRows);
  }
}

}  // namespace
}  // namespace dotmax
