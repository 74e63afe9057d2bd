#include "server/store/matrix_writer.h"

#include <unistd.h>

#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/base/dtype.h"
#include "server/store/ingest.h"
#include "tests/data.h"

namespace dotmax {
namespace {

namespace fs = std::filesystem;
using ::testing::ElementsAreArray;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using testing::MakeMatrix;
using ::testing::StartsWith;

std::vector<double> Elements(const MatrixView& matrix) {
  std::vector<double> values(matrix.rows * matrix.dim);
  ToFloat64(matrix.data, matrix.dtype, values.size(), values.data());
  return values;
}

class MatrixWriterTest : public ::testing::Test {
 protected:
  MatrixWriterTest() : directory_(fs::path(::testing::TempDir()) / absl::StrCat("writer_", getpid())) {
    fs::create_directories(directory_);
  }
  ~MatrixWriterTest() override { fs::remove_all(directory_); }

  std::string Path(const std::string& name) const { return directory_ / name; }
  std::string BytesOf(const std::string& name) const {
    std::ostringstream bytes;
    bytes << std::ifstream(Path(name), std::ios::binary).rdbuf();
    return bytes.str();
  }

  // What is read back.
  SharedMatrix Back(const std::string& name) const {
    absl::StatusOr<SharedMatrix> matrix = ReadMatrix(Path(name));
    EXPECT_TRUE(matrix.ok()) << matrix.status();
    return matrix.ok() ? *matrix : SharedMatrix{};
  }

  std::string Refused(const SharedMatrix& matrix, const std::string& name,
                      const WriteOptions& options = {}) const {
    const absl::Status status = WriteMatrix(matrix.view, Path(name), options);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
    EXPECT_THAT(std::string(status.message()), StartsWith(Path(name) + ": "));
    EXPECT_TRUE(fs::is_empty(directory_)) << "something was left behind";
    return std::string(status.message());
  }

  const fs::path directory_;
};

TEST_F(MatrixWriterTest, EveryFormatReadsBackTheSameNumbers) {
  const std::vector<double> values = {0, 1, 2, 3, 100, 127};
  for (const char* name :
       {"x.npy", "x.fvecs", "x.bvecs", "x.ivecs", "x.fbin", "x.u8bin", "x.i8bin", "X.NPY"}) {
    for (const DType dtype :
         {DType::kFloat32, DType::kFloat16, DType::kBFloat16, DType::kFloat64, DType::kInt8}) {
      const SharedMatrix matrix = MakeMatrix(values, 3, dtype);
      ASSERT_TRUE(WriteMatrix(matrix.view, Path(name)).ok()) << name;
      const SharedMatrix back = Back(name);
      EXPECT_EQ(back.view.rows, 2) << name;
      EXPECT_EQ(back.view.dim, 3) << name;
      EXPECT_THAT(Elements(back.view), ElementsAreArray(values)) << name;
    }
  }
}

TEST_F(MatrixWriterTest, BytesAreThoseOfTheFormat) {
  const SharedMatrix matrix = MakeMatrix({1, 2, 255, 4}, 2);
  ASSERT_TRUE(WriteMatrix(matrix.view, Path("x.u8bin")).ok());
  EXPECT_EQ(BytesOf("x.u8bin"), std::string("\2\0\0\0\2\0\0\0\1\2\xff\4", 12));
  ASSERT_TRUE(WriteMatrix(matrix.view, Path("x.bvecs")).ok());
  EXPECT_EQ(BytesOf("x.bvecs"), std::string("\2\0\0\0\1\2\2\0\0\0\xff\4", 12));
  ASSERT_TRUE(WriteMatrix(matrix.view, Path("x.ivecs")).ok());
  EXPECT_EQ(BytesOf("x.ivecs"), std::string("\2\0\0\0\1\0\0\0\2\0\0\0\2\0\0\0\xff\0\0\0\4\0\0\0", 24));
  ASSERT_TRUE(WriteMatrix(matrix.view, Path("x.npy"), {.type = FileType::kUint8}).ok());
  EXPECT_EQ(BytesOf("x.npy").size() % 64, 4);
  EXPECT_THAT(BytesOf("x.npy"), HasSubstr("'descr': '|u1', 'fortran_order': False, 'shape': (2, 2), }"));
}

TEST_F(MatrixWriterTest, MoreThanABlock) {
  const SharedMatrix matrix = testing::RandomNormal(3000, 100, 1);
  uint64_t last = 0;
  const auto progress = [&last](uint64_t done, uint64_t total) {
    EXPECT_GT(done, last);
    EXPECT_EQ(total, 1'200'000);
    last = done;
  };
  ASSERT_TRUE(WriteMatrix(matrix.view, Path("x.fvecs"), {.progress = progress}).ok());
  EXPECT_EQ(last, 1'200'000);
  EXPECT_EQ(Elements(Back("x.fvecs").view), Elements(matrix.view));
}

TEST_F(MatrixWriterTest, TheTypesOfNpy) {
  const SharedMatrix matrix = MakeMatrix({0.5, 2, -1, 0}, 2, DType::kFloat64);
  for (const auto& [type, dtype] :
       {std::pair(FileType::kFloat16, DType::kFloat16), std::pair(FileType::kFloat32, DType::kFloat32),
        std::pair(FileType::kFloat64, DType::kFloat64)}) {
    ASSERT_TRUE(WriteMatrix(matrix.view, Path("x.npy"), {.type = type}).ok());
    EXPECT_EQ(Back("x.npy").view.dtype, dtype);
    EXPECT_EQ(Elements(Back("x.npy").view), Elements(matrix.view));
  }
  EXPECT_EQ(*ParseFileType("uint8"), FileType::kUint8);
  EXPECT_THAT(std::string(ParseFileType("float8").status().message()), HasSubstr("float16, float32"));
}

TEST_F(MatrixWriterTest, NumbersThatTheTypeDoesNotHaveAreRefused) {
  EXPECT_THAT(Refused(MakeMatrix({1, 2, 3, 0.5}, 2), "x.u8bin"),
              HasSubstr("row 1, column 1 is 0.5, which uint8"));
  EXPECT_THAT(Refused(MakeMatrix({1, -1}, 2), "x.bvecs"), HasSubstr("row 0, column 1 is -1"));
  EXPECT_THAT(Refused(MakeMatrix({256}, 1), "x.u8bin"), HasSubstr("256"));
  EXPECT_THAT(Refused(MakeMatrix({-129}, 1), "x.i8bin"), HasSubstr("-129"));
  EXPECT_THAT(Refused(MakeMatrix({3e9}, 1), "x.ivecs"), HasSubstr("int32"));
  EXPECT_THAT(Refused(MakeMatrix({0.1}, 1, DType::kFloat64), "x.fbin"),
              HasSubstr("which float32 does not have"));
  EXPECT_THAT(Refused(MakeMatrix({1e300}, 1, DType::kFloat64), "x.fbin", {.round = true}),
              HasSubstr("1e+300"));
  EXPECT_THAT(Refused(MakeMatrix({70000}, 1), "x.npy", {.type = FileType::kFloat16, .round = true}),
              HasSubstr("70000"));
  EXPECT_THAT(Refused(MakeMatrix({300}, 1), "x.u8bin", {.round = true}), HasSubstr("300"));
}

TEST_F(MatrixWriterTest, RoundingIsToNearestEvenAndHappensOnce) {
  const SharedMatrix integers = MakeMatrix({0.5, 1.5, 2.4, 254.6}, 2);
  ASSERT_TRUE(WriteMatrix(integers.view, Path("x.u8bin"), {.round = true}).ok());
  EXPECT_THAT(Elements(Back("x.u8bin").view), ElementsAreArray({0.0, 2.0, 2.0, 255.0}));
  // Just above and below the middle between two float16 numbers, by less than float32 can say.
  const double middle = 1.0 + std::ldexp(1.0, -11), bit = std::ldexp(1.0, -40);
  const SharedMatrix halves =
      MakeMatrix({middle + bit, middle, middle - bit, -middle - bit}, 2, DType::kFloat64);
  ASSERT_TRUE(WriteMatrix(halves.view, Path("x.npy"), {.type = FileType::kFloat16, .round = true}).ok());
  const double next = 1.0 + std::ldexp(1.0, -10);
  EXPECT_THAT(Elements(Back("x.npy").view), ElementsAreArray({next, 1.0, 1.0, -next}));
}

TEST_F(MatrixWriterTest, WhatTheFormatCannotSay) {
  const SharedMatrix none = MakeMatrix({}, 3);
  EXPECT_THAT(Refused(none, "x.fvecs"), HasSubstr("without rows"));
  EXPECT_THAT(Refused(MakeMatrix({1}, 1), "x.txt"), HasSubstr("unknown extension: .npy, .fvecs"));
  EXPECT_THAT(Refused(MakeMatrix({1}, 1), "x.fbin", {.type = FileType::kInt8}),
              HasSubstr("no int8 elements"));
  EXPECT_THAT(Refused(MakeMatrix({1}, 1), "x.npy", {.type = FileType::kInt32}),
              HasSubstr("no int32 elements"));
  for (const char* name : {"x.npy", "x.fbin"}) {
    ASSERT_TRUE(WriteMatrix(none.view, Path(name)).ok());
    EXPECT_EQ(Back(name).view.rows, 0);
    EXPECT_EQ(Back(name).view.dim, 3);
  }
}

TEST_F(MatrixWriterTest, AFileThatCannotBeWrittenIsNotTouched) {
  EXPECT_EQ(WriteMatrix(MakeMatrix({1}, 1).view, Path("none/x.npy")).code(), absl::StatusCode::kNotFound);
  ASSERT_TRUE(WriteMatrix(MakeMatrix({1}, 1).view, Path("x.fbin")).ok());
  const std::string before = BytesOf("x.fbin");
  EXPECT_FALSE(WriteMatrix(MakeMatrix({0.1}, 1, DType::kFloat64).view, Path("x.fbin")).ok());
  EXPECT_EQ(BytesOf("x.fbin"), before);
}

}  // namespace
}  // namespace dotmax
