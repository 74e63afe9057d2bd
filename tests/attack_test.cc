// The engine against the oracle on inputs that are meant to break it: many shapes, dtypes and magnitudes,
// rows that nearly or exactly tie, scores that cancel. Everything about a case follows from one 64-bit seed;
// a failure prints the one line that replays it. By default the seeds from 0 on, for a few seconds.
//
//   DOTMAX_ATTACK_SEED=s    that case alone
//   DOTMAX_ATTACK_FROM=s    the long run: seeds from s on, until kLongCases or kLongMinutes, on every CPU
#include <algorithm>
#include <atomic>
#include <bit>
#include <chrono>
#include <cmath>
#include <cstdlib>
#include <iostream>
#include <limits>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "gtest/gtest.h"
#include "server/base/errors.h"
#include "server/engine/engine.h"
#include "tests/data.h"
#include "tests/oracle.h"

namespace dotmax {
namespace {

using testing::ExactTopK;
using testing::MakeMatrix;
using testing::Random;

// A case is one query row against one matrix, searched by every screen and reduction.
constexpr uint64_t kShortCases = 5000;
constexpr uint64_t kLongCases = 1'000'000;
constexpr int kLongMinutes = 14;
constexpr uint64_t kMaxFailures = 20;
// Elements that the oracle multiplies for one seed: bounds its time to a fraction of a second.
constexpr uint64_t kMaxWork = 1 << 21;

absl::Status Never() { return absl::OkStatus(); }

// Log-uniform in [1, most]: small sizes as often as large ones.
uint64_t Size(Random& random, uint64_t most) {
  return static_cast<uint64_t>(std::exp(random.Uniform() * std::log(static_cast<double>(most) + 1.0)));
}

double LargestFinite(DType dtype) {
  switch (dtype) {
    case DType::kFloat64:
      return std::numeric_limits<double>::max();
    case DType::kFloat32:
      return std::numeric_limits<float>::max();
    case DType::kBFloat16:
      return 0x1.fep127;
    case DType::kFloat16:
      return 65504.0;
    case DType::kInt8:
      return 127.0;
  }
  return 0.0;
}

// x moved by one unit in the last place that `dtype` keeps.
double Nudged(double x, DType dtype) {
  const int digits = dtype == DType::kFloat64 ? 53 : dtype == DType::kFloat32 ? 24 : 8;
  return dtype == DType::kInt8 || x == 0.0 ? x + 1.0 : x + std::ldexp(1.0, std::ilogb(x) + 1 - digits);
}

// How rows relate to one another. Cancelling is for queries and rows together.
enum class Kind {
  kNormal,
  kPowerLawNorms,
  kLowRank,
  kClustered,
  kDominatingColumn,
  kLastBit,
  kDuplicated,
  kAllEqual,
  kSparse,
  kSmallIntegers,
  kHalfSteps,     // halfway between two codes of the int8 screen
  kRoundedCodes,  // codes of the int8 screen once float32 has rounded them, always down
  kMixedElements,
  kFarAway,  // from the origin, beside what they are from each other
  kPrices,   // about one direction, and of any length
  kMarks,    // few elements that are not 0, of many
  kCancelling,
  kCount
};

std::vector<double> Rows(Random& random, Kind kind, uint64_t rows, uint32_t dim, DType dtype) {
  std::vector<double> values(rows * dim);
  for (double& x : values) x = random.Normal();
  const uint64_t distinct = Size(random, std::min<uint64_t>(rows, 30));
  const double spread = std::pow(10.0, -8.0 * random.Uniform());
  const double decades = 20.0 * random.Uniform();
  const uint32_t column = static_cast<uint32_t>(random.Next() % dim);
  for (uint64_t r = 0; r < rows; ++r) {
    double* const row = values.data() + r * dim;
    const double* const model = values.data() + (r < distinct ? r : random.Next() % distinct) * dim;
    const double scale = std::exp(2.0 * random.Normal());
    for (uint32_t i = 0; i < dim; ++i) {
      double& x = row[i];
      switch (kind) {
        case Kind::kNormal:
        case Kind::kCount:
          break;
        case Kind::kPowerLawNorms:
          x *= scale;
          break;
        case Kind::kLowRank:
          x = model[i] * scale + (r < distinct ? 0.0 : x * spread * 1e-3);
          break;
        case Kind::kClustered:
          x = r < distinct ? x : model[i] + x * spread;
          break;
        case Kind::kDominatingColumn:
          x *= i == column ? 1e6 : 1.0;
          break;
        case Kind::kLastBit:
          x = i == r % dim ? Nudged(values[i], dtype) : values[i];
          break;
        case Kind::kDuplicated:
          x = model[i];
          break;
        case Kind::kAllEqual:
          x = values[i];
          break;
        case Kind::kSparse:
          x = random.Next() % 8 == 0 ? x : 0.0;
          break;
        case Kind::kSmallIntegers:
          x = std::nearbyint(x);
          break;
        case Kind::kHalfSteps:
          x = i == 0 ? 127.0 : std::nearbyint(x * 30.0) + std::copysign(0.5 - spread * 1e-2, x);
          break;
        case Kind::kRoundedCodes:
          if (r >= distinct) {
            x = model[i];
          } else {
            x = i == 0 ? 127.0 : 64.0 + std::floor(std::min(std::abs(x) * 20.0, 62.0)) + 0x1.fp-19;
          }
          break;
        case Kind::kMixedElements:
          x *= std::pow(10.0, decades * (random.Uniform() - 0.5));
          break;
        case Kind::kFarAway:
          x += std::pow(10.0, decades / 5.0) * (1.0 + 0.1 * (i % 3));
          break;
        case Kind::kPrices:
          x = scale * (1.0 + spread * x);
          break;
        case Kind::kMarks:
          x = random.Next() % (dim / 3 + 1) != 0 ? 0.0 : decades < 10.0 ? 1.0 + r % 2 : x;
          break;
        case Kind::kCancelling:  // against queries whose neighbours are equal
          if (i % 2 == 1 && i + 2 < dim) x = -row[i - 1];
          break;
      }
    }
  }
  return values;
}

int Within(Random& random, int low, int high) {
  return low + static_cast<int>(random.Next() % (high - low + 1));
}

// Binary exponent of the elements: mostly moderate, sometimes to the ends of what `dtype` holds.
int Magnitude(Random& random, DType dtype) {
  if (dtype == DType::kInt8) return 5;
  if (random.Next() % 2 == 0) return 0;
  switch (dtype) {
    case DType::kFloat64:
      return random.Next() % 4 == 0 ? Within(random, -1070, 1010) : Within(random, -100, 100);
    case DType::kFloat32:
    case DType::kBFloat16:
      return random.Next() % 4 == 0 ? Within(random, -148, 126) : Within(random, -100, 100);
    case DType::kFloat16:
      return Within(random, -26, 14);
    case DType::kInt8:
      break;
  }
  return 0;
}

// The magnitudes of queries and rows. Sometimes, where there is float64, such that scores are about where it
// underflows, and tie as they are rounded.
struct Magnitudes {
  Magnitudes(Random& random, DType query_dtype, DType row_dtype)
      : queries(Magnitude(random, query_dtype)), rows(Magnitude(random, row_dtype)) {
    constexpr int kLeast = -1074;
    const bool queries_go = query_dtype == DType::kFloat64, rows_go = row_dtype == DType::kFloat64;
    if (!(queries_go || rows_go) || random.Next() % 8 != 0) return;
    const int sum = kLeast + Within(random, -16, 24);
    if (queries_go && rows_go && random.Next() % 2 == 0) {  // distances, too
      queries = rows = sum / 2;
    } else if (queries_go) {
      queries = std::clamp(sum - rows, kLeast, 1010);
    } else {
      rows = std::clamp(sum - queries, kLeast, 1010);
    }
  }

  int queries, rows;
};

// `values` · 2^exponent as `dtype` holds them. Powers of two keep what nearly ties nearly tied.
SharedMatrix Build(std::vector<double> values, int exponent, uint32_t dim, DType dtype) {
  const double most = LargestFinite(dtype);
  for (double& x : values) x = std::clamp(std::ldexp(x, exponent), -most, most);
  return MakeMatrix(values, dim, dtype);
}

struct Case {
  uint64_t seed;
  SharedMatrix queries, rows;
  uint32_t top_k;
  Metric metric;
  std::vector<ScreenOptions> screens;
  Kind kind;
};

Case MakeCase(uint64_t seed) {
  constexpr DType kAll[] = {DType::kFloat64, DType::kFloat32, DType::kFloat16, DType::kBFloat16,
                            DType::kInt8};
  Random random(seed);
  Case c;
  c.seed = seed;
  const uint64_t rows = Size(random, 5000);
  c.kind = static_cast<Kind>(random.Next() % static_cast<int>(Kind::kCount));
  const uint32_t dim =
      c.kind == Kind::kMarks ? Within(random, 256, 400) : static_cast<uint32_t>(Size(random, 300));
  constexpr Metric kMetrics[] = {Metric::kInnerProduct, Metric::kInnerProduct, Metric::kSquaredEuclidean,
                                 Metric::kCosine};
  c.metric = kMetrics[seed % 4];
  // The oracle takes its time over cosines.
  const uint64_t work = c.metric == Metric::kCosine ? kMaxWork / 20 : kMaxWork;
  const uint64_t queries = std::min(Size(random, 300), std::max<uint64_t>(1, work / (rows * dim)));
  const DType row_dtype = kAll[random.Next() % 5];
  const DType query_dtype = random.Next() % 2 == 0 ? row_dtype : kAll[random.Next() % 5];
  c.top_k = static_cast<uint32_t>(Size(random, random.Next() % 8 == 0 ? rows + 2 : 20));

  std::vector<double> b = Rows(random, c.kind, rows, dim, row_dtype);
  std::vector<double> a;
  if (c.kind == Kind::kCancelling) {
    a = Rows(random, Kind::kNormal, queries, dim, query_dtype);
    for (size_t i = 0; i < a.size(); ++i) {
      if (i % dim % 2 == 1 && i % dim + 2 < dim) a[i] = a[i - 1];
    }
  } else if (random.Next() % 2 == 0) {  // queries near rows, as users' are
    const double noise = random.Next() % 4 == 0 ? 0.0 : std::pow(10.0, -12.0 * random.Uniform());
    for (uint64_t q = 0; q < queries; ++q) {
      const uint64_t r = random.Next() % rows;
      for (uint32_t i = 0; i < dim; ++i) a.push_back(b[r * dim + i] * (1.0 + noise * random.Normal()));
    }
  } else {
    const Kind kind = static_cast<Kind>(random.Next() % static_cast<int>(Kind::kCancelling));
    a = Rows(random, kind, queries, dim, query_dtype);
  }
  const Magnitudes magnitudes(random, query_dtype, row_dtype);
  c.queries = Build(std::move(a), magnitudes.queries, dim, query_dtype);
  c.rows = Build(std::move(b), magnitudes.rows, dim, row_dtype);

  using enum ScreenOptions::Kind;
  c.screens = {
      {.kind = kFloat32}, {.kind = kInt8, .axes = dim}, {.kind = kInt8, .axes = dim, .deflated = true}};
  const auto either = [&random] { return random.Next() % 2 == 0; };
  c.screens.push_back({.kind = kInt8, .axes = dim, .deflated = either(), .spread = true});
  if (dim > 1) {
    c.screens.push_back({.kind = kInt8,
                         .axes = 1 + static_cast<uint32_t>(random.Next() % (dim - 1)),
                         .two_levels = either(),
                         .deflated = either(),
                         .spread = either()});
    if (either()) {
      c.screens.push_back({.kind = kInt8,
                           .axes = dim,
                           .two_levels = either(),
                           .head = 1 + static_cast<uint32_t>(random.Next() % (dim - 1)),
                           .deflated = either(),
                           .spread = either()});
    }
  }
  c.screens.push_back({.kind = kInt8, .clusters = 1 + static_cast<uint32_t>(random.Next() % 40)});
  if (random.Next() % 8 == 0) c.screens.push_back({.kind = kMeasured});
  return c;
}

// The best of all queries, from the best of each.
std::vector<Hit> GlobalOf(std::vector<Hit> per_row, uint32_t top_k, Metric metric) {
  std::sort(per_row.begin(), per_row.end(),
            [metric](const Hit& x, const Hit& y) { return BetterBy(metric, x, y); });
  per_row.resize(std::min<size_t>(per_row.size(), top_k));
  return per_row;
}

// What is wrong with the answer; empty if nothing is.
std::string Difference(const absl::StatusOr<Answer>& answer, const std::vector<Hit>& expected) {
  for (const Hit& hit : expected) {
    if (std::isfinite(hit.score)) continue;
    if (ErrorReason(answer.status()) == "SCORE_OVERFLOW") return "";
    return "a score beyond float64 was not refused";
  }
  if (!answer.ok()) return answer.status().ToString();
  if (answer->hits.size() != expected.size()) {
    return absl::StrCat(answer->hits.size(), " hits instead of ", expected.size());
  }
  for (size_t i = 0; i < expected.size(); ++i) {
    const Hit &got = answer->hits[i], &want = expected[i];
    if (got == want && std::bit_cast<uint64_t>(got.score) == std::bit_cast<uint64_t>(want.score)) continue;
    return absl::StrFormat("hit %d is %a at (%d, %d) instead of %a at (%d, %d)", i, got.score, got.query_row,
                           got.id, want.score, want.query_row, want.id);
  }
  return "";
}

// Searches cases; one per thread.
class Attacker {
 public:
  // The line that replays and describes the first wrong answer, if there is one.
  std::optional<std::string> Attack(const Case& c) {
    const MatrixView &a = c.queries.view, &b = c.rows.view;
    const std::vector<Hit> per_row = ExactTopK(a, b, c.top_k, Reduction::kPerRow, c.metric);
    const std::vector<Hit> global = GlobalOf(per_row, c.top_k, c.metric);
    uint64_t round = c.seed;
    for (const ScreenOptions& screen : c.screens) {
      const Matrix matrix(c.rows, screen);
      for (const Reduction reduction : {Reduction::kPerRow, Reduction::kGlobal}) {
        Engine& engine = engines_[round++ % std::size(engines_)];
        const bool is_per_row = reduction == Reduction::kPerRow;
        const std::string difference = Difference(
            engine.Search(matrix, a, {.top_k = c.top_k, .reduction = reduction, .metric = c.metric}, Never),
            is_per_row ? per_row : global);
        ++searches_;
        if (difference.empty()) continue;
        return absl::StrFormat(
            "DOTMAX_ATTACK_SEED=%d build/ci/tests/attack_test  # kind %d, metric %d, %d x %d %s by %d x %d "
            "%s, "
            "top_k %d, %s, %s, %d threads: %s",
            c.seed, static_cast<int>(c.kind), static_cast<int>(c.metric), a.rows, a.dim, DTypeName(a.dtype),
            b.rows, b.dim, DTypeName(b.dtype), c.top_k, is_per_row ? "per row" : "global", matrix.screen(),
            engine.threads(), difference);
      }
    }
    return std::nullopt;
  }

  uint64_t searches() const { return searches_; }

 private:
  Engine engines_[3] = {Engine(1), Engine(2), Engine(3)};
  uint64_t searches_ = 0;
};

std::optional<uint64_t> FromEnvironment(const char* name) {
  const char* const value = std::getenv(name);
  if (value == nullptr) return std::nullopt;
  return std::strtoull(value, nullptr, 10);
}

// Attacks with the seeds from `first` on until `cases` are covered or `time` is over.
void AttackFrom(uint64_t first, uint64_t cases, std::chrono::minutes time, int threads) {
  const auto start = std::chrono::steady_clock::now();
  std::atomic<uint64_t> seed{first}, covered{0}, searches{0}, failures{0};
  std::vector<std::thread> attackers;
  for (int t = 0; t < threads; ++t) {
    attackers.emplace_back([&] {
      Attacker attacker;
      while (covered < cases && failures < kMaxFailures && std::chrono::steady_clock::now() - start < time) {
        const Case c = MakeCase(seed++);
        if (const std::optional<std::string> failure = attacker.Attack(c)) {
          ++failures;
          ADD_FAILURE() << *failure;
        }
        covered += c.queries.view.rows;
      }
      searches += attacker.searches();
    });
  }
  for (std::thread& attacker : attackers) attacker.join();
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
  std::cout << absl::StrFormat(
      "attacked with seeds %d to %d: %d (query, matrix) cases, %d searches, %d failures, %.1f s\n", first,
      seed - 1, covered.load(), searches.load(), failures.load(), seconds.count());
}

TEST(AttackTest, EveryAnswerIsTheOracles) {
  if (const auto seed = FromEnvironment("DOTMAX_ATTACK_SEED")) {
    AttackFrom(*seed, 1, std::chrono::minutes(kLongMinutes), 1);
  } else if (const auto from = FromEnvironment("DOTMAX_ATTACK_FROM")) {
    AttackFrom(*from, kLongCases, std::chrono::minutes(kLongMinutes),
               std::max(1, static_cast<int>(std::thread::hardware_concurrency())));
  } else {
    AttackFrom(0, kShortCases, std::chrono::minutes(kLongMinutes), 1);
  }
}

// The attack itself: an answer with one wrong bit, order or length is noticed.
TEST(AttackTest, WrongAnswersAreNoticed) {
  const std::vector<Hit> expected = {{2.0, 0, 4}, {1.0, 0, 7}};
  Answer answer;
  answer.hits = expected;
  EXPECT_EQ(Difference(answer, expected), "");
  answer.hits[1].score = std::nextafter(1.0, 2.0);
  EXPECT_NE(Difference(answer, expected), "");
  answer.hits[1] = {1.0, 0, 8};
  EXPECT_NE(Difference(answer, expected), "");
  answer.hits = {{2.0, 0, 4}};
  EXPECT_NE(Difference(answer, expected), "");
  answer.hits = {{-0.0, 0, 4}};
  EXPECT_NE(Difference(answer, {{0.0, 0, 4}}), "");
  answer.hits = {{std::numeric_limits<double>::infinity(), 0, 4}};
  EXPECT_NE(Difference(answer, answer.hits), "");
}

}  // namespace
}  // namespace dotmax
