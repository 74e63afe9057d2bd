#include "server/engine/int8_pass.h"

#include <cmath>
#include <utility>

#include "absl/algorithm/container.h"
#include "server/engine/centring.h"
#include "server/engine/matrix.h"

namespace dotmax {
namespace {

// Most queries that are searched for by a head's codes first, and most hits that one may want; two may want
// one each. Of more, what survives those costs more than they spare.
constexpr size_t kMostByHead = 2;
constexpr size_t kMostHitsByHead = 4;

// All scores are kept for other merits than inner products, too, if so many queries ask for them: lengths of
// rows are told apart for all of these at once.
constexpr size_t kFewestToKeepOthers = 4;

// Where top_k is more than a few, thresholds are guessed from a sample in runs of so many rows.
constexpr int kRunRows = 32;

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

Int8Pass::Int8Pass(const MatrixView& base, const Int8Codes& rows, const Int8Codes* whole,
                   const QueryBlock& block, const PassBuffers& buffers, KernelByColumns kernels, Balls balls,
                   EncodedQueries queries, EncodedQueries queries_again, EncodedRests rests)
    : Pass(base, rows.longest(), block),
      rows_(rows),
      whole_(whole),
      all_kernels_(buffers.kernels),
      kernels_(kernels),
      balls_(std::move(balls)),
      queries_(std::move(queries)),
      queries_again_(std::move(queries_again)),
      rests_(std::move(rests)) {
  if (rows.centre_codes() != nullptr) {
    balls_.UsePivots([this](size_t q, uint64_t tile) { return CentreInterval(q, rows_.centre(tile)).lower; });
    return;
  }
  if (const Centring* const centring = AllRows().centring(); centring != nullptr) {
    for (size_t q = 0; q < block.size(); ++q) {
      centres_.push_back(CentreInterval(q, centring->centre().data()).upper);
    }
  }
  keeps_all_scores_ = KeepsAllScores(buffers.is_alone());
  if (keeps_all_scores_) return;
  // oneDNN's kernels take whole tiles.
  sample_ = SampleToGuessBy(rows, all_kernels_.has_own() ? kRunRows : Int8Codes::kTileRows, block);
  guesses_ = GuessBySample(rows, sample_, block);
}

std::unique_ptr<Pass::Worker> Int8Pass::MakeWorker(int round, Scratch& scratch, PairScorer& scorer) {
  return std::make_unique<TileWorker>(*this, round, scratch, scorer);
}

uint64_t Int8Pass::tiles(int round) const {
  if (rows_.centre_codes() != nullptr) {
    return round == 0 ? balls_.first_tiles().size() : (rows_.tiles() + kBallsTogether - 1) / kBallsTogether;
  }
  if (round == rounds() - 1) return rows_.tiles();
  // Of all queries together, the threshold is all the same: a few will do where there is little to search.
  const bool few = IsGlobal() && rows_.tiles() == 1;
  return few ? 1 : (block_.size() + kSeededTogether - 1) / kSeededTogether;
}

bool Int8Pass::KeepsAllScores(bool is_alone) const {
  uint32_t fewest_hits = UINT32_MAX;
  for (const Question* const question : block_.questions)
    fewest_hits = std::min(fewest_hits, question->top_k);
  // Of several workers, one claims all.
  const bool few = is_alone ? rows_.rows() <= MostRowsToKeep(fewest_hits) : rows_.tiles() <= kTilesPerClaim;
  return few && whole_ == nullptr && rows_.axes().identity && rows_.centre_codes() == nullptr &&
         all_are_hits() && !IsGlobal() && (inner_products() || block_.size() >= kFewestToKeepOthers) &&
         absl::c_all_of(block_.questions, [this](const Question* question) {
           return question->selection.metric == block_.metric(0);
         });
}

int Int8Pass::rounds() const {
  if (keeps_all_scores_) return 1;
  return rows_.centre_codes() != nullptr || block_.size() > kSeededTogether ? 2 : 1;
}

bool Int8Pass::IsGlobal() const {
  return block_.questions.size() == 1 && block_.questions[0]->selection.reduction == Reduction::kGlobal;
}

const TileMatmul* Int8Pass::SampleKernel(size_t queries) const {
  return all_kernels_.has_own() ? nullptr : kernels_[all_kernels_.Int8Columns(queries, rows_.code_dim())];
}

Interval Int8Pass::CentreInterval(size_t q, const float* centre) const {
  const Interval score = DotInterval(q, reinterpret_cast<const std::byte*>(centre), DType::kFloat32);
  const int exponent = -queries_[q].exponent;
  return {ScaleByPowerOfTwo(score.lower - std::abs(score.lower) * 0x1p-52, exponent),
          ScaleByPowerOfTwo(score.upper + std::abs(score.upper) * 0x1p-52, exponent)};
}

absl::StatusOr<std::unique_ptr<Pass>> MakeInt8Pass(const MatrixView& base, const Int8Codes& codes,
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
  return std::make_unique<Int8Pass>(base, rows, by_head ? &codes : nullptr, block, buffers, kernels,
                                    std::move(balls), std::move(encoded->queries), std::move(encoded->again),
                                    std::move(encoded->rests));
}

}  // namespace dotmax
