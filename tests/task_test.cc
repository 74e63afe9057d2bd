// Tasks of all kinds that share passes, against the oracle: none must notice the others.
#include "server/engine/task.h"

#include <algorithm>
#include <atomic>
#include <deque>
#include <limits>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/types/span.h"
#include "gtest/gtest.h"
#include "server/engine/engine.h"
#include "server/engine/exact.h"
#include "server/engine/matrix.h"
#include "server/engine/seeds.h"
#include "tests/data.h"
#include "tests/exact_answer.h"
#include "tests/oracle.h"

namespace dotmax {
namespace {

using testing::ExactAnswer;
using testing::MakeMatrix;
using testing::Random;
using testing::RandomClustered;
using testing::RandomNormal;

absl::Status Never(absl::Time) { return absl::OkStatus(); }

// The base behind every kind of screen.
std::vector<ScreenOptions> Screens(uint32_t dim) {
  using Kind = ScreenOptions::Kind;
  return {{.kind = Kind::kFloat32},
          {.kind = Kind::kInt8, .axes = dim},
          {.kind = Kind::kInt8, .axes = dim / 2, .two_levels = true},
          {.kind = Kind::kInt8, .axes = dim, .clusters = 20}};
}

// Any question about `base`.
Selection AnySelection(Random& random, const MatrixView& queries, const MatrixView& base) {
  constexpr uint32_t kTopKs[] = {1, 1, 2, 10, 150};
  constexpr Metric kMetrics[] = {Metric::kInnerProduct, Metric::kCosine, Metric::kSquaredEuclidean};
  Selection selection;
  selection.top_k = kTopKs[random.Next() % std::size(kTopKs)];
  selection.metric = kMetrics[random.Next() % std::size(kMetrics)];
  if (random.Next() % 4 == 0) selection.reduction = Reduction::kGlobal;
  if (random.Next() % 4 == 0) {
    selection.bounds = {testing::ExactScore(queries, 0, base, random.Next() % base.rows, selection.metric)};
    selection.count_only = random.Next() % 2 == 0;
    selection.tell_truncated = !selection.count_only;
  }
  if (random.Next() % 4 == 0) {
    selection.excluded_splits.push_back(0);
    for (uint64_t row = 0; row < queries.rows; ++row) {
      for (uint64_t id = random.Next() % 5; id < base.rows; id += 1 + random.Next() % 9) {
        selection.excluded.push_back(id);
      }
      selection.excluded_splits.push_back(selection.excluded.size());
    }
  }
  return selection;
}

void ExpectSame(const absl::StatusOr<Answer>& answer, const Answer& expected, const std::string& what) {
  ASSERT_TRUE(answer.ok()) << what << ": " << answer.status();
  EXPECT_EQ(answer->hits, expected.hits) << what;
  EXPECT_EQ(answer->row_splits, expected.row_splits) << what;
  EXPECT_EQ(answer->best, expected.best) << what;
  EXPECT_EQ(answer->truncated, expected.truncated) << what;
  EXPECT_EQ(answer->counts, expected.counts) << what;
}

// Advances all tasks to their ends, some rows of some of them at a time.
void AdvanceAtRandom(Engine& engine, const Matrix& matrix, std::deque<Task>& tasks, Random& random) {
  for (;;) {
    std::vector<Engine::Share> shares;
    uint64_t room = random.Next() % 3 == 0 ? Engine::LargestPass(matrix.view().dim) : 1 + random.Next() % 40;
    for (Task& task : tasks) {
      const uint64_t rows = std::min<uint64_t>({task.rows_left(), room, 1 + random.Next() % 15});
      if (rows == 0) continue;
      shares.push_back({&task, rows});
      room -= rows;
    }
    if (shares.empty()) return;
    engine.Advance(matrix, shares);
  }
}

TEST(TaskTest, TasksOfAllKindsSharePasses) {
  constexpr uint32_t kDim = 16;
  constexpr DType kDTypes[] = {DType::kFloat32, DType::kFloat64, DType::kInt8};
  Random random(1);
  const SharedMatrix base = RandomClustered(1500, kDim, 20, 0.3, 2);
  for (const ScreenOptions& screen : Screens(kDim)) {
    const Matrix matrix(base, screen);
    for (const int threads : {1, 2}) {
      Engine engine(threads);
      for (int round = 0; round < 2; ++round) {
        std::vector<SharedMatrix> queries;
        std::deque<Task> tasks;
        for (uint64_t i = 0; i < 8; ++i) {
          const DType dtype = kDTypes[random.Next() % std::size(kDTypes)];
          queries.push_back(RandomNormal(1 + random.Next() % 10, kDim, random.Next(), dtype));
          tasks.emplace_back(base.view, queries[i].view, AnySelection(random, queries[i].view, base.view),
                             Never);
        }
        AdvanceAtRandom(engine, matrix, tasks, random);
        for (uint64_t i = 0; i < tasks.size(); ++i) {
          const Answer expected = ExactAnswer(queries[i].view, base.view, tasks[i].selection());
          ExpectSame(Engine::Finish(tasks[i]), expected, matrix.screen());
        }
      }
    }
  }
}

// A block for each thread, whose ends are within tasks; one task is stopped.
TEST(TaskTest, BlocksOfTasksLieSideBySide) {
  constexpr uint32_t kDim = 16;
  constexpr uint64_t kStopped = 2;
  Random random(5);
  const SharedMatrix base = RandomClustered(600, kDim, 20, 0.3, 6);
  std::vector<SharedMatrix> queries;
  std::vector<Selection> selections;
  std::vector<Answer> expected;
  for (uint64_t i = 0; i < 4; ++i) {
    queries.push_back(RandomNormal(130 + random.Next() % 30, kDim, random.Next()));
    selections.push_back(AnySelection(random, queries[i].view, base.view));
    expected.push_back(i == kStopped ? Answer() : ExactAnswer(queries[i].view, base.view, selections[i]));
  }
  for (const ScreenOptions& screen : Screens(kDim)) {
    const Matrix matrix(base, screen);
    for (const int threads : {2, 3}) {
      Engine engine(threads);
      std::deque<Task> tasks;
      std::vector<Engine::Share> shares;
      uint64_t rows = 0;
      for (uint64_t i = 0; i < queries.size(); ++i) {
        const auto stop = [i](absl::Time) {
          return i == kStopped ? absl::CancelledError("enough") : absl::OkStatus();
        };
        Task& task = tasks.emplace_back(base.view, queries[i].view, selections[i], stop);
        shares.push_back({&task, std::min(task.rows_left(), 2 * Engine::LargestPass(kDim) - rows)});
        rows += shares.back().rows;
      }
      ASSERT_GT(rows, Engine::LargestPass(kDim));
      engine.Advance(matrix, shares);
      for (uint64_t i = 0; i < tasks.size(); ++i) {
        while (tasks[i].rows_left() > 0) {
          const Engine::Share rest = {&tasks[i], tasks[i].rows_left()};
          engine.Advance(matrix, {&rest, 1});
        }
        const absl::StatusOr<Answer> answer = Engine::Finish(tasks[i]);
        if (i == kStopped) {
          EXPECT_TRUE(absl::IsCancelled(answer.status())) << answer.status();
        } else {
          ExpectSame(answer, expected[i], matrix.screen());
        }
      }
    }
  }
}

// Guesses that fail for one task are made good, and no other task counts anything twice.
TEST(TaskTest, FailedGuessesAreTheirTasksOwn) {
  constexpr int kRows = 12000;
  constexpr int kRunRows = 32;  // as the int8 screen's
  constexpr uint32_t kDim = 32, kTopK = 300;
  // Rows in the order of their lengths, which hardly differ. Those that the sample consists of are near to
  // some of the queries, and no others are.
  std::vector<double> values;
  Random random(3);
  for (int row = 0; row < kRows; ++row) {
    std::vector<double> direction(kDim);
    for (double& x : direction) x = random.Normal();
    const double norm = LengthOf(direction);
    for (const double x : direction) values.push_back((2.0 - row / (2.0 * kRows)) * x / norm);
  }
  const ScreenOptions plain = {.kind = ScreenOptions::Kind::kInt8, .axes = kDim};
  const Matrix before(MakeMatrix(values, kDim), plain);
  for (const RowRun& run : SampleRuns(*before.codes(), kRunRows, kTopK)) {
    for (int i = 0; i < 8; ++i) {
      const uint64_t row = before.codes()->id(run.tile, run.first + i);
      const double length = LengthOf(absl::MakeConstSpan(values).subspan(row * kDim, kDim));
      std::fill_n(values.begin() + row * kDim, kDim, 0.0);
      values[row * kDim] = length;
    }
  }
  const SharedMatrix base = MakeMatrix(values, kDim);
  std::vector<double> near(2 * kDim, 0.1);
  near[0] = near[kDim] = 1.0;
  const SharedMatrix misled = MakeMatrix(near, kDim), queries = RandomNormal(2, kDim, 4);
  const Matrix matrix(base, plain);
  Engine engine(2);
  std::deque<Task> tasks;
  const auto add = [&](const MatrixView& asked, Selection selection) {
    tasks.emplace_back(base.view, asked, std::move(selection), Never);
  };
  for (const Metric metric : {Metric::kSquaredEuclidean, Metric::kCosine, Metric::kInnerProduct}) {
    add(misled.view, {.top_k = kTopK, .metric = metric});
    add(queries.view, {.top_k = 1, .metric = metric});
    add(queries.view, {.top_k = kTopK, .metric = metric});
  }
  add(queries.view, {.top_k = 100, .reduction = Reduction::kGlobal});
  add(queries.view, {.bounds = {20.0}, .count_only = true});
  std::vector<Engine::Share> shares;
  for (Task& task : tasks) shares.push_back({&task, task.rows_left()});
  engine.Advance(matrix, shares);
  for (Task& task : tasks) {
    const Answer expected = ExactAnswer(task.queries(), base.view, task.selection());
    const absl::StatusOr<Answer> answer = Engine::Finish(task);
    ExpectSame(answer, expected, matrix.screen());
    ASSERT_TRUE(answer.ok());
    EXPECT_GT(answer->stats.pairs_screened, 2.5 * kRows) << "no guess was wrong";
  }
}

TEST(TaskTest, AStoppedTaskLeavesThePassToTheOthers) {
  constexpr uint32_t kDim = 32;
  const SharedMatrix base = RandomClustered(20000, kDim, 20, 0.3, 2);
  const SharedMatrix queries = RandomNormal(2, kDim, 4);
  for (const uint32_t top_k : {1u, 200u}) {
    const Selection nearest = {.top_k = top_k, .metric = Metric::kSquaredEuclidean};
    const Answer expected[] = {ExactAnswer(queries.view, base.view, {.top_k = top_k}),
                               {},
                               ExactAnswer(queries.view, base.view, nearest)};
    for (const ScreenOptions& screen : Screens(kDim)) {
      const Matrix matrix(base, screen);
      Engine engine(2);
      std::atomic<int> asked{0};
      std::deque<Task> tasks;
      tasks.emplace_back(base.view, queries.view, Selection{.top_k = top_k}, Never);
      tasks.emplace_back(base.view, queries.view, Selection{.top_k = top_k}, [&asked](absl::Time) {
        return ++asked > 2 ? absl::CancelledError("enough") : absl::OkStatus();
      });
      tasks.emplace_back(base.view, queries.view, nearest, Never);
      std::vector<Engine::Share> shares;
      for (Task& task : tasks) shares.push_back({&task, queries.view.rows});
      engine.Advance(matrix, shares);
      EXPECT_EQ(tasks[1].rows_left(), 0);
      EXPECT_EQ(Engine::Finish(tasks[1]).status(), absl::CancelledError("enough"));
      for (const size_t i : {0, 2}) ExpectSame(Engine::Finish(tasks[i]), expected[i], matrix.screen());
    }
  }
}

// What a pass cost is shared out by rows.
TEST(TaskTest, StatsAreATasksShare) {
  const SharedMatrix base = RandomNormal(5000, 16, 1), queries = RandomNormal(4, 16, 2);
  const Matrix matrix(base, {.kind = ScreenOptions::Kind::kFloat32});
  Engine engine(1);
  Task one(base.view, queries.view, {}, Never), other(base.view, queries.view, {}, Never);
  engine.Advance(matrix, {{&one, 3}, {&other, 1}});
  engine.Advance(matrix, {{&one, 1}, {&other, 3}});
  for (Task* const task : {&one, &other}) {
    const absl::StatusOr<Answer> answer = Engine::Finish(*task);
    ASSERT_TRUE(answer.ok());
    EXPECT_EQ(answer->stats.pairs_screened, 4 * 5000);
    EXPECT_GE(answer->stats.pairs_rescored, 4);
    EXPECT_GT(answer->stats.compute_seconds, 0.0);
  }
}

}  // namespace
}  // namespace dotmax
