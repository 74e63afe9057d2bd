// The oracle against Python's math.fsum and fractions: another language, another algorithm, the definition
// itself.
#include "tests/oracle.h"

#include <unistd.h>

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <sstream>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "server/base/dtype.h"
#include "tests/data.h"

namespace dotmax::testing {
namespace {

TEST(OracleTest, SmallCasesByHand) {
  const SharedMatrix a = MakeMatrix({1, 2, 0, 0}, 2), b = MakeMatrix({3, 4, -1, 0.5, 3, 4}, 2);
  EXPECT_EQ(ExactScore(a.view, 0, b.view, 0), 11.0);
  EXPECT_EQ(ExactScore(a.view, 0, b.view, 1), 0.0);
  EXPECT_EQ(ExactTopK(a.view, b.view, 2, Reduction::kPerRow),
            (std::vector<Hit>{{11, 0, 0}, {11, 0, 2}, {0, 1, 0}, {0, 1, 1}}));
  EXPECT_EQ(ExactTopK(a.view, b.view, 3, Reduction::kGlobal),
            (std::vector<Hit>{{11, 0, 0}, {11, 0, 2}, {0, 0, 1}}));
  EXPECT_EQ(ExactTopK(a.view, b.view, 9, Reduction::kPerRow).size(), 6);
}

TEST(OracleTest, MetricsByHand) {
  const SharedMatrix a = MakeMatrix({3, 4, 0, 0}, 2), b = MakeMatrix({6, 8, -1, 0, 0, 0}, 2);
  EXPECT_EQ(ExactTopK(a.view, b.view, 3, Reduction::kPerRow, Metric::kCosine),
            (std::vector<Hit>{{1, 0, 0}, {0, 0, 2}, {-0.6, 0, 1}, {0, 1, 0}, {0, 1, 1}, {0, 1, 2}}));
  EXPECT_EQ(ExactTopK(a.view, b.view, 2, Reduction::kPerRow, Metric::kSquaredEuclidean),
            (std::vector<Hit>{{25, 0, 0}, {25, 0, 2}, {0, 1, 2}, {1, 1, 1}}));
  EXPECT_EQ(ExactTopK(a.view, b.view, 2, Reduction::kGlobal, Metric::kSquaredEuclidean),
            (std::vector<Hit>{{0, 1, 2}, {1, 1, 1}}));
}

// What Python makes of lines "a... , b...", one number per line of its output.
std::vector<double> AskPython(const std::string& script, const std::string& lines) {
  const std::string stem = ::testing::TempDir() + "/oracle_python_" + std::to_string(::getpid());
  std::ofstream(stem + ".in") << lines;
  std::ofstream(stem + ".py") << script;
  const std::string command = "python3 " + stem + ".py < " + stem + ".in > " + stem + ".out";
  EXPECT_EQ(std::system(command.c_str()), 0);
  std::vector<double> answers;
  std::ifstream theirs(stem + ".out");
  for (std::string line; std::getline(theirs, line);) answers.push_back(std::strtod(line.c_str(), nullptr));
  for (const char* end : {".in", ".py", ".out"}) std::remove((stem + end).c_str());
  return answers;
}

std::string Line(const std::vector<double>& a, const std::vector<double>& b) {
  std::ostringstream line;
  line.precision(17);
  for (const double v : a) line << v << ' ';
  line << ", ";
  for (const double v : b) line << v << ' ';
  line << '\n';
  return line.str();
}

double OfFloat64(const std::vector<double>& a, const std::vector<double>& b, Metric metric) {
  const uint32_t dim = static_cast<uint32_t>(a.size());
  return ExactScore(MakeMatrix(a, dim, DType::kFloat64).view, 0, MakeMatrix(b, dim, DType::kFloat64).view, 0,
                    metric);
}

TEST(OracleTest, EqualsPythonsFsum) {
  // Products of float32 numbers are exact in float64, so fsum of them is the definition.
  Random random(4);
  std::vector<double> ours;
  std::string cases;
  for (int round = 0; round < 2000; ++round) {
    const uint32_t dim = 1 + random.Next() % 30;
    std::vector<double> a(dim), b(dim);
    for (uint32_t i = 0; i < dim; ++i) {
      const int scale = round % 3 == 0 ? 0 : static_cast<int>(random.Next() % 200) - 100;
      a[i] = static_cast<float>(std::ldexp(random.Normal(), scale));
      b[i] = static_cast<float>(std::ldexp(random.Normal(), -scale / 2));
    }
    for (uint32_t i = 1; i < dim && round % 2 == 1; i += 2) {
      a[i] = -a[i - 1];
      b[i] = b[i - 1];
    }
    const SharedMatrix x = MakeMatrix(a, dim), y = MakeMatrix(b, dim);
    ours.push_back(ExactScore(x.view, 0, y.view, 0));
    cases += Line(a, b);
  }
  EXPECT_EQ(ours, AskPython("import math,sys\n"
                            "for line in sys.stdin:\n"
                            "  a, b = (list(map(float, part.split())) for part in line.split(','))\n"
                            "  print(repr(math.fsum(x * y for x, y in zip(a, b)) + 0.0))\n",
                            cases));
}

// Fractions are exact, and Python rounds their quotients correctly, denormals included. The square root is
// that of an integer, with at least 200 bits, and a last one for what it leaves out.
TEST(OracleTest, MetricsEqualPythonsFractions) {
  Random random(5);
  std::vector<double> cosines, distances;
  std::string cases;
  const auto add = [&](const std::vector<double>& a, const std::vector<double>& b) {
    cosines.push_back(OfFloat64(a, b, Metric::kCosine));
    distances.push_back(OfFloat64(a, b, Metric::kSquaredEuclidean));
    EXPECT_FALSE(std::signbit(cosines.back()) && cosines.back() == 0.0);
    cases += Line(a, b);
  };
  add({0, 0}, {1, 2});
  add({1, 2}, {0, 0});
  add({3, 4}, {4, 3});
  add({1, 1}, {1, -1});
  add({1, 1, 1}, {-7, -7, -7});
  add({1e200, 1e200}, {-1e200, 3e200});
  add({5e-324, 1e-310}, {1.5e-323, 3e-310});
  add({1e308, 1e-308, 0}, {0, 1e-308, 1e308});    // a cosine below float64
  add({1e150, 1e-158, 0}, {0, -1e-158, 1e-150});  // denormal
  add({1e150, 3e-160, 0}, {0, 1e-160, 1e-160});
  add({1, 1e-310, 0}, {0, 1, 1});
  add({1, 0x1p-27, 0x1p-27}, {0, 0, 0});  // a distance that ties
  for (int round = 0; round < 3000; ++round) {
    const uint32_t dim = 1 + random.Next() % 20;
    const int spread = round % 3 == 0 ? 0 : static_cast<int>(random.Next() % 1000);
    std::vector<double> a(dim), b(dim);
    for (uint32_t i = 0; i < dim; ++i) {
      a[i] = std::ldexp(random.Normal(), static_cast<int>(random.Next() % (spread + 1)) - spread / 2);
      b[i] = std::ldexp(random.Normal(), static_cast<int>(random.Next() % (spread + 1)) - spread / 2);
      if (round % 4 == 1) b[i] = std::nextafter(3.0 * a[i], i % 2 == 0 ? 0.0 : a[i]);
      if (round % 4 == 2) b[i] = (i % 2 == 0 ? 1.0 : -1.0) * a[(i ^ 1) < dim ? i ^ 1 : i];
    }
    add(a, b);
  }
  const char* const script =
      "import math, sys\n"
      "from fractions import Fraction\n"
      "def rounded(x):\n"
      "  try: return float(x)\n"
      "  except OverflowError: return math.inf\n"
      "def cosine(a, b):\n"
      "  p, q, r = (sum(x * y for x, y in zip(u, v)) for u, v in ((a, b), (a, a), (b, b)))\n"
      "  if p == 0: return 0.0\n"
      "  squared = p * p / (q * r)\n"
      "  bits = max(0, 200 + (squared.denominator.bit_length() - squared.numerator.bit_length()) // 2)\n"
      "  scaled, rest = divmod(squared.numerator << 2 * bits, squared.denominator)\n"
      "  root = math.isqrt(scaled)\n"
      "  inexact = rest != 0 or root * root != scaled\n"
      "  root = rounded(Fraction(2 * root + inexact, 2 << bits))\n"
      "  return (root if p > 0 else -root) + 0.0\n"
      "for line in sys.stdin:\n"
      "  a, b = ([Fraction(float(x)) for x in part.split()] for part in line.split(','))\n"
      "  print(repr(cosine(a, b)))\n"
      "  print(repr(rounded(sum((x - y) ** 2 for x, y in zip(a, b)))))\n";
  const std::vector<double> theirs = AskPython(script, cases);
  ASSERT_EQ(theirs.size(), 2 * cosines.size());
  for (size_t i = 0; i < cosines.size(); ++i) {
    EXPECT_EQ(cosines[i], theirs[2 * i]) << i;
    EXPECT_EQ(distances[i], theirs[2 * i + 1]) << i;
  }
}

}  // namespace
}  // namespace dotmax::testing
