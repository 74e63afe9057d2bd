#include "server/engine/copies.h"

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <deque>
#include <string>
#include <string_view>
#include <utility>

#include "server/base/dtype.h"

namespace dotmax {
namespace {

// Writes 0.0 over -0.0, which is equal and scores the same; whether there was any.
template <typename Bits>
bool ClearSignsOfZeros(std::string& row) {
  constexpr Bits kNegativeZero = Bits{1} << (8 * sizeof(Bits) - 1);
  bool any = false;
  for (size_t i = 0; i < row.size(); i += sizeof(Bits)) {
    Bits bits;
    std::memcpy(&bits, row.data() + i, sizeof(bits));
    if (bits != kNegativeZero) continue;
    std::memset(row.data() + i, 0, sizeof(bits));
    any = true;
  }
  return any;
}

bool ClearSignsOfZeros(DType dtype, std::string& row) {
  switch (dtype) {
    case DType::kFloat64:
      return ClearSignsOfZeros<uint64_t>(row);
    case DType::kFloat32:
      return ClearSignsOfZeros<uint32_t>(row);
    case DType::kFloat16:
    case DType::kBFloat16:
      return ClearSignsOfZeros<uint16_t>(row);
    case DType::kInt8:
      break;
  }
  return false;
}

}  // namespace

Copies Copies::TakeFrom(std::vector<uint32_t>& ids, const MatrixView& rows, absl::Span<const double> norms) {
  std::vector<std::pair<uint32_t, uint32_t>> copies;  // the first, and another
  absl::flat_hash_map<std::string_view, uint32_t> seen;
  std::deque<std::string> cleared;  // what of that is not as it lies in `rows`
  std::string row;
  size_t kept = 0;
  for (size_t begin = 0, end; begin < ids.size(); begin = end) {
    const double norm = norms[ids[begin]];
    end = begin + 1;
    while (end < ids.size() && norms[ids[end]] == norm) ++end;
    if (end == begin + 1) {  // nearly always
      ids[kept++] = ids[begin];
      continue;
    }
    seen.clear();
    seen.reserve(end - begin);
    cleared.clear();
    for (size_t i = begin; i < end; ++i) {
      const uint32_t id = ids[i];
      std::string_view bytes(reinterpret_cast<const char*>(rows.row(id)), rows.row_bytes());
      row = bytes;
      const bool is_cleared = ClearSignsOfZeros(rows.dtype, row);
      if (is_cleared) bytes = cleared.emplace_back(row);
      const auto [first, is_new] = seen.try_emplace(bytes, id);
      if (is_new) {
        ids[kept++] = id;
        continue;
      }
      copies.emplace_back(first->second, id);
      if (is_cleared) cleared.pop_back();
    }
  }
  ids.resize(kept);

  Copies result;
  std::sort(copies.begin(), copies.end());
  result.ids_.reserve(copies.size());
  for (const auto& [first, other] : copies) {
    Range& range = result.ranges_[first];
    if (range.count++ == 0) range.first = static_cast<uint32_t>(result.ids_.size());
    result.ids_.push_back(other);
  }
  return result;
}

uint64_t Copies::bytes() const {
  return ids_.size() * sizeof(ids_[0]) + ranges_.capacity() * (sizeof(*ranges_.begin()) + 1);
}

}  // namespace dotmax
