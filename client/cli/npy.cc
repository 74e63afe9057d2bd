#include "client/cli/npy.h"

#include <bit>
#include <cstdint>
#include <cstring>
#include <ostream>

#include "absl/strings/str_cat.h"
#include "server/store/file.h"
#include "server/store/format.h"

namespace dotmax {
namespace {

static_assert(std::endian::native == std::endian::little, "numbers are written as they lie");

template <typename T>
void Append(T value, std::string& out) {
  char bytes[sizeof(value)];
  std::memcpy(bytes, &value, sizeof(value));
  out.append(bytes, sizeof(value));
}

}  // namespace

absl::Status WriteNpy(const SearchResult& result, bool counts, const std::string& path) {
  std::string data;
  if (counts) {
    data = NpyHeader("'<u8'", absl::StrCat("(", result.counts.size(), ",)"));
    for (const uint64_t count : result.counts) Append(count, data);
  } else {
    data = NpyHeader("[('query_row', '<u8'), ('id', '<u8'), ('score', '<f8')]",
                     absl::StrCat("(", result.ids.size(), ",)"));
    uint64_t row = 0;
    for (size_t hit = 0; hit < result.ids.size(); ++hit) {
      if (result.query_rows.empty()) {
        while (hit >= result.end(row)) ++row;
      } else {
        row = result.query_rows[hit];
      }
      Append(row, data);
      Append(result.ids[hit], data);
      Append(result.scores[hit], data);
    }
  }
  const absl::Status written = ReplaceFile(path, [&data](std::ostream& file) {
    file.write(data.data(), static_cast<std::streamsize>(data.size()));
    return absl::OkStatus();
  });
  if (!written.ok()) return absl::InternalError(absl::StrCat("--output: ", path, " could not be written"));
  return absl::OkStatus();
}

}  // namespace dotmax
