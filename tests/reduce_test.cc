#include "server/engine/reduce.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "gtest/gtest.h"
#include "server/engine/aligned.h"
#include "server/engine/bound.h"
#include "tests/data.h"

namespace dotmax {
namespace {

using testing::Random;

// Every width around the vector widths, survivors from none to all: equal to the obvious loop.
TEST(ReduceTest, SurvivorsAreThoseOfTheObviousLoop) {
  Random random(1);
  AlignedArray<float> scores, thresholds;
  for (const int columns : {1, 2, 3, 4, 7, 8, 15, 16, 17, 31, 32, 33, 63, 64, 65, 256}) {
    for (const double cut : {-4.0, 0.0, 2.5, 9.0}) {
      const int rows = 37;
      scores.Reserve(37 * 256 + 64);
      std::fill_n(scores.data(), 37 * 256 + 64, 1000);
      thresholds.Reserve(256);
      for (int i = 0; i < rows * columns; ++i) scores.data()[i] = static_cast<float>(random.Normal());
      for (int c = 0; c < columns; ++c)
        thresholds.data()[c] = static_cast<float>(cut + 0.1 * random.Normal());
      thresholds.data()[columns / 2] = scores.data()[columns / 2];  // equal does not survive
      std::vector<Survivor> expected;
      for (int r = 0; r < rows; ++r) {
        for (int c = 0; c < columns; ++c) {
          if (scores.data()[r * columns + c] > thresholds.data()[c]) {
            expected.push_back({static_cast<uint16_t>(c), static_cast<uint16_t>(r)});
          }
        }
      }
      std::vector<Survivor> got(rows * columns + kSurvivorPadding);
      got.resize(CollectSurvivors(scores.data(), rows, columns, thresholds.data(), got.data()));
      ASSERT_EQ(got.size(), expected.size()) << columns << " columns, cut " << cut;
      for (size_t i = 0; i < got.size(); ++i) {
        EXPECT_EQ(got[i].row, expected[i].row);
        EXPECT_EQ(got[i].column, expected[i].column);
      }
    }
  }
}

TEST(ReduceTest, IntegerSurvivorsAreThoseOfTheObviousLoop) {
  Random random(2);
  for (const int columns : {1, 15, 16, 17, 64, 65, 256}) {
    const int rows = 21;
    AlignedArray<int32_t> scores, thresholds;
    scores.Reserve(37 * 256 + 64);
    std::fill_n(scores.data(), 37 * 256 + 64, 1000);
    thresholds.Reserve(columns);
    for (int i = 0; i < rows * columns; ++i)
      scores.data()[i] = static_cast<int32_t>(random.Next() % 1000) - 500;
    for (int c = 0; c < columns; ++c) thresholds.data()[c] = static_cast<int32_t>(random.Next() % 1100) - 600;
    thresholds.data()[columns / 2] = std::numeric_limits<int32_t>::max();
    thresholds.data()[columns / 3] = scores.data()[columns / 3];
    std::vector<Survivor> got(rows * columns + kSurvivorPadding);
    const size_t count = CollectSurvivors(scores.data(), rows, columns, thresholds.data(), got.data());
    size_t next = 0;
    for (int r = 0; r < rows; ++r) {
      for (int c = 0; c < columns; ++c) {
        if (scores.data()[r * columns + c] <= thresholds.data()[c]) continue;
        ASSERT_LT(next, count);
        EXPECT_EQ(got[next].row, r);
        EXPECT_EQ(got[next++].column, c);
      }
    }
    EXPECT_EQ(next, count);
  }
}

// Thresholds that rise by row, up to where no integer is larger.
TEST(ReduceTest, SurvivorsByRowAreThoseOfTheObviousLoop) {
  constexpr int kRows = 21;
  Random random(3);
  for (const int columns : {1, 3, 15, 16, 17, 64, 65, 256}) {
    AlignedArray<int32_t> scores;
    std::fill_n(scores.Reserve(kRows * columns + kScoresPadding), kRows * columns + kScoresPadding, 1 << 30);
    const size_t padded = columns + kScoresPadding;
    std::vector<float> base(padded, std::numeric_limits<float>::infinity());
    std::vector<float> by_length(padded), by_along(padded), length(kRows + kScoresPadding),
        along(length.size());
    // Small integers: float32 adds them up exactly.
    for (float& x : length) x = static_cast<float>(random.Next() % 5);
    for (float& x : along) x = static_cast<float>(random.Next() % 5);
    for (int c = 0; c < columns; ++c) {
      base[c] = static_cast<float>(random.Next() % 1100) - 800.0f;
      by_length[c] = static_cast<float>(random.Next() % 100);
      by_along[c] = static_cast<float>(random.Next() % 200) - 100.0f;
    }
    base[columns / 2] = -std::numeric_limits<float>::max();
    const auto threshold = [&](int r, int c) {
      return std::max(base[c] + by_length[c] * length[r] + by_along[c] * along[r], kLeastThreshold);
    };
    for (int i = 0; i < kRows * columns; ++i) {
      scores.data()[i] = static_cast<int32_t>(random.Next() % 1000) - 500;
      // Just not, or just so.
      if (random.Next() % 4 == 0) {
        scores.data()[i] = static_cast<int32_t>(threshold(i / columns, i % columns)) + random.Next() % 2;
      }
      if (random.Next() % 16 == 0) scores.data()[i] = std::numeric_limits<int32_t>::min();
    }
    std::vector<Survivor> got(kRows * columns + kSurvivorPadding);
    const size_t count =
        CollectSurvivors(scores.data(), kRows, columns, {base.data(), by_length.data(), by_along.data()},
                         {length.data(), along.data()}, got.data());
    size_t next = 0;
    for (int r = 0; r < kRows; ++r) {
      for (int c = 0; c < columns; ++c) {
        if (static_cast<float>(scores.data()[r * columns + c]) <= threshold(r, c)) continue;
        ASSERT_LT(next, count);
        EXPECT_EQ(got[next].row, r);
        EXPECT_EQ(got[next++].column, c);
      }
    }
    EXPECT_EQ(next, count);
    EXPECT_GT(count, 0u);

    // Scores less what is added to them survive what these do, but for roundings.
    std::vector<int32_t> added(scores.data(), scores.data() + kRows * columns + kScoresPadding);
    for (int32_t& score : added) score = score % 1000;
    const std::vector<int32_t> before = added;
    AddToScores(added.data(), kRows, columns, by_along.data(), along.data());
    for (int i = 0; i < kRows * columns; ++i) {
      ASSERT_EQ(added[i], before[i] + static_cast<int32_t>(by_along[i % columns] * along[i / columns]));
    }
    EXPECT_EQ(added.back(), before.back());
    std::fill(along.begin(), along.end(), 0x1p120f);
    added = before;
    AddToScores(added.data(), 1, columns, by_length.data(), along.data());
    EXPECT_EQ(added[0], before[0] + (by_length[0] > 0.0f ? 1 << 30 : 0));
  }
}

TEST(ReduceTest, InfinityRulesAColumnOut) {
  float scores[64] = {std::numeric_limits<float>::max(), 1.0f};
  const float thresholds[] = {std::numeric_limits<float>::infinity(), 0.0f};
  Survivor survivors[2 + kSurvivorPadding];
  ASSERT_EQ(CollectSurvivors(scores, 1, 2, thresholds, survivors), 1);
  EXPECT_EQ(survivors[0].column, 1);
}

TEST(ReduceTest, LargestByColumnIsThatOfTheObviousLoop) {
  Random random(16);
  for (const int rows : {1, 2, 33}) {
    for (const int columns : {1, 2, 4, 8, 9, 16, 100, 256}) {
      AlignedArray<int32_t> scores;
      scores.Reserve(rows * columns + kScoresPadding);
      for (int i = 0; i < rows * columns; ++i) scores.data()[i] = static_cast<int>(random.Next() % 20) - 10;
      LargestScores largest;
      LargestByColumn(scores.data(), rows, columns, largest);
      for (int c = 0; c < columns; ++c) {
        int best = 0;
        for (int r = 1; r < rows; ++r) {
          if (scores.data()[r * columns + c] > scores.data()[best * columns + c]) best = r;
        }
        ASSERT_EQ(largest.row[c], best);
        ASSERT_EQ(largest.score[c], scores.data()[best * columns + c]);
      }
    }
  }
}

TEST(ReduceTest, LargestOfGroupsAndAboutTheKthOfThese) {
  constexpr int kGroups = 50, kRows = 3;
  Random random(17);
  for (const int columns : {1, 8, 16, 40}) {
    AlignedArray<int32_t> scores;
    scores.Reserve(kGroups * kRows * columns + kScoresPadding);
    for (int i = 0; i < kGroups * kRows * columns; ++i)
      scores.data()[i] = static_cast<int>(random.Next() % 2000);
    std::vector<float> offset(columns + kColumnsTogether);
    for (int c = 0; c < columns; ++c) offset[c] = static_cast<float>(c);
    const size_t stride = kGroups * kColumnsTogether;
    std::vector<float> largest((columns / kColumnsTogether + 1) * stride);
    for (int g = 0; g < kGroups; ++g) {
      LargestOfGroup(scores.data() + g * columns, kRows, kGroups, columns, offset.data(), 0.5f, stride,
                     largest.data() + g * kColumnsTogether);
    }
    // The same where each row has a length and a scale.
    std::vector<float> slopes(columns + kColumnsTogether), along_slopes(slopes), longer(kRows), along(kRows),
        scales(kRows), by_length(largest.size());
    for (int c = 0; c < columns; ++c) slopes[c] = static_cast<float>(c % 3);
    for (int c = 0; c < columns; ++c) along_slopes[c] = static_cast<float>(c % 5 - 2);
    for (int r = 0; r < kRows; ++r) {
      longer[r] = static_cast<float>(100 * r);
      along[r] = static_cast<float>(50 * (r % 2));
      scales[r] = 1.0f / (1 << r);
    }
    for (int g = 0; g < kGroups; ++g) {
      const int32_t* const group = scores.data() + g * kRows * columns;  // one row after the other
      LargestOfGroup(group, kRows, 1, columns, {offset.data(), slopes.data(), along_slopes.data()},
                     {longer.data(), along.data()}, scales.data(), stride,
                     by_length.data() + g * kColumnsTogether);
      for (int c = 0; c < columns; ++c) {
        float most = -1e9f;
        for (int r = 0; r < kRows; ++r) {
          most = std::max(most, (static_cast<float>(group[r * columns + c]) - offset[c] -
                                 slopes[c] * longer[r] - along_slopes[c] * along[r]) *
                                    scales[r]);
        }
        ASSERT_EQ(by_length[c / kColumnsTogether * stride + g * kColumnsTogether + c % kColumnsTogether],
                  most);
      }
    }
    for (int c = 0; c < columns; ++c) {
      std::vector<float> expected;
      for (int g = 0; g < kGroups; ++g) {
        int32_t most = 0;
        for (int r = 0; r < kRows; ++r) most = std::max(most, scores.data()[(r * kGroups + g) * columns + c]);
        expected.push_back(static_cast<float>(most - c) * 0.5f);
        ASSERT_EQ(largest[c / kColumnsTogether * stride + g * kColumnsTogether + c % kColumnsTogether],
                  expected.back());
      }
      const int wanted = 1 + static_cast<int>(random.Next() % kGroups);
      const std::vector<int32_t> all_wanted(kColumnsTogether, wanted);
      std::vector<float> kth(kColumnsTogether);
      KthLargest(largest.data() + c / kColumnsTogether * stride, kGroups, kColumnsTogether, all_wanted.data(),
                 kth.data());
      const float got = kth[c % kColumnsTogether];
      const auto larger = std::count_if(expected.begin(), expected.end(), [&](float x) { return x > got; });
      const bool is_least = got == *std::min_element(expected.begin(), expected.end());
      EXPECT_TRUE(is_least || larger >= wanted);
      EXPECT_LE(larger, wanted + 2);  // numbers that lie closer than the last step
    }
  }
}

// By vectors or one by one, to the bit.
TEST(ReduceTest, ThresholdsAreThoseOfTheBounds) {
  Random random(6);
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  for (const int count : {1, 2, 7, 8, 9, 256}) {
    std::vector<double> columns[6];
    for (auto& column : columns) {
      for (int c = 0; c < count; ++c) column.push_back(std::abs(random.Normal()));
    }
    columns[0][0] = -kInfinity;
    columns[0][count - 1] = kInfinity;
    columns[0][count / 2] = 1e300;
    std::vector<int32_t> thresholds(count);
    Int8Thresholds({columns[0].data(), columns[1].data(), columns[2].data(), columns[3].data(),
                    columns[4].data(), columns[5].data()},
                   count, 3.5, 0.25, 0.01, thresholds.data());
    for (int c = 0; c < count; ++c) {
      const double error = CodeError(columns[1][c], columns[2][c], columns[3][c], 3.5, 0.25, 0.01);
      EXPECT_EQ(thresholds[c],
                Int8Threshold(columns[0][c], error, 1.0 / 0.01 * columns[4][c], columns[5][c]));
    }
  }
}

TEST(ReduceTest, BallBoundsAreThoseOfTheBounds) {
  Random random(7);
  for (const int count : {1, 7, 8, 9, 256}) {
    std::vector<int32_t> scores(count);
    for (int32_t& score : scores) score = static_cast<int32_t>(1e6 * random.Normal());
    std::vector<double> columns[8];
    for (auto& column : columns) {
      for (int q = 0; q < count; ++q) column.push_back(std::abs(random.Normal()));
    }
    std::vector<double> most(count), bounds(count);
    MostOfCentre(
        scores.data(),
        {columns[0].data(), columns[1].data(), columns[2].data(), columns[3].data(), columns[4].data()},
        count, 3.5, 0.25, 0.01, most.data());
    std::vector<float> reaches(columns[5].begin(), columns[5].end());
    // Where the pivot says nothing: it is far away, or there is none.
    reaches[0] = std::numeric_limits<float>::infinity();
    columns[6][count / 2] = 0.0;
    BallBounds(most.data(), {columns[5].data(), columns[6].data(), columns[7].data(), reaches.data()}, count,
               0.7, bounds.data());
    for (int q = 0; q < count; ++q) {
      const double centre = (scores[q] - columns[1][q]) * columns[0][q] * 0.01;
      const double error = CodeError(columns[2][q], columns[3][q], columns[4][q], 3.5, 0.25, 0.01);
      EXPECT_EQ(most[q], BallBound(centre, error, 0.0));
      const double spread = BallSpread(columns[5][q], 0.7, columns[6][q], reaches[q], columns[7][q]);
      EXPECT_EQ(bounds[q], BallBound(most[q], 0.0, spread));
      EXPECT_LE(spread, columns[5][q] * 0.7);
    }
  }
}

TEST(ReduceTest, SelectsWhatReachesInOrder) {
  Random random(8);
  for (const size_t count : {0, 1, 7, 8, 9, 16, 100}) {
    std::vector<double> bounds, least;
    std::vector<uint32_t> expected;
    for (uint32_t i = 0; i < count; ++i) {
      bounds.push_back(random.Normal());
      least.push_back(i % 5 == 0 ? bounds[i] : 0.5);  // equal reaches
      if (i % 7 == 3) bounds[i] = std::numeric_limits<double>::quiet_NaN();
      if (bounds[i] >= least[i]) expected.push_back(i);
    }
    std::vector<uint32_t> reaching(count + kSurvivorPadding);
    reaching.resize(SelectReaching(bounds.data(), least.data(), count, reaching.data()));
    EXPECT_EQ(reaching, expected);
  }
}

}  // namespace
}  // namespace dotmax
