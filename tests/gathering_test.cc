#include "server/batch/gathering.h"

#include "gtest/gtest.h"

namespace dotmax {
namespace {

const absl::Time kNow = absl::UnixEpoch() + absl::Hours(1);

TEST(GatheringTest, NobodyWaitsBeforeAnyPass) { EXPECT_EQ(Gathering().From(kNow).requests, 0u); }

TEST(GatheringTest, ALoneCallerWaitsForNobody) {
  Gathering gathering;
  gathering.PassEnded(1, 0, 0.01);
  gathering.Answered(kNow);
  EXPECT_EQ(gathering.From(kNow).requests, 0u);
}

TEST(GatheringTest, AfterASharedPassAllThatWereUnderWayAreAwaited) {
  Gathering gathering;
  gathering.PassEnded(5, 3, 0.01);
  gathering.Answered(kNow);
  const Gathering::Wait wait = gathering.From(kNow);
  EXPECT_EQ(wait.requests, 8u);
  EXPECT_GT(wait.gap, absl::ZeroDuration());
  EXPECT_LT(wait.gap, wait.end - kNow);
  EXPECT_LT(wait.end, kNow + absl::Milliseconds(10));  // less than the pass took
}

TEST(GatheringTest, WhoComesToAnIdleServerWaitsForNobody) {
  Gathering gathering;
  gathering.PassEnded(5, 3, 0.01);
  gathering.Answered(kNow);
  EXPECT_EQ(gathering.From(kNow + absl::Milliseconds(9)).requests, 8u);
  EXPECT_EQ(gathering.From(kNow + absl::Milliseconds(11)).requests, 0u);
}

TEST(GatheringTest, ThoseThatDoNotComeBackAreForgotten) {
  Gathering gathering;
  gathering.PassEnded(64, 0, 0.01);
  uint64_t awaited = 64;
  for (int pass = 0; pass < 20; ++pass) {
    gathering.PassEnded(2, 0, 0.01);
    gathering.Answered(kNow);
    const uint64_t fewer = gathering.From(kNow).requests;
    EXPECT_TRUE(fewer < awaited || fewer == 2) << fewer;
    EXPECT_GE(fewer, awaited / 2);  // one small pass says little
    awaited = fewer;
  }
  EXPECT_EQ(awaited, 2u);
}

TEST(GatheringTest, NearDeadlinesAreUrgent) {
  Gathering gathering;
  EXPECT_FALSE(gathering.IsUrgent(kNow + absl::Microseconds(1), kNow));  // nothing is known of passes
  gathering.PassEnded(5, 3, 0.01);
  EXPECT_TRUE(gathering.IsUrgent(kNow + absl::Milliseconds(20), kNow));
  EXPECT_FALSE(gathering.IsUrgent(kNow + absl::Milliseconds(40), kNow));
  EXPECT_FALSE(gathering.IsUrgent(absl::InfiniteFuture(), kNow));
}

}  // namespace
}  // namespace dotmax
