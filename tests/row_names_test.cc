#include "server/base/row_names.h"

#include <optional>

#include "gtest/gtest.h"

namespace dotmax {
namespace {

TEST(RowNamesTest, NamesAndTheLowestRowOfEach) {
  const RowNames names({"king", "queen", "", "king"});
  EXPECT_EQ(names.size(), 4);
  EXPECT_EQ(names[1], "queen");
  EXPECT_EQ(names.Find("king"), 0);
  EXPECT_EQ(names.Find(""), 2);
  EXPECT_EQ(names.Find("King"), std::nullopt);
  EXPECT_EQ(RowNames({}).Find("x"), std::nullopt);
}

}  // namespace
}  // namespace dotmax
