#include "server/store/matrix_writer.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <ostream>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "server/base/dtype.h"
#include "server/store/file.h"
#include "server/store/format.h"

namespace dotmax {
namespace {

constexpr size_t kFloat64BlockBytes = 1 << 20;

struct TypeInfo {
  FileType type;
  absl::string_view name;
  absl::string_view descr;  // NumPy's
  size_t bytes;
};
constexpr TypeInfo kTypes[] = {
    {FileType::kFloat16, "float16", "'<f2'", 2}, {FileType::kFloat32, "float32", "'<f4'", 4},
    {FileType::kFloat64, "float64", "'<f8'", 8}, {FileType::kInt8, "int8", "'|i1'", 1},
    {FileType::kUint8, "uint8", "'|u1'", 1},     {FileType::kInt32, "int32", "'<i4'", 4}};

const TypeInfo& Info(FileType type) { return kTypes[static_cast<size_t>(type)]; }

struct Format {
  absl::string_view extension;
  std::optional<FileType> type;  // none: any but int32
  bool prefixed = false;         // each row by its dim; otherwise the file by rows and dim
};
constexpr Format kWritable[] = {{".npy", std::nullopt},
                                {".fvecs", FileType::kFloat32, true},
                                {".bvecs", FileType::kUint8, true},
                                {".ivecs", FileType::kInt32, true},
                                {".fbin", FileType::kFloat32},
                                {".u8bin", FileType::kUint8},
                                {".i8bin", FileType::kInt8}};

// float32 for bfloat16, which NumPy's format does not have.
FileType TypeOf(DType dtype) {
  switch (dtype) {
    case DType::kFloat16:
      return FileType::kFloat16;
    case DType::kFloat64:
      return FileType::kFloat64;
    case DType::kInt8:
      return FileType::kInt8;
    case DType::kFloat32:
    case DType::kBFloat16:
      break;
  }
  return FileType::kFloat32;
}

template <typename T>
void Append(T value, std::string& out) {
  char bytes[sizeof(value)];
  std::memcpy(bytes, &value, sizeof(value));
  out.append(bytes, sizeof(value));
}

// Appends the integer nearest to `value`; returns it, or NaN when it is beyond the type.
template <typename T>
double AppendInteger(double value, std::string& out) {
  const double nearest = std::nearbyint(value);
  if (nearest < std::numeric_limits<T>::min() || nearest > std::numeric_limits<T>::max()) return NAN;
  Append(static_cast<T>(nearest), out);
  return nearest;
}

// Appends the element of `type` nearest to `value`; returns it, or what is not finite when it is beyond the
// type.
double AppendElement(double value, FileType type, std::string& out) {
  switch (type) {
    case FileType::kFloat16: {
      // Not by float32, which would round twice: what it drops decides ties.
      float nearest = static_cast<float>(value);
      if (nearest != value && std::abs(nearest) > std::abs(value)) nearest = std::nextafterf(nearest, 0.0f);
      if (nearest != value) {  // towards zero; an odd last bit stands for what is dropped
        uint32_t bits;
        std::memcpy(&bits, &nearest, sizeof(bits));
        bits |= 1;
        std::memcpy(&nearest, &bits, sizeof(bits));
      }
      const uint16_t half = Float32ToFloat16(nearest);
      Append(half, out);
      return Float16ToFloat32(half);
    }
    case FileType::kFloat32:
      Append(static_cast<float>(value), out);
      return static_cast<float>(value);
    case FileType::kFloat64:
      Append(value, out);
      return value;
    case FileType::kInt8:
      return AppendInteger<int8_t>(value, out);
    case FileType::kUint8:
      return AppendInteger<uint8_t>(value, out);
    case FileType::kInt32:
      return AppendInteger<int32_t>(value, out);
  }
  return NAN;
}

absl::Status WriteRows(const MatrixView& matrix, const Format& format, FileType type,
                       const WriteOptions& options, std::ostream& file) {
  std::string out;
  if (format.extension == ".npy") {
    out = NpyHeader(Info(type).descr, absl::StrCat("(", matrix.rows, ", ", matrix.dim, ")"));
  } else if (!format.prefixed) {
    Append(static_cast<uint32_t>(matrix.rows), out);
    Append(matrix.dim, out);
  }
  const uint64_t block_rows = std::max<uint64_t>(1, kFloat64BlockBytes / sizeof(double) / matrix.dim);
  std::vector<double> elements(block_rows * matrix.dim);
  const uint64_t row_bytes = matrix.dim * Info(type).bytes;
  for (uint64_t first = 0; first < matrix.rows; first += block_rows) {
    const uint64_t rows = std::min(block_rows, matrix.rows - first);
    ToFloat64(matrix.row(first), matrix.dtype, rows * matrix.dim, elements.data());
    for (uint64_t i = 0; i < rows * matrix.dim; ++i) {
      if (format.prefixed && i % matrix.dim == 0) Append(matrix.dim, out);
      const double written = AppendElement(elements[i], type, out);
      if (!std::isfinite(written) || (written != elements[i] && !options.round)) {
        return absl::InvalidArgumentError(absl::StrCat("row ", first + i / matrix.dim, ", column ",
                                                       i % matrix.dim, " is ", elements[i], ", which ",
                                                       Info(type).name, " does not have"));
      }
    }
    file.write(out.data(), static_cast<std::streamsize>(out.size()));
    if (!file.good()) return absl::OkStatus();  // ReplaceFile says why
    out.clear();
    if (options.progress) options.progress((first + rows) * row_bytes, matrix.rows * row_bytes);
  }
  file.write(out.data(), static_cast<std::streamsize>(out.size()));  // the header of no rows
  return absl::OkStatus();
}

absl::Status Write(const MatrixView& matrix, const std::string& path, const WriteOptions& options) {
  const Format* format = nullptr;
  for (const Format& known : kWritable) {
    if (absl::EndsWithIgnoreCase(path, known.extension)) format = &known;
  }
  if (format == nullptr) {
    return absl::InvalidArgumentError(
        absl::StrCat("has an unknown extension: ", kFormats, " can be written"));
  }
  const FileType type = format->type.value_or(options.type.value_or(TypeOf(matrix.dtype)));
  const bool known =
      format->type.has_value() ? options.type.value_or(type) == type : type != FileType::kInt32;
  if (!known) {
    return absl::InvalidArgumentError(
        absl::StrCat("a ", format->extension, " file has no ", Info(*options.type).name, " elements"));
  }
  if (format->prefixed && matrix.rows == 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("a ", format->extension, " file without rows could not say their dim"));
  }
  constexpr uint64_t kMostRows = std::numeric_limits<uint32_t>::max();
  if (format->type.has_value() && !format->prefixed && matrix.rows > kMostRows) {
    return absl::InvalidArgumentError(
        absl::StrCat(matrix.rows, " rows; a ", format->extension, " file has at most ", kMostRows));
  }
  return ReplaceFile(path,
                     [&](std::ostream& file) { return WriteRows(matrix, *format, type, options, file); });
}

}  // namespace

absl::StatusOr<FileType> ParseFileType(absl::string_view name) {
  std::string known;
  for (const TypeInfo& info : kTypes) {
    if (info.name == name) return info.type;
    absl::StrAppend(&known, known.empty() ? "" : ", ", info.name);
  }
  return absl::InvalidArgumentError(absl::StrCat("\"", name, "\" is none of ", known));
}

absl::Status WriteMatrix(const MatrixView& matrix, const std::string& path, const WriteOptions& options) {
  const absl::Status status = Write(matrix, path, options);
  return status.ok() ? status : absl::Status(status.code(), absl::StrCat(path, ": ", status.message()));
}

}  // namespace dotmax
