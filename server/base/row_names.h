// Names of a matrix's rows: what people call them.
#ifndef DOTMAX_SERVER_BASE_ROW_NAMES_H_
#define DOTMAX_SERVER_BASE_ROW_NAMES_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/string_view.h"

namespace dotmax {

// Immutable, thread-safe.
class RowNames {
 public:
  explicit RowNames(std::vector<std::string> names);  // of row 0, 1, ...

  RowNames(const RowNames&) = delete;
  RowNames& operator=(const RowNames&) = delete;

  uint64_t size() const { return names_.size(); }
  // REQUIRES: row < size().
  const std::string& operator[](uint64_t row) const { return names_[row]; }
  // The lowest row of that name.
  std::optional<uint64_t> Find(absl::string_view name) const;

 private:
  const std::vector<std::string> names_;
  absl::flat_hash_map<absl::string_view, uint64_t> rows_;  // views of names_
};

}  // namespace dotmax

#endif  // DOTMAX_SERVER_BASE_ROW_NAMES_H_
