// Whole rows' codes with a scale for each row.
#ifndef DOTMAX_SERVER_ENGINE_FINE_CODES_H_
#define DOTMAX_SERVER_ENGINE_FINE_CODES_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "absl/types/span.h"
#include "server/base/types.h"
#include "server/engine/aligned.h"
#include "server/engine/code_kernel.h"
#include "server/engine/code_rows.h"
#include "server/engine/deflation.h"
#include "server/engine/rotate.h"
#include "server/engine/row_code.h"
#include "server/engine/spread.h"

namespace dotmax {

// Whole rows as unsigned codes, 128 + cᵢ and zeros up to code_dim, for a second look at what a few axes
// cannot rule out: a quarter of the bytes of float32. Each has a scale of its own, which fits it far better
// than one for a tile where rows' largest elements differ. Immutable.
class FineCodes {
 public:
  // What holds for one row; rounded outward.
  struct Row {
    float scale, code_norm, code_error;
  };

  // `order` and the rest as for Int8Codes; `deflation` and `spread` may be null.
  FineCodes(const MatrixView& rows, absl::Span<const double> norms, absl::Span<const uint32_t> order,
            std::shared_ptr<const Deflation> deflation, std::shared_ptr<const Spread> spread);

  int code_dim() const { return code_dim_; }
  // From a place in the order on; 64 bytes beyond the last are readable.
  CodeRows codes(uint64_t place) const {
    const CodeRows::Plane all = {codes_.data(), static_cast<size_t>(code_dim_)};
    return CodeRows{all}.From(place);
  }
  const Row& row(uint64_t place) const { return rows_[place]; }
  uint64_t bytes() const { return rows_.size() * (code_dim_ + sizeof(Row)); }

  // As Int8Codes::EncodeQuery, from the query as whole rows are seen.
  QueryCode EncodeQuery(int exponent, double norm, const float* query, int8_t* codes) const;

 private:
  const std::shared_ptr<const Deflation> deflation_;
  const std::shared_ptr<const Spread> spread_;
  const Axes axes_;  // the identity
  const int code_dim_;
  const bool sums_in_16_bits_ = CodeKernel().sums_in_16_bits();
  std::vector<Row> rows_;
  AlignedArray<uint8_t> codes_;
};

}  // namespace dotmax

#endif  // DOTMAX_SERVER_ENGINE_FINE_CODES_H_
