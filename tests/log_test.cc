#include "server/base/log.h"

#include <unistd.h>

#include <limits>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_split.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace dotmax {
namespace {

using ::testing::HasSubstr;
using ::testing::MatchesRegex;

// Everything that was logged, once closed.
class Sink {
 public:
  Sink() { EXPECT_EQ(pipe(ends_), 0); }
  ~Sink() { close(ends_[0]); }
  int fd() const { return ends_[1]; }
  std::string Close() {
    close(ends_[1]);
    std::string text;
    char buffer[4096];
    for (ssize_t got; (got = read(ends_[0], buffer, sizeof(buffer))) > 0;) text.append(buffer, got);
    return text;
  }

 private:
  int ends_[2];
};

TEST(LogTest, AnEventIsOneLineOfJson) {
  Sink sink;
  Logger(LogLevel::kInfo, sink.fd())
      .Write(LogLevel::kWarning, "some \"event\"",
             {{"text", "a\\b\n\x01"},
              {"port", 50051},
              {"rows", uint64_t{18446744073709551615u}},
              {"seconds", 0.25},
              {"nan", std::numeric_limits<double>::quiet_NaN()}});
  const std::string line = sink.Close();
  EXPECT_THAT(line,
              MatchesRegex("\\{\"time\":\"[0-9-]+T[0-9:]+\\.[0-9]{6}Z\",\"level\":\"warning\",.*\\}\n"));
  EXPECT_THAT(line, HasSubstr(R"("event":"some \"event\"","text":"a\\b\n\u0001","port":50051,)"
                              R"("rows":18446744073709551615,"seconds":0.25,"nan":null})"));
}

TEST(LogTest, WhatIsBelowTheLevelIsNotWritten) {
  Sink sink;
  Logger log(LogLevel::kWarning, sink.fd());
  EXPECT_FALSE(log.Enabled(LogLevel::kInfo));
  log.Write(LogLevel::kInfo, "quiet");
  log.Write(LogLevel::kError, "loud");
  const std::string text = sink.Close();
  EXPECT_THAT(text, HasSubstr("\"loud\""));
  EXPECT_EQ(text.find("quiet"), text.npos);
}

TEST(LogTest, LinesOfSeveralThreadsDoNotInterleave) {
  Sink sink;
  Logger log(LogLevel::kInfo, sink.fd());
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&log] {
      for (int i = 0; i < 50; ++i) log.Write(LogLevel::kInfo, "tick", {{"padding", std::string(50, 'x')}});
    });
  }
  for (std::thread& thread : threads) thread.join();
  const std::vector<std::string> lines = absl::StrSplit(sink.Close(), '\n', absl::SkipEmpty());
  EXPECT_EQ(lines.size(), 200u);
  for (const std::string& line : lines) EXPECT_THAT(line, MatchesRegex("\\{\"time\".*\"padding\":\"x+\"\\}"));
}

TEST(LogTest, LevelsHaveNames) {
  EXPECT_EQ(ParseLogLevel("debug"), LogLevel::kDebug);
  EXPECT_EQ(ParseLogLevel("error"), LogLevel::kError);
  EXPECT_EQ(ParseLogLevel("INFO"), std::nullopt);
}

}  // namespace
}  // namespace dotmax
