#include "server/engine/row_loops.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "absl/types/span.h"
#include "gtest/gtest.h"
#include "server/engine/bound.h"
#include "tests/data.h"

namespace dotmax {
namespace {

using testing::Random;

TEST(RowLoopsTest, CodesAreThoseOfTheObviousLoop) {
  Random random(5);
  for (const size_t n : {0, 1, 3, 7, 8, 9, 15, 16, 17, 100, 784}) {
    std::vector<float> x(n);
    for (float& v : x) v = static_cast<float>(random.Normal());
    if (n > 2) x[n / 2] = 1e30f;  // beyond the limit
    EXPECT_EQ(MaxAbs(x.data(), n), n > 2 ? 1e30f : n == 1 ? std::abs(x[0]) : 0.0f);
    const double scale = 3.0 / 127;
    const float inverse_scale = static_cast<float>(1.0 / scale);
    std::vector<int8_t> codes(n + 1, 77);
    std::vector<uint8_t> unsigned_codes(n + 1, 77);
    const CodeSums sums = EncodeSigned(x.data(), n, scale, inverse_scale, 127, codes.data());
    const CodeSums same = EncodeUnsigned(x.data(), n, scale, inverse_scale, 127, 128, unsigned_codes.data());
    EXPECT_EQ(codes[n], 77);
    EXPECT_EQ(unsigned_codes[n], 77);
    CodeSums expected = {};
    for (size_t i = 0; i < n; ++i) {
      const double rounded = std::nearbyint(x[i] * inverse_scale);
      const int code = static_cast<int>(std::min(std::max(rounded, -127.0), 127.0));
      ASSERT_EQ(codes[i], code);
      ASSERT_EQ(unsigned_codes[i], code + 128);
      const double rest = x[i] - code * scale;
      expected.codes += code;
      expected.error += rest * rest;
      expected.decoded += code * scale * (code * scale);
      expected.squares += static_cast<double>(x[i]) * x[i];
    }
    for (const CodeSums& got : {sums, same}) {
      EXPECT_EQ(got.codes, expected.codes);
      EXPECT_DOUBLE_EQ(got.error, expected.error);
      EXPECT_DOUBLE_EQ(got.decoded, expected.decoded);
      EXPECT_DOUBLE_EQ(got.squares, expected.squares);
    }
  }
}

TEST(RowLoopsTest, PlainCodesAreThoseOfTheObviousLoop) {
  constexpr size_t kRows = 3;
  Random random(15);
  for (const size_t n : {0, 1, 3, 15, 16, 17, 31, 33, 47, 100, 784}) {
    std::vector<float> x(kRows * n);
    for (float& v : x) v = static_cast<float>(random.Uniform() * 2.0 - 1.0);
    const float inverse_scale = 127.0f;
    const size_t stride = n + 5;
    std::vector<uint8_t> unsigned_codes(kRows * stride + 1, 77);
    const PlainSquares range =
        EncodePlainUnsigned(x.data(), kRows, n, inverse_scale, 128, stride, unsigned_codes.data());
    EXPECT_EQ(unsigned_codes.back(), 77);
    double least = std::numeric_limits<double>::infinity(), most = 0.0;
    for (size_t row = 0; row < kRows; ++row) {
      const float* const its = x.data() + row * n;
      const uint8_t* const its_codes = unsigned_codes.data() + row * stride;
      std::vector<int8_t> codes(n + 1, 77);
      const PlainSums sums = EncodePlainSigned(its, n, inverse_scale, codes.data());
      EXPECT_EQ(codes[n], 77);
      int64_t code_sum = 0;
      double squares = 0.0;
      for (size_t i = 0; i < n; ++i) {
        ASSERT_LE(std::abs(static_cast<double>(its[i]) * inverse_scale - codes[i]), 0.5 + 0x1p-16);
        ASSERT_EQ(its_codes[i], codes[i] + 128);
        code_sum += codes[i];
        squares += 1.0 * its[i] * its[i];
      }
      for (size_t i = n; i < stride; ++i) ASSERT_EQ(its_codes[i], 0);
      EXPECT_EQ(sums.codes, code_sum);
      EXPECT_LE(squares, LargestSquares(static_cast<uint32_t>(n), sums.squares));
      EXPECT_GE(squares, LeastSquares(static_cast<uint32_t>(n), sums.squares));
      least = std::min(least, squares);
      most = std::max(most, squares);
    }
    EXPECT_LE(most, LargestSquares(static_cast<uint32_t>(n), range.most));
    EXPECT_GE(most, LeastSquares(static_cast<uint32_t>(n), range.most));
    EXPECT_LE(least, LargestSquares(static_cast<uint32_t>(n), range.least));
    EXPECT_GE(least, LeastSquares(static_cast<uint32_t>(n), range.least));
  }
}

TEST(RowLoopsTest, ScalesRowsByPowersOfTwo) {
  for (const size_t n : {1, 7, 8, 9, 33}) {
    std::vector<double> x(n);
    for (size_t i = 0; i < n; ++i) x[i] = (1.0 + static_cast<double>(i)) * 0x1p-900;
    std::vector<float> to(n);
    const double squares = ScaleToFloat32(x.data(), n, 0x1p900, to.data());
    double expected = 0.0;
    for (size_t i = 0; i < n; ++i) {
      EXPECT_EQ(to[i], static_cast<float>(i + 1));
      expected += (i + 1.0) * (i + 1.0);
    }
    EXPECT_EQ(squares, expected);
  }
}

TEST(RowLoopsTest, CollectsTheInnerProductsThatReach) {
  Random random(6);
  for (const size_t count : {1, 7, 8, 9, 64}) {
    for (const size_t dim : {1, 5, 100}) {
      for (const size_t width : {8, 24, 64}) {
        std::vector<double> rows(count * dim), packed(dim * width), terms(count), base(width), slopes(width);
        for (std::vector<double>* numbers : {&rows, &packed, &terms, &slopes}) {
          for (double& x : *numbers) x = std::nearbyint(4.0 * random.Normal());  // sums are exact
        }
        std::vector<double> squares(count + 1, 7.0);
        SquaresOfRows(rows.data(), count, dim, squares.data());
        EXPECT_EQ(squares[count], 7.0);
        for (size_t r = 0; r < count; ++r) {
          double sum = 0.0;
          for (size_t i = 0; i < dim; ++i) sum += rows[r * dim + i] * rows[r * dim + i];
          ASSERT_EQ(squares[r], sum);
        }
        for (double& x : base) x = std::nearbyint(10.0 * std::sqrt(dim) * random.Normal());
        base[1] = std::numeric_limits<double>::infinity();
        base[2] = -base[1];
        std::vector<Survivor> found(count * width + 1, {7777, 7777});
        const size_t left =
            CollectReaching(rows.data(), terms.data(), 100, count, dim,
                            {packed.data(), base.data(), slopes.data(), width}, 64, found.data());
        EXPECT_EQ(found.back().row, 7777);
        ASSERT_LE(left, count * width);
        std::vector<bool> is_found(count * width);
        for (const Survivor& s : absl::MakeSpan(found).first(left)) {
          const size_t i = (s.row - 100) * width + s.column - 64;
          ASSERT_LT(i, is_found.size());
          EXPECT_FALSE(is_found[i]);
          is_found[i] = true;
        }
        for (size_t i = 0; i < count * width; ++i) {
          const size_t r = i / width, c = i % width;
          double sum = 0.0;
          for (size_t d = 0; d < dim; ++d) sum += rows[r * dim + d] * packed[d * width + c];
          ASSERT_EQ(is_found[i], sum >= base[c] + slopes[c] * terms[r]);
        }
      }
    }
  }
}

}  // namespace
}  // namespace dotmax
