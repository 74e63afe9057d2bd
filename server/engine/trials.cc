#include "server/engine/trials.h"

#include <algorithm>
#include <cstddef>
#include <deque>
#include <memory>

#include "server/engine/bound.h"
#include "server/engine/matrix.h"
#include "server/engine/thread_time.h"
#include "server/engine/topk.h"

namespace dotmax {
namespace {

constexpr uint64_t kSampleQueries = 32, kSingleQueries = 4;
constexpr uint32_t kDeep = 100;  // of top_k beyond one
// Alternating short runs, and the least of each: machines are noisy.
constexpr int kRepetitions = 3, kRepetitionsOfAll = 2;  // of all rows take longer
constexpr double kFarSlower = 2.0;                      // than the float32 screen

constexpr double kScatteredBytesPerSecond = 1e10;  // rows here and there, prefetched (Zen 5)
constexpr double kStreamedBytesPerSecond = 2e10;   // codes in order
constexpr double kCachedBytes = 4e6;               // that stay there from one search to the next

}  // namespace

Trials::Trials(const Matrix& matrix, absl::Span<const double> norms)
    : matrix_(matrix), view_(matrix.view()), norms_(norms) {}

bool Trials::TakeSample(absl::Duration until) {
  std::vector<uint64_t> rows;
  auto bytes = std::make_shared<std::vector<std::byte>>(kSampleQueries * view_.row_bytes());
  for (uint64_t i = 0; i < kSampleQueries; ++i) {
    rows.push_back(SampleRow(i));
    std::copy_n(view_.row(rows.back()), view_.row_bytes(), bytes->data() + i * view_.row_bytes());
  }
  queries_ = {{bytes->data(), kSampleQueries, view_.dim, view_.dtype}, bytes};

  std::deque<TopK> top;
  std::vector<BlockQuery> queries;
  const auto stop = [until](absl::Time) {
    return ThreadTime() < until ? absl::OkStatus() : absl::DeadlineExceededError("sample");
  };
  const Selection selection;
  Question question(queries_.view, selection, kDeep + 1, /*may_guess=*/false, stop);
  for (uint64_t i = 0; i < kSampleQueries; ++i) {
    queries.push_back({&question, i, &top.emplace_back(kDeep + 1)});
  }
  const QueryBlock block = buffers_.Prepare(queries);
  const auto pass = MakeFloat32Pass(matrix_, block, buffers_);
  if (!pass.ok()) return false;
  const absl::Duration start = ThreadTime();
  scratch_.pairs_screened = 0;
  (*pass)->Work(0, scratch_);
  if (scratch_.pairs_screened == 0) return false;
  const double share = static_cast<double>(scratch_.pairs_screened) / (view_.rows * kSampleQueries);
  const double seconds = absl::ToDoubleSeconds(ThreadTime() - start) / kSampleQueries / share;
  float32_ = {seconds, seconds, seconds};
  PairScorer scorer(view_, matrix_.longest());
  for (uint64_t i = 0; i < kSampleQueries; ++i) {
    std::vector<Hit> hits = top[i].Take(scorer.Of(question));
    std::erase_if(hits, [&](const Hit& hit) { return hit.id == rows[i]; });
    if (hits.empty()) return false;
    thresholds_.push_back(hits.front().score);
    deep_.push_back(hits.back().score);
  }
  return true;
}

void Trials::MeasureFloat32() { float32_ = Measure(nullptr, /*of_others=*/false, 1.0).times; }

Trials::Result Trials::OfSome(const Int8Codes& codes, double share, const Result* known) {
  Result result = Measure(&codes, /*of_others=*/false, share, known);
  result.times.single = std::max(result.times.single, SecondsOfMemory(codes, share, result));
  return result;
}

SearchTimes Trials::OfAll(const Int8Codes& codes) {
  const SearchTimes times = Measure(&codes, /*of_others=*/true, 1.0).times;
  scratch_.kept_scores = {};  // of all rows they are too large to lie about while more is encoded
  return times;
}

double Trials::ScreenedShare(const Int8Codes& codes, uint64_t rows) {
  Run(&codes, 0, kSampleQueries);
  return static_cast<double>(scratch_.pairs_screened) / (rows * kSampleQueries);
}

double Trials::Reach() const {
  std::vector<double> reaches;
  for (uint64_t i = 0; i < kSampleQueries; ++i) {
    const double norm = norms_[SampleRow(i)];
    reaches.push_back(norm > 0.0 ? thresholds_[i] / norm : 0.0);
  }
  const auto most = reaches.begin() + kSampleQueries * 9 / 10;
  std::nth_element(reaches.begin(), most, reaches.end());
  return std::max(*most, 0.0);
}

// A pass of `queries` sample queries from `first` on over some rows' codes, or all rows in float32, knowing
// what they must beat; or `of_others`, over all rows and knowing nothing, one hit more, as each is itself
// among them. `deep`: what the kDeep-th best must beat.
Trials::PassTime Trials::Run(const Int8Codes* codes, uint64_t first, uint64_t queries, bool of_others,
                             bool deep) {
  const uint32_t top_k = (of_others ? 1 : 0) + (deep ? kDeep + 1 : 1);
  std::deque<TopK> top;
  std::vector<BlockQuery> block_queries;
  const Selection selection;
  // Far slower than the float32 screen is not worth waiting for.
  absl::Duration start;
  const absl::Duration most = absl::Seconds(kFarSlower * queries * float32_.batch);
  const auto stop = [&](absl::Time) {
    return !of_others || ThreadTime() < start + most ? absl::OkStatus() : absl::DeadlineExceededError("run");
  };
  Question question(queries_.view, selection, top_k, /*may_guess=*/false, stop);
  for (uint64_t i = first; i < first + queries; ++i) {
    block_queries.push_back({&question, i, &top.emplace_back(top_k)});
    if (!of_others) top.back().RaiseThreshold((deep ? deep_ : thresholds_)[i]);
  }
  start = ThreadTime();
  const QueryBlock block = buffers_.Prepare(block_queries);
  const auto pass = codes != nullptr ? MakeInt8Pass(view_, *codes, nullptr, nullptr, block, buffers_)
                                     : MakeFloat32Pass(matrix_, block, buffers_);
  if (!pass.ok()) return {};
  const absl::Duration prepared = ThreadTime();
  scratch_.pairs_screened = scratch_.pairs_survived = scratch_.pairs_checked = 0;
  for (int round = 0; round < (*pass)->rounds(); ++round) (*pass)->Work(round, scratch_);
  if (!question.status.ok()) return {};
  // So few rows stay in cache; in a search, those that are checked come from memory.
  const double checked_bytes =
      view_.bytes() > kCachedBytes ? static_cast<double>(scratch_.pairs_checked) * view_.row_bytes() : 0.0;
  return {absl::ToDoubleSeconds(prepared - start),
          absl::ToDoubleSeconds(ThreadTime() - prepared) + checked_bytes / kScatteredBytesPerSecond};
}

// Of such runs over a share of the rows.
Trials::Result Trials::Measure(const Int8Codes* codes, bool of_others, double share, const Result* known) {
  Result result;
  SearchTimes& times = result.times;
  if (known != nullptr) {
    result = *known;
    times.single = SearchTimes().single;
  }
  for (int i = 0; i < (of_others ? kRepetitionsOfAll : kRepetitions); ++i) {
    const auto batch = [&](bool deep) {
      return Run(codes, 0, kSampleQueries, of_others, deep).Of(share) / kSampleQueries;
    };
    if (known == nullptr) {
      times.batch = std::min(times.batch, batch(/*deep=*/false));
      result.survived = scratch_.pairs_survived;
      times.deep = std::min(times.deep, batch(/*deep=*/true));
    }
    double single = 0.0;
    result.single_screened = result.single_survived = 0;
    for (uint64_t q = 0; q < kSampleQueries; q += kSampleQueries / kSingleQueries) {
      single += Run(codes, q, 1, of_others).Of(share);
      result.single_screened += scratch_.pairs_screened;
      result.single_survived += scratch_.pairs_survived;
    }
    times.single = std::min(times.single, single / kSingleQueries);
  }
  return result;
}

// So few codes stay in cache; in a search, a single query waits for most of them: for those of the rows that
// it screens, in order, and for others of the survivors.
double Trials::SecondsOfMemory(const Int8Codes& codes, double share, const Result& result) {
  const Int8Codes& first = codes.head() != nullptr ? *codes.head() : codes;
  const int of_fine = codes.fine() != nullptr ? codes.fine()->code_dim() : 0;
  const int again = codes.head() != nullptr ? codes.code_dim() : of_fine;
  constexpr double kScattered = kStreamedBytesPerSecond / kScatteredBytesPerSecond;
  const double bytes =
      1.0 * result.single_screened * first.code_dim() + 1.0 * result.single_survived * again * kScattered;
  return (bytes / share / kSingleQueries - kCachedBytes) / kStreamedBytesPerSecond;
}

// Not of zeros, if there are others: such queries are not searched for.
uint64_t Trials::SampleRow(uint64_t i) const {
  uint64_t row = (2 * i + 1) * view_.rows / (2 * kSampleQueries);
  for (uint64_t tries = 0; LeastNorm(norms_[row]) == 0.0 && tries < view_.rows; ++tries)
    row = (row + 1) % view_.rows;
  return row;
}

}  // namespace dotmax
