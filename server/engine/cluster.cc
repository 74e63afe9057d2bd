#include "server/engine/cluster.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <numeric>
#include <random>

#include "server/base/dtype.h"
#include "server/engine/scorer.h"
#include "server/engine/thread_time.h"

namespace dotmax {
namespace {

constexpr int kRounds = 8;      // of looking for rows that no centre is near to
constexpr int kIterations = 2;  // of moving centres to the means of their rows
constexpr int kDoublings = 3;   // of the number of centres, while rows are out of reach
constexpr double kNear = 0.1;   // a share of rows, other than those that centres started from
constexpr double kFew = 0.05;   // a share of rows that may stay out of reach

// Rows this many times as far (squared) from a group's centre as its median row belong to others. Hardly any
// row of a normal cluster is: squared distances deviate by √(2 / dim) of their mean.
constexpr double kForeign = 3.0;
constexpr int kStages = 4;       // of clustering rows that were out of reach
constexpr size_t kFewRows = 32;  // are not worth another one
constexpr size_t kRowsPerCentre = 96;
constexpr uint64_t kSampleRows = 16384;  // of such, to learn from
constexpr uint64_t kTilesPerLook = 16;   // at the clock

// Side by side, as compilers do not reorder a maximum of floats by themselves.
float Largest(const float* values, int count) {
  constexpr int kSide = 16;
  std::array<float, kSide> largest;
  largest.fill(-std::numeric_limits<float>::infinity());
  int i = 0;
  for (; i + kSide <= count; i += kSide) {
    for (int j = 0; j < kSide; ++j) largest[j] = values[i + j] > largest[j] ? values[i + j] : largest[j];
  }
  for (; i < count; ++i) largest[0] = std::max(largest[0], values[i]);
  return *std::max_element(largest.begin(), largest.end());
}

// The nearest centre so far of every row in some codes. Squared distances are ‖b‖² − 2·(b·c − ‖c‖²/2), so the
// nearest has the largest b·c − ‖c‖²/2.
class Assignment {
 public:
  Assignment(absl::Span<const double> norms, const Int8Codes& codes, Kernels& kernels,
             absl::Duration deadline)
      : norms_(norms), codes_(codes), kernels_(kernels), deadline_(deadline) {
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
    std::array<float, kMaxColumns> factors, values;
    for (uint64_t t = 0; t < codes_.tiles(); ++t) {
      if (t % kTilesPerLook == 0 && ThreadTime() > deadline_) {
        return absl::DeadlineExceededError("clusters took too long");
      }
      const int32_t* scores = scorer_.Score(codes_.codes(t), codes_.tile(t).rows);
      const float tile_scale = static_cast<float>(codes_.tile(t).scale);
      for (int c = 0; c < block; ++c) factors[c] = scales[c] * tile_scale;
      for (int r = 0; r < codes_.tile(t).rows; ++r, ++row, scores += scorer_.columns()) {
        for (int c = 0; c < block; ++c) {
          values[c] = (static_cast<float>(scores[c]) - offsets[c]) * factors[c] - halves[c];
        }
        const float largest = Largest(values.data(), block);
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
  const absl::Duration deadline_;
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

// Up to `count` more centres: rows of the assignment, at random, in `rounds` rounds of as many.
absl::Status AddCentres(const MatrixView& rows, int count, int rounds, std::mt19937_64& random,
                        Assignment& assignment, std::vector<float>& centres) {
  const size_t dim = rows.dim;
  std::vector<float> row(dim);
  for (int round = 0; round < rounds; ++round) {
    // One from each of as many equal parts of the summed weights, anywhere in it, as rows may come in a
    // cycle. Rows far from all centres weigh the most: squared distances, squared. At first all weigh the
    // same.
    const int more = count * (round + 1) / rounds - count * round / rounds;
    double total = 0.0;
    const bool any = !centres.empty();
    const auto weight = [&](size_t i) {
      const double d2 = assignment.squared_distance(i);
      return any ? d2 * d2 : 1.0;
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
  return absl::OkStatus();
}

// The group of some rows, near ones first, with distances from their mean.
Groups::Group MakeGroup(const MatrixView& rows, absl::Span<const uint32_t> ids) {
  const size_t dim = rows.dim;
  std::vector<double> mean(dim);
  std::vector<float> row(dim);
  for (const uint32_t id : ids) {
    ToFloat32(rows.row(id), rows.dtype, dim, row.data());
    for (size_t d = 0; d < dim; ++d) mean[d] += row[d];
  }
  Groups::Group group;
  for (const double sum : mean) group.centre.push_back(static_cast<float>(sum / ids.size()));
  std::vector<std::pair<float, uint32_t>> by_distance;
  for (const uint32_t id : ids) {
    ToFloat32(rows.row(id), rows.dtype, dim, row.data());
    std::array<float, 16> squares = {};
    for (size_t d = 0; d < dim; ++d) {
      const float rest = row[d] - group.centre[d];
      squares[d % 16] += rest * rest;
    }
    by_distance.emplace_back(std::sqrt(std::accumulate(squares.begin(), squares.end(), 0.0f)), id);
  }
  std::sort(by_distance.begin(), by_distance.end());
  for (const auto& [distance, id] : by_distance) {
    group.ids.push_back(id);
    group.distances.push_back(distance);
  }
  return group;
}

// Adds the group of some rows but for those that do not belong to it, which are left.
void AddGroup(const MatrixView& rows, std::vector<uint32_t> ids, const Grouping& grouping, Groups& groups) {
  while (ids.size() >= static_cast<size_t>(grouping.least_rows)) {
    Groups::Group group = MakeGroup(rows, ids);
    const double median = group.distances[ids.size() / 2];
    const double limit =
        std::isinf(grouping.reach) ? grouping.reach : std::min(grouping.reach, std::sqrt(kForeign) * median);
    const size_t size =
        std::upper_bound(group.distances.begin(), group.distances.end(), limit) - group.distances.begin();
    if (size == ids.size()) {
      groups.groups.push_back(std::move(group));
      return;
    }
    groups.left.insert(groups.left.end(), group.ids.begin() + size, group.ids.end());
    group.ids.resize(size);
    ids = std::move(group.ids);  // whose mean is another one without the others
  }
  groups.left.insert(groups.left.end(), ids.begin(), ids.end());
}

absl::StatusOr<std::unique_ptr<Int8Codes>> EncodePlain(const MatrixView& rows, absl::Span<const double> norms,
                                                       std::vector<uint32_t> ids) {
  return Int8Codes::Encode(rows, norms, RowOrder::Even(std::move(ids)), CodeLevels::Whole(rows.dim));
}

// Rows by nearest centre. Centres that few rows are nearest to give theirs to the others.
absl::StatusOr<std::vector<std::vector<uint32_t>>> Gather(const MatrixView& rows,
                                                          absl::Span<const double> norms,
                                                          const Int8Codes& codes,
                                                          const std::vector<float>& centres, int least_rows,
                                                          Kernels& kernels, absl::Duration deadline) {
  const size_t dim = rows.dim;
  std::vector<std::vector<uint32_t>> groups(centres.size() / dim);
  Assignment assignment(norms, codes, kernels, deadline);
  if (absl::Status s = assignment.Consider(centres, 0); !s.ok()) return s;
  for (size_t i = 0; i < assignment.size(); ++i) groups[assignment.centre(i)].push_back(assignment.id(i));
  std::vector<float> kept;
  std::vector<std::vector<uint32_t>> large;
  std::vector<uint32_t> homeless;
  for (size_t c = 0; c < groups.size(); ++c) {
    if (groups[c].size() < static_cast<size_t>(least_rows)) {
      homeless.insert(homeless.end(), groups[c].begin(), groups[c].end());
    } else {
      kept.insert(kept.end(), centres.begin() + c * dim, centres.begin() + (c + 1) * dim);
      large.push_back(std::move(groups[c]));
    }
  }
  if (homeless.empty()) return large;
  if (large.empty()) return std::vector<std::vector<uint32_t>>{std::move(homeless)};
  const auto few = EncodePlain(rows, norms, std::move(homeless));
  if (!few.ok()) return few.status();
  Assignment again(norms, **few, kernels, deadline);
  if (absl::Status s = again.Consider(kept, 0); !s.ok()) return s;
  for (size_t i = 0; i < again.size(); ++i) large[again.centre(i)].push_back(again.id(i));
  return large;
}

}  // namespace

absl::StatusOr<std::vector<float>> LearnCentres(const MatrixView& rows, absl::Span<const double> norms,
                                                const Int8Codes& codes, int count, double loosest,
                                                double reach, Kernels& kernels, absl::Duration deadline) {
  Assignment assignment(norms, codes, kernels, deadline);
  std::vector<float> centres;
  std::mt19937_64 random(1);
  if (absl::Status s = AddCentres(rows, count, kRounds, random, assignment, centres); !s.ok()) return s;
  size_t near = 0;
  for (size_t i = 0; i < assignment.size(); ++i) {
    const double norm = norms[assignment.id(i)];
    near += assignment.squared_distance(i) <= loosest * norm * norm;
  }
  // Centres are rows so far, and near to themselves.
  const double others = assignment.size() - std::min(assignment.size(), centres.size() / rows.dim);
  if (near < assignment.size() - (1.0 - kNear) * others) return std::vector<float>();
  for (int doubling = 0;; ++doubling) {
    for (int i = 0; i < kIterations; ++i) {
      centres = Means(rows, assignment, centres.size() / rows.dim);
      assignment.Reset();
      if (absl::Status s = assignment.Consider(centres, 0); !s.ok()) return s;
    }
    size_t far = 0;
    for (size_t i = 0; i < assignment.size(); ++i) far += assignment.squared_distance(i) > reach * reach;
    if (doubling == kDoublings || far <= kFew * assignment.size()) return centres;
    const int more = static_cast<int>(std::min(centres.size() / rows.dim, far / 2));
    if (absl::Status s = AddCentres(rows, more, 2, random, assignment, centres); !s.ok()) return s;
  }
}

absl::StatusOr<Groups> GroupByCentre(const MatrixView& rows, absl::Span<const double> norms,
                                     std::unique_ptr<const Int8Codes> codes, std::vector<float> centres,
                                     const Grouping& grouping, Kernels& kernels, absl::Duration deadline) {
  Groups groups;
  std::vector<uint32_t>& left = groups.left;
  for (int stage = 0;; ++stage) {
    auto gathered = Gather(rows, norms, *codes, centres, grouping.least_rows, kernels, deadline);
    if (!gathered.ok()) return gathered.status();
    codes.reset();
    const size_t given = stage == 0 ? rows.rows : left.size();
    left.clear();
    for (auto& ids : *gathered) {
      if (ThreadTime() > deadline) return absl::DeadlineExceededError("clusters took too long");
      AddGroup(rows, std::move(ids), grouping, groups);
    }
    // As long as a stage places a fair part of what it was given.
    if (stage + 1 == kStages || left.size() < kFewRows || left.size() * 9 > given * 8) break;
    std::sort(left.begin(), left.end());
    std::vector<uint32_t> sample;
    const uint64_t count = std::min<uint64_t>(left.size(), kSampleRows);
    for (uint64_t i = 0; i < count; ++i) sample.push_back(left[i * left.size() / count]);
    auto some = EncodePlain(rows, norms, std::move(sample));
    if (!some.ok()) return some.status();
    const int wanted = static_cast<int>(std::clamp<size_t>(left.size() / kRowsPerCentre, 1, count / 4));
    auto learnt = LearnCentres(rows, norms, **some, wanted, std::numeric_limits<double>::infinity(),
                               grouping.reach, kernels, deadline);
    if (!learnt.ok()) return learnt.status();
    centres = *std::move(learnt);
    auto rest = EncodePlain(rows, norms, left);
    if (!rest.ok()) return rest.status();
    codes = *std::move(rest);
  }
  std::sort(left.begin(), left.end(),
            [&](uint32_t a, uint32_t b) { return norms[a] != norms[b] ? norms[a] > norms[b] : a < b; });
  return groups;
}

RowOrder CutIntoBalls(const Groups& groups) {
  RowOrder order;
  order.by_norm = false;
  for (const Groups::Group& group : groups.groups) {
    const size_t rows = group.ids.size();
    const size_t balls = (rows + Int8Codes::kTileRows - 1) / Int8Codes::kTileRows;
    order.ids.insert(order.ids.end(), group.ids.begin(), group.ids.end());
    for (size_t i = 0; i < balls; ++i) {
      order.tile_rows.push_back(static_cast<int>(rows * (i + 1) / balls - rows * i / balls));
    }
  }
  const RowOrder rest = RowOrder::Even(groups.left);
  order.ids.insert(order.ids.end(), rest.ids.begin(), rest.ids.end());
  order.tile_rows.insert(order.tile_rows.end(), rest.tile_rows.begin(), rest.tile_rows.end());
  return order;
}

}  // namespace dotmax
