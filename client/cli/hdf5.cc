#include "client/cli/hdf5.h"

#include <hdf5.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <limits>
#include <memory>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "server/base/dtype.h"

namespace dotmax {
namespace {

constexpr size_t kBlockBytes = 16 << 20;

// Any of libhdf5's objects, closed with it.
class Object {
 public:
  explicit Object(hid_t id) : id_(id) {}
  ~Object() {
    if (id_ >= 0) H5Idec_ref(id_);
  }
  Object(const Object&) = delete;
  Object& operator=(const Object&) = delete;

  bool ok() const { return id_ >= 0; }
  hid_t id() const { return id_; }

 private:
  const hid_t id_;
};

// Failures are told by us, not by libhdf5 on standard error.
void BeQuiet() { H5Eset_auto2(H5E_DEFAULT, nullptr, nullptr); }

struct Shape {
  hsize_t rows = 0;
  hsize_t columns = 0;
};

// nullopt unless it has two dimensions.
std::optional<Shape> ShapeOf(hid_t dataset) {
  const Object space(H5Dget_space(dataset));
  hsize_t sizes[2];
  if (!space.ok() || H5Sget_simple_extent_ndims(space.id()) != 2) return std::nullopt;
  H5Sget_simple_extent_dims(space.id(), sizes, nullptr);
  return Shape{sizes[0], sizes[1]};
}

// Rows [first, first + rows) into `to`, as `type`.
bool ReadRows(hid_t dataset, hsize_t first, hsize_t rows, hsize_t columns, hid_t type, void* to) {
  const Object space(H5Dget_space(dataset));
  const hsize_t start[2] = {first, 0}, count[2] = {rows, columns};
  const Object memory(H5Screate_simple(2, count, nullptr));
  return H5Sselect_hyperslab(space.id(), H5S_SELECT_SET, start, nullptr, count, nullptr) >= 0 &&
         H5Dread(dataset, type, memory.id(), space.id(), H5P_DEFAULT, to) >= 0;
}

struct Target {
  DType dtype;
  hid_t type;
};

// What elements of a type become; nullopt for what are no numbers, or numbers that need a look at each.
std::optional<Target> TargetOf(hid_t type) {
  const size_t bytes = H5Tget_size(type);
  const bool is_signed = H5Tget_sign(type) == H5T_SGN_2;
  switch (H5Tget_class(type)) {
    case H5T_FLOAT:
      if (bytes <= 4) return Target{DType::kFloat32, H5T_NATIVE_FLOAT};
      if (bytes == 8) return Target{DType::kFloat64, H5T_NATIVE_DOUBLE};
      return std::nullopt;
    case H5T_INTEGER:
      if (bytes == 1 && is_signed) return Target{DType::kInt8, H5T_NATIVE_SCHAR};
      if (bytes <= 2) return Target{DType::kFloat32, H5T_NATIVE_FLOAT};
      return Target{DType::kFloat64, H5T_NATIVE_DOUBLE};
    default:
      return std::nullopt;
  }
}

bool IsWideInteger(hid_t type) { return H5Tget_class(type) == H5T_INTEGER && H5Tget_size(type) > 4; }

herr_t AddName(hid_t, const char* name, const H5L_info_t*, void* names) {
  static_cast<std::vector<std::string>*>(names)->push_back(name);
  return 0;
}

hid_t NativeType(DType dtype) {
  switch (dtype) {
    case DType::kFloat64:
      return H5T_NATIVE_DOUBLE;
    case DType::kInt8:
      return H5T_NATIVE_SCHAR;
    default:
      return H5T_NATIVE_FLOAT;
  }
}

}  // namespace

absl::StatusOr<Hdf5File> Hdf5File::Open(const std::string& path) {
  BeQuiet();
  if (access(path.c_str(), R_OK) != 0) return absl::NotFoundError(absl::StrCat(path, ": cannot be opened"));
  const hid_t file = H5Fopen(path.c_str(), H5F_ACC_RDONLY, H5P_DEFAULT);
  if (file < 0) return absl::InvalidArgumentError(absl::StrCat(path, ": is no HDF5 file"));
  return Hdf5File(path, file);
}

Hdf5File::Hdf5File(Hdf5File&& other) noexcept : path_(std::move(other.path_)), file_(other.file_) {
  other.file_ = -1;
}

Hdf5File::~Hdf5File() {
  if (file_ >= 0) H5Fclose(file_);
}

absl::Status Hdf5File::Refuse(const std::string& dataset, absl::string_view what) const {
  return absl::InvalidArgumentError(absl::StrCat(path_, ": \"", dataset, "\" ", what));
}

absl::StatusOr<SharedMatrix> Hdf5File::Read(const std::string& dataset, const Progress& progress) const {
  const Object set(H5Dopen2(file_, dataset.c_str(), H5P_DEFAULT));
  if (!set.ok()) {
    std::vector<std::string> names;
    H5Literate(file_, H5_INDEX_NAME, H5_ITER_NATIVE, nullptr, AddName, &names);
    return absl::NotFoundError(absl::StrCat(path_, ": there is no data set \"", dataset, "\"; there are ",
                                            absl::StrJoin(names, ", ")));
  }
  const std::optional<Shape> shape = ShapeOf(set.id());
  if (!shape.has_value()) return Refuse(dataset, "does not have two dimensions, (rows, dim)");
  if (shape->columns == 0 || shape->columns > kMaxDim) {
    return Refuse(dataset, absl::StrCat("has ", shape->columns, " dimensions; 1 to ", kMaxDim, " can be"));
  }
  const Object type(H5Dget_type(set.id()));
  const std::optional<Target> target = TargetOf(type.id());
  if (!target.has_value()) return Refuse(dataset, "has elements that are no numbers, or wider than float64");

  const size_t row_bytes = shape->columns * ByteWidth(target->dtype);
  if (shape->rows > std::numeric_limits<size_t>::max() / row_bytes) return Refuse(dataset, "is too large");
  const auto bytes = std::make_shared<std::vector<std::byte>>(shape->rows * row_bytes);
  const SharedMatrix matrix = {
      {bytes->data(), shape->rows, static_cast<uint32_t>(shape->columns), target->dtype}, bytes};
  const hsize_t block = std::max<hsize_t>(1, kBlockBytes / row_bytes);
  std::vector<int64_t> integers;
  for (hsize_t first = 0; first < shape->rows; first += block) {
    const hsize_t rows = std::min(block, shape->rows - first);
    if (!ReadRows(set.id(), first, rows, shape->columns, target->type, bytes->data() + first * row_bytes)) {
      return Refuse(dataset, absl::StrCat("cannot be read from row ", first, " on"));
    }
    if (IsWideInteger(type.id())) {
      integers.resize(rows * shape->columns);
      // Beyond int64 they become its largest one, which float64 does not have either.
      if (!ReadRows(set.id(), first, rows, shape->columns, H5T_NATIVE_INT64, integers.data())) {
        return Refuse(dataset, absl::StrCat("cannot be read from row ", first, " on"));
      }
      constexpr int64_t kExact = int64_t{1} << 53;
      for (const int64_t value : integers) {
        if (value > kExact || value < -kExact) return Refuse(dataset, "has integers beyond 2^53");
      }
    }
    if (progress) progress((first + rows) * row_bytes, shape->rows * row_bytes);
  }
  if (const auto bad = FirstNonFinite(matrix.view)) {
    return Refuse(dataset, absl::StrCat("has ", bad->value, " in row ", bad->row, ", column ", bad->column));
  }
  return matrix;
}

absl::StatusOr<Hdf5File::Ids> Hdf5File::ReadIds(const std::string& dataset) const {
  absl::StatusOr<SharedMatrix> matrix = Read(dataset);
  if (!matrix.ok()) return matrix.status();
  const MatrixView& view = matrix->view;
  std::vector<double> values(view.rows * view.dim);
  ToFloat64(view.data, view.dtype, values.size(), values.data());
  Ids ids = {{}, view.rows, view.dim};
  for (const double value : values) {
    if (value < 0 || value != static_cast<double>(static_cast<uint64_t>(value))) {
      return Refuse(dataset, absl::StrCat("has ", value, ", which is no row number"));
    }
    ids.values.push_back(static_cast<uint64_t>(value));
  }
  return ids;
}

std::string Hdf5File::Attribute(const std::string& name) const {
  if (H5Aexists(file_, name.c_str()) <= 0) return "";
  const Object attribute(H5Aopen(file_, name.c_str(), H5P_DEFAULT));
  const Object type(H5Aget_type(attribute.id()));
  if (H5Tget_class(type.id()) != H5T_STRING) return "";
  if (H5Tis_variable_str(type.id()) > 0) {
    char* text = nullptr;
    const Object memory(H5Tcopy(H5T_C_S1));
    H5Tset_size(memory.id(), H5T_VARIABLE);
    H5Tset_cset(memory.id(), H5Tget_cset(type.id()));
    if (H5Aread(attribute.id(), memory.id(), &text) < 0 || text == nullptr) return "";
    std::string value = text;
    H5free_memory(text);
    return value;
  }
  std::string value(H5Tget_size(type.id()), '\0');
  if (H5Aread(attribute.id(), type.id(), value.data()) < 0) return "";
  return value.substr(0, value.find('\0'));
}

absl::Status WriteHdf5(const MatrixView& matrix, const std::string& path, const std::string& dataset) {
  BeQuiet();
  const bool exists = access(path.c_str(), F_OK) == 0;
  const Object file(exists ? H5Fopen(path.c_str(), H5F_ACC_RDWR, H5P_DEFAULT)
                           : H5Fcreate(path.c_str(), H5F_ACC_EXCL, H5P_DEFAULT, H5P_DEFAULT));
  if (!file.ok()) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, exists ? ": is no HDF5 file that can be written" : ": cannot be written"));
  }
  if (H5Lexists(file.id(), dataset.c_str(), H5P_DEFAULT) > 0) {
    return absl::AlreadyExistsError(absl::StrCat(path, ": there is a \"", dataset, "\" already"));
  }
  std::vector<float> floats;
  const void* data = matrix.data;
  if (matrix.dtype == DType::kFloat16 || matrix.dtype == DType::kBFloat16) {
    floats.resize(matrix.rows * matrix.dim);
    ToFloat32(matrix.data, matrix.dtype, floats.size(), floats.data());
    data = floats.data();
  }
  const hsize_t sizes[2] = {matrix.rows, matrix.dim};
  const Object space(H5Screate_simple(2, sizes, nullptr));
  const hid_t type = NativeType(matrix.dtype);
  const Object set(
      H5Dcreate2(file.id(), dataset.c_str(), type, space.id(), H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT));
  if (!set.ok() || H5Dwrite(set.id(), type, H5S_ALL, H5S_ALL, H5P_DEFAULT, data) < 0 ||
      H5Fflush(file.id(), H5F_SCOPE_LOCAL) < 0) {
    return absl::UnavailableError(absl::StrCat(path, ": \"", dataset, "\" cannot be written"));
  }
  return absl::OkStatus();
}

}  // namespace dotmax
