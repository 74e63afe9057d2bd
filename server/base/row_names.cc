#include "server/base/row_names.h"

#include <utility>

namespace dotmax {

RowNames::RowNames(std::vector<std::string> names) : names_(std::move(names)) {
  rows_.reserve(names_.size());
  for (uint64_t row = 0; row < names_.size(); ++row) rows_.emplace(names_[row], row);
}

std::optional<uint64_t> RowNames::Find(absl::string_view name) const {
  const auto found = rows_.find(name);
  return found == rows_.end() ? std::nullopt : std::optional(found->second);
}

}  // namespace dotmax
