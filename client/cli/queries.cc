#include "client/cli/queries.h"

#include <cfloat>
#include <cmath>
#include <cstring>
#include <fstream>
#include <memory>
#include <numbers>
#include <random>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "server/store/names.h"

namespace dotmax {
namespace {

template <typename T>
SharedMatrix Pack(const std::vector<double>& values, uint32_t dim, DType dtype) {
  auto packed = std::make_shared<std::vector<T>>(values.begin(), values.end());
  return {{reinterpret_cast<const std::byte*>(packed->data()), values.size() / dim, dim, dtype}, packed};
}

}  // namespace

absl::StatusOr<std::vector<std::string>> ReadIds(const std::string& path) {
  std::ifstream file(path);  // a pipe, too
  if (!file) return absl::NotFoundError(absl::StrCat(path, ": cannot be opened"));
  std::vector<std::string> ids;
  for (std::string line; std::getline(file, line);) ids.push_back(line);
  return ids;
}

std::vector<std::string> NamesBeside(const std::string& path, uint64_t rows) {
  absl::StatusOr<std::vector<std::string>> ids = ReadIds(NamesPathBeside(path));
  if (!ids.ok() || ids->size() != rows) return {};
  return *std::move(ids);
}

absl::StatusOr<SharedMatrix> ReadTextMatrix(std::istream& in) {
  std::vector<double> values;
  uint32_t dim = 0;
  bool all_float32 = true;
  int number = 0;
  for (std::string line; std::getline(in, line);) {
    ++number;
    uint32_t columns = 0;
    for (const absl::string_view word : absl::StrSplit(line, absl::ByAnyChar(" ,\t\r"), absl::SkipEmpty())) {
      double value;
      if (!absl::SimpleAtod(word, &value) || !std::isfinite(value)) {
        return absl::InvalidArgumentError(
            absl::StrCat("line ", number, ": \"", word, "\" is not a finite number"));
      }
      all_float32 = all_float32 && std::abs(value) <= FLT_MAX &&
                    static_cast<double>(static_cast<float>(value)) == value;
      values.push_back(value);
      ++columns;
    }
    if (columns == 0) continue;
    if (dim == 0) dim = columns;
    if (columns != dim) {
      return absl::InvalidArgumentError(
          absl::StrCat("line ", number, " has ", columns, " numbers, the first one has ", dim));
    }
  }
  if (dim == 0) return absl::InvalidArgumentError("no vectors: expected one per line");
  if (dim > kMaxDim) {
    return absl::InvalidArgumentError(
        absl::StrCat("vectors have ", dim, " numbers; at most ", kMaxDim, " can be"));
  }
  return all_float32 ? Pack<float>(values, dim, DType::kFloat32) : Pack<double>(values, dim, DType::kFloat64);
}

absl::StatusOr<std::vector<uint64_t>> FindByName(const std::vector<std::string>& ids,
                                                 const std::vector<std::string>& words) {
  absl::flat_hash_map<absl::string_view, uint64_t> rows;
  for (uint64_t i = 0; i < ids.size(); ++i) rows.emplace(ids[i], i);
  std::vector<uint64_t> found;
  for (const std::string& word : words) {
    const auto at = rows.find(word);
    if (at == rows.end()) return absl::NotFoundError(absl::StrCat("there is no row named \"", word, "\""));
    found.push_back(at->second);
  }
  return found;
}

SharedMatrix SelectRows(const SharedMatrix& matrix, const std::vector<uint64_t>& rows) {
  const size_t row_bytes = matrix.view.row_bytes();
  auto selected = std::make_shared<std::vector<std::byte>>(rows.size() * row_bytes);
  for (size_t i = 0; i < rows.size(); ++i) {
    std::memcpy(selected->data() + i * row_bytes, matrix.view.row(rows[i]), row_bytes);
  }
  return {{selected->data(), rows.size(), matrix.view.dim, matrix.view.dtype}, selected};
}

SharedMatrix StandardNormalRows(uint64_t rows, uint32_t dim, uint64_t seed) {
  auto values = std::make_shared<std::vector<float>>(rows * dim);
  // By Box and Muller: std::normal_distribution is another one in every library.
  std::mt19937_64 random(seed);
  const auto uniform = [&random] {
    return (static_cast<double>(random() >> 11) + 0.5) * 0x1p-53;
  };  // in (0, 1)
  for (float& value : *values) {
    const double length = std::sqrt(-2 * std::log(uniform()));
    value = static_cast<float>(length * std::cos(2 * std::numbers::pi * uniform()));
  }
  return {{reinterpret_cast<const std::byte*>(values->data()), rows, dim, DType::kFloat32}, values};
}

}  // namespace dotmax
