#include "server/engine/quantize.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <numeric>
#include <vector>

#include "gtest/gtest.h"
#include "server/base/dtype.h"
#include "server/engine/avx2.h"
#include "server/engine/bound.h"
#include "server/engine/code_kernel.h"
#include "server/engine/packing.h"
#include "tests/data.h"
#include "tests/oracle.h"

namespace dotmax {
namespace {

using testing::MakeMatrix;
using testing::Random;
using testing::RandomNormal;
using testing::Slice;

struct Encoded {
  SharedMatrix rows;
  std::unique_ptr<const Int8Codes> codes;
};

// Tiles are of rows of like norm; with `balls` as if they lay near each other. `head`: so many of the axes
// may be used alone. `deflated`: whole rows are seen without one direction; `spread`: along other axes.
Encoded Encode(const SharedMatrix& rows, uint32_t axes, bool balls = false, bool fine = false,
               uint32_t head = 0, bool deflated = false, bool spread = false) {
  const MatrixView& view = rows.view;
  std::vector<double> norms, row(view.dim);
  for (uint64_t r = 0; r < view.rows; ++r) {
    ToFloat64(view.row(r), view.dtype, view.dim, row.data());
    norms.push_back(NormUpperBound(view.dim, std::inner_product(row.begin(), row.end(), row.begin(), 0.0)));
  }
  std::vector<uint32_t> order(view.rows);
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](uint32_t a, uint32_t b) { return norms[a] > norms[b]; });
  RowOrder tiles = RowOrder::Even(order);
  tiles.by_norm = !balls;
  Axes along = axes < view.dim || head > 0 ? *PrincipalAxes(view, axes) : IdentityAxes(view.dim);
  along.head = head;
  CodeLevels levels = {std::move(along), {}, fine};
  if (deflated) levels.deflation = std::make_shared<const Deflation>(Deflation::Of(view));
  if (spread) levels.spread = std::make_shared<const Spread>(view.dim);
  auto codes = Int8Codes::Encode(view, norms, std::move(tiles), std::move(levels));
  EXPECT_TRUE(codes.ok()) << codes.status();
  return {rows, *std::move(codes)};
}

// Of a row of a tile, wherever they are.
std::vector<uint8_t> CodesOf(const Int8Codes& codes, uint64_t t, int row) {
  const auto [head, rest, ahead] = codes.codes(t, row);
  std::vector<uint8_t> all(head.codes, head.codes + head.dim);
  all.insert(all.end(), rest.codes, rest.codes + rest.dim);
  return all;
}

// What codes of a query that is seen without a direction lack of its scores (LessAlong), which becomes it.
struct QueryAlong {
  // Of the row at a place, what its inner product must reach to reach `score`.
  double Less(double score, const Int8Codes& codes, uint64_t place, double row_norm) const {
    if (codes.deflation() == nullptr) return score;
    const uint64_t t = codes.tile_at(place);
    const RowsAlong rows = codes.along(t);
    LessAlong(&along, &norm, 1, rows, codes.deflation()->dim(), row_norm, &score);
    return score - along * rows.more[place - codes.tile(t).first];
  }

  double along = 0.0, norm = 0.0;
};

// A query's codes are what this machine's kernel asks for.
void ExpectFit(const std::vector<int8_t>& codes) {
  if (!CodeKernel().sums_in_16_bits()) return;
  for (size_t octet = 0; octet < codes.size(); octet += kOctet) {
    for (const size_t first : {octet, octet + 2}) {
      int positive = 0, negative = 0;
      for (const size_t i : {first, first + 1, first + kQuad, first + kQuad + 1}) {
        if (i >= codes.size()) continue;
        (codes[i] < 0 ? negative : positive) += codes[i];
      }
      ASSERT_LE(positive, kMostOfFour) << "from code " << octet;
      ASSERT_GE(negative, -kMostOfFour) << "from code " << octet;
    }
  }
}

// The promise of the whole file: the integer score, with its error, is an upper bound of the true one. And it
// is a useful one: within `slack` times the product of the lengths. Of the rows' head by `by_head`.
void ExpectUpperBounds(const Encoded& base, const SharedMatrix& queries, double slack, bool by_head = false) {
  const Int8Codes& codes = by_head ? *base.codes->head() : *base.codes;
  const Axes& axes = base.codes->axes();
  const uint32_t dim = base.rows.view.dim;
  std::vector<float> query(dim), projected(codes.axes().count);
  std::vector<int8_t> query_codes(codes.code_dim());
  for (uint64_t q = 0; q < queries.view.rows; ++q) {
    ToFloat32(queries.view.row(q), queries.view.dtype, dim, query.data());
    double squares = 0.0;
    for (const float x : query) squares += static_cast<double>(x) * x;
    for (uint32_t i = 0; i < codes.axes().count; ++i) {
      float sum = 0.0f;
      for (uint32_t c = 0; c < dim; ++c) {
        sum += axes.identity ? (i == c ? query[c] : 0.0f) : axes.directions[i * dim + c] * query[c];
      }
      projected[i] = sum;
    }
    QueryAlong along = {0.0, NormUpperBound(dim, squares)};
    if (codes.is_deflated()) {
      std::vector<double> wide(dim);
      ToFloat64(queries.view.row(q), queries.view.dtype, dim, wide.data());
      along.along = codes.deflation()->SplitQuery(wide.data(), 1.0, projected.data());
      along.norm *= 1.0 + 0x1p-20;  // before it was rounded
    }
    if (codes.spread() != nullptr && codes.axes().identity) codes.spread()->Apply(projected.data());
    const QueryCode code =
        codes.EncodeQuery(0, NormUpperBound(dim, squares), projected.data(), query_codes.data());
    ExpectFit(query_codes);
    for (uint64_t t = 0; t < codes.tiles(); ++t) {
      const CodeTile& tile = codes.tile(t);
      const double error = code.code_error * tile.code_norm + code.projection_norm * tile.code_error +
                           code.tail_excess * tile.scale;
      // Where tiles have balls, codes are of what a row adds to the centre.
      double centre = 0.0, ball = std::numeric_limits<double>::infinity();
      if (codes.centre_codes() != nullptr) {
        for (uint32_t i = 0; i < dim; ++i) centre += static_cast<double>(query[i]) * codes.centre(t)[i];
        ball = BallBound(centre, 1e-12 * std::abs(centre), code.norm * codes.radius(t));
      }
      for (int r = 0; r < codes.tile(t).rows; ++r) {
        const std::vector<uint8_t> row = CodesOf(codes, t, r);
        const int32_t integer = std::inner_product(row.begin(), row.end(), query_codes.begin(), 0);
        const double whole = testing::ExactScore(queries.view, q, base.rows.view, codes.id(t, r));
        const double score = along.Less(whole - centre, codes, tile.first + r, tile.norm);
        ASSERT_LE(whole, ball) << "query " << q << ", row " << codes.id(t, r);
        const double bound = code.scale * tile.scale * (integer - code.offset) + error;
        ASSERT_LE(score, bound * (1.0 + std::copysign(1e-12, bound)))
            << "query " << q << ", row " << codes.id(t, r);
        ASSERT_LE(bound, score + slack * std::max(code.norm * tile.norm, 1e-300));
        // As the screen asks it: a threshold that the score reaches must let the integer through.
        ASSERT_GT(integer, Int8Threshold(score, error, code.inverse_scale / tile.scale, code.offset));
      }
    }
  }
}

TEST(QuantizeTest, UnrotatedCodesBoundScores) {
  for (const uint32_t dim : {1, 3, 16, 61}) {
    ExpectUpperBounds(Encode(RandomNormal(600, dim, 1), dim), RandomNormal(5, dim, 2), 0.1);
  }
}

// Queries of one sign have the largest sums of fours, and those with a long tail of large codes for it.
TEST(QuantizeTest, QueriesOfOneSignBoundScores) {
  for (const double sign : {1.0, -1.0}) {
    for (const uint32_t axes : {3, 13, 29}) {
      ExpectUpperBounds(Encode(RandomNormal(600, 29, 1), axes), MakeMatrix(std::vector<double>(29, sign), 29),
                        2.1);
    }
  }
}

TEST(QuantizeTest, RotatedCodesBoundScores) {
  for (const uint32_t axes : {1, 4, 15, 59}) {
    ExpectUpperBounds(Encode(RandomNormal(600, 60, 1), axes), RandomNormal(5, 60, 2), 2.1);
  }
}

// The first axes alone, and all of them, in codes that share memory.
TEST(QuantizeTest, HeadsAndAllAxesBoundScores) {
  for (const auto& [axes, head] : {std::pair(60u, 15u), {60u, 59u}, {40u, 1u}, {60u, 57u}}) {
    const Encoded base = Encode(RandomNormal(600, 60, 1), axes, false, false, head);
    ExpectUpperBounds(base, RandomNormal(5, 60, 2), axes < 60 ? 2.1 : 0.2);
    ExpectUpperBounds(base, RandomNormal(5, 60, 2), 2.1, /*by_head=*/true);
    EXPECT_EQ(base.codes->head()->code_dim() % kHeadMultiple, 0);
    EXPECT_EQ(base.codes->head()->axes().count, head);
    EXPECT_EQ(base.codes->head()->id(1, 3), base.codes->id(1, 3));
    // Each row's codes are counted once, its number too.
    const uint64_t each = base.codes->code_dim() + sizeof(uint32_t);
    EXPECT_LT(base.codes->bytes(), 600 * each + 10'000 + axes * 60 * sizeof(float));
  }
  for (const DType dtype : {DType::kFloat16, DType::kFloat64, DType::kInt8}) {
    const Encoded base = Encode(RandomNormal(100, 20, 1, dtype), 20, false, false, 7);
    ExpectUpperBounds(base, RandomNormal(3, 20, 2, dtype), 0.2);
    ExpectUpperBounds(base, RandomNormal(3, 20, 2, dtype), 2.1, /*by_head=*/true);
  }
  // Rows along fewer directions than there are axes, which some queries miss.
  std::vector<double> values;
  for (int i = 0; i < 600; ++i) values.push_back(i % 6 < 2 ? std::sin(i) : 0.0);
  const Encoded flat = Encode(MakeMatrix(values, 6), 6, false, false, 3);
  ExpectUpperBounds(flat, RandomNormal(4, 6, 3), 2.1);
  ExpectUpperBounds(flat, RandomNormal(4, 6, 3), 2.1, /*by_head=*/true);
}

// A second look asks each row's own codes what the screen asks a tile's.
void ExpectFineUpperBounds(const SharedMatrix& rows, const SharedMatrix& queries, double slack,
                           bool deflated = false, bool spread = false) {
  const Encoded base = Encode(rows, 1, false, true, 0, deflated, spread);
  const FineCodes& fine = *base.codes->fine();
  const uint32_t dim = rows.view.dim;
  std::vector<float> query(dim);
  std::vector<int8_t> query_codes(fine.code_dim());
  for (uint64_t q = 0; q < queries.view.rows; ++q) {
    ToFloat32(queries.view.row(q), queries.view.dtype, dim, query.data());
    const double squares = std::inner_product(query.begin(), query.end(), query.begin(), 0.0);
    std::vector<float> seen = query;
    QueryAlong along = {0.0, NormUpperBound(dim, squares) * (1.0 + 0x1p-20)};
    if (deflated) {
      std::vector<double> wide(dim);
      ToFloat64(queries.view.row(q), queries.view.dtype, dim, wide.data());
      along.along = base.codes->deflation()->SplitQuery(wide.data(), 1.0, seen.data());
    }
    if (spread) base.codes->spread()->Apply(seen.data());
    const QueryCode code =
        fine.EncodeQuery(0, NormUpperBound(dim, squares) * (1.0 + 0x1p-20), seen.data(), query_codes.data());
    ExpectFit(query_codes);
    for (uint64_t place = 0; place < rows.view.rows; ++place) {
      const uint64_t tile = place / Int8Codes::kTileRows;
      const uint64_t id = base.codes->id(tile, static_cast<int>(place % Int8Codes::kTileRows));
      const FineCodes::Row& row = fine.row(place);
      const uint8_t* const row_codes = fine.codes(place).head.codes;
      const int32_t integer =
          std::inner_product(row_codes, row_codes + fine.code_dim(), query_codes.begin(), 0);
      const double error = CodeError(code.code_error, code.projection_norm, code.tail_excess, row.code_norm,
                                     row.code_error, row.scale);
      const double score = along.Less(testing::ExactScore(queries.view, q, rows.view, id), *base.codes, place,
                                      base.codes->tile(tile).norm);
      const double bound = code.scale * row.scale * (integer - code.offset) + error;
      ASSERT_LE(score, bound * (1.0 + std::copysign(1e-12, bound))) << "query " << q << ", row " << id;
      ASSERT_LE(bound, score + slack * code.norm * std::max(1.0 * row.code_norm, 1e-30));
      ASSERT_GT(integer, Int8Threshold(score, error, code.inverse_scale / row.scale, code.offset));
    }
  }
}

TEST(QuantizeTest, FineCodesBoundScores) {
  for (const uint32_t dim : {2, 3, 16, 61}) {
    ExpectFineUpperBounds(RandomNormal(600, dim, 1), RandomNormal(5, dim, 2), 0.05);
  }
  for (const DType dtype : {DType::kFloat16, DType::kFloat64, DType::kInt8}) {
    ExpectFineUpperBounds(RandomNormal(100, 20, 1, dtype), RandomNormal(3, 20, 2, dtype), 0.05);
  }
  // Float64 that float32 rounds away, and rows of nothing beside others.
  std::vector<double> values(40 * 20, 1.0 + 0x1p-25);
  std::fill_n(values.begin(), 60, 0.0);
  std::fill_n(values.begin() + 60, 60, 1e-38);
  ExpectFineUpperBounds(MakeMatrix(values, 20, DType::kFloat64),
                        MakeMatrix(std::vector<double>(20, 1.0), 20, DType::kFloat64), 1.0);
}

// Rows and queries about one direction.
SharedMatrix AboutMean(uint64_t rows, uint32_t dim, uint64_t seed, DType dtype = DType::kFloat32) {
  Random random(seed);
  std::vector<double> values(rows * dim);
  for (size_t i = 0; i < values.size(); ++i) {
    values[i] = (2.0 + 0.3 * (i % dim % 5) + 0.5 * random.Normal()) * (dtype == DType::kInt8 ? 20.0 : 1.0);
  }
  return MakeMatrix(values, dim, dtype);
}

TEST(QuantizeTest, DeflatedCodesBoundScores) {
  for (const uint32_t dim : {1u, 3u, 16u, 61u}) {
    const SharedMatrix rows = AboutMean(600, dim, 1);
    const Encoded base = Encode(rows, dim, false, false, 0, /*deflated=*/true);
    ASSERT_TRUE(base.codes->is_deflated());
    ExpectUpperBounds(base, AboutMean(5, dim, 2), 0.03);
    ExpectUpperBounds(base, RandomNormal(5, dim, 3), 0.1);  // that lie anywhere
    if (dim > 1) ExpectFineUpperBounds(rows, AboutMean(5, dim, 2), 1.0, /*deflated=*/true);
  }
  for (const DType dtype : {DType::kFloat16, DType::kFloat64, DType::kInt8}) {
    ExpectUpperBounds(Encode(AboutMean(100, 20, 1, dtype), 20, false, false, 0, true),
                      AboutMean(3, 20, 2, dtype), 0.03);
    ExpectFineUpperBounds(AboutMean(100, 20, 1, dtype), AboutMean(3, 20, 2, dtype), 1.0, true);
  }
  // Equal rows, rows of nothing, and queries of nothing.
  const Encoded equal = Encode(MakeMatrix(std::vector<double>(60, 0.25), 6), 6, false, false, 0, true);
  ExpectUpperBounds(equal, RandomNormal(4, 6, 3), 1e-6);
  const Encoded zeros = Encode(MakeMatrix(std::vector<double>(60, 0.0), 6), 6, false, false, 0, true);
  ExpectUpperBounds(zeros, RandomNormal(4, 6, 3), 1e300);
  ExpectUpperBounds(zeros, MakeMatrix(std::vector<double>(6, 0.0), 6), 1e300);
}

// The lengths of rows, also of float64 ones, are within what is said of them.
TEST(QuantizeTest, LengthsOfRowsAreWithinTheirRanges) {
  for (const DType dtype : {DType::kFloat32, DType::kFloat64}) {
    for (const bool deflated : {false, true}) {
      Random random(6);
      constexpr uint32_t kDim = 5;
      std::vector<double> values(1100 * kDim);
      for (double& x : values) x = 1000.0 + (deflated ? 1e-3 : 2000.0) * random.Normal();
      const SharedMatrix rows = MakeMatrix(values, kDim, dtype);
      const Encoded base = Encode(rows, kDim, false, false, 0, deflated);
      const Int8Codes& codes = *base.codes;
      int told_apart = 0;
      for (uint64_t t = 0; t < codes.tiles(); ++t) {
        const auto [all, longer] = codes.lengths(t);
        told_apart += longer.empty() ? 0 : 1;
        for (int r = 0; r < codes.tile(t).rows; ++r) {
          std::vector<double> row(kDim);
          ToFloat64(rows.view.row(codes.id(t, r)), dtype, kDim, row.data());
          long double squares = 0.0;
          for (const double x : row) squares += static_cast<long double>(x) * x;
          const long double length = std::sqrt(squares);
          ASSERT_LE(all.least, length);
          ASSERT_GE(all.most, length);
          if (longer.empty()) continue;
          ASSERT_GE(longer[r], 0.0f);
          ASSERT_LE(all.least + static_cast<long double>(longer[r]), length);
          EXPECT_GE(all.least + longer[r], length * 0.999);
        }
      }
      EXPECT_GE(told_apart, deflated ? codes.tiles() : 1);
    }
  }
}

// The larger a few elements are, the closer for being spread.
TEST(QuantizeTest, SpreadCodesBoundScores) {
  for (const bool deflated : {false, true}) {
    for (const uint32_t dim : {1u, 3u, 16u, 61u, 300u}) {
      Random random(4);
      std::vector<double> values(600 * dim);
      for (size_t i = 0; i < values.size(); ++i) values[i] = random.Normal() * (i % dim == 7 ? 30.0 : 1.0);
      const SharedMatrix rows = MakeMatrix(values, dim), queries = RandomNormal(5, dim, 2);
      const Encoded base = Encode(rows, dim, false, false, 0, deflated, /*spread=*/true);
      ASSERT_NE(base.codes->spread(), nullptr);
      ExpectUpperBounds(base, queries, 0.15);
      ExpectUpperBounds(base, Slice(rows, 0, 5), 0.15);
      if (dim > 1) ExpectFineUpperBounds(rows, queries, 0.2, deflated, true);
      if (deflated || dim < 61) continue;
      const Encoded plain = Encode(rows, dim, false, false, 0, deflated);
      EXPECT_LT(base.codes->tile(0).code_error, 0.8 * plain.codes->tile(0).code_error) << dim;
    }
    for (const DType dtype : {DType::kFloat16, DType::kFloat64, DType::kInt8}) {
      const SharedMatrix rows = RandomNormal(100, 20, 1, dtype), queries = RandomNormal(3, 20, 2, dtype);
      ExpectUpperBounds(Encode(rows, 20, false, false, 0, deflated, true), queries, 0.1);
      ExpectFineUpperBounds(rows, queries, 0.2, deflated, true);
    }
  }
}

TEST(QuantizeTest, BallsHoldTheirRowsAndCodesWhatIsLeft) {
  for (const uint32_t dim : {1, 3, 16, 61}) {
    ExpectUpperBounds(Encode(RandomNormal(600, dim, 1), dim, true), RandomNormal(5, dim, 2), 0.1);
  }
  for (const DType dtype : {DType::kFloat16, DType::kFloat64, DType::kInt8}) {
    ExpectUpperBounds(Encode(RandomNormal(100, 20, 1, dtype), 20, true), RandomNormal(3, 20, 2, dtype), 0.1);
  }
  // Equal rows: no radius to speak of, and codes of nothing.
  const Encoded equal = Encode(MakeMatrix(std::vector<double>(600, 0.25), 6), 6, true);
  ExpectUpperBounds(equal, RandomNormal(4, 6, 3), 1e-6);
  EXPECT_LT(equal.codes->radius(0), 1e-6);
}

// float32 sees equal rows, so all of the radius is what it does not see.
TEST(QuantizeTest, BallsHoldWhatFloat32Rounds) {
  const double row = 1.0 + 0x1p-25;
  const Encoded base = Encode(MakeMatrix(std::vector<double>(20, row), 1, DType::kFloat64), 1, true);
  ASSERT_EQ(base.codes->centre(0)[0], 1.0f);
  EXPECT_GE(base.codes->radius(0), row - 1.0);
}

// A search scores centres by their codes alone.
TEST(QuantizeTest, CentreCodesBoundCentreScores) {
  const Encoded base = Encode(RandomNormal(2000, 20, 1), 20, true);
  const Int8Codes& centres = *base.codes->centre_codes();
  ASSERT_EQ(centres.tile(0).rows, static_cast<int>(base.codes->tiles()));
  const SharedMatrix queries = RandomNormal(5, 20, 2);
  std::vector<int8_t> query_codes(centres.code_dim());
  for (uint64_t q = 0; q < queries.view.rows; ++q) {
    const auto* const query = reinterpret_cast<const float*>(queries.view.row(q));
    const double squares = std::inner_product(query, query + 20, query, 0.0);
    const QueryCode code = base.codes->EncodeQuery(0, NormUpperBound(20, squares), query, query_codes.data());
    for (int t = 0; t < centres.tile(0).rows; ++t) {
      EXPECT_EQ(centres.id(0, t), static_cast<uint64_t>(t));
      const float* const centre = base.codes->centre(t);
      const double score = std::inner_product(query, query + 20, centre, 0.0);
      const std::vector<uint8_t> row = CodesOf(centres, 0, t);
      const int32_t integer = std::inner_product(row.begin(), row.end(), query_codes.begin(), 0);
      const double about = code.scale * centres.tile(0).scale * (integer - code.offset);
      EXPECT_LE(score, about + CodeError(code, centres.tile(0)));
      EXPECT_LE(score, BallBound(about, CodeError(code, centres.tile(0)), 0.0));
      EXPECT_GE(score, about - CodeError(code, centres.tile(0)));
    }
  }
}

TEST(QuantizeTest, OtherDtypes) {
  for (const DType dtype : {DType::kFloat16, DType::kBFloat16, DType::kFloat64, DType::kInt8}) {
    ExpectUpperBounds(Encode(RandomNormal(100, 20, 1, dtype), 20), RandomNormal(3, 20, 2, dtype), 0.1);
    ExpectUpperBounds(Encode(RandomNormal(100, 20, 1, dtype), 7), RandomNormal(3, 20, 2, dtype), 2.1);
  }
}

TEST(QuantizeTest, DegenerateRows) {
  const SharedMatrix queries = RandomNormal(4, 6, 3);
  for (const uint32_t axes : {2, 6}) {
    ExpectUpperBounds(Encode(MakeMatrix(std::vector<double>(60, 0.0), 6), axes), queries, 1e300);
    ExpectUpperBounds(Encode(MakeMatrix(std::vector<double>(600, 0.25), 6), axes), queries, 2.1);
    ExpectUpperBounds(Encode(RandomNormal(1, 6, 9), axes), queries, 2.1);
    // One axis a million times the others, which the codes of that tile cannot resolve.
    std::vector<double> values;
    Random random(4);
    for (int i = 0; i < 600; ++i) values.push_back(random.Normal() * (i % 6 == 1 ? 1e6 : 1.0));
    ExpectUpperBounds(Encode(MakeMatrix(values, 6), axes), queries, 2.1);
    // Norms over many magnitudes within one tile.
    for (int i = 0; i < 600; ++i) values[i] = random.Normal() * std::pow(10.0, i / 6 % 12 - 9.0);
    ExpectUpperBounds(Encode(MakeMatrix(values, 6), axes), queries, 2.1);
  }
}

TEST(QuantizeTest, ZeroAndHugeQueries) {
  const Encoded base = Encode(RandomNormal(100, 8, 1), 3);
  ExpectUpperBounds(base, MakeMatrix(std::vector<double>(8, 0.0), 8), 1e300);
  // Queries that the axes miss entirely: all tail, more than its codes can hold.
  for (uint32_t i = 0; i < 8; ++i) {
    std::vector<double> x(8);
    x[i] = 1.0;
    for (uint32_t a = 0; a < 3; ++a) {
      for (uint32_t c = 0; c < 8; ++c) {
        x[c] -= double{base.codes->axes().directions[a * 8 + i]} * base.codes->axes().directions[a * 8 + c];
      }
    }
    ExpectUpperBounds(base, MakeMatrix(x, 8, DType::kFloat64), 1e6);
  }
}

// ‖x − code · scale‖ and ‖x‖.
template <typename CodeAt>
std::pair<double, double> ErrorAndLength(const std::vector<double>& x, double scale, CodeAt code_at) {
  double error = 0.0, length = 0.0;
  for (size_t i = 0; i < x.size(); ++i) {
    error += std::pow(x[i] - code_at(i) * scale, 2);
    length += x[i] * x[i];
  }
  return {std::sqrt(error), std::sqrt(length)};
}

// float64 rows whose float32 values are codes to the last bit: all error is that of rounding to float32.
void ExpectRoundingCounted(const std::vector<double>& x) {
  const uint32_t dim = static_cast<uint32_t>(x.size());
  const Encoded base = Encode(MakeMatrix(x, dim, DType::kFloat64), dim);
  const CodeTile& tile = base.codes->tile(0);
  const std::vector<uint8_t> row = CodesOf(*base.codes, 0, 0);
  const auto [error, length] = ErrorAndLength(x, tile.scale, [&row](size_t i) { return row[i] - 128; });
  EXPECT_GT(error, 0.0);
  EXPECT_GE(tile.code_error, error);
  EXPECT_GE(tile.code_norm, length - error);

  const std::vector<float> narrow(x.begin(), x.end());
  std::vector<int8_t> codes(base.codes->code_dim());
  const QueryCode query = base.codes->EncodeQuery(0, tile.norm, narrow.data(), codes.data());
  EXPECT_GE(query.code_error,
            ErrorAndLength(x, query.scale, [&codes](size_t i) { return int{codes[i]}; }).first);
  EXPECT_GE(query.projection_norm, length);
  std::vector<int8_t> rest_codes(codes.size());
  const QueryRest rest = base.codes->EncodeRest(query, narrow.data(), codes.data(), rest_codes.data());
  std::vector<double> missed(x);
  for (size_t i = 0; i < x.size(); ++i) missed[i] -= codes[i] * query.scale;
  EXPECT_GE(rest.code_error,
            ErrorAndLength(missed, rest.scale, [&](size_t i) { return int{rest_codes[i]}; }).first);
}

// What both codes of a query miss is bounded, and a hundredth of what one misses; so are scores by both.
TEST(QuantizeTest, RestsOfQueriesBoundScores) {
  for (const uint32_t axes : {20u, 60u}) {
    const Encoded base = Encode(RandomNormal(600, 60, 1), axes);
    const Int8Codes& codes = *base.codes;
    const SharedMatrix queries = RandomNormal(5, 60, 2);
    for (uint64_t q = 0; q < 5; ++q) {
      const auto* const row = reinterpret_cast<const float*>(queries.view.row(q));
      std::vector<float> y(row, row + 60);
      if (axes < 60) {
        y.resize(axes);
        for (uint32_t i = 0; i < axes; ++i) {
          y[i] = std::inner_product(row, row + 60, codes.axes().directions.begin() + i * 60, 0.0f);
        }
      }
      std::vector<int8_t> query_codes(codes.code_dim()), rest_codes(codes.code_dim());
      const double norm = NormUpperBound(60, std::inner_product(row, row + 60, row, 0.0));
      const QueryCode query = codes.EncodeQuery(0, norm, y.data(), query_codes.data());
      const QueryRest rest = codes.EncodeRest(query, y.data(), query_codes.data(), rest_codes.data());
      ExpectFit(query_codes);
      ExpectFit(rest_codes);
      EXPECT_LT(rest.code_error, query.code_error / 50);
      std::vector<double> missed(y.begin(), y.end());
      for (size_t i = 0; i < missed.size(); ++i) missed[i] -= query_codes[i] * query.scale;
      EXPECT_GE(rest.code_error,
                ErrorAndLength(missed, rest.scale, [&](size_t i) { return int{rest_codes[i]}; }).first);
      for (uint64_t place = 0; place < 600; ++place) {
        const uint64_t t = place / Int8Codes::kTileRows;
        const int r = static_cast<int>(place % Int8Codes::kTileRows);
        const CodeTile& tile = codes.tile(t);
        const std::vector<uint8_t> of_row = CodesOf(codes, t, r);
        const auto score_by = [&](const std::vector<int8_t>& by, double offset, double scale) {
          return (std::inner_product(by.begin(), by.end(), of_row.begin(), 0) - offset) * scale * tile.scale;
        };
        const double error = CodeError(rest.code_error, query.projection_norm, query.tail_excess,
                                       tile.code_norm, tile.code_error, tile.scale);
        EXPECT_LE(testing::ExactScore(queries.view, q, base.rows.view, codes.id(t, r)),
                  RefinedBound(score_by(query_codes, query.offset, query.scale),
                               score_by(rest_codes, rest.offset, rest.scale), error))
            << "query " << q << ", row " << codes.id(t, r);
      }
    }
  }
}

TEST(QuantizeTest, RoundingToFloat32Counts) {
  std::vector<double> x(16, 64.0 + 0x1.fp-19);  // float32: 64
  x[0] = 127.0;
  ExpectRoundingCounted(x);
}

TEST(QuantizeTest, UnderflowToFloat32Counts) {
  ExpectRoundingCounted(std::vector<double>(16, 0x1.7p-149));  // float32: 2^-149
  ExpectRoundingCounted(std::vector<double>(16, 0x1p-160));    // float32: 0
}

TEST(QuantizeTest, PlainCodesBoundScores) {
  for (const uint32_t dim : {1u, 3u, 4u, 37u, 128u}) {
    for (const double scale : {1e-9, 1.0, 1e12}) {
      Random random(dim);
      std::vector<double> values(700 * dim);
      for (double& x : values) x = random.Normal() * scale;
      const SharedMatrix rows = MakeMatrix(values, dim);
      auto codes = std::make_unique<Int8Codes>();
      // Once more into the same memory.
      ASSERT_TRUE(codes->EncodePlain(RandomNormal(900, dim, 3).view));
      ASSERT_TRUE(codes->EncodePlain(rows.view));
      for (uint64_t t = 0; t < codes->tiles(); ++t) {
        const CodeTile& tile = codes->tile(t);
        for (int r = 0; r < tile.rows; ++r) {
          const uint64_t id = codes->id(t, r);
          EXPECT_EQ(id, tile.first + r);
          const std::vector<uint8_t> row = CodesOf(*codes, t, r);
          double squares = 0.0, error = 0.0, decoded = 0.0;
          for (uint32_t i = 0; i < dim; ++i) {
            const double x = reinterpret_cast<const float*>(rows.view.row(id))[i];
            const double code = (row[i] - 128) * tile.scale;
            squares += x * x;
            error += (x - code) * (x - code);
            decoded += code * code;
          }
          EXPECT_LE(std::sqrt(squares), tile.norm);
          EXPECT_GE(std::sqrt(squares), tile.least_norm);
          EXPECT_LE(std::sqrt(error), tile.code_error);
          EXPECT_LE(std::sqrt(decoded), tile.code_norm);
        }
      }
      ExpectUpperBounds({rows, std::move(codes)}, RandomNormal(20, dim, 4), 0.2);
    }
  }
}

TEST(QuantizeTest, PlainCodesDoNotServeEverything) {
  Int8Codes codes;
  EXPECT_FALSE(codes.EncodePlain(RandomNormal(10, 4, 1, DType::kFloat64).view));
  EXPECT_FALSE(codes.EncodePlain(MakeMatrix({1e-30, 1e-31}, 2).view));
  EXPECT_FALSE(codes.EncodePlain(MakeMatrix({1e30, 1.0}, 2).view));
  EXPECT_TRUE(codes.EncodePlain(MakeMatrix({0.0, 0.0}, 2).view));
  EXPECT_TRUE(codes.EncodePlain(RandomNormal(10, 4, 1, DType::kInt8).view));
}

TEST(QuantizeTest, RowsAreInOrderOfNormAndPadded) {
  const Encoded base = Encode(RandomNormal(Int8Codes::kTileRows + 10, 7, 1), 7);
  ASSERT_EQ(base.codes->tiles(), 2);
  EXPECT_EQ(base.codes->tile(0).rows, Int8Codes::kTileRows);
  EXPECT_EQ(base.codes->tile(1).rows, 10);
  EXPECT_EQ(base.codes->code_dim() % 4, 0);
  EXPECT_GE(base.codes->tile(0).norm, base.codes->tile(1).norm);
  for (int i = 10 * base.codes->code_dim(); i < Int8Codes::kTileRows * base.codes->code_dim(); ++i) {
    ASSERT_EQ(base.codes->codes(1).head.codes[i], 0);
  }
}

}  // namespace
}  // namespace dotmax
