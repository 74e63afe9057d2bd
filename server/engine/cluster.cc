#include "server/engine/cluster.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <random>

#include "server/base/dtype.h"
#include "server/engine/scorer.h"

namespace dotmax {
namespace {

constexpr int kRounds = 8;      // of looking for rows that no centre is near to
constexpr int kIterations = 2;  // of moving centres to the means of their rows

// The nearest centre so far of every row in some codes. Squared distances are ‖b‖² − 2·(b·c − ‖c‖²/2), so the
// nearest has the largest b·c − ‖c‖²/2.
class Assignment {
 public:
  Assignment(absl::Span<const double> norms, const Int8Codes& codes, Kernels& kernels)
      : norms_(norms), codes_(codes), kernels_(kernels) {
    uint64_t rows = 0;
    for (uint64_t t = 0; t < codes.tiles(); ++t) rows += codes.tile(t).rows;
    ids_.reserve(rows);
    for (uint64_t t = 0; t < codes.tiles(); ++t) {
      for (int r = 0; r < codes.tile(t).rows; ++r) ids_.push_back(static_cast<uint32_t>(codes.id(t, r)));
    }
    Reset();
  }

  size_t size() const { return ids_.size(); }
  uint32_t id(size_t i) const { return ids_[i]; }
  uint32_t centre(size_t i) const { return nearest_[i]; }
  double squared_distance(size_t i) const {
    const double norm = norms_[ids_[i]];
    return std::max(0.0, norm * norm - 2.0 * best_[i]);
  }

  void Reset() {
    best_.assign(ids_.size(), -std::numeric_limits<float>::infinity());
    nearest_.assign(ids_.size(), 0);
  }

  // Considers the centres from number `first` on.
  absl::Status Consider(absl::Span<const float> centres, uint32_t first) {
    const size_t dim = codes_.axes().dim;
    const uint32_t count = static_cast<uint32_t>(centres.size() / dim);
    for (; first < count; first += kMaxColumns) {
      const int block = static_cast<int>(std::min<uint32_t>(kMaxColumns, count - first));
      if (absl::Status s = ConsiderBlock(centres.subspan(first * dim, block * dim), first); !s.ok()) return s;
    }
    return absl::OkStatus();
  }

 private:
  absl::Status ConsiderBlock(absl::Span<const float> centres, uint32_t first) {
    const size_t dim = codes_.axes().dim;
    const int block = static_cast<int>(centres.size() / dim);
    std::vector<int8_t> packed(block * static_cast<size_t>(codes_.code_dim()));
    std::vector<float> scales(kMaxColumns), offsets(kMaxColumns), halves(kMaxColumns);
    for (int c = 0; c < block; ++c) {
      const float* const centre = centres.data() + c * dim;
      const double squares = std::inner_product(centre, centre + dim, centre, 0.0);
      const QueryCode code = codes_.EncodeQuery(0, NormUpperBound(codes_.axes().dim, squares), centre,
                                                packed.data() + c * static_cast<size_t>(codes_.code_dim()));
      scales[c] = static_cast<float>(code.scale);
      offsets[c] = static_cast<float>(code.offset);
      halves[c] = static_cast<float>(squares / 2);
    }
    auto matmul = kernels_.GetInt8(codes_, kernels_.Int8Columns(block, codes_.code_dim()));
    if (!matmul.ok()) return matmul.status();
    scorer_.Pack(*matmul, kernels_.Int8Columns(block, codes_.code_dim()), packed.data(), block,
                 codes_.code_dim());
    size_t row = 0;
    std::vector<float> values(kMaxColumns);
    for (uint64_t t = 0; t < codes_.tiles(); ++t) {
      const int32_t* scores = scorer_.Score(codes_.codes(t), codes_.tile(t).rows);
      const float tile_scale = static_cast<float>(codes_.tile(t).scale);
      for (int r = 0; r < codes_.tile(t).rows; ++r, ++row, scores += scorer_.columns()) {
        float largest = -std::numeric_limits<float>::infinity();
        for (int c = 0; c < block; ++c) {
          values[c] = (static_cast<float>(scores[c]) - offsets[c]) * scales[c] * tile_scale - halves[c];
        }
        for (int c = 0; c < block; ++c) largest = std::max(largest, values[c]);
        if (largest <= best_[row]) continue;
        best_[row] = largest;
        nearest_[row] =
            first + static_cast<uint32_t>(std::find(values.begin(), values.begin() + block, largest) -
                                          values.begin());
      }
    }
    return absl::OkStatus();
  }

  const absl::Span<const double> norms_;
  const Int8Codes& codes_;
  Kernels& kernels_;
  CodeScorer scorer_;
  std::vector<uint32_t> ids_;
  std::vector<float> best_;
  std::vector<uint32_t> nearest_;
};

// Moves every centre to the mean of its rows; drops those without.
std::vector<float> Means(const MatrixView& rows, const Assignment& assignment, size_t count) {
  const size_t dim = rows.dim;
  std::vector<double> sums(count * dim);
  std::vector<uint32_t> sizes(count);
  std::vector<float> row(dim);
  for (size_t i = 0; i < assignment.size(); ++i) {
    ToFloat32(rows.row(assignment.id(i)), rows.dtype, dim, row.data());
    double* const sum = sums.data() + assignment.centre(i) * dim;
    for (size_t d = 0; d < dim; ++d) sum[d] += row[d];
    ++sizes[assignment.centre(i)];
  }
  std::vector<float> means;
  for (size_t c = 0; c < count; ++c) {
    if (sizes[c] == 0) continue;
    for (size_t d = 0; d < dim; ++d) means.push_back(static_cast<float>(sums[c * dim + d] / sizes[c]));
  }
  return means;
}

}  // namespace

absl::StatusOr<std::vector<float>> LearnCentres(const MatrixView& rows, absl::Span<const double> norms,
                                                const Int8Codes& codes, int count, double loosest,
                                                Kernels& kernels) {
  const size_t dim = rows.dim;
  Assignment assignment(norms, codes, kernels);
  std::vector<float> centres, row(dim);
  std::mt19937_64 random(1);
  for (int round = 0; round < kRounds; ++round) {
    // One from each of as many equal parts of the summed weights, anywhere in it, as rows may come in a
    // cycle. Rows far from all centres weigh the most: squared distances, squared. At first all weigh the
    // same.
    const int more = count * (round + 1) / kRounds - count * round / kRounds;
    double total = 0.0;
    const auto weight = [&](size_t i) {
      const double d2 = assignment.squared_distance(i);
      return round == 0 ? 1.0 : d2 * d2;
    };
    for (size_t i = 0; i < assignment.size(); ++i) total += weight(i);
    if (!(total > 0.0) || more == 0) continue;
    const uint32_t first = static_cast<uint32_t>(centres.size() / dim);
    std::uniform_real_distribution<double> within(0.0, 1.0);
    double sum = 0.0, next = within(random) * total / more;
    for (size_t i = 0, part = 0; i < assignment.size() && part < static_cast<size_t>(more); ++i) {
      sum += weight(i);
      if (sum < next) continue;
      ToFloat32(rows.row(assignment.id(i)), rows.dtype, dim, row.data());
      centres.insert(centres.end(), row.begin(), row.end());
      part = std::max(part + 1, static_cast<size_t>(sum / total * more));
      next = (part + within(random)) * total / more;
    }
    if (absl::Status s = assignment.Consider(centres, first); !s.ok()) return s;
  }
  double distances = 0.0, lengths = 0.0;
  for (size_t i = 0; i < assignment.size(); ++i) {
    distances += assignment.squared_distance(i);
    lengths += norms[assignment.id(i)] * norms[assignment.id(i)];
  }
  if (distances > loosest * lengths) return std::vector<float>();
  for (int i = 0; i < kIterations; ++i) {
    centres = Means(rows, assignment, centres.size() / dim);
    assignment.Reset();
    if (absl::Status s = assignment.Consider(centres, 0); !s.ok()) return s;
  }
  return centres;
}

absl::StatusOr<RowOrder> GroupByCentre(absl::Span<const double> norms, const Int8Codes& codes,
                                       absl::Span<const float> centres, Kernels& kernels) {
  Assignment assignment(norms, codes, kernels);
  if (absl::Status s = assignment.Consider(centres, 0); !s.ok()) return s;
  // Near rows first: where a group takes several tiles, the far ones do not widen the others' balls.
  std::vector<uint32_t> places(assignment.size());
  std::iota(places.begin(), places.end(), 0);
  std::sort(places.begin(), places.end(), [&](uint32_t a, uint32_t b) {
    if (assignment.centre(a) != assignment.centre(b)) return assignment.centre(a) < assignment.centre(b);
    const double to_a = assignment.squared_distance(a), to_b = assignment.squared_distance(b);
    return to_a != to_b ? to_a < to_b : a < b;
  });
  RowOrder order;
  order.by_norm = false;
  for (size_t i = 0, first = 0; i < places.size(); ++i) {
    order.ids.push_back(assignment.id(places[i]));
    const bool last =
        i + 1 == places.size() || assignment.centre(places[i + 1]) != assignment.centre(places[i]);
    if (last || i + 1 - first == Int8Codes::kTileRows) {
      order.tile_rows.push_back(static_cast<int>(i + 1 - first));
      first = i + 1;
    }
  }
  return order;
}

}  // namespace dotmax
