#include "server/base/json.h"

#include <cmath>
#include <cstdlib>
#include <limits>

#include "gtest/gtest.h"
#include "tests/data.h"

namespace dotmax {
namespace {

TEST(JsonTest, StringsAreEscaped) {
  EXPECT_EQ(JsonString("a\"b\\c\nd\x01"), "\"a\\\"b\\\\c\\nd\\u0001\"");
  EXPECT_EQ(JsonString("naïve"), "\"naïve\"");
}

TEST(JsonTest, NumbersReadBackAsThemselves) {
  EXPECT_EQ(JsonNumber(0.1), "0.1");
  EXPECT_EQ(JsonNumber(-3.0), "-3");
  EXPECT_EQ(JsonNumber(std::nan("")), "null");
  EXPECT_EQ(JsonNumber(std::numeric_limits<double>::infinity()), "null");
  testing::Random random(1);
  for (int i = 0; i < 1000; ++i) {
    const double x = std::ldexp(random.Normal(), static_cast<int>(random.Next() % 2000) - 1000);
    EXPECT_EQ(std::strtod(JsonNumber(x).c_str(), nullptr), x);
  }
}

}  // namespace
}  // namespace dotmax
