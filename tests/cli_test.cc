// The dotmax command as a person or a script runs it, against a real server holding the sample.
#include <sys/wait.h>

#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/server_process.h"

namespace dotmax {
namespace {

using ::testing::ContainsRegex;
using ::testing::HasSubstr;
using testing::ServerProcess;
using ::testing::StartsWith;

const char kSample[] = DOTMAX_SOURCE_DIR "/deploy/sample/glove-10k.npy";

struct Ran {
  int exit_code;
  std::string output;  // standard output and standard error
};

Ran RunCommand(const std::string& command) {
  FILE* const pipe = popen(command.c_str(), "r");
  std::string output;
  char block[4096];
  for (size_t n; (n = fread(block, 1, sizeof(block), pipe)) > 0;) output.append(block, n);
  return {WEXITSTATUS(pclose(pipe)), output};
}

// Runs `dotmax ARGUMENTS` in a shell, so that a test may redirect.
Ran Shell(const std::string& arguments) {
  return RunCommand(absl::StrCat("'", getenv("DOTMAX_BINARY"), "' 2>&1 ", arguments));
}

class CliTest : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    server_ = new ServerProcess({absl::StrCat("--matrix=", kSample)});
    ASSERT_TRUE(server_->AwaitListening()) << server_->output();
  }
  static void TearDownTestSuite() {
    delete server_;
    server_ = nullptr;
  }

  static Ran Run(const std::string& arguments) {
    return Shell(absl::StrCat(arguments, " --server=", server_->grpc_address()));
  }

  static ServerProcess* server_;
};

ServerProcess* CliTest::server_ = nullptr;

TEST_F(CliTest, WordsFindTheirNeighboursByName) {
  const Ran ran = Run(absl::StrCat("search --table --top-k=4 --words=king,queen --queries=", kSample));
  EXPECT_EQ(ran.exit_code, 0) << ran.output;
  const std::vector<std::string> lines = absl::StrSplit(ran.output, '\n', absl::SkipEmpty());
  ASSERT_EQ(lines.size(), 9) << ran.output;
  EXPECT_THAT(lines[0], StartsWith("query  rank  id    name"));
  EXPECT_THAT(lines[1], ContainsRegex("^king +1 +654 +king +37\\.420080130919814$"));
  EXPECT_THAT(lines[4], ContainsRegex("^king +4 +1948 +queen +27\\.589091958478093$"));
  EXPECT_THAT(lines[7], ContainsRegex("^queen +3 +654 +king +27\\.589091958478093$"));
}

TEST_F(CliTest, PipesGetJsonLines) {
  const Ran ran = Run(absl::StrCat("search --words=king,queen --queries=", kSample));
  EXPECT_EQ(ran.exit_code, 0);
  EXPECT_EQ(ran.output,
            "{\"query_row\":0,\"query\":\"king\",\"hits\":[{\"id\":654,\"name\":\"king\",\"score\":37."
            "420080130919814}]}\n"
            "{\"query_row\":1,\"query\":\"queen\",\"hits\":[{\"id\":1948,\"name\":\"queen\",\"score\":36."
            "086593058891594}]}\n");
}

TEST_F(CliTest, TerminalsGetTables) {
  const std::string info = absl::StrCat("$DOTMAX_BINARY info --server=", server_->grpc_address());
  // script(1) runs a command on a terminal of its own.
  const Ran table = RunCommand(absl::StrCat("script -qec '", info, "' /dev/null </dev/null"));
  EXPECT_EQ(table.exit_code, 0);
  EXPECT_THAT(table.output, ContainsRegex("collection +rows +dim"));
  const Ran json = RunCommand(absl::StrCat("script -qec '", info, " --json' /dev/null </dev/null"));
  EXPECT_THAT(json.output, HasSubstr("{\"collections\":["));
}

TEST_F(CliTest, OutputThatIsLostIsExit1) {
  for (const std::string& command : {absl::StrCat("search --words=king --queries=", kSample),
                                     std::string("info"), std::string("health"), std::string("--help")}) {
    const Ran ran = Run(command + " >/dev/full");
    EXPECT_EQ(ran.exit_code, 1) << command;
    EXPECT_EQ(ran.output, "dotmax: standard output could not be written\n") << command;
  }
}

TEST_F(CliTest, QueriesBeyondTheServersMessageLimitAreSplit) {
  const std::string search = absl::StrCat("search --json --global --top-k=3 --queries=", kSample);
  const ServerProcess small({absl::StrCat("--matrix=", kSample), "--max-message-bytes=65536"});
  ASSERT_TRUE(small.AwaitListening());
  const Ran split = Shell(absl::StrCat(search, " --server=", small.grpc_address()));
  EXPECT_EQ(split.exit_code, 0) << split.output;
  EXPECT_EQ(split.output, Run(search).output);
}

TEST_F(CliTest, GlobalNamesTheQueryOfEachHit) {
  const Ran ran = Run(absl::StrCat("search --json --global --words=king,queen --queries=", kSample));
  EXPECT_EQ(ran.exit_code, 0);
  EXPECT_EQ(ran.output,
            "{\"hits\":[{\"query_row\":0,\"query\":\"king\",\"id\":654,\"name\":\"king\",\"score\":37."
            "420080130919814}]}\n");
}

TEST_F(CliTest, VectorsFromStandardInput) {
  std::string zeros = "1";
  for (int i = 1; i < 100; ++i) absl::StrAppend(&zeros, i % 2 ? ",0" : " 0");
  const Ran ran = Shell(absl::StrCat("search --json --queries=- --server=", server_->grpc_address(),
                                     " <<'END'\n", zeros, "\n\n", zeros, "\nEND\n"));
  EXPECT_EQ(ran.exit_code, 0) << ran.output;
  EXPECT_THAT(ran.output, HasSubstr("\"query_row\":1"));
}

TEST_F(CliTest, WrongTextNamesItsLine) {
  const std::string server = absl::StrCat(" --server=", server_->grpc_address());
  const Ran word = Shell(absl::StrCat("search --queries=-", server, " <<'END'\n1 2\n1 x\nEND\n"));
  EXPECT_EQ(word.exit_code, 3);
  EXPECT_THAT(word.output, HasSubstr("line 2: \"x\" is not a finite number"));
  const Ran ragged = Shell(absl::StrCat("search --queries=-", server, " <<'END'\n1 2\n1\nEND\n"));
  EXPECT_EQ(ragged.exit_code, 3);
  EXPECT_THAT(ragged.output, HasSubstr("line 2 has 1 numbers, the first one has 2"));
  EXPECT_THAT(Shell(absl::StrCat("search --queries=-", server, " </dev/null")).output,
              HasSubstr("no vectors"));
}

TEST_F(CliTest, InfoAndHealth) {
  EXPECT_EQ(Run("health").output, "serving\n");
  const Ran table = Run("info --table");
  EXPECT_EQ(table.exit_code, 0);
  EXPECT_THAT(table.output, ContainsRegex("glove-10k +10000 +100 +float16"));
  // A matrix of this size is screened as measurements say.
  EXPECT_THAT(table.output, ContainsRegex("glove-10k +float32 +- +[0-9.]+"));
  EXPECT_THAT(Run("info --json").output, HasSubstr("{\"screen\":\"float32\",\"batch_query_seconds\":"));
  EXPECT_THAT(
      Run("info").output,
      StartsWith(
          "{\"collections\":[{\"name\":\"glove-10k\",\"rows\":10000,\"dim\":100,\"dtype\":\"float16\","));
}

TEST_F(CliTest, RefusalsOfTheServerAreOneLineAndExit3) {
  const Ran ran =
      Shell(absl::StrCat("search --queries=- --server=", server_->grpc_address(), " <<'END'\n1 2 3\nEND\n"));
  EXPECT_EQ(ran.exit_code, 3);
  EXPECT_EQ(ran.output, "dotmax: queries.dim: 3, but collection \"glove-10k\" has dim 100 (DIM_MISMATCH)\n");
  const Ran collection = Run(absl::StrCat("search --collection=other --queries=", kSample));
  EXPECT_EQ(collection.exit_code, 3);
  EXPECT_THAT(collection.output, HasSubstr("COLLECTION_NOT_FOUND"));
}

TEST_F(CliTest, InputThatIsNotThereIsExit3) {
  EXPECT_EQ(Run("search --queries=absent.npy").exit_code, 3);
  const Ran word = Run(absl::StrCat("search --words=king,qqqq --queries=", kSample));
  EXPECT_EQ(word.exit_code, 3);
  EXPECT_EQ(word.output, "dotmax: there is no row named \"qqqq\"\n");
  const Ran none = Run(absl::StrCat("search --words=, --queries=", kSample));
  EXPECT_EQ(none.exit_code, 3);
  EXPECT_EQ(none.output, "dotmax: --words names no row\n");
  const Ran ids = Run(absl::StrCat("search --ids=/dev/null --words=king --queries=", kSample));
  EXPECT_EQ(ids.exit_code, 3);
  EXPECT_THAT(ids.output, HasSubstr("has 0 names, collection \"glove-10k\" has 10000 rows"));
}

TEST(CliWithoutServerTest, WrongUseIsExit2) {
  for (const std::string arguments : {"", "serch", "search", "search --top-k=0 --queries=-",
                                      "search --quries=-", "search --words=king --queries=-", "info extra"}) {
    EXPECT_EQ(Shell(arguments).exit_code, 2) << arguments;
  }
  EXPECT_THAT(Shell("search --quries=-").output, HasSubstr("did you mean --queries?"));
}

TEST(CliWithoutServerTest, HelpExplainsEverything) {
  EXPECT_EQ(Shell("--help").exit_code, 0);
  for (const std::string command : {"search", "info", "health"}) {
    EXPECT_THAT(Shell("--help").output, HasSubstr(command));
    const Ran help = Shell(command + " --help");
    EXPECT_EQ(help.exit_code, 0);
    EXPECT_THAT(help.output, HasSubstr("--server=HOST:PORT"));
  }
}

TEST(CliWithoutServerTest, AnAbsentServerIsExit4) {
  const Ran ran = Shell("health --server=127.0.0.1:1 --timeout=5s");
  EXPECT_EQ(ran.exit_code, 4);
  EXPECT_THAT(ran.output, StartsWith("dotmax: "));
}

}  // namespace
}  // namespace dotmax
