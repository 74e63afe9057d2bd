#include "server/batch/pass_costs.h"

#include "gtest/gtest.h"
#include "server/engine/engine.h"

namespace dotmax {
namespace {

TEST(PassCostsTest, NothingIsKnownBeforeAPass) {
  const PassCosts costs;
  EXPECT_FALSE(costs.Seconds(1).has_value());
  EXPECT_EQ(costs.RowSeconds(), 0.0);
  EXPECT_EQ(costs.EnoughRows(256), 256);
}

TEST(PassCostsTest, SizesThatWereNotSeenTakeRatherLess) {
  PassCosts costs;
  costs.Record(1, 0.001);
  costs.Record(256, 0.0256);
  EXPECT_DOUBLE_EQ(*costs.Seconds(1), 0.001);
  EXPECT_DOUBLE_EQ(*costs.Seconds(256), 0.0256);
  EXPECT_DOUBLE_EQ(*costs.Seconds(200), 0.02);  // as by the row in a pass of 256
  EXPECT_DOUBLE_EQ(*costs.Seconds(2), 0.0002);  // likewise
  EXPECT_DOUBLE_EQ(costs.RowSeconds(), 0.0001);
}

TEST(PassCostsTest, MoreThanAPassHoldsTakesSeveral) {
  PassCosts costs;
  costs.Record(128, 0.0256);
  EXPECT_DOUBLE_EQ(*costs.Seconds(100'000), 0.0256);  // at least
  costs.Record(Engine::LargestPass(1), 0.0256);
  EXPECT_DOUBLE_EQ(*costs.Seconds(100'000), 10.0);
}

TEST(PassCostsTest, CostsFollowWhatChanges) {
  PassCosts costs;
  costs.Record(16, 1.0);
  for (int i = 0; i < 30; ++i) costs.Record(16, 0.5);
  EXPECT_NEAR(*costs.Seconds(16), 0.5, 0.001);
}

TEST(PassCostsTest, EnoughRowsAreTheFewestThatCostNoMore) {
  PassCosts costs;
  for (const auto& [rows, by_row] : std::initializer_list<std::pair<uint64_t, double>>{
           {1, 8.0}, {16, 1.5}, {64, 1.04}, {128, 1.01}, {256, 1.0}}) {
    EXPECT_EQ(costs.EnoughRows(256), 256) << rows;  // until the largest was seen
    costs.Record(rows, by_row * rows);
  }
  EXPECT_EQ(costs.EnoughRows(256), 64);
  EXPECT_EQ(costs.EnoughRows(32), 32);
}

}  // namespace
}  // namespace dotmax
