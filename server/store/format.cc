#include "server/store/format.h"

#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"

namespace dotmax {
namespace {

constexpr absl::string_view kNpyMagic("\x93NUMPY", 6);

uint32_t ReadLittle32(absl::string_view bytes) {
  uint32_t value;
  std::memcpy(&value, bytes.data(), sizeof(value));
  return value;
}

// Formats that differ in their elements only.
struct Elements {
  absl::string_view extension;
  DType dtype;
  Widened widened = Widened::kNot;
};
constexpr Elements kVecs[] = {{".fvecs", DType::kFloat32},
                              {".bvecs", DType::kFloat16, Widened::kUint8},
                              {".ivecs", DType::kFloat64, Widened::kInt32}};
constexpr Elements kBin[] = {
    {".fbin", DType::kFloat32}, {".u8bin", DType::kFloat16, Widened::kUint8}, {".i8bin", DType::kInt8}};

absl::Status Refuse(absl::string_view what) { return absl::InvalidArgumentError(what); }

// For messages: a header may hold any bytes.
std::string Printable(absl::string_view text) {
  return absl::StrReplaceAll(absl::CHexEscape(text), {{"\\'", "'"}});
}

// The text of `key`'s value in a Python dict literal such as NumPy writes:
//   {'descr': '<f4', 'fortran_order': False, 'shape': (3, 4), }
// Ends at the comma or brace that is not inside parentheses. Keys are never inside a value there.
absl::StatusOr<absl::string_view> DictValue(absl::string_view dict, absl::string_view key) {
  const size_t at = dict.find(absl::StrCat("'", key, "':"));
  if (at == absl::string_view::npos) return Refuse(absl::StrCat("has an .npy header without '", key, "'"));
  const absl::string_view rest = dict.substr(at + key.size() + 3);
  int depth = 0;
  for (size_t i = 0; i < rest.size(); ++i) {
    if (rest[i] == '(' || rest[i] == '[') ++depth;
    if (rest[i] == ')' || rest[i] == ']') --depth;
    if (depth == 0 && (rest[i] == ',' || rest[i] == '}'))
      return absl::StripAsciiWhitespace(rest.substr(0, i));
  }
  return Refuse(absl::StrCat("has an .npy header whose '", key, "' does not end"));
}

// Into the layout's dtype.
absl::Status ParseDescr(absl::string_view descr, MatrixLayout& layout) {
  constexpr std::pair<absl::string_view, DType> kTypes[] = {{"'<f4'", DType::kFloat32},
                                                            {"'<f8'", DType::kFloat64},
                                                            {"'<f2'", DType::kFloat16},
                                                            {"'|i1'", DType::kInt8},
                                                            {"'<i1'", DType::kInt8}};
  for (const auto& [name, dtype] : kTypes) {
    if (descr != name) continue;
    layout.dtype = dtype;
    return absl::OkStatus();
  }
  if (descr == "'|u1'") {
    layout.dtype = DType::kFloat16;
    layout.widened = Widened::kUint8;
    return absl::OkStatus();
  }
  const std::string shown = Printable(descr);
  if (absl::StartsWith(descr, "'>")) {
    return Refuse(absl::StrCat("is big-endian (dtype ", shown, "); convert it to little-endian"));
  }
  return Refuse(absl::StrCat("has dtype ", shown, "; '<f2', '<f4', '<f8', '|i1' and '|u1' can be read"));
}

absl::StatusOr<MatrixLayout> ParseNpy(absl::string_view head, uint64_t file_bytes) {
  if (!absl::StartsWith(head, kNpyMagic)) {
    return Refuse(file_bytes == 0 ? "is empty" : "is no .npy file: it does not start with \\x93NUMPY");
  }
  // Version 1 has a 2-byte header length, versions 2 and 3 a 4-byte one.
  if (head.size() < 10) return Refuse("is truncated within its .npy header");
  const int version = static_cast<uint8_t>(head[6]);
  if (version < 1 || version > 3)
    return Refuse(absl::StrCat("has .npy version ", version, "; 1 to 3 can be read"));
  const size_t start = version == 1 ? 10 : 12;
  if (head.size() < start) return Refuse("is truncated within its .npy header");
  const uint64_t length = version == 1 ? static_cast<uint8_t>(head[8]) | static_cast<uint8_t>(head[9]) << 8
                                       : ReadLittle32(head.substr(8));
  if (length > head.size() - start) {
    return Refuse(length > file_bytes - start ? "is truncated within its .npy header"
                                              : absl::StrCat("has an .npy header of ", length, " bytes"));
  }
  const absl::string_view dict = head.substr(start, length);

  MatrixLayout layout;
  layout.data_offset = start + length;
  const absl::StatusOr<absl::string_view> descr = DictValue(dict, "descr");
  if (!descr.ok()) return descr.status();
  if (absl::Status s = ParseDescr(*descr, layout); !s.ok()) return s;

  const absl::StatusOr<absl::string_view> fortran = DictValue(dict, "fortran_order");
  if (!fortran.ok()) return fortran.status();
  if (*fortran != "False") return Refuse("is in Fortran order; save numpy.ascontiguousarray(x) instead");

  absl::StatusOr<absl::string_view> shape = DictValue(dict, "shape");
  if (!shape.ok()) return shape.status();
  absl::string_view inner = *shape;
  absl::ConsumePrefix(&inner, "(");
  absl::ConsumeSuffix(&inner, ")");
  const std::vector<absl::string_view> sizes = absl::StrSplit(inner, ',', absl::SkipWhitespace());
  if (sizes.size() != 2) {
    return Refuse(absl::StrCat("has shape ", Printable(*shape), "; two dimensions (rows, dim) are needed"));
  }
  if (!absl::SimpleAtoi(sizes[0], &layout.rows) || !absl::SimpleAtoi(sizes[1], &layout.dim)) {
    return Refuse(absl::StrCat("has shape ", Printable(*shape), ", which cannot be read"));
  }
  return layout;
}

// Each row: int32 dim, then its elements.
absl::StatusOr<MatrixLayout> ParseVecs(const Elements& elements, absl::string_view head,
                                       uint64_t file_bytes) {
  if (file_bytes == 0) {
    return Refuse(
        absl::StrCat("is empty, and a ", elements.extension, " file without rows has no dimension"));
  }
  if (head.size() < 4) return Refuse("is truncated within its first dimension");
  MatrixLayout layout = {.dim = ReadLittle32(head), .dtype = elements.dtype, .widened = elements.widened};
  layout.row_prefix_bytes = 4;
  if (layout.dim == 0 || layout.dim > kMaxDim) {
    return Refuse(absl::StrCat("has ", static_cast<int32_t>(layout.dim), " dimensions in row 0; 1 to ",
                               kMaxDim, " can be"));
  }
  const uint64_t stride = layout.row_prefix_bytes + layout.file_row_bytes();
  layout.rows = file_bytes / stride;
  if (layout.rows == 0 || file_bytes % stride != 0) {
    return Refuse(absl::StrCat("is truncated: ", file_bytes, " bytes are not a whole number of rows of ",
                               layout.dim, " dimensions"));
  }
  return layout;
}

// uint32 rows, uint32 dim, then the elements.
absl::StatusOr<MatrixLayout> ParseBin(const Elements& elements, absl::string_view head, uint64_t file_bytes) {
  if (file_bytes == 0) return Refuse("is empty");
  if (head.size() < 8) {
    return Refuse(absl::StrCat("is truncated within its ", elements.extension, " header of 8 bytes"));
  }
  return MatrixLayout{.rows = ReadLittle32(head),
                      .dim = ReadLittle32(head.substr(4)),
                      .dtype = elements.dtype,
                      .widened = elements.widened,
                      .data_offset = 8};
}

}  // namespace

absl::StatusOr<MatrixLayout> ParseLayout(absl::string_view path, absl::string_view head,
                                         uint64_t file_bytes) {
  if (absl::EndsWithIgnoreCase(path, ".npy")) return ParseNpy(head, file_bytes);
  for (const Elements& elements : kVecs) {
    if (absl::EndsWithIgnoreCase(path, elements.extension)) return ParseVecs(elements, head, file_bytes);
  }
  for (const Elements& elements : kBin) {
    if (absl::EndsWithIgnoreCase(path, elements.extension)) return ParseBin(elements, head, file_bytes);
  }
  return Refuse(absl::StrCat("has an unknown extension: ", kFormats, " can be read"));
}

std::string NpyHeader(absl::string_view descr, absl::string_view shape) {
  std::string text = absl::StrCat("{'descr': ", descr, ", 'fortran_order': False, 'shape': ", shape, ", }");
  constexpr size_t kPrefixBytes = 10;  // magic, version, length
  text.append(63 - (kPrefixBytes + text.size()) % 64, ' ');
  text += '\n';
  return absl::StrCat(kNpyMagic, absl::string_view("\x01\x00", 2),
                      std::string{static_cast<char>(text.size() & 0xff), static_cast<char>(text.size() >> 8)},
                      text);
}

}  // namespace dotmax
