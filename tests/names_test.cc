#include "server/store/names.h"

#include <unistd.h>

#include <cstdio>
#include <fstream>
#include <string>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace dotmax {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::StartsWith;

TEST(NamesTest, TheFileLiesBesideTheMatrix) {
  EXPECT_EQ(NamesPathBeside("a/b.npy"), "a/b.ids");
  EXPECT_EQ(NamesPathBeside("a.b/c"), "a.b/c.ids");
  EXPECT_EQ(NamesPathBeside("c"), "c.ids");
}

class NamesFileTest : public ::testing::Test {
 protected:
  ~NamesFileTest() override { std::remove(path_.c_str()); }

  std::vector<std::string> Of(const std::string& text) {
    std::ofstream(path_, std::ios::binary) << text;
    const auto names = ReadNames(File::Open(path_), path_);
    EXPECT_TRUE(names.ok()) << names.status();
    return *names;
  }

  const std::string path_ = absl::StrCat(::testing::TempDir(), "/names_", getpid(), ".ids");
};

TEST_F(NamesFileTest, OneNameToTheLine) {
  EXPECT_THAT(Of("a\nb c\n\nd\n"), ElementsAre("a", "b c", "", "d"));
  EXPECT_THAT(Of("a\r\nb"), ElementsAre("a", "b"));
  EXPECT_THAT(Of("\n"), ElementsAre(""));
  EXPECT_THAT(Of(""), IsEmpty());
}

TEST_F(NamesFileTest, WhatCannotBeRead) {
  const absl::Status absent = ReadNames(File::Open(path_), path_).status();
  EXPECT_EQ(absent.code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(absent.message()), StartsWith(path_));
  EXPECT_EQ(ReadNames(File::Open("/"), "/").status().code(), absl::StatusCode::kInvalidArgument);
  std::ofstream(path_) << "x";
  ASSERT_EQ(truncate(path_.c_str(), static_cast<off_t>(kMaxNamesBytes) + 1), 0);
  EXPECT_EQ(ReadNames(File::Open(path_), path_).status().code(), absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace dotmax
