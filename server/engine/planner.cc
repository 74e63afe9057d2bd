#include "server/engine/planner.h"

#include <algorithm>
#include <limits>
#include <numeric>
#include <optional>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "server/engine/cluster.h"
#include "server/engine/copies.h"
#include "server/engine/matrix.h"
#include "server/engine/pass.h"
#include "server/engine/pivots.h"
#include "server/engine/rotate.h"
#include "server/engine/thread_time.h"
#include "server/engine/trials.h"

namespace dotmax {
namespace {

// Candidates below dim, which stands for no rotation. More axes than these are as dear as all of them.
constexpr uint32_t kCandidateAxes[] = {28, 44, 60, 76, 92, 124, 188, 252};
constexpr int kFirstCandidate = 3;
// A matrix below this is searched in about the time that measuring takes; below the second, in about that
// which it takes to find axes, or clusters.
constexpr uint64_t kMinRowsToMeasure = 1024, kMinRowsToRotate = 8192;
constexpr uint64_t kSampleTiles = 16;

// Clusters are learnt from so many rows, one for so many rows of the matrix. They serve if at most this share
// of the pairs is still screened; each then costs more, in tiles of few rows and queries.
constexpr uint64_t kClusterSample = 16384;
constexpr uint64_t kRowsPerCluster = 96;
constexpr int kLeastRows = 8;      // see Grouping
constexpr double kLoosest = 0.8;   // see LearnCentres
constexpr double kMaxShare = 0.3;  // of the sample
constexpr double kSlowdown = 3.0;

// Pivots take no more than this of the memory for codes, and so many 8-bit products, which take 0.6 s with
// AMX.
constexpr double kMostPivotBytesPerDim = 0.1;
constexpr double kMostPivotProducts = 0x1p39;
constexpr double kMostPivots = 2048.0;

// Beside 4 bytes per dimension of float32 rows. Of the other bytes, 4 are the row's number, 12 its fine scale
// and lengths, and up to 8 its tail.
constexpr double kMostCodeBytesPerDim = 1.3;
constexpr uint32_t kOtherCodeBytes = 24;

// Axes whose codes can be read alone, with room for their tails in whole vectors, and of how large a share of
// all at most. Beside a byte per dimension, 4 are the head's tail, as many fill up the others and 4 are the
// row's number.
constexpr uint32_t kCandidateHeads[] = {60, 124};
constexpr double kMostHeadShare = 0.75;
constexpr uint32_t kOtherHeadBytes = 12;
constexpr uint32_t kTailsOfJointHead = 8;  // the head's and what all axes have

// Codes take about as long to make as the float32 products of so many queries.
constexpr uint64_t kFewestForCodes = 8;

// Of rows' squares: less of them along one direction changes little. What leaves less of the errors of codes
// is strong. A deflated row's part along it and its length take some bytes.
constexpr double kLeastShareAlong = 0.1, kMostRemainingError = 0.35;
constexpr uint32_t kOtherDeflatedBytes = 12;
constexpr double kMostSurvivors = 0.8;  // of those without, else it is of no use

constexpr double kAboutAsFast = 1.25;  // in the product of three times
// Of so few rows, how much slower whole ones alone may be, and still be taken: all their scores may be kept.
constexpr uint64_t kFewRows = 16384;
constexpr double kHandicapOfFew = 2.0;
constexpr double kAboutAsFew = 2.5;  // of the pairs

// From the beginning, to have the sample's scores, to begin finding axes, and to have found that clusters
// serve. That takes a second at most where they do not; where they do, slow processors gain by them as much
// as others, tens of times. Axes, once they are found, are tried for a while, however long that took.
constexpr absl::Duration kSampleBudget = absl::Milliseconds(500);
constexpr absl::Duration kAxesBudget = absl::Milliseconds(1250), kTryingBudget = absl::Milliseconds(500);
constexpr absl::Duration kClustersBudget = absl::Seconds(5);
// All rows are grouped, which is part of encoding them, by then; what each element adds is for rows beyond
// some hundred thousand. Without VNNI 200,000 rows of dim 384 take five seconds.
constexpr absl::Duration kGroupingBudget = absl::Seconds(10), kGroupingPerElement = absl::Nanoseconds(50);
// The second moment's products grow with the square of the dim, those that find axes with that and how many.
constexpr uint32_t kMostRotatedDim = 4096, kAxesOfLongest = 128;
constexpr uint64_t kMostAxesProducts = 1'000'000'000;  // of a round

constexpr double kInfinity = std::numeric_limits<double>::infinity();

using Codes = std::unique_ptr<const Int8Codes>;

class Planner {
 public:
  Planner(const Matrix& matrix, absl::Span<const double> norms)
      : view_(matrix.view()), norms_(norms), trials_(matrix, norms) {
    by_norm_.resize(view_.rows);
    std::iota(by_norm_.begin(), by_norm_.end(), 0);
    std::stable_sort(by_norm_.begin(), by_norm_.end(),
                     [&](uint32_t a, uint32_t b) { return norms_[a] > norms_[b]; });
    copies_ = Copies::TakeFrom(by_norm_, view_, norms_);
    other_bytes_ = static_cast<uint32_t>(supports_.bytes() / std::max<uint64_t>(view_.rows, 1));
  }

  uint64_t distinct_rows() const { return by_norm_.size(); }
  Copies TakeCopies() { return std::move(copies_); }
  Supports TakeSupports() { return std::move(supports_); }

  Codes EncodeWhole() {
    const auto deflation = FindDeflation();
    return Encode(by_norm_, WholeLevels(IsStrong(deflation) ? deflation : nullptr));
  }

  // As options.axes and what follows it ask; null when that fails.
  Codes EncodeAxes(const ScreenOptions& options) {
    const uint32_t head = trials_.kernels().has_own() ? options.head : 0;
    const bool unrotated = options.axes >= view_.dim && (head == 0 || options.two_levels);
    const uint32_t count = std::min(options.axes, view_.dim);
    CodeLevels levels = CodeLevels::Whole(view_.dim);
    if (options.deflated) levels.deflation = std::make_shared<const Deflation>(Deflation::Of(view_));
    if (options.spread) levels.spread = std::make_shared<const Spread>(view_.dim);
    if (unrotated && head == 0) return Encode(by_norm_, std::move(levels));
    absl::StatusOr<Axes> axes = PrincipalAxes(view_, unrotated ? head : count);
    if (axes.ok()) axes = unrotated ? MixedAxes(*axes, head) : MixedAxes(*axes, count, head);
    if (!axes.ok()) return nullptr;
    if (!unrotated) {
      levels.axes = *std::move(axes);
      levels.with_fine = options.two_levels;
      return Encode(by_norm_, std::move(levels));
    }
    levels.head = *std::move(axes);
    return Encode(by_norm_, std::move(levels));
  }

  // Null when that fails.
  Codes EncodeClusters(uint32_t count) {
    Codes codes = Encode(by_norm_, CodeLevels::Whole(view_.dim));
    if (codes == nullptr) return nullptr;
    const auto centres =
        LearnCentres(view_, norms_, *codes, static_cast<int>(count), kInfinity, kInfinity, trials_.kernels());
    return centres.ok() ? Group(std::move(codes), *centres, {kInfinity, kLeastRows}) : nullptr;
  }

  // No codes when the float32 screen is fastest, unless int8 is insisted on.
  ScreenPlan EncodeFastest(bool insist) {
    if (!trials_.TakeSample(start_ + kSampleBudget)) return {EncodeWhole(), {}};
    // Of many rows, codes are so much faster that nobody needs to know by how much.
    const bool few = distinct_rows() <= kFewRows;
    if (few) trials_.MeasureFloat32();
    const SearchTimes& float32 = trials_.float32();
    estimates_.push_back(
        {ScreenName(nullptr), float32.batch, few ? std::optional<double>(float32.single) : std::nullopt});
    to_beat_ = least_ = insist ? kInfinity : float32.cost();
    // Runs of rows as they will stand in tiles.
    std::vector<uint32_t> rows;
    const uint64_t tiles = distinct_rows() / Int8Codes::kTileRows;
    for (uint64_t i = 0; i < std::min(kSampleTiles, tiles); ++i) {
      const auto first = by_norm_.begin() + i * tiles / std::min(kSampleTiles, tiles) * Int8Codes::kTileRows;
      rows.insert(rows.end(), first, first + Int8Codes::kTileRows);
    }

    Consider(rows, WholeLevels(nullptr));
    const Trials::Result unrotated = last_;
    std::shared_ptr<const Deflation> deflation = FindDeflation();
    if (deflation != nullptr) {
      Consider(rows, WholeLevels(deflation));
      if (IsStrong(deflation) && candidates_.size() > 1) {
        candidates_.erase(candidates_.begin());
        least_ = std::min(to_beat_, last_.times.cost());
      } else if (last_.survived >= unrotated.survived * kMostSurvivors) {
        deflation = nullptr;
      }
    }
    if (deflation != nullptr) other_bytes_ += kOtherDeflatedBytes;
    const uint32_t most = MostAxes();
    if (distinct_rows() < kMinRowsToRotate) return {EncodeBest(), std::move(estimates_)};
    if (most > 0 && view_.dim <= kMostRotatedDim && !IsStrong(deflation) &&
        ThreadTime() < start_ + kAxesBudget) {
      const bool with_heads = trials_.kernels().has_own();
      // Where a head in memory of its own is too much, it shares that of all axes, along which queries are
      // rotated, too.
      const bool joint = with_heads && AffordsJointHead() && !AffordsHead(kCandidateHeads[0]);
      const absl::StatusOr<Axes> axes = PrincipalAxes(view_, joint ? view_.dim : most);
      candidates_until_ = std::max(candidates_until_, ThreadTime() + kTryingBudget);
      const auto consider = [&](uint32_t count, uint32_t head, bool apart) {
        if (!axes.ok()) return;
        absl::StatusOr<Axes> mixed = MixedAxes(*axes, count, head);
        if (!mixed.ok()) return;
        if (!apart) {
          const bool with_fine = head == 0 && AffordsTwoLevels(count);
          return Consider(rows, {*std::move(mixed), {}, with_fine, deflation, WholeLevels(deflation).spread});
        }
        CodeLevels levels = WholeLevels(deflation);
        levels.head = *std::move(mixed);
        Consider(rows, std::move(levels));
      };
      // Too few axes rule out too little, too many cost too much: from the middle on as long as either gains.
      // The most may do where there is no room for two levels.
      const auto end = std::upper_bound(std::begin(kCandidateAxes), std::end(kCandidateAxes), most);
      const auto middle = std::min(std::begin(kCandidateAxes) + kFirstCandidate, end - 1);
      double least = kInfinity;
      const auto gains = [&](uint32_t count) {
        consider(count, 0, /*apart=*/false);
        const bool gained = last_.times.cost() < least * kAboutAsFast;
        least = std::min(least, last_.times.cost());
        return gained;
      };
      const uint32_t *more = middle, *fewer = middle, *last = end;
      while (more < end && gains(*more)) ++more;
      while (fewer > std::begin(kCandidateAxes) && gains(*(fewer - 1))) --fewer;
      while (last > more + 1 && gains(*(last - 1))) --last;
      for (const uint32_t head : kCandidateHeads) {
        if (head > view_.dim * kMostHeadShare) break;
        if (joint) consider(JointAxes(), head, /*apart=*/false);
        if (with_heads && AffordsHead(head)) consider(head, 0, /*apart=*/true);
      }
    }
    MeasureWholeAgain(rows);
    // By now it is known what clusters have to beat: they take the longest to try.
    Codes codes = TryClusters(unrotated.times);
    if (codes == nullptr) codes = EncodeBest();
    return {std::move(codes), std::move(estimates_)};
  }

 private:
  // Whether codes along so many axes beside those of whole rows, with lengths of their own, are within the
  // memory that codes may take. Then a second level costs little and saves much.
  bool AffordsTwoLevels(uint32_t axes) const {
    return Affords(axes + kOtherCodeBytes + other_bytes_ + view_.dim);
  }
  // The same for a head beside whole rows, and for one that shares their memory.
  bool AffordsHead(uint32_t head) const { return Affords(head + kOtherHeadBytes + other_bytes_ + view_.dim); }
  bool AffordsJointHead() const { return Affords(kOtherHeadBytes + other_bytes_ + view_.dim); }
  bool Affords(uint32_t bytes) const { return bytes <= kMostCodeBytesPerDim * view_.dim; }

  // The most axes to try, 0 if none: of long rows more take too long to find.
  uint32_t MostAxes() const {
    const uint64_t dim = view_.dim, affordable = kMostAxesProducts / (dim * dim);
    const uint64_t end = std::min(dim, std::max<uint64_t>(affordable, kAxesOfLongest));
    uint32_t most = 0;
    for (const uint32_t count : kCandidateAxes) most = count < end ? count : most;
    return most;
  }

  double ShareOf(const std::vector<uint32_t>& rows) const {
    return static_cast<double>(rows.size()) / distinct_rows();
  }
  double elements() const { return static_cast<double>(distinct_rows()) * view_.dim; }

  // How many axes there are in the last case: all, or so many that tails take no chunk more to multiply.
  uint32_t JointAxes() const {
    return std::min(view_.dim, RoundUpDim(view_.dim, kHeadMultiple) - kTailsOfJointHead);
  }

  // Null if rows do not lie about one direction, or there is no room for their parts along it.
  std::shared_ptr<const Deflation> FindDeflation() const {
    auto deflation = std::make_shared<const Deflation>(Deflation::Of(view_));
    const bool serves = deflation->share() >= kLeastShareAlong && Affords(view_.dim + kOtherDeflatedBytes);
    return serves ? deflation : nullptr;
  }
  // Whether cosines and distances gain so much by it that whole rows are deflated whatever inner products,
  // which are what is tried, gain. Axes would be those of what it takes away.
  static bool IsStrong(const std::shared_ptr<const Deflation>& deflation) {
    return deflation != nullptr && deflation->remaining_error() < kMostRemainingError;
  }

  // Whole rows, deflated unless that is null, and spread if that brings codes closer.
  CodeLevels WholeLevels(const std::shared_ptr<const Deflation>& deflation) {
    std::optional<CodeLevels>& levels = deflation != nullptr ? deflated_levels_ : whole_levels_;
    if (!levels.has_value()) {
      levels = CodeLevels::Whole(view_.dim);
      levels->deflation = deflation;
      levels->spread = Spread::IfCloser(view_, by_norm_, deflation.get());
    }
    return *levels;
  }

  struct Candidate {
    bool is_plain() const { return levels.axes.identity && levels.head.count == 0 && levels.axes.head == 0; }
    double cost() const { return trial.times.cost(); }
    uint64_t survived() const { return trial.survived; }

    CodeLevels levels;
    Trials::Result trial;
  };

  Codes Encode(std::vector<uint32_t> ids, CodeLevels levels) {
    // oneDNN's kernels take whole tiles, and those of many rows hardly differ within.
    const bool few = distinct_rows() <= kFewRows && trials_.kernels().has_own();
    RowOrder order = few ? RowOrder::ByNorm(std::move(ids), norms_) : RowOrder::Even(std::move(ids));
    return OrNull(Int8Codes::Encode(view_, norms_, std::move(order), std::move(levels)));
  }

  // The rows in `codes`, which are unrotated, by their nearest centres.
  Codes Group(Codes codes, std::vector<float> centres, const Grouping& grouping,
              absl::Duration deadline = absl::InfiniteDuration()) {
    const absl::StatusOr<Groups> groups = GroupByCentre(view_, norms_, std::move(codes), std::move(centres),
                                                        grouping, trials_.kernels(), deadline);
    if (!groups.ok()) return nullptr;
    auto balls = Int8Codes::Encode(view_, norms_, CutIntoBalls(*groups), CodeLevels::Whole(view_.dim));
    if (!balls.ok()) return nullptr;
    const double bytes_per_pivot = static_cast<double>((*balls)->tiles()) * sizeof(Pivots::reaches[0]);
    const double most = std::min(
        {kMostPivots, kMostPivotProducts / elements(), kMostPivotBytesPerDim * elements() / bytes_per_pivot});
    if (most >= 1.0) {
      auto pivots = MeasurePivots(**balls, static_cast<size_t>(most), trials_.kernels());
      if (pivots.ok()) (*balls)->set_pivots(*std::move(pivots));
    }
    return *std::move(balls);
  }

  static Codes OrNull(absl::StatusOr<std::unique_ptr<Int8Codes>> codes) {
    return codes.ok() ? *std::move(codes) : nullptr;
  }

  void Consider(const std::vector<uint32_t>& rows, CodeLevels levels) {
    if (ThreadTime() > candidates_until_ && !candidates_.empty()) return;
    const Codes codes = Encode(rows, levels);
    if (codes == nullptr) return;
    // A head of its own is for single queries: others take whole rows' codes as if it were not there.
    const auto whole = std::find_if(candidates_.begin(), candidates_.end(), [&](const Candidate& other) {
      return levels.head.count > 0 && other.is_plain() && other.levels.deflation == levels.deflation;
    });
    last_ = trials_.OfSome(*codes, ShareOf(rows), whole != candidates_.end() ? &whole->trial : nullptr);
    AddEstimate(*codes, last_.times);
    least_ = std::min(least_, last_.times.cost());
    candidates_.push_back({std::move(levels), last_});
  }

  // Should something else seem faster than whole rows: their one trial may have met a busy machine.
  void MeasureWholeAgain(const std::vector<uint32_t>& rows) {
    const Candidate* const best = Best();
    if (best == nullptr || best->is_plain()) return;
    for (Candidate& candidate : candidates_) {
      if (!candidate.is_plain()) continue;
      const Codes codes = Encode(rows, candidate.levels);
      if (codes == nullptr) continue;
      SearchTimes& times = candidate.trial.times;
      times = Least(times, trials_.OfSome(*codes, ShareOf(rows), nullptr).times);
      AddEstimate(*codes, times);
      least_ = std::min(least_, times.cost());
    }
  }

  // Of those that are about the fastest, and let about the fewest pairs through, the fastest: clocks are
  // noisy, and more hits than one let more through. Whole rows alone, which let the fewest through and of
  // which few may have all scores kept, need to be less fast. Null if something else is clearly faster.
  const Candidate* Best() const {
    uint64_t fewest = UINT64_MAX;
    double least = kInfinity;
    for (const Candidate& candidate : candidates_) {
      if (candidate.cost() <= least_ * kAboutAsFast) fewest = std::min(fewest, candidate.survived());
      least = std::min(least, candidate.cost());
    }
    const double handicap = distinct_rows() <= kFewRows ? kHandicapOfFew : kAboutAsFast;
    const Candidate *best = nullptr, *plain = nullptr;
    for (const Candidate& candidate : candidates_) {
      if (candidate.is_plain()) {
        const bool may_be = candidate.cost() <= std::min(least * handicap, to_beat_ * kAboutAsFast);
        // Deflated rows may leave far fewer pairs.
        const bool fewer = plain != nullptr && candidate.survived() < plain->survived() * kMostSurvivors;
        const double most = plain != nullptr ? plain->cost() * (fewer ? kAboutAsFast : 1.0) : kInfinity;
        if (may_be && candidate.cost() < most) plain = &candidate;
      }
      if (candidate.cost() > least_ * kAboutAsFast || candidate.survived() > fewest * kAboutAsFew) continue;
      if (best == nullptr || candidate.cost() < best->cost()) best = &candidate;
    }
    return plain != nullptr ? plain : best;
  }

  // Null if the float32 screen is clearly faster.
  Codes EncodeBest() {
    const Candidate* const best = Best();
    return best == nullptr ? nullptr : Encode(by_norm_, best->levels);
  }

  // Null unless rows lie in such clusters that a search can leave most of them out.
  Codes TryClusters(const SearchTimes& unrotated) {
    const absl::Duration deadline = start_ + kClustersBudget;
    if (ThreadTime() > deadline) return nullptr;
    std::vector<uint32_t> ids;
    const uint64_t count = std::min(distinct_rows(), kClusterSample);
    for (uint64_t i = 0; i < count; ++i) ids.push_back(by_norm_[i * distinct_rows() / count]);
    Codes codes = Encode(std::move(ids), CodeLevels::Whole(view_.dim));
    if (codes == nullptr) return nullptr;
    const int clusters =
        static_cast<int>(std::clamp(distinct_rows() / kRowsPerCluster, uint64_t{1}, count / 8));
    const auto centres =
        LearnCentres(view_, norms_, *codes, clusters, kLoosest, trials_.Reach(), trials_.kernels(), deadline);
    if (!centres.ok() || centres->empty()) return nullptr;
    // Balls of few rows are narrow, so the sample's rule out more than those of all rows will: if they
    // don't do well, nobody needs to see these.
    codes = Group(std::move(codes), *centres, {trials_.Reach(), 1}, deadline);
    if (codes == nullptr) return nullptr;
    const double share = trials_.ScreenedShare(*codes, count);
    const double work = share * kSlowdown;
    if (share > kMaxShare || work * work * work * unrotated.cost() >= least_) {
      AddEstimate(*codes, {unrotated.batch * work, unrotated.single * work, unrotated.deep * work});
      return nullptr;
    }
    // What few rows promised, all of them need not keep: both are measured alike.
    double to_beat = trials_.float32().cost();
    codes.reset();
    if (codes = EncodeBest(); codes != nullptr) to_beat = std::min(to_beat, MeasureAll(*codes).cost());
    codes.reset();
    codes = Encode(by_norm_, CodeLevels::Whole(view_.dim));
    if (codes == nullptr) return nullptr;
    codes = Group(std::move(codes), *centres, {trials_.Reach(), kLeastRows},
                  start_ + kGroupingBudget + elements() * kGroupingPerElement);
    return codes != nullptr && MeasureAll(*codes).cost() < to_beat ? std::move(codes) : nullptr;
  }

  SearchTimes MeasureAll(const Int8Codes& codes) {
    const SearchTimes times = trials_.OfAll(codes);
    AddEstimate(codes, times);
    return times;
  }

  // In place of an earlier one.
  void AddEstimate(const Int8Codes& codes, const SearchTimes& times) {
    std::string name = ScreenName(&codes);
    std::erase_if(estimates_, [&](const ScreenEstimate& other) { return other.screen == name; });
    estimates_.push_back({std::move(name), times.batch, times.single});
  }

  const MatrixView& view_;
  const absl::Span<const double> norms_;
  const absl::Duration start_ = ThreadTime();
  absl::Duration candidates_until_ = start_ + kAxesBudget;
  Trials trials_;
  std::vector<uint32_t> by_norm_;  // descending; without copies
  Copies copies_;
  Supports supports_ = Supports::Of(view_);
  uint32_t other_bytes_ = 0;  // beside whole rows' codes
  std::optional<CodeLevels> whole_levels_, deflated_levels_;
  double to_beat_ = 0.0;  // float32's cost, if it matters
  double least_ = 0.0;    // of the fastest so far
  std::vector<Candidate> candidates_;
  Trials::Result last_;
  std::vector<ScreenEstimate> estimates_;
};

}  // namespace

ScreenOptions ScreenForOnce(uint64_t queries) {
  ScreenOptions options;
  options.kind = queries < kFewestForCodes ? ScreenOptions::Kind::kFloat32 : ScreenOptions::Kind::kInt8;
  options.axes = kMaxDim;
  return options;
}

ScreenPlan PlanScreen(const Matrix& matrix, absl::Span<const double> norms, const ScreenOptions& options) {
  if (options.kind == ScreenOptions::Kind::kFloat32 || matrix.view().rows > UINT32_MAX) return {};
  if (!HasInt8Kernel()) return {};
  Planner planner(matrix, norms);
  const bool insist = options.kind == ScreenOptions::Kind::kInt8;
  ScreenPlan plan;
  if (insist && options.clusters != 0) {
    plan.codes = planner.EncodeClusters(options.clusters);
  } else if (insist && options.axes != 0) {
    plan.codes = planner.EncodeAxes(options);
  } else if (planner.distinct_rows() < kMinRowsToMeasure) {
    plan.codes = planner.EncodeWhole();
  } else {
    plan = planner.EncodeFastest(insist);
  }
  if (plan.codes != nullptr) {
    plan.copies = planner.TakeCopies();
    plan.supports = planner.TakeSupports();
  }
  return plan;
}

std::string ScreenName(const Int8Codes* codes) {
  if (codes == nullptr) return "float32";
  const Axes& axes = codes->axes();
  std::string name = absl::StrCat("int8, ", axes.count, " of ", axes.dim, " axes");
  if (codes->head() != nullptr) absl::StrAppend(&name, ", ", codes->head()->axes().count, " first");
  if (codes->fine() != nullptr) absl::StrAppend(&name, ", then all");
  if (codes->deflation() != nullptr) absl::StrAppend(&name, ", deflated");
  if (codes->spread() != nullptr) absl::StrAppend(&name, ", spread");
  if (codes->centre_codes() != nullptr) absl::StrAppend(&name, ", ", codes->tiles(), " clusters");
  return name;
}

}  // namespace dotmax
