#include "server/base/flags.h"

#include <map>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace dotmax {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

class FlagsTest : public ::testing::Test {
 protected:
  FlagsTest() {
    flags_.Add({"listen", "HOST:PORT", "Where to listen.", "T_LISTEN"}, &listen_);
    flags_.Add({"verbose", "", "Says more.", "T_VERBOSE"}, &verbose_);
    flags_.Add({"threads", "N", "Worker threads.", "T_THREADS"}, 0, 64, &threads_);
    flags_.Add({"share", "SHARE", "How much of it.", ""}, 0.0, 1.0, &share_);
    flags_.Add({"timeout", "DURATION", "How long to wait.", ""}, &timeout_);
    flags_.Add({"matrix", "PATH", "What to load.", "T_MATRIX"}, &matrices_);
  }

  absl::StatusOr<Flags::Parsed> Parse(std::vector<const char*> arguments) {
    arguments.insert(arguments.begin(), "program");
    return flags_.Parse(static_cast<int>(arguments.size()), arguments.data(), [this](const char* name) {
      const auto at = env_.find(name);
      return at == env_.end() ? nullptr : at->second.c_str();
    });
  }

  // The message of the refusal.
  std::string Refused(std::vector<const char*> arguments) {
    const absl::StatusOr<Flags::Parsed> parsed = Parse(std::move(arguments));
    EXPECT_EQ(parsed.status().code(), absl::StatusCode::kInvalidArgument);
    return std::string(parsed.status().message());
  }

  std::string listen_ = "localhost:1";
  bool verbose_ = false;
  int64_t threads_ = 2;
  double share_ = 0.5;
  absl::Duration timeout_ = absl::Seconds(5);
  std::vector<std::string> matrices_;
  std::map<std::string, std::string> env_;
  Flags flags_{"program [FLAGS] FILE", "Does things."};
};

TEST_F(FlagsTest, DefaultsStay) {
  ASSERT_TRUE(Parse({}).ok());
  EXPECT_EQ(listen_, "localhost:1");
  EXPECT_EQ(threads_, 2);
}

TEST_F(FlagsTest, NumbersWithinTheirRange) {
  for (const double share : {0.0, 0.25, 1.0}) {
    const std::string flag = absl::StrCat("--share=", share);
    ASSERT_TRUE(Parse({flag.c_str()}).ok()) << share;
    EXPECT_EQ(share_, share);
  }
  for (const char* wrong : {"--share=-0.1", "--share=1.1", "--share=nan", "--share=", "--share=half"}) {
    EXPECT_THAT(Refused({wrong}), AllOf(HasSubstr("--share"), HasSubstr("a number from 0 to 1"))) << wrong;
  }
}

TEST_F(FlagsTest, BothSpellingsOfAValue) {
  ASSERT_TRUE(Parse({"--listen=a:2", "--threads", "7", "--timeout=1m30s", "--verbose"}).ok());
  EXPECT_EQ(listen_, "a:2");
  EXPECT_EQ(threads_, 7);
  EXPECT_EQ(timeout_, absl::Seconds(90));
  EXPECT_TRUE(verbose_);
}

TEST_F(FlagsTest, ABooleanTakesNoWordButMayTakeAValue) {
  const auto parsed = Parse({"--verbose=false", "file"});
  ASSERT_TRUE(parsed.ok());
  EXPECT_FALSE(verbose_);
  EXPECT_THAT(parsed->positionals, ElementsAre("file"));
}

TEST_F(FlagsTest, PositionalsKeepTheirOrder) {
  const auto parsed = Parse({"a", "--threads=1", "-", "--", "--listen", "-x"});
  ASSERT_TRUE(parsed.ok());
  EXPECT_THAT(parsed->positionals, ElementsAre("a", "-", "--listen", "-x"));
}

TEST_F(FlagsTest, ArgumentsOverrideTheEnvironment) {
  env_ = {{"T_LISTEN", "e:1"}, {"T_THREADS", "9"}, {"T_VERBOSE", "true"}};
  ASSERT_TRUE(Parse({"--threads=3"}).ok());
  EXPECT_EQ(listen_, "e:1");
  EXPECT_EQ(threads_, 3);
  EXPECT_TRUE(verbose_);
}

TEST_F(FlagsTest, ARepeatableFlagCollectsAndReplacesTheEnvironment) {
  env_ = {{"T_MATRIX", "x,y"}};
  ASSERT_TRUE(Parse({}).ok());
  EXPECT_THAT(matrices_, ElementsAre("x", "y"));
  ASSERT_TRUE(Parse({"--matrix=a=b,c", "--matrix", "d"}).ok());
  EXPECT_THAT(matrices_, ElementsAre("a=b,c", "d"));
}

TEST_F(FlagsTest, RefusalsNameTheFlagAndTheValue) {
  EXPECT_EQ(Refused({"--threads=65"}), "--threads: \"65\" is not an integer from 0 to 64");
  EXPECT_EQ(Refused({"--threads=x"}), "--threads: \"x\" is not an integer from 0 to 64");
  EXPECT_EQ(Refused({"--verbose=perhaps"}), "--verbose: \"perhaps\" is not true or false");
  EXPECT_THAT(Refused({"--timeout=-1s"}), HasSubstr("--timeout: \"-1s\" is not a duration"));
  EXPECT_EQ(Refused({"--listen"}), "--listen needs a value: --listen=HOST:PORT");
  env_ = {{"T_THREADS", "-1"}};
  EXPECT_EQ(Refused({}), "T_THREADS: \"-1\" is not an integer from 0 to 64");
}

TEST_F(FlagsTest, AnUnknownFlagSuggestsTheNearest) {
  EXPECT_EQ(Refused({"--thread=3"}), "unknown flag --thread; did you mean --threads?");
  EXPECT_EQ(Refused({"--quite-different"}), "unknown flag --quite-different");
  EXPECT_THAT(Refused({"-threads=3"}), HasSubstr("unknown flag -threads"));
}

TEST_F(FlagsTest, HelpExplainsEachFlag) {
  const auto parsed = Parse({"--help"});
  ASSERT_TRUE(parsed.ok());
  EXPECT_TRUE(parsed->help);
  const std::string help = flags_.Help();
  EXPECT_THAT(help, HasSubstr("Usage: program [FLAGS] FILE"));
  EXPECT_THAT(
      help,
      HasSubstr("--listen=HOST:PORT\n      Where to listen. (default localhost:1, environment T_LISTEN)"));
  EXPECT_THAT(help, HasSubstr("(repeatable, environment T_MATRIX)"));
}

}  // namespace
}  // namespace dotmax
