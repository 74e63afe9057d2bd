// The oracle against Python's math.fsum: another language, another algorithm, the definition itself.
#include "tests/oracle.h"

#include <unistd.h>

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <fstream>
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

TEST(OracleTest, EqualsPythonsFsum) {
  // Products of float32 numbers are exact in float64, so fsum of them is the definition.
  const std::string stem = ::testing::TempDir() + "/oracle_fsum_" + std::to_string(::getpid());
  Random random(4);
  std::vector<double> ours;
  {
    std::ofstream cases(stem + ".in");
    cases.precision(17);
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
      for (const double v : a) cases << v << ' ';
      cases << ", ";
      for (const double v : b) cases << v << ' ';
      cases << '\n';
    }
  }
  const std::string command =
      "python3 -c 'import math,sys\n"
      "for line in open(sys.argv[1]):\n"
      "  a, b = (list(map(float, part.split())) for part in line.split(\",\"))\n"
      "  print(repr(math.fsum(x * y for x, y in zip(a, b)) + 0.0))' " +
      stem + ".in > " + stem + ".out";
  ASSERT_EQ(std::system(command.c_str()), 0);
  std::ifstream theirs(stem + ".out");
  std::string line;
  size_t i = 0;
  for (; std::getline(theirs, line); ++i) {
    ASSERT_LT(i, ours.size());
    EXPECT_EQ(ours[i], std::strtod(line.c_str(), nullptr)) << "case " << i;
  }
  EXPECT_EQ(i, ours.size());
  std::remove((stem + ".in").c_str());
  std::remove((stem + ".out").c_str());
}

}  // namespace
}  // namespace dotmax::testing
