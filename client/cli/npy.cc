#include "client/cli/npy.h"

#include <unistd.h>

#include <bit>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <fstream>

#include "absl/strings/str_cat.h"

namespace dotmax {
namespace {

static_assert(std::endian::native == std::endian::little, "numbers are written as they lie");

std::string Header(absl::string_view descr, size_t count) {
  std::string text =
      absl::StrCat("{'descr': ", descr, ", 'fortran_order': False, 'shape': (", count, ",), }");
  constexpr size_t kPrefix = 10;  // magic, version, length; data begins at a multiple of 64
  text.append(63 - (kPrefix + text.size()) % 64, ' ');
  text += '\n';
  std::string out("\x93NUMPY\x01\x00", 8);
  out += static_cast<char>(text.size() & 0xff);
  out += static_cast<char>(text.size() >> 8);
  return out + text;
}

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
    data = Header("'<u8'", result.counts.size());
    for (const uint64_t count : result.counts) Append(count, data);
  } else {
    data = Header("[('query_row', '<u8'), ('id', '<u8'), ('score', '<f8')]", result.ids.size());
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
  const std::string part = absl::StrCat(path, ".", getpid(), ".part");
  std::ofstream file(part, std::ios::binary);
  file.write(data.data(), static_cast<std::streamsize>(data.size()));
  file.close();
  if (!file.good() || std::rename(part.c_str(), path.c_str()) != 0) {
    std::remove(part.c_str());
    return absl::InternalError(absl::StrCat("--output: ", path, " could not be written"));
  }
  return absl::OkStatus();
}

}  // namespace dotmax
