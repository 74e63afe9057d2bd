// GoogleTest's main, with our own SIMD held to one instruction set of Highway's by DOTMAX_TEST_SIMD: "AVX2".
#include <cstdio>
#include <cstdlib>
#include <string>

#include "gtest/gtest.h"
#include "hwy/targets.h"

int main(int argc, char** argv) {
  testing::InitGoogleTest(&argc, argv);
  if (const char* const wanted = std::getenv("DOTMAX_TEST_SIMD")) {
    for (int64_t targets = hwy::SupportedTargets(); targets != 0; targets &= targets - 1) {
      const int64_t target = targets & -targets;
      if (std::string(hwy::TargetName(target)) != wanted) continue;
      hwy::SetSupportedTargetsForTest(target);
      return RUN_ALL_TESTS();
    }
    std::printf("%s is not to be had here\n", wanted);
  }
  return RUN_ALL_TESTS();
}
