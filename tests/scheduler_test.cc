#include "server/batch/scheduler.h"

#include <atomic>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/base/errors.h"

namespace dotmax {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::UnorderedElementsAre;

constexpr char kBase = 0, kOther = 0;  // whose addresses are bases

struct NamedJob : Scheduler::Job {
  std::string name;
};

// A scheduler, its clock, and who works for it.
class SchedulerTest : public ::testing::Test {
 protected:
  struct Asked {
    std::string name;
    uint64_t rows = 1;
    std::string client = "";
    Priority priority = Priority::kNormal;
    const void* base = &kBase;
    absl::Duration deadline = absl::InfiniteDuration();
    uint64_t bytes = 0;
  };

  absl::Status Admit(const Asked& asked) {
    auto job = std::make_unique<NamedJob>();
    job->name = asked.name;
    job->rows = asked.rows;
    job->bytes = asked.bytes;
    job->base = asked.base;
    job->limits.client = asked.client;
    job->limits.priority = asked.priority;
    job->limits.deadline = now_ + asked.deadline;
    job->limits.cancelled = cancelled_[asked.name] = std::make_shared<std::atomic<bool>>(false);
    std::unique_ptr<Scheduler::Job> waits = std::move(job);
    absl::Status status = scheduler_->Admit(waits, costs_, now_, busy_until_);
    EXPECT_EQ(waits == nullptr, status.ok());
    return status;
  }

  // One pass; "name:rows" of each turn. What has rows left waits again.
  std::vector<std::string> Pass(uint64_t most = 256) {
    std::vector<std::string> turns;
    if (scheduler_->empty()) return turns;
    const void* const base = scheduler_->Next().base;
    std::vector<Scheduler::Turn> taken = scheduler_->Take(most, costs_, now_);
    for (const auto& [job, rows] : taken) {
      EXPECT_EQ(job->base, base);
      turns.push_back(static_cast<NamedJob&>(*job).name + ":" + std::to_string(rows));
    }
    std::reverse(taken.begin(), taken.end());
    for (auto& [job, rows] : taken) {
      EXPECT_GE(job->rows, rows);
      job->rows -= rows;
      if (job->rows > 0) {
        scheduler_->Return(std::move(job));
      } else {
        scheduler_->Release(*job);
      }
    }
    return turns;
  }

  std::map<std::string, std::string> Unwanted() {
    std::map<std::string, std::string> reasons;
    for (const auto& [job, status] : scheduler_->TakeUnwanted()) {
      reasons[static_cast<NamedJob&>(*job).name] = *ErrorReason(status);
    }
    return reasons;
  }

  void Limit(const Scheduler::Limits& limits) { scheduler_ = std::make_unique<Scheduler>(limits); }

  std::unique_ptr<Scheduler> scheduler_ = std::make_unique<Scheduler>(Scheduler::Limits());
  std::map<std::string, std::shared_ptr<std::atomic<bool>>> cancelled_;
  PassCosts costs_;
  absl::Time now_ = absl::FromUnixSeconds(1000);
  absl::Time busy_until_ = absl::InfinitePast();
};

TEST_F(SchedulerTest, WhatWaitsSharesAPass) {
  for (const char* name : {"a", "b", "c"}) ASSERT_TRUE(Admit({name, 2}).ok());
  EXPECT_EQ(scheduler_->rows(), 6);
  EXPECT_THAT(Pass(), ElementsAre("a:2", "b:2", "c:2"));
  EXPECT_TRUE(scheduler_->empty());
  EXPECT_EQ(scheduler_->rows(), 0);
}

TEST_F(SchedulerTest, APassIsOfOneBase) {
  ASSERT_TRUE(Admit({"a"}).ok());
  ASSERT_TRUE(Admit({.name = "x", .base = &kOther}).ok());
  ASSERT_TRUE(Admit({"b"}).ok());
  EXPECT_THAT(Pass(), ElementsAre("a:1", "b:1"));
  EXPECT_THAT(Pass(), ElementsAre("x:1"));
}

TEST_F(SchedulerTest, SmallOnesDoNotWaitForALargeOne) {
  ASSERT_TRUE(Admit({"large", 10'000}).ok());
  ASSERT_TRUE(Admit({"small", 1}).ok());
  EXPECT_THAT(Pass(), ElementsAre("small:1", "large:255"));
  ASSERT_TRUE(Admit({"middle", 100}).ok());
  EXPECT_THAT(Pass(), UnorderedElementsAre("middle:100", "large:156"));
  EXPECT_THAT(Pass(), ElementsAre("large:256"));
}

TEST_F(SchedulerTest, ThoseOfOneSizeAreAnsweredInTurn) {
  ASSERT_TRUE(Admit({"first", 100}).ok());
  ASSERT_TRUE(Admit({"second", 100}).ok());
  EXPECT_THAT(Pass(64), ElementsAre("first:64"));
  ASSERT_TRUE(Admit({"third", 100}).ok());
  EXPECT_THAT(Pass(64), ElementsAre("first:36", "second:28"));
  EXPECT_THAT(Pass(200), ElementsAre("second:72", "third:100"));
}

TEST_F(SchedulerTest, ClientsHaveEqualShares) {
  for (int i = 0; i < 20; ++i) ASSERT_TRUE(Admit({"greedy", 100, "greedy"}).ok());
  ASSERT_TRUE(Admit({"modest", 100, "modest"}).ok());
  EXPECT_THAT(Pass(64), UnorderedElementsAre("greedy:32", "modest:32"));
  EXPECT_THAT(Pass(64), UnorderedElementsAre("greedy:32", "modest:32"));
}

TEST_F(SchedulerTest, WhoHasNotWaitedHasSavedNothing) {
  ASSERT_TRUE(Admit({"old", 2000, "old"}).ok());
  for (int i = 0; i < 10; ++i) Pass(64);
  ASSERT_TRUE(Admit({"new", 100, "new"}).ok());
  // From now on half of it, and not all that the other one had meanwhile.
  Pass(16);
  EXPECT_THAT(Pass(64), UnorderedElementsAre("old:32", "new:32"));
}

TEST_F(SchedulerTest, HigherClassesGetMoreButNotAll) {
  for (const auto& [name, priority] : std::initializer_list<std::pair<const char*, Priority>>{
           {"low", Priority::kLow}, {"normal", Priority::kNormal}, {"high", Priority::kHigh}}) {
    ASSERT_TRUE(Admit({.name = name, .rows = 50'000, .client = "c", .priority = priority}).ok());
  }
  std::map<std::string, int> rows;
  for (int i = 0; i < 200; ++i) {
    for (const std::string& turn : Pass()) {
      rows[turn.substr(0, turn.find(':'))] += std::stoi(turn.substr(turn.find(':') + 1));
    }
  }
  EXPECT_GT(rows["low"], 200);
  EXPECT_GT(rows["normal"], 6 * rows["low"]);
  EXPECT_GT(rows["high"], 6 * rows["normal"]);
}

TEST_F(SchedulerTest, AFullQueueRefuses) {
  Limit({.requests = 10});
  for (int i = 0; i < 10; ++i) ASSERT_TRUE(Admit({"a", 1, std::to_string(i)}).ok());
  absl::Status full = Admit({"b"});
  EXPECT_EQ(full.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(ErrorReason(full), "QUEUE_FULL");
  EXPECT_THAT(std::string(full.message()), ::testing::HasSubstr("at most 10 requests"));
  Limit({.rows = 12});
  for (const char* name : {"a", "b", "c"}) ASSERT_TRUE(Admit({name, 3, name}).ok());
  ASSERT_TRUE(Admit({"d", 1, "d"}).ok());
  EXPECT_EQ(ErrorReason(Admit({"e", 3})), "QUEUE_FULL");
  EXPECT_TRUE(Admit({"e", 2}).ok());
  Limit({.bytes = 10});
  ASSERT_TRUE(Admit({.name = "a", .client = "a", .bytes = 5}).ok());
  EXPECT_EQ(ErrorReason(Admit({.name = "b", .bytes = 6})), "QUEUE_FULL");
  EXPECT_EQ(ErrorReason(Admit({.name = "b", .bytes = UINT64_MAX})), "QUEUE_FULL");
  EXPECT_TRUE(Admit({.name = "b", .bytes = 5}).ok());
}

TEST_F(SchedulerTest, AnEmptyQueueTakesAnything) {
  Limit({.requests = 1, .rows = 1, .bytes = 1});
  EXPECT_TRUE(Admit({.name = "a", .rows = 1000, .bytes = 1000}).ok());
  EXPECT_THAT(Pass(), ElementsAre("a:256"));
  EXPECT_EQ(ErrorReason(Admit({"b"})), "QUEUE_FULL");  // it is back
}

TEST_F(SchedulerTest, AHugeQuestionLeavesRoom) {
  Limit({.rows = 12});
  ASSERT_TRUE(Admit({"a", 1000, "x"}).ok());
  EXPECT_TRUE(Admit({"b", 3, "x"}).ok());
  EXPECT_TRUE(Admit({"c", 1000, "y"}).ok());
  EXPECT_EQ(ErrorReason(Admit({"d", 1, "x"})), "CLIENT_QUEUE_FULL");
  EXPECT_TRUE(Admit({"d", 1, "z"}).ok());
}

TEST_F(SchedulerTest, BytesCountUntilTheAnswer) {
  Limit({.bytes = 10});
  ASSERT_TRUE(Admit({.name = "a", .client = "a", .bytes = 10}).ok());
  std::vector<Scheduler::Turn> turns = scheduler_->Take(256, costs_, now_);
  ASSERT_EQ(turns.size(), 1);
  EXPECT_EQ(scheduler_->requests(), 0);
  EXPECT_EQ(scheduler_->bytes(), 10);
  ASSERT_TRUE(Admit({.name = "b", .bytes = 1}).ok());  // nothing waits
  EXPECT_EQ(ErrorReason(Admit({.name = "c", .bytes = 1})), "QUEUE_FULL");
  scheduler_->Release(*turns[0].job);
  EXPECT_TRUE(Admit({.name = "c", .bytes = 1}).ok());
}

TEST_F(SchedulerTest, OneClientLeavesRoomForOthers) {
  Limit({.requests = 100});
  int admitted = 0;
  while (Admit({"greedy", 1, "greedy"}).ok()) ++admitted;
  EXPECT_EQ(admitted, 51);  // as long as it has no more than it leaves
  EXPECT_EQ(ErrorReason(Admit({"greedy", 1, "greedy"})), "CLIENT_QUEUE_FULL");
  admitted = 0;
  while (Admit({"other", 1, "other"}).ok()) ++admitted;
  EXPECT_EQ(admitted, 25);
}

TEST_F(SchedulerTest, RoomIsMadeOfWhatNobodyWants) {
  Limit({.requests = 3});
  ASSERT_TRUE(Admit({"a", 1, "a"}).ok());
  ASSERT_TRUE(Admit({.name = "b", .client = "b", .deadline = absl::Seconds(1)}).ok());
  ASSERT_TRUE(Admit({"c", 1, "c"}).ok());
  EXPECT_FALSE(Admit({"d", 1, "d"}).ok());
  cancelled_["a"]->store(true);
  now_ += absl::Seconds(2);
  EXPECT_FALSE(Admit({"d", 1, "d"}).ok());  // looked once since the last pass
  scheduler_->Take(1, costs_, now_);
  Unwanted();
  ASSERT_TRUE(Admit({"d", 1, "d"}).ok());
}

TEST_F(SchedulerTest, WhatIsNotWantedAnyMoreHasNoTurn) {
  for (const char* name : {"a", "b", "c"}) ASSERT_TRUE(Admit({name}).ok());
  ASSERT_TRUE(Admit({.name = "d", .deadline = absl::Seconds(1)}).ok());
  cancelled_["b"]->store(true);
  now_ += absl::Seconds(1);
  EXPECT_THAT(Pass(), ElementsAre("a:1", "c:1"));
  EXPECT_THAT(Unwanted(),
              UnorderedElementsAre(std::pair("b", "CANCELLED"), std::pair("d", "DEADLINE_EXCEEDED")));
  EXPECT_THAT(Unwanted(), IsEmpty());
  EXPECT_TRUE(scheduler_->empty());
  EXPECT_EQ(scheduler_->bytes(), 0);
}

TEST_F(SchedulerTest, WhatComesTooLateIsRefusedAtOnce) {
  EXPECT_EQ(ErrorReason(Admit({.name = "past", .deadline = absl::ZeroDuration()})), "DEADLINE_EXCEEDED");
  EXPECT_TRUE(Admit({.name = "unknown", .deadline = absl::Milliseconds(1)}).ok());
  Pass();
  costs_.Record(1, 1.0);
  costs_.Record(256, 25.6);
  absl::Status late = Admit({.name = "a", .deadline = absl::Milliseconds(900)});
  EXPECT_EQ(late.code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_EQ(ErrorReason(late), "DEADLINE_UNREACHABLE");
  EXPECT_TRUE(Admit({.name = "b", .deadline = absl::Milliseconds(1100)}).ok());
  busy_until_ = now_ + absl::Seconds(1);
  EXPECT_EQ(ErrorReason(Admit({.name = "c", .deadline = absl::Milliseconds(1900)})), "DEADLINE_UNREACHABLE");
}

TEST_F(SchedulerTest, WhatOthersMakeTooLateMayTryAgain) {
  costs_.Record(1, 1.0);
  costs_.Record(256, 25.6);
  busy_until_ = now_ + absl::Seconds(1);
  ASSERT_TRUE(Admit({.name = "a", .client = "x"}).ok());
  // Alone 2 s; before it 0.1 s, as cheap as a row gets; and three tenths for doubt.
  const absl::Status late = Admit({.name = "b", .client = "x", .deadline = absl::Milliseconds(2700)});
  EXPECT_EQ(late.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(ErrorReason(late), "QUEUE_TOO_LONG");
  EXPECT_NEAR(absl::ToDoubleMilliseconds(*ErrorRetryDelay(late)), 30, 1);
  EXPECT_TRUE(Admit({.name = "b", .client = "x", .deadline = absl::Milliseconds(2750)}).ok());
  // Of what another client has waiting, as much comes first as it asks for itself.
  ASSERT_TRUE(Admit({.name = "c", .rows = 1000, .client = "x"}).ok());
  EXPECT_FALSE(Admit({.name = "d", .client = "y", .deadline = absl::Milliseconds(3850)}).ok());
  EXPECT_TRUE(Admit({.name = "d", .client = "y", .deadline = absl::Milliseconds(3950)}).ok());
}

TEST_F(SchedulerTest, WhatHasBecomeTooLateIsNotComputed) {
  ASSERT_TRUE(Admit({.name = "a", .deadline = absl::Seconds(2)}).ok());
  ASSERT_TRUE(Admit({"b"}).ok());
  costs_.Record(1, 1.0);
  now_ += absl::Milliseconds(1500);
  EXPECT_THAT(Pass(), ElementsAre("b:1"));
  EXPECT_THAT(Unwanted(), ElementsAre(std::pair("a", "DEADLINE_UNREACHABLE")));
}

TEST_F(SchedulerTest, APassIsMadeShorterForADeadline) {
  for (const uint64_t rows : {1, 2, 4, 8, 16, 32, 64, 128, 256}) costs_.Record(rows, 0.01 * rows);
  ASSERT_TRUE(Admit({.name = "urgent", .rows = 5, .deadline = absl::Seconds(1)}).ok());
  ASSERT_TRUE(Admit({"patient", 1000}).ok());
  EXPECT_THAT(Pass(), ElementsAre("urgent:5", "patient:59"));
}

TEST_F(SchedulerTest, ManyClientsComeAndGo) {
  for (int i = 0; i < 1000; ++i) {
    ASSERT_TRUE(Admit({"a", 3, std::to_string(i)}).ok());
    ASSERT_TRUE(Admit({"b", 3, std::to_string(i + 1)}).ok());
    Pass(4);
  }
  uint64_t rows = scheduler_->rows();
  EXPECT_EQ(rows, 2000 * 3 - 4000);
  while (!scheduler_->empty()) Pass();
  EXPECT_EQ(scheduler_->rows(), 0);
  EXPECT_EQ(scheduler_->requests(), 0);
}

}  // namespace
}  // namespace dotmax
