#include "server/store/ingest.h"

#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <limits>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/base/dtype.h"

namespace dotmax {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::StartsWith;

template <typename T>
std::string Bytes(const std::vector<T>& values) {
  return std::string(reinterpret_cast<const char*>(values.data()), values.size() * sizeof(T));
}

// A version 1.0 header as NumPy writes it.
std::string Npy(const std::string& descr, const std::string& shape, const std::string& fortran = "False") {
  std::string dict =
      absl::StrCat("{'descr': '", descr, "', 'fortran_order': ", fortran, ", 'shape': ", shape, ", }");
  while ((10 + dict.size() + 1) % 64 != 0) dict += ' ';
  dict += '\n';
  std::string head("\x93NUMPY\x01\x00", 8);
  head += static_cast<char>(dict.size() & 255);
  head += static_cast<char>(dict.size() >> 8);
  return head + dict;
}

class IngestTest : public ::testing::Test {
 protected:
  IngestTest() : directory_(absl::StrCat(::testing::TempDir(), "/ingest_", getpid())) {
    std::system(absl::StrCat("mkdir -p '", directory_, "'").c_str());
  }
  ~IngestTest() override { std::system(absl::StrCat("rm -rf '", directory_, "'").c_str()); }

  std::string Write(const std::string& name, const std::string& bytes) {
    const std::string path = directory_ + "/" + name;
    std::ofstream(path, std::ios::binary) << bytes;
    return path;
  }

  // All elements, in float64.
  static std::vector<double> Elements(const MatrixView& m) {
    std::vector<double> values(m.rows * m.dim);
    ToFloat64(m.data, m.dtype, values.size(), values.data());
    return values;
  }

  // Reads what must be refused, also when mapped; returns the message after the path.
  std::string Refused(const std::string& name, const std::string& bytes) {
    const std::string path = Write(name, bytes);
    const absl::StatusOr<SharedMatrix> read = ReadMatrix(path);
    EXPECT_EQ(read.status().code(), absl::StatusCode::kInvalidArgument) << read.status();
    EXPECT_THAT(std::string(read.status().message()), StartsWith(path + ": "));
    EXPECT_EQ(ReadMatrix(path, {.map = true}).status(), read.status());
    return std::string(read.status().message())
        .substr(std::min(path.size() + 2, read.status().message().size()));
  }

  const std::string directory_;
};

TEST_F(IngestTest, NpyOfEveryDtype) {
  const auto f4 = ReadMatrix(Write("a.npy", Npy("<f4", "(2, 3)") + Bytes<float>({1, 2, 3, 4, 5, 6.5})));
  ASSERT_TRUE(f4.ok()) << f4.status();
  EXPECT_EQ(f4->view.rows, 2);
  EXPECT_EQ(f4->view.dim, 3);
  EXPECT_EQ(f4->view.dtype, DType::kFloat32);
  EXPECT_EQ(reinterpret_cast<uintptr_t>(f4->view.data) % 64, 0);
  EXPECT_THAT(Elements(f4->view), ElementsAre(1, 2, 3, 4, 5, 6.5));

  const auto f8 = ReadMatrix(Write("a.npy", Npy("<f8", "(1, 2)") + Bytes<double>({0.1, -1e300})));
  ASSERT_TRUE(f8.ok());
  EXPECT_THAT(Elements(f8->view), ElementsAre(0.1, -1e300));

  const auto f2 = ReadMatrix(Write("a.npy", Npy("<f2", "(2, 1)") + Bytes<uint16_t>({0x3c00, 0xc100})));
  ASSERT_TRUE(f2.ok());
  EXPECT_THAT(Elements(f2->view), ElementsAre(1.0, -2.5));

  const auto i1 = ReadMatrix(Write("a.npy", Npy("|i1", "(1, 3)") + Bytes<int8_t>({-128, 0, 127})));
  ASSERT_TRUE(i1.ok());
  EXPECT_THAT(Elements(i1->view), ElementsAre(-128, 0, 127));
}

TEST_F(IngestTest, FvecsAndFbin) {
  const auto fvecs = ReadMatrix(Write(
      "a.fvecs", Bytes<uint32_t>({2}) + Bytes<float>({1, 2}) + Bytes<uint32_t>({2}) + Bytes<float>({3, 4})));
  ASSERT_TRUE(fvecs.ok()) << fvecs.status();
  EXPECT_EQ(fvecs->view.rows, 2);
  EXPECT_THAT(Elements(fvecs->view), ElementsAre(1, 2, 3, 4));

  const auto fbin = ReadMatrix(Write("a.fbin", Bytes<uint32_t>({3, 2}) + Bytes<float>({1, 2, 3, 4, 5, 6})));
  ASSERT_TRUE(fbin.ok()) << fbin.status();
  EXPECT_EQ(fbin->view.rows, 3);
  EXPECT_THAT(Elements(fbin->view), ElementsAre(1, 2, 3, 4, 5, 6));
}

TEST_F(IngestTest, NoRowsAreValidWhereTheFormatKnowsTheDim) {
  const auto npy = ReadMatrix(Write("a.npy", Npy("<f4", "(0, 7)")));
  ASSERT_TRUE(npy.ok()) << npy.status();
  EXPECT_EQ(npy->view.rows, 0);
  EXPECT_EQ(npy->view.dim, 7);
  EXPECT_TRUE(ReadMatrix(Write("a.fbin", Bytes<uint32_t>({0, 7}))).ok());
}

TEST_F(IngestTest, FilesThatNumpyWrites) {
  const std::string path = directory_ + "/numpy.npy";
  const std::string command = absl::StrCat(
      "/usr/bin/python3 -c 'import numpy as n; x = n.arange(35000, dtype=n.float32).reshape(5000, 7) / 8; "
      "n.save(\"",
      path, "\", x); f = open(\"", path,
      "2.npy\", \"wb\"); n.lib.format.write_array(f, x, version=(2, 0)); f.close(); "
      "n.save(\"",
      path, "3.npy\", n.asfortranarray(x)); n.save(\"", path, "4.npy\", x.astype(\">f4\"))'");
  ASSERT_EQ(std::system(command.c_str()), 0);
  for (const std::string& file : {path, path + "2.npy"}) {
    const auto read = ReadMatrix(file);
    ASSERT_TRUE(read.ok()) << read.status();
    EXPECT_EQ(read->view.rows, 5000);
    const std::vector<double> values = Elements(read->view);
    for (size_t i = 0; i < values.size(); ++i) ASSERT_EQ(values[i], i / 8.0);
  }
  EXPECT_THAT(std::string(ReadMatrix(path + "3.npy").status().message()), HasSubstr("Fortran order"));
  EXPECT_THAT(std::string(ReadMatrix(path + "4.npy").status().message()),
              HasSubstr("big-endian (dtype '>f4')"));
}

TEST_F(IngestTest, ProgressRisesToTheEnd) {
  std::vector<float> values(2000 * 400);
  const std::string path = Write("a.npy", Npy("<f4", "(2000, 400)") + Bytes(values));
  for (const bool map : {false, true}) {
    std::vector<uint64_t> seen;
    const auto progress = [&seen](uint64_t done, uint64_t total) {
      EXPECT_EQ(total, 3200000);
      seen.push_back(done);
    };
    ASSERT_TRUE(ReadMatrix(path, {.map = map, .progress = progress}).ok());
    EXPECT_GT(seen.size(), 2);
    EXPECT_TRUE(std::is_sorted(seen.begin(), seen.end()));
    EXPECT_EQ(seen.back(), 3200000);
  }
}

TEST_F(IngestTest, NpyRefusals) {
  const std::string six = Bytes<float>({1, 2, 3, 4, 5, 6});
  EXPECT_EQ(Refused("a.npy", ""), "is empty");
  EXPECT_THAT(Refused("a.npy", "PK\x03\x04 zip"), HasSubstr("is no .npy file"));
  EXPECT_THAT(Refused("a.npy", std::string("\x93NUMPY\x01", 7)),
              HasSubstr("truncated within its .npy header"));
  EXPECT_THAT(Refused("a.npy", Npy("<f4", "(2, 3)").substr(0, 40)),
              HasSubstr("truncated within its .npy header"));
  EXPECT_THAT(Refused("a.npy", std::string("\x93NUMPY\x09\x00\x00\x00", 10)), HasSubstr(".npy version 9"));
  EXPECT_THAT(Refused("a.npy", Npy(">f4", "(2, 3)") + six), HasSubstr("is big-endian"));
  EXPECT_THAT(Refused("a.npy", Npy("<f4", "(2, 3)", "True") + six), HasSubstr("Fortran order"));
  EXPECT_THAT(Refused("a.npy", Npy("<i8", "(2, 3)") + six + six), HasSubstr("has dtype '<i8'"));
  EXPECT_THAT(Refused("a.npy", Npy("<f4", "(6,)") + six), HasSubstr("has shape (6,)"));
  EXPECT_THAT(Refused("a.npy", Npy("<f4", "(1, 2, 3)") + six), HasSubstr("has shape (1, 2, 3)"));
  EXPECT_THAT(Refused("a.npy", Npy("<f4", "(2, -3)") + six), HasSubstr("cannot be read"));
  EXPECT_THAT(Refused("a.npy", Npy("<f4", "(5, 0)")), HasSubstr("0 dimensions"));
  EXPECT_THAT(Refused("a.npy", Npy("<f4", "(0, 65537)")), HasSubstr("has 65537 dimensions; at most 65536"));
}

TEST_F(IngestTest, SizesThatDisagree) {
  const std::string six = Bytes<float>({1, 2, 3, 4, 5, 6});
  EXPECT_EQ(Refused("a.npy", Npy("<f4", "(3, 3)") + six),
            "is truncated: its header promises 3 rows of 3, its 152 bytes hold 2");
  EXPECT_EQ(Refused("a.npy", Npy("<f4", "(1, 3)") + six), "has 12 bytes after its 1 rows of 3");
  // rows · dim · 4 wraps around 2^64 here.
  EXPECT_THAT(Refused("a.npy", Npy("<f4", "(4611686018427387904, 4)") + six), HasSubstr("is truncated"));
  EXPECT_THAT(Refused("a.fbin", Bytes<uint32_t>({4000000000u, 60000}) + six), HasSubstr("is truncated"));
  EXPECT_THAT(Refused("a.fbin", "1234567"), HasSubstr("truncated within its .fbin header"));
  EXPECT_THAT(Refused("a.fvecs", Bytes<uint32_t>({3}) + six), HasSubstr("not a whole number of rows"));
  EXPECT_THAT(Refused("a.fvecs", Bytes<int32_t>({-1})), HasSubstr("has -1 dimensions in row 0"));
  EXPECT_THAT(Refused("a.fvecs", ""), HasSubstr("is empty"));
  EXPECT_THAT(Refused("a.fvecs", "ab"), HasSubstr("truncated"));
  EXPECT_THAT(
      Refused("a.fvecs", Bytes<uint32_t>({1}) + Bytes<float>({1}) + Bytes<uint32_t>({2}) + Bytes<float>({1})),
      HasSubstr("row 1 has 2 dimensions, and row 0 has 1"));
}

TEST_F(IngestTest, NonFiniteElementsAreNamed) {
  const float nan = std::numeric_limits<float>::quiet_NaN(),
              infinity = std::numeric_limits<float>::infinity();
  EXPECT_EQ(Refused("a.npy", Npy("<f4", "(2, 3)") + Bytes<float>({1, 2, 3, 4, nan, infinity})),
            "row 1, column 1 is nan");
  EXPECT_EQ(Refused("a.fvecs", Bytes<uint32_t>({1}) + Bytes<float>({-infinity})), "row 0, column 0 is -inf");
  EXPECT_EQ(Refused("a.npy", Npy("<f2", "(1, 1)") + Bytes<uint16_t>({0x7c00})), "row 0, column 0 is inf");
  // Beyond the first block.
  std::vector<float> values(1000000);
  values[777777] = nan;
  EXPECT_EQ(Refused("a.fbin", Bytes<uint32_t>({100000, 10}) + Bytes(values)), "row 77777, column 7 is nan");
}

TEST_F(IngestTest, TheShapeIsToldBeforeAnythingIsTaken) {
  const std::string path = Write("a.npy", Npy("<f8", "(2, 3)") + Bytes<double>({1, 2, 3, 4, 5, 6}));
  for (const bool map : {false, true}) {
    ReadOptions options;
    options.map = map;
    options.progress = [](uint64_t, uint64_t) { ADD_FAILURE() << "was read"; };
    options.admit = [map](const MatrixView& shape, bool mapped) {
      EXPECT_EQ(shape.rows, 2u);
      EXPECT_EQ(shape.dim, 3u);
      EXPECT_EQ(shape.dtype, DType::kFloat64);
      EXPECT_EQ(mapped, map);
      return absl::ResourceExhaustedError("too large");
    };
    const absl::Status status = ReadMatrix(path, options).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
    EXPECT_EQ(status.message(), path + ": too large");
  }
}

TEST_F(IngestTest, ReadingStopsWithinABlock) {
  constexpr int kRows = 100'000;  // 6.4 MB: several blocks
  const std::string path =
      Write("a.npy", Npy("<f8", absl::StrCat("(", kRows, ", 8)")) + std::string(kRows * 64, '\0'));
  for (const bool map : {false, true}) {
    uint64_t read = 0;
    ReadOptions options;
    options.map = map;
    options.progress = [&read](uint64_t done, uint64_t) { read = done; };
    options.stop = [&read] { return read > 0 ? absl::CancelledError("enough") : absl::OkStatus(); };
    EXPECT_EQ(ReadMatrix(path, options).status().code(), absl::StatusCode::kCancelled);
    EXPECT_LE(read, 1u << 20);
  }
}

TEST_F(IngestTest, MappedRowsAreTheFiles) {
  const std::vector<float> values = {1, 2, 3, 4, 5, 6};
  for (const auto& [name, bytes] :
       {std::pair<std::string, std::string>{"a.npy", Npy("<f4", "(2, 3)") + Bytes(values)},
        {"a.fbin", Bytes<uint32_t>({2, 3}) + Bytes(values)},
        {"a.fvecs", Bytes<uint32_t>({3}) + Bytes<float>({1, 2, 3}) + Bytes<uint32_t>({3}) +
                        Bytes<float>({4, 5, 6})},  // read all the same
        {"empty.npy", Npy("<f4", "(0, 3)")}}) {
    const std::string path = Write(name, bytes);
    const auto mapped = ReadMatrix(path, {.map = true});
    ASSERT_TRUE(mapped.ok()) << mapped.status();
    unlink(path.c_str());
    EXPECT_EQ(mapped->view.dim, 3);
    const std::vector<double> expected = {1, 2, 3, 4, 5, 6};
    EXPECT_EQ(Elements(mapped->view), mapped->view.rows > 0 ? expected : std::vector<double>());
  }
}

TEST_F(IngestTest, WhatCannotBeOpened) {
  EXPECT_EQ(ReadMatrix(directory_ + "/absent.npy").status().code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(ReadMatrix(directory_).status().message()), HasSubstr("is a directory"));
  EXPECT_THAT(Refused("a.csv", "1,2"), HasSubstr("unknown extension"));
}

}  // namespace
}  // namespace dotmax
