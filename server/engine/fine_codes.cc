#include "server/engine/fine_codes.h"

#include <algorithm>
#include <utility>

#include "server/base/dtype.h"
#include "server/engine/bound.h"
#include "server/engine/row_loops.h"

namespace dotmax {

FineCodes::FineCodes(const MatrixView& rows, absl::Span<const double> norms, absl::Span<const uint32_t> order,
                     std::shared_ptr<const Deflation> deflation, std::shared_ptr<const Spread> spread)
    : deflation_(std::move(deflation)),
      spread_(std::move(spread)),
      axes_(IdentityAxes(rows.dim)),
      code_dim_(RoundUpDim(static_cast<int>(axes_.dim))) {
  const uint32_t dim = axes_.dim;
  std::vector<float> as_seen(dim);
  float* const seen = as_seen.data();
  rows_.reserve(order.size());
  uint8_t* to = codes_.Reserve(order.size() * code_dim_ + kReadableBytes);
  for (const uint32_t id : order) {
    deflation_ != nullptr ? void(deflation_->SplitRow(rows.row(id), rows.dtype, seen))
                          : ToFloat32(rows.row(id), rows.dtype, dim, seen);
    if (spread_ != nullptr) spread_->Apply(seen);
    const float scale =
        NextFloat32(CodeScale(MaxAbs(seen, dim), deflation_ != nullptr ? norms[id] * 0x1p-20 : norms[id]));
    const CodeLengths lengths =
        LengthsOf(EncodeUnsigned(seen, dim, scale, 1.0f / scale, kMaxCode, kZeroCode, to), dim);
    std::fill(to + dim, to + code_dim_, uint8_t{0});
    const double error =
        (lengths.error + Term("row projection error", SightError(axes_, deflation_.get(), spread_.get(),
                                                                 norms[id], lengths.length))) *
        kOutward;
    rows_.push_back({scale, NextFloat32(lengths.norm), NextFloat32(error)});
    to += code_dim_;
  }
  std::fill_n(to, kReadableBytes, uint8_t{0});
}

QueryCode FineCodes::EncodeQuery(int exponent, double norm, const float* query, int8_t* codes) const {
  std::fill(codes + axes_.dim, codes + code_dim_, int8_t{0});
  const double scale = QueryScale(query, 0, axes_.count, norm, sums_in_16_bits_);
  return EncodeCoordinates(axes_, scale, deflation_.get(), spread_.get(), exponent, norm, query, codes);
}

}  // namespace dotmax
