#include "server/engine/int8_pass.h"

#include <cmath>
#include <utility>

#include "absl/algorithm/container.h"
#include "server/engine/matrix.h"

namespace dotmax {
namespace {

// Most queries that are searched for by a head's codes first, and most hits that one may want; two may want
// one each. Of more, what survives those costs more than they spare.
constexpr size_t kMostByHead = 2;
constexpr size_t kMostHitsByHead = 4;

// Scores are kept for other merits than inner products, too, and of some rows of many, if so many queries ask
// for them: lengths of rows are told apart for all of these at once.
constexpr size_t kFewestToKeepOthers = 4;

// Of so few rows all scores are kept, and never those of fewer; of more queries at most so many scores (16
// MiB), of fewer those of so many rows.
constexpr uint64_t kFewRowsToKeep = 2048;
constexpr uint64_t kMostScoresToKeep = uint64_t{1} << 22;
constexpr uint64_t kMostRowsForFew = 12288;

// Of the best rows, which are scored first, one in so many may be no hit.
constexpr uint64_t kHitsPerExcluded = 4;

// Rows whose scores are worth keeping, if there are as many. To prove a threshold by n of them spares each of
// k hits about log n checks, a check takes as long as a row has dims, and keeping a score takes as long
// whatever it is of: that is least for a multiple of k · dim. Distances have wider bounds, so more is spared.
// Where the longest rows are the best, all of these are in a few tiles.
uint64_t RowsToKeep(const Int8Codes& rows, Metric metric, uint32_t top_k) {
  constexpr uint64_t kPerHitAndDim = 4, kPerHitAndDimOfDistance = 12, kPerHitOfLongest = 256;
  if (metric == Metric::kInnerProduct && BestAreLongest(rows)) return kPerHitOfLongest * top_k;
  const bool is_distance = metric == Metric::kSquaredEuclidean;
  return (is_distance ? kPerHitAndDimOfDistance : kPerHitAndDim) * rows.axes().dim * top_k;
}

// Whether the block's queries wait for memory, of which the head's codes take less, and want few hits, so
// that few rows survive these.
bool GainsByHead(const Int8Codes& codes, const QueryBlock& block) {
  const size_t queries = block.size();
  return codes.head() != nullptr && queries <= kMostByHead &&
         absl::c_all_of(block.questions, [&](const Question* question) {
           return question->top_k * queries * queries <= kMostHitsByHead;
         });
}

}  // namespace

Int8Pass::Int8Pass(const MatrixView& base, const Copies* copies, const Supports* supports,
                   const Int8Codes& rows, const Int8Codes* whole, const QueryBlock& block,
                   const PassBuffers& buffers, KernelByColumns kernels, Balls balls, EncodedBlock encoded)
    : Pass(base, copies, supports, rows.longest(), block),
      rows_(rows),
      whole_(whole),
      all_kernels_(buffers.kernels),
      kernels_(kernels),
      balls_(std::move(balls)),
      queries_(std::move(encoded.queries)),
      queries_again_(std::move(encoded.again)),
      rests_(std::move(encoded.rests)),
      along_(std::move(encoded.along)),
      workers_(buffers.workers()) {
  if (rows.centre_codes() != nullptr) {
    balls_.UsePivots([this](size_t q, uint64_t tile) { return CentreInterval(q, rows_.centre(tile)).lower; });
    return;
  }
  kept_tiles_ = TilesToKeep();
  if (kept_tiles_.size() == rows.tiles()) return;
  sample_ = SampleToGuessBy(rows, RunRows(), block);
  guesses_ = GuessBySample(rows, sample_, block);
  if (!guesses_.empty()) kept_tiles_.clear();  // which do as well, and better for many hits
  if (kept_tiles_.empty()) return;
  other_tiles_.reserve(rows.tiles() - kept_tiles_.size());
  auto kept = kept_tiles_.begin();
  for (uint64_t t = 0; t < rows.tiles(); ++t) {
    const bool is_kept = kept != kept_tiles_.end() && kept->tile == t;
    is_kept ? void(++kept) : other_tiles_.push_back(t);
  }
}

std::unique_ptr<Pass::Worker> Int8Pass::MakeWorker(int round, Scratch& scratch, PairScorer& scorer) {
  return std::make_unique<TileWorker>(*this, round, scratch, scorer);
}

uint64_t Int8Pass::tiles(int round) const {
  if (rows_.centre_codes() != nullptr) {
    return round == 0 ? balls_.first_tiles().size() : (rows_.tiles() + kBallsTogether - 1) / kBallsTogether;
  }
  if (!IsByQueries(round)) return kept_tiles_.empty() ? rows_.tiles() : other_tiles_.size();
  // Of all queries together, the threshold is all the same: a few will do where there is little to search.
  const bool few = IsGlobal() && rows_.tiles() == 1;
  return few ? 1 : (block_.size() + QueriesTogether() - 1) / QueriesTogether();
}

int Int8Pass::RunRows() const { return all_kernels_.has_own() ? 32 : Int8Codes::kTileRows; }

bool Int8Pass::IsByQueries(int round) const {
  if (rows_.centre_codes() != nullptr) return false;
  return round == 0 && (!kept_tiles_.empty() || rounds() > 1);
}

size_t Int8Pass::QueriesTogether() const {
  if (kept_tiles_.empty()) return kSeededTogether;
  if (workers_ == 1) return block_.size();
  // A claim is of several; every worker gets one.
  const size_t claims = workers_ * kTilesPerClaim;
  return std::min(kSeededTogether, (block_.size() + claims - 1) / claims);
}

bool Int8Pass::MayKeepScores() const {
  // Few queries are not shared out.
  return (workers_ == 1 || block_.size() >= workers_ * kSeededTogether) && whole_ == nullptr &&
         10 * rows_.axes().count >= 9 * rows_.axes().dim && !IsGlobal() &&
         (inner_products() || block_.size() >= kFewestToKeepOthers) &&
         absl::c_any_of(block_.queries, [](const BlockQuery& query) { return query.best->WantsSeeds(); }) &&
         absl::c_all_of(block_.queries,
                        [](const BlockQuery& query) {
                          const auto excluded = query.question->Excluded(query.row);
                          return excluded.has_value() &&
                                 *excluded <= query.question->top_k / kHitsPerExcluded;
                        }) &&
         absl::c_all_of(block_.questions, [this](const Question* question) {
           return question->selection.metric == block_.metric(0);
         });
}

std::vector<Int8Pass::KeptTile> Int8Pass::TilesToKeep() const {
  if (!MayKeepScores()) return {};
  uint32_t fewest_hits = UINT32_MAX;
  for (const Question* const question : block_.questions) {
    fewest_hits = std::min(fewest_hits, question->top_k);
  }
  const Metric metric = block_.metric(0);
  const bool inner = metric == Metric::kInnerProduct, few = block_.size() < kFewestToKeepOthers;
  const uint64_t most = few ? kMostRowsForFew : kMostScoresToKeep / block_.size();
  const uint64_t wanted = std::min(most, RowsToKeep(rows_, metric, fewest_hits));
  const uint64_t tiles = rows_.tiles();
  uint64_t count = tiles;
  if (rows_.rows() > std::max(kFewRowsToKeep, std::min(most, 2 * wanted))) {
    // For few hits the longest row's inner product proves as much.
    if (few || (inner && wanted < kFewRowsToKeep)) return {};
    count = std::max(wanted, kFewRowsToKeep) * tiles / rows_.rows();
  }
  // The nearest to what is shorter than all of them are the shortest.
  const MeasuredQuery& middle = block_.measured[block_.size() / 2];
  const bool shortest =
      metric == Metric::kSquaredEuclidean && middle.most < rows_.tile(tiles - 1).norm * middle.unit;
  std::vector<KeptTile> kept;
  uint64_t before = 0;
  for (uint64_t i = 0; i < count; ++i) {
    // The longest rows have the largest inner products; what other metrics like may be anywhere.
    const uint64_t anywhere = (2 * i + 1) * tiles / (2 * count);
    const uint64_t t = inner ? i : shortest ? tiles - count + i : anywhere;
    kept.push_back({t, before});
    before += rows_.tile(t).rows;
  }
  return kept;
}

int Int8Pass::rounds() const {
  if (!kept_tiles_.empty()) return other_tiles_.empty() ? 1 : 2;
  return rows_.centre_codes() != nullptr || block_.size() > kSeededTogether ? 2 : 1;
}

bool Int8Pass::IsGlobal() const {
  return block_.questions.size() == 1 && block_.questions[0]->selection.reduction == Reduction::kGlobal;
}

const TileMatmul* Int8Pass::KernelOfRuns(size_t queries) const {
  return all_kernels_.has_own() ? nullptr : kernels_[all_kernels_.Int8Columns(queries, rows_.code_dim())];
}

Interval Int8Pass::CentreInterval(size_t q, const float* centre) const {
  const Interval score = DotInterval(q, reinterpret_cast<const std::byte*>(centre), DType::kFloat32);
  const int exponent = -queries_[q].exponent;
  return {ScaleByPowerOfTwo(score.lower - std::abs(score.lower) * 0x1p-52, exponent),
          ScaleByPowerOfTwo(score.upper + std::abs(score.upper) * 0x1p-52, exponent)};
}

absl::StatusOr<std::unique_ptr<Pass>> MakeInt8Pass(const MatrixView& base, const Int8Codes& codes,
                                                   const Copies* copies, const Supports* supports,
                                                   const QueryBlock& block, PassBuffers& buffers) {
  const size_t queries = block.size();
  const bool by_head = GainsByHead(codes, block);
  const Int8Codes& rows = by_head ? *codes.head() : codes;
  KernelByColumns kernels = {};
  int columns = 0;
  for (size_t left = 1; left <= queries; ++left) {  // the widths to come as queries finish
    const int next = buffers.kernels.Int8Columns(left, rows.code_dim());
    if (next == columns) continue;
    columns = next;
    const absl::StatusOr<const TileMatmul*> matmul = buffers.kernels.GetInt8(rows, columns);
    if (!matmul.ok()) return matmul.status();
    kernels[columns] = *matmul;
  }

  absl::StatusOr<EncodedBlock> encoded = EncodeBlock(codes, by_head, block, buffers);
  if (!encoded.ok()) return encoded.status();
  Balls balls;
  if (rows.centre_codes() != nullptr) balls = Balls(rows, block, encoded->queries, kernels, buffers);
  return std::make_unique<Int8Pass>(base, copies, supports, rows, by_head ? &codes : nullptr, block, buffers,
                                    kernels, std::move(balls), *std::move(encoded));
}

}  // namespace dotmax
