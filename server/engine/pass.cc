#include "server/engine/pass.h"

#include <algorithm>
#include <cmath>
#include <iterator>
#include <limits>
#include <utility>

#include "absl/algorithm/container.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "server/base/dtype.h"
#include "server/engine/bound.h"
#include "server/engine/exact.h"
#include "server/engine/pair_sums.h"
#include "server/engine/row_loops.h"

namespace dotmax {
namespace {

// Widths at which oneDNN may be the faster one: narrower blocks wait for memory, which ours are better at,
// and others waste lanes.
constexpr int kColumnsToTry = 64;
constexpr int kTrials = 9;
// Fewer wait for memory either way, and ours wastes no lanes on them: least of all on long rows.
constexpr int kFewestForAmx = 5;
constexpr int kFewestForAmxIfLong = 9;
constexpr int kLongDim = 256;
// Of a block's queries, when they are prepared: fewer take less time than waking another worker.
constexpr size_t kFewestTogether = 16;
// Queries whose elements stay in the first cache from one step of their preparation to the next.
constexpr size_t kPreparedTogether = 16;

}  // namespace

int PaddedColumns(size_t queries) {
  constexpr int kCompiled[] = {1, 4, 16, 32, 64, 96, 128, 160, 192, 224, kMaxColumns};
  return *std::lower_bound(std::begin(kCompiled), std::end(kCompiled), static_cast<int>(queries));
}

bool HasInt8Kernel() { return CodeKernel().exists() || TileMatmul::Create(TileKind::kInt8, 16, 64, 16).ok(); }

absl::StatusOr<const TileMatmul*> Kernels::Get(TileKind kind, int rows, int dim, int columns) {
  std::unique_ptr<const TileMatmul>& matmul = made_[{kind, rows, dim, columns}];
  if (matmul == nullptr) {
    auto made = TileMatmul::Create(kind, rows, dim, columns);
    if (!made.ok()) return made.status();
    matmul = *std::move(made);
  }
  return matmul.get();
}

int Kernels::Int8Columns(size_t queries, int code_dim) const {
  const int columns = static_cast<int>(queries);
  const int fewest = code_dim < kLongDim ? kFewestForAmx : kFewestForAmxIfLong;
  if (has_amx_ && columns >= fewest) return AmxColumns(columns);
  return has_own() ? own_.Columns(columns, code_dim) : PaddedColumns(queries);
}

absl::StatusOr<const TileMatmul*> Kernels::GetInt8(const Int8Codes& codes, int columns) {
  const int dim = codes.code_dim();
  // oneDNN's has no thresholds by row.
  if (has_own() && (columns % kColumnsToTry != 0 || codes.head() != nullptr || codes.is_deflated())) {
    return nullptr;
  }
  if (own_.sums_in_16_bits()) return nullptr;  // where oneDNN's saturate
  if (const auto known = int8_.find({dim, columns}); known != int8_.end()) return known->second;
  const absl::StatusOr<const TileMatmul*> matmul = Get(TileKind::kInt8, Int8Codes::kTileRows, dim, columns);
  if (!has_own()) return matmul;
  if (!matmul.ok()) return int8_[{dim, columns}] = nullptr;

  const std::vector<int8_t> queries(static_cast<size_t>(columns) * dim, 1);
  AlignedArray<int32_t> thresholds;  // that nothing survives
  std::fill_n(thresholds.Reserve(columns), columns, std::numeric_limits<int32_t>::max());
  Survivor none;
  CodeScorer by_matmul, by_own;
  by_matmul.Pack(*matmul, columns, queries.data(), columns, dim);
  by_own.Pack(nullptr, columns, queries.data(), columns, dim);
  // In turn, on tiles that come from memory as in a search; the first of each warms up. Most wins count, as
  // machines are noisy.
  int wins = 0;
  for (int i = 0; i <= kTrials; ++i) {
    const absl::Time start = absl::Now();
    by_matmul.Collect(codes.codes(2 * i % codes.tiles()), Int8Codes::kTileRows, thresholds.data(), &none);
    const absl::Time middle = absl::Now();
    by_own.Collect(codes.codes((2 * i + 1) % codes.tiles()), Int8Codes::kTileRows, thresholds.data(), &none);
    if (i > 0 && absl::Now() - middle > middle - start) ++wins;
  }
  return int8_[{dim, columns}] = wins > kTrials / 2 ? *matmul : nullptr;
}

double ExactMerit(Metric metric, const ExactQuery& query, const std::byte* row, DType dtype, double longest) {
  switch (metric) {
    case Metric::kInnerProduct:
      return CorrectlyRoundedDot(query, row, dtype, longest);
    case Metric::kCosine:
      return CorrectlyRoundedCosine(query, row, dtype, longest);
    case Metric::kSquaredEuclidean:
      return MeritOf(metric, CorrectlyRoundedSquaredDistance(query, row, dtype, longest));
  }
  return 0.0;
}

bool Question::IsSelected(uint64_t query_row, uint64_t id) const {
  const uint64_t self = selection.self_first + query_row;
  if (selection.self == Selection::Self::kNotItself && id == self) return false;
  if (selection.self == Selection::Self::kOnce && id <= self) return false;
  if (selection.excluded_splits.empty()) return true;
  const auto ids = selection.excluded.begin();
  return !std::binary_search(ids + selection.excluded_splits[query_row],
                             ids + selection.excluded_splits[query_row + 1], id);
}

PairScorer& PairScorer::Of(const Question& question) {
  if (question_ != &question) {
    question_ = &question;
    query_row_ = UINT64_MAX;
  }
  return *this;
}

double PairScorer::operator()(uint64_t query_row, uint64_t id) const {
  const MatrixView& queries = question_->queries;
  if (query_row != query_row_) {
    elements_.resize(queries.dim);
    ToFloat64(queries.row(query_row), queries.dtype, queries.dim, elements_.data());
    query_.emplace(elements_, queries.dtype, LengthOf(elements_),
                   question_->selection.metric != Metric::kInnerProduct);
    query_row_ = query_row;
  }
  return ExactMerit(question_->selection.metric, *query_, base_.row(id), base_.dtype, longest_);
}

void PairScorer::Fetch(uint64_t id) const { Prefetch(base_.row(id), base_.row_bytes()); }

size_t PassBuffers::PartSize(size_t queries) const {
  if (workers() == 1) return queries;
  const size_t even = (queries + workers() - 1) / workers();
  return std::min(queries, (even + kFewestTogether - 1) / kFewestTogether * kFewestTogether);
}

void PassBuffers::InParts(size_t queries, absl::FunctionRef<void(size_t, size_t, size_t)> job) {
  const size_t size = PartSize(queries);
  const size_t count = (queries + size - 1) / size;
  while (parts.size() < count) parts.emplace_back();
  if (count == 1) return job(0, 0, queries);
  workers_->Share(count,
                  [&](int, size_t part) { job(part, part * size, std::min(queries, (part + 1) * size)); });
}

std::vector<Candidate> PassBuffers::CandidateRoom() {
  if (rooms_.empty()) return {};
  std::vector<Candidate> room = std::move(rooms_.back());
  rooms_.pop_back();
  room_bytes_ -= room.capacity() * sizeof(Candidate);
  return room;
}

void PassBuffers::KeepRoom(std::vector<Candidate> room) {
  const size_t bytes = room.capacity() * sizeof(Candidate);
  if (bytes == 0 || room_bytes_ + bytes > kMostRoomBytes) return;
  room_bytes_ += bytes;
  rooms_.push_back(std::move(room));
}

QueryBlock PassBuffers::Prepare(absl::Span<const BlockQuery> queries, double unit) {
  const size_t dim = queries[0].question->queries.dim;
  wide_.Reserve(queries.size() * dim);
  scaled_.Reserve(queries.size() * dim);
  exponents_.resize(queries.size());
  norms_.resize(queries.size());
  exact_.resize(queries.size());
  measured_.resize(queries.size());
  squares_.resize(queries.size());
  questions_.clear();
  for (const BlockQuery& query : queries) {
    if (questions_.empty() || questions_.back() != query.question) questions_.push_back(query.question);
  }
  InParts(queries.size(), [&](size_t, size_t begin, size_t end) {
    // In two steps for a few at once: the second waits for a row's largest element, but not for other rows'.
    for (size_t first = begin; first < end; first += kPreparedTogether) {
      const size_t last = std::min(end, first + kPreparedTogether);
      for (size_t i = first; i < last; ++i) {
        const MatrixView& from = queries[i].question->queries;
        exponents_[i] =
            ScreenExponent(Widen(from.row(queries[i].row), from.dtype, dim, wide_.data() + i * dim));
      }
      for (size_t i = first; i < last; ++i) {
        const Question& question = *queries[i].question;
        const int exponent = exponents_[i];
        const double* const wide = wide_.data() + i * dim;
        const double squares =
            ScaleToFloat32(wide, dim, ScaleByPowerOfTwo(1.0, -exponent), scaled_.data() + i * dim);
        norms_[i] = NormUpperBound(question.queries.dim, squares);
        squares_[i] = ScaleByPowerOfTwo(squares, 2 * exponent);
        exact_[i] =
            ExactQuery({wide, dim}, question.queries.dtype, ScaleByPowerOfTwo(norms_[i], exponent) * kOutward,
                       question.selection.metric != Metric::kInnerProduct);
        if (unit > 0.0) exact_[i].unit = CommonUnit({wide, dim}, unit);
        measured_[i] = MeasuredQuery(LeastNorm(norms_[i]), norms_[i], exponent);
      }
    }
  });
  return {queries, questions_, exact_, scaled_.data(), exponents_, norms_, measured_, squares_};
}

void Pass::Work(int round, Scratch& scratch) {
  PairScorer scorer(base_, longest_);
  const std::unique_ptr<Worker> worker = MakeWorker(round, scratch, scorer);
  while (!stopped_.load(std::memory_order_relaxed)) {
    const uint64_t claimed = next_tile_[round].fetch_add(kTilesPerClaim, std::memory_order_relaxed);
    if (claimed >= tiles(round)) return;
    if (Stopped()) return;
    if (!worker->Search(claimed, std::min(claimed + kTilesPerClaim, tiles(round)))) return;
  }
}

bool Pass::Stopped() {
  const absl::Time now = absl::Now();
  for (Question* const question : block_.questions) {
    const absl::Status status = question->stop(now);
    if (status.ok()) continue;
    absl::MutexLock lock(&mutex_);
    if (!question->status.ok()) continue;
    question->status = status;
    if (--running_ == 0) {
      stopped_.store(true, std::memory_order_relaxed);
      break;
    }
    for (const BlockQuery& query : block_.queries) {
      if (query.question == question) query.best->Withdraw();
    }
  }
  return stopped_.load(std::memory_order_relaxed);
}

Interval Pass::MeritInterval(size_t q, const std::byte* row) const {
  const double* const query = block_.exact[q].elements.data();
  if (block_.metric(q) == Metric::kSquaredEuclidean) {
    const double sum = CheckSquaredDistance(query, row, base_.dtype, base_.dim);
    const double error = distance_error_(sum);
    if (!std::isfinite(sum + error)) return {-std::numeric_limits<double>::infinity(), 0.0};
    return {-(sum + error), std::min(0.0, error - sum)};
  }
  const DotAndSquares sums = CheckDotAndSquares(query, row, base_.dtype, base_.dim);
  const bool is_float64 = block_.question(q).queries.dtype == DType::kFloat64;
  if (sums.sum_abs == 0.0 && products_are_exact_) return {0.0, 0.0};
  return (is_float64 ? float64_cosine_interval_ : cosine_interval_)(sums.sum, sums.sum_abs, block_.squares[q],
                                                                    sums.squares);
}

Interval Pass::DotInterval(size_t q, const std::byte* row, DType dtype) const {
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  const DotSums dot = CheckDot(block_.exact[q].elements.data(), row, dtype, base_.dim);
  if (dot.sum_abs == 0.0 && products_are_exact_) return {0.0, 0.0};
  // Rounding is monotonic: the rounded ends of an interval around the product bound its rounded score.
  const double error = check_error_(dot.sum_abs);
  const Interval interval = {dot.sum - error, dot.sum + error};
  if (std::isfinite(interval.lower) && std::isfinite(interval.upper)) return interval;
  return {-kInfinity, kInfinity};
}

Candidate Pass::Resolve(size_t q, uint64_t id) const {
  const double merit = ExactMerit(block_.metric(q), block_.exact[q], base_.row(id), base_.dtype, longest_);
  return {merit, merit, block_.queries[q].row, id};
}

void Pass::Checks::Add(uint32_t q, uint64_t id, bool resolve) {
  if (!pass_.IsHit(q, id) &&
      absl::c_none_of(pass_.CopiesOf(id), [&](uint32_t copy) { return pass_.IsHit(q, copy); })) {
    return;
  }
  Prefetch(pass_.base_.row(id), pass_.base_.row_bytes());
  Waiting& slot = waiting_[arrived_++ % kInFlight];
  if (arrived_ > kInFlight) Check(slot);
  slot = {q, resolve, id};
}

void Pass::Checks::Finish() {
  const size_t first = arrived_ > kInFlight ? arrived_ - kInFlight : 0;
  for (size_t i = first; i < arrived_; ++i) Check(waiting_[i % kInFlight]);
  arrived_ = 0;
  OfferFound();
}

void Pass::Checks::Check(const Waiting& pair) {
  // Once for all copies.
  const bool resolve = pair.resolve || !pass_.CopiesOf(pair.id).empty() || pass_.ResolvesAsFast(pair.query);
  scratch_.pairs_rescored += resolve ? 1 : 0;
  FoundAll(pair.query, resolve ? pass_.Resolve(pair.query, pair.id) : pass_.Check(pair.query, pair.id));
}

void Pass::Checks::AddApart(uint32_t q, uint64_t id, const std::optional<Hit>& worst) {
  const double merit = pass_.MeritApart(q, id);
  const uint64_t row = pass_.block_.queries[q].row;
  // Copies come later, and are as good at most.
  if (!worst.has_value() || Better({merit, row, id}, *worst)) FoundAll(q, {merit, merit, row, id});
}

void Pass::Checks::FoundAll(uint32_t q, Candidate candidate) {
  if (candidate.upper < pass_.block_.best(q).threshold()) return;
  if (q != found_query_) OfferFound();
  found_query_ = q;
  const absl::Span<const uint32_t> copies = pass_.CopiesOf(candidate.id);
  // The first top_k are as good as any: ties go to the lowest.
  const uint32_t top_k = pass_.block_.question(q).top_k;
  uint64_t left = top_k > 0 ? top_k : UINT64_MAX;
  if (pass_.IsHit(q, candidate.id)) {
    Found(candidate);
    --left;
  }
  for (size_t i = 0; i < copies.size() && left > 0; ++i) {
    if (!pass_.IsHit(q, copies[i])) continue;
    candidate.id = copies[i];
    Found(candidate);
    --left;
  }
}

void Pass::Checks::Found(const Candidate& candidate) {
  if (found_count_ == kOfferedTogether) OfferFound();
  found_[found_count_++] = candidate;
}

void Pass::Checks::OfferFound() {
  if (found_count_ == 0) return;
  pass_.block_.best(found_query_)
      .Offer({found_.data(), found_count_}, scorer_.Of(pass_.block_.question(found_query_)));
  found_count_ = 0;
}

}  // namespace dotmax
