#include "server/engine/topk.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <map>
#include <thread>
#include <utility>
#include <vector>

#include "gtest/gtest.h"
#include "tests/data.h"

namespace dotmax {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

double NeverResolved(uint64_t, uint64_t) {
  ADD_FAILURE() << "resolved a score that was already known";
  return 0.0;
}

Candidate Known(double score, uint64_t query_row, uint64_t id) { return {score, score, query_row, id}; }

TEST(TopKTest, NothingOfferedGivesNothing) {
  TopK top(3);
  EXPECT_EQ(top.threshold(), -kInfinity);
  EXPECT_TRUE(top.Take(NeverResolved).empty());
}

TEST(TopKTest, FewerThanKAreAllKept) {
  TopK top(5);
  top.Offer(Known(1.0, 0, 4), NeverResolved);
  top.Offer(Known(2.0, 0, 9), NeverResolved);
  EXPECT_EQ(top.threshold(), -kInfinity);
  EXPECT_EQ(top.Take(NeverResolved), (std::vector<Hit>{{2.0, 0, 9}, {1.0, 0, 4}}));
}

TEST(TopKTest, TiesGoToTheLowestQueryRowThenId) {
  TopK top(3);
  for (const auto& [row, id] : {std::pair{1, 0}, {0, 7}, {0, 3}, {2, 1}, {0, 5}}) {
    top.Offer(Known(1.0, row, id), NeverResolved);
  }
  EXPECT_EQ(top.Take(NeverResolved), (std::vector<Hit>{{1.0, 0, 3}, {1.0, 0, 5}, {1.0, 0, 7}}));
}

TEST(TopKTest, ACandidateThatEqualsTheThresholdIsConsidered) {
  TopK top(1);
  top.RaiseThreshold(2.0);
  top.Offer(Known(2.0, 0, 8), NeverResolved);
  top.Offer(Known(2.0, 0, 2), NeverResolved);
  EXPECT_EQ(top.Take(NeverResolved), (std::vector<Hit>{{2.0, 0, 2}}));
}

TEST(TopKTest, RoomIsMemoryAndNothingElse) {
  TopK before(2);
  before.Offer(Known(9.0, 0, 1), NeverResolved);
  std::vector<Candidate> room = before.TakeRoom();
  const Candidate* const memory = room.data();
  TopK top(1, 1.0, std::move(room));
  top.Offer(Known(2.0, 0, 8), NeverResolved);
  EXPECT_EQ(top.Take(NeverResolved), (std::vector<Hit>{{2.0, 0, 8}}));
  EXPECT_EQ(top.TakeRoom().data(), memory);
}

TEST(TopKTest, OverlappingIntervalsAreResolved) {
  TopK top(1);
  std::map<uint64_t, double> truth = {{1, 1.0}, {2, 1.5}, {3, 1.25}};
  const auto resolve = [&truth](uint64_t, uint64_t id) { return truth.at(id); };
  for (const auto& [id, score] : truth) top.Offer({score - 1.0, score + 1.0, 0, id}, resolve);
  EXPECT_EQ(top.Take(resolve), (std::vector<Hit>{{1.5, 0, 2}}));
  EXPECT_EQ(top.resolved(), 3);
}

TEST(TopKTest, UnknownScoresAreNeverDropped) {
  TopK top(1);
  const auto resolve = [](uint64_t, uint64_t id) { return id == 5 ? 100.0 : 1.0; };
  for (uint64_t id = 0; id < 50; ++id) top.Offer({-kInfinity, kInfinity, 0, id}, resolve);
  EXPECT_EQ(top.Take(resolve), (std::vector<Hit>{{100.0, 0, 5}}));
}

TEST(TopKTest, ThresholdOnlyRises) {
  TopK top(2);
  top.Offer(Known(5.0, 0, 0), NeverResolved);
  top.Offer(Known(3.0, 0, 1), NeverResolved);
  EXPECT_EQ(top.threshold(), 3.0);
  top.RaiseThreshold(1.0);
  EXPECT_EQ(top.threshold(), 3.0);
}

TEST(TopKTest, AGuessIsConfirmedByKPairs) {
  TopK top(2);
  top.Guess(2.0);
  EXPECT_EQ(top.threshold(), 2.0);
  top.Offer(Known(5.0, 0, 0), NeverResolved);
  EXPECT_FALSE(top.GuessHolds());
  top.Offer(Known(1.0, 0, 1), NeverResolved);
  EXPECT_FALSE(top.GuessHolds());
  top.Offer(Known(2.0, 0, 2), NeverResolved);
  EXPECT_TRUE(top.GuessHolds());
  EXPECT_EQ(top.Take(NeverResolved), (std::vector<Hit>{{5.0, 0, 0}, {2.0, 0, 2}}));
}

TEST(TopKTest, RestartKeepsOnlyWhatIsProved) {
  TopK top(2);
  top.RaiseThreshold(0.5);
  EXPECT_TRUE(top.GuessHolds());
  top.Guess(2.0);
  top.Offer(Known(5.0, 0, 0), NeverResolved);
  EXPECT_FALSE(top.GuessHolds());
  top.Restart();
  EXPECT_EQ(top.threshold(), 0.5);
  for (uint64_t id = 0; id < 3; ++id) top.Offer(Known(5.0 - id, 0, id), NeverResolved);
  EXPECT_TRUE(top.GuessHolds());
  EXPECT_EQ(top.Take(NeverResolved), (std::vector<Hit>{{5.0, 0, 0}, {4.0, 0, 1}}));
}

// Every k, interval widths from exact to useless, many ties: equal to sorting.
TEST(TopKTest, EqualsSortingWhateverTheIntervals) {
  testing::Random random(11);
  for (int round = 0; round < 400; ++round) {
    const uint64_t k = 1 + random.Next() % 40;
    const uint64_t n = random.Next() % 300;
    const double width = round % 4 == 0 ? 0.0 : random.Uniform() * 3.0;
    std::vector<Hit> truth(n);
    for (uint64_t i = 0; i < n; ++i) truth[i] = {static_cast<double>(random.Next() % 12), i % 7, i};
    const auto resolve = [&truth](uint64_t, uint64_t id) { return truth[id].score; };
    TopK top(k);
    for (uint64_t i = 0; i < n; ++i) {
      const Hit& hit = truth[i * 307 % n];  // a prime: in any order, each once
      const double below = width * random.Uniform(), above = width * random.Uniform();
      top.Offer({hit.score - below, hit.score + above, hit.query_row, hit.id}, resolve);
    }
    std::sort(truth.begin(), truth.end(), Better);
    std::vector<Hit> expected = truth;
    expected.resize(std::min(k, n));
    std::vector<Hit> by_id(n);
    for (const Hit& hit : truth) by_id[hit.id] = hit;
    truth = by_id;
    EXPECT_EQ(top.Take(resolve), expected) << "round " << round;
  }
}

// Spread evenly or not, far apart, close together, tied, or beyond float64: equal to sorting.
TEST(TopKTest, InOrderHoweverScoresLie) {
  testing::Random random(12);
  const auto normal = [&random] { return random.Uniform() + random.Uniform() + random.Uniform() - 1.5; };
  const std::vector<std::pair<const char*, std::function<double(uint64_t)>>> kinds = {
      {"even", [&](uint64_t) { return random.Uniform(); }},
      {"normal", [&](uint64_t) { return normal(); }},
      {"steep", [&](uint64_t) { return std::exp(20.0 * normal()); }},
      {"an outlier", [&](uint64_t i) { return i == 5 ? 1e300 : normal(); }},
      {"the whole range", [&](uint64_t i) { return i < 2 ? (i == 0 ? 1.7e308 : -1.7e308) : normal(); }},
      {"infinite", [&](uint64_t i) { return i % 9 == 0 ? (i % 2 == 0 ? kInfinity : -kInfinity) : normal(); }},
      {"denormal", [&](uint64_t) { return static_cast<double>(random.Next() % 50) * 0x1p-1074; }},
      {"neighbours", [&](uint64_t) { return 1.0 + static_cast<double>(random.Next() % 50) * 0x1p-52; }},
      {"two", [&](uint64_t i) { return i % 3 == 0 ? 1.0 : -1.0; }},
      {"all the same", [](uint64_t) { return 7.0; }},
  };
  for (const auto& [name, score] : kinds) {
    for (const uint64_t n : {23, 24, 100, 700}) {
      std::vector<Hit> hits;
      for (uint64_t i = 0; i < n; ++i) hits.push_back({score(i), i % 3, i * 307 % n});
      for (const uint64_t k : {uint64_t{1}, uint64_t{20}, n - 1, n, n + 5}) {
        TopK top(k);
        for (const Hit& hit : hits) top.Offer(Known(hit.score, hit.query_row, hit.id), NeverResolved);
        std::vector<Hit> expected = hits;
        std::sort(expected.begin(), expected.end(), Better);
        expected.resize(std::min(k, n));
        EXPECT_EQ(top.Take(NeverResolved), expected) << name << ", " << k << " of " << n;
      }
    }
  }
}

TEST(TopKTest, ThreadsOfferAtOnce) {
  constexpr uint64_t kThreads = 4, kOffers = 20000;
  TopK top(10);
  const auto score = [](uint64_t, uint64_t id) { return static_cast<double>(id * 7919 % 10007); };
  std::vector<std::thread> threads;
  for (uint64_t t = 0; t < kThreads; ++t) {
    threads.emplace_back([&, t] {
      for (uint64_t id = t; id < kOffers; id += kThreads) {
        top.Offer({score(0, id) - 0.5, score(0, id) + 0.5, 0, id}, score);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  std::vector<Hit> expected;
  for (uint64_t id = 0; id < kOffers; ++id) expected.push_back({score(0, id), 0, id});
  std::sort(expected.begin(), expected.end(), Better);
  expected.resize(10);
  EXPECT_EQ(top.Take(score), expected);
}

}  // namespace
}  // namespace dotmax
