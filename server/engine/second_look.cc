#include "server/engine/second_look.h"

#include <algorithm>

#include "server/engine/bound.h"

namespace dotmax {

SecondLook::SecondLook(const Int8Codes& whole, const EncodedQueries& queries, const EncodedRests& rests,
                       const Kernels& kernels, absl::Span<const double> along)
    : whole_(&whole),
      fine_(nullptr),
      dim_(static_cast<uint32_t>(whole.code_dim())),
      queries_(queries),
      rests_(rests.codes != nullptr ? &rests : nullptr),
      along_(along),
      kernel_(kernels.own()) {}

SecondLook::SecondLook(const FineCodes& fine, const EncodedQueries& queries, const Kernels& kernels,
                       absl::Span<const double> along)
    : whole_(nullptr),
      fine_(&fine),
      dim_(static_cast<uint32_t>(fine.code_dim())),
      queries_(queries),
      rests_(nullptr),
      along_(along),
      kernel_(kernels.own()) {}

void SecondLook::Pack(absl::Span<const uint32_t> queries) {
  count_ = queries.size();
  for (size_t c = 0; c < queries.size(); ++c) {
    codes_of_[c] = queries_.codes_of(queries[c]);
    columns_.Set(c, queries_[queries[c]]);
    along_of_[c] = is_deflated() ? along_[queries[c]] : 0.0;
    norms_[c] = queries_[queries[c]].norm;
    if (rests_ == nullptr) continue;
    rest_codes_of_[c] = rests_->codes_of(queries[c]);
    rest_of_[c] = &(*rests_)[queries[c]];
  }
}

void SecondLook::Begin(const CodeTile& tile, uint64_t t) {
  first_row_ = tile.first;
  first_tile_ = t;
  tiles_ = 0;
  codes_ = whole_ != nullptr ? whole_->codes(t) : fine_->codes(first_row_);
}

void SecondLook::AddTile(const CodeTile& of_rows, const Wanted& wanted, const float* length,
                         const RowsAlong& along) {
  const size_t i = tiles_++;
  begins_[i] = of_rows.first - first_row_;
  std::copy_n(wanted.score, count_, scores_[i].begin());
  std::copy_n(wanted.slope, count_, slopes_[i].begin());
  lengths_[i] = length;
  more_along_[i] = along.more.data();
  if (is_deflated()) {
    LessAlong(along_of_.data(), norms_.data(), count_, along, dim_, of_rows.norm, scores_[i].data());
  }
  if (whole_ == nullptr || is_deflated()) return;
  const CodeTile& tile = whole_->tile(first_tile_ + i);
  Int8Thresholds(columns_.Wanting(scores_[i].data()), static_cast<int>(count_), tile.code_norm,
                 tile.code_error, tile.scale, thresholds_[i].data());
}

void SecondLook::Fetch(int row) const {
  const CodeRows::Plane& plane = codes_.rest.dim > 0 ? codes_.rest : codes_.head;
  for (size_t i = 0; i < plane.dim; i += kHeadMultiple) __builtin_prefetch(plane.row(row) + i);
}

size_t SecondLook::Keep(absl::Span<Survivor> survivors, Scratch& scratch) const {
  int32_t* const scores = scratch.scores_again.Reserve(survivors.size());
  if (kernel_.exists()) {
    kernel_.ScoreSurvivors(codes_, codes_of_.data(), survivors, scores);
  } else {
    ScoreSurvivors(codes_.head.codes, static_cast<int>(codes_.dim()), codes_of_.data(), survivors, scores);
  }
  size_t kept = 0;
  for (size_t i = 0; i < survivors.size(); ++i) {
    const Survivor survivor = survivors[i];
    const size_t tile = TileOf(survivor.row), c = survivor.column;
    const auto by_row = [&](const auto& row) {
      return Int8Threshold(ScoreOf(tile, survivor), ErrorOf(c, columns_.code_error[c], row),
                           columns_.inverse_scale[c] / row.scale, columns_.offset[c]);
    };
    const int32_t threshold = whole_ == nullptr ? by_row(fine_->row(first_row_ + survivor.row))
                              : is_deflated()   ? by_row(whole_->tile(first_tile_ + tile))
                                                : thresholds_[tile][c];
    survivors[kept] = survivor;
    scores[kept] = scores[i];
    kept += scores[kept] > threshold;
  }
  if (rests_ == nullptr || kept == 0) return kept;
  return KeepByRests(survivors.first(kept), scores, scratch.rest_scores.Reserve(kept));
}

size_t SecondLook::KeepByRests(absl::Span<Survivor> survivors, const int32_t* scores,
                               int32_t* rest_scores) const {
  kernel_.ScoreSurvivors(codes_, rest_codes_of_.data(), survivors, rest_scores);
  size_t kept = 0;
  for (size_t i = 0; i < survivors.size(); ++i) {
    const Survivor survivor = survivors[i];
    const size_t tile = TileOf(survivor.row), c = survivor.column;
    const QueryRest& rest = *rest_of_[c];
    const CodeTile& codes = whole_->tile(first_tile_ + tile);
    const double first = (scores[i] - columns_.offset[c]) * columns_.scale[c] * codes.scale;
    const double second = (rest_scores[i] - rest.offset) * rest.scale * codes.scale;
    survivors[kept] = survivor;
    kept += RefinedBound(first, second, ErrorOf(c, rest.code_error, codes)) >= ScoreOf(tile, survivor);
  }
  return kept;
}

}  // namespace dotmax
