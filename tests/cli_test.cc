// The dotmax command as a person or a script runs it, against a real server holding the sample.
#include <unistd.h>

#include <cstring>
#include <fstream>
#include <iterator>
#include <regex>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/store/ingest.h"
#include "tests/command.h"
#include "tests/data.h"
#include "tests/oracle.h"
#include "tests/server_process.h"

namespace dotmax {
namespace {

using ::testing::ContainsRegex;
using ::testing::HasSubstr;
using ::testing::Not;
using testing::NpyFile;
using testing::Ran;
using testing::RunCommand;
using testing::ServerProcess;
using testing::Shell;
using ::testing::StartsWith;

const char kSample[] = DOTMAX_SOURCE_DIR "/deploy/sample/glove-10k.npy";

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

TEST_F(CliTest, NoRowNeedsToFindItself) {
  const std::string search = absl::StrCat("search --table --exclude-self --top-k=3 --queries=", kSample);
  const Ran ran = Run(search + " --words=king,queen");
  EXPECT_EQ(ran.exit_code, 0) << ran.output;
  const std::vector<std::string> lines = absl::StrSplit(ran.output, '\n', absl::SkipEmpty());
  ASSERT_EQ(lines.size(), 7) << ran.output;
  EXPECT_THAT(lines[3], ContainsRegex("^king +3 +1948 +queen +27\\.589091958478093$"));
  EXPECT_THAT(lines[5], ContainsRegex("^queen +2 +654 +king +27\\.589091958478093$"));

  const NpyFile other(testing::RandomNormal(3, 100, 1).view);
  const Ran wrong = Run(absl::StrCat("search --exclude-self --queries=", other.path()));
  EXPECT_EQ(wrong.exit_code, 3);
  EXPECT_THAT(wrong.output, HasSubstr(absl::StrCat("--exclude-self: ", other.path(),
                                                   " has 3 rows, collection \"glove-10k\" has 10000")));
}

TEST_F(CliTest, EachRowsBestOthers) {
  const std::string form = "--json --metric=cosine --top-k=2";
  const Ran file = Shell(absl::StrCat("pairs --per-row ", form, " ", kSample));
  EXPECT_EQ(file.exit_code, 0) << file.output;
  const std::vector<std::string> lines = absl::StrSplit(file.output, '\n', absl::SkipEmpty());
  ASSERT_EQ(lines.size(), 10'000);
  EXPECT_THAT(lines[654], StartsWith("{\"query_row\":654,\"query\":\"king\",\"hits\":[{"));
  const Ran excluded = Run(absl::StrCat("search --exclude-self ", form, " --words=king --queries=", kSample));
  const auto hits = [](absl::string_view line) { return std::string(line.substr(line.find("\"hits\""))); };
  EXPECT_EQ(hits(excluded.output), hits(lines[654]) + "\n");
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
  EXPECT_THAT(table.output, ContainsRegex("collection +version +rows +dim"));
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

TEST_F(CliTest, MetricsAndRanges) {
  const std::string king = absl::StrCat("search --words=king --queries=", kSample);
  EXPECT_THAT(Run(king + " --metric=cosine --top-k=2").output,
              ContainsRegex("king\",\"score\":1[}].*\"id\":1683,\"name\":\"prince\",\"score\":0.768"));
  EXPECT_THAT(Run(king + " --metric=squared_euclidean").output, HasSubstr("\"name\":\"king\",\"score\":0}"));
  const Ran range = Run(king + " --table --min-score=27");
  const std::vector<std::string> lines = absl::StrSplit(range.output, '\n', absl::SkipEmpty());
  ASSERT_GE(lines.size(), 3) << range.output;
  EXPECT_EQ(Run(king + " --min-score=27 --count").output,
            absl::StrCat("{\"query_row\":0,\"query\":\"king\",\"count\":", lines.size() - 1, "}\n"));
  EXPECT_EQ(Run(king + " --table --min-score=27 --count").output,
            absl::StrCat("query  count\nking   ", lines.size() - 1, "\n"));
  EXPECT_EQ(Run(king + " --min-score=27 --count --global").output,
            absl::StrCat("{\"count\":", lines.size() - 1, "}\n"));
  EXPECT_EQ(Run(king + " --max-score=10 --metric=squared_euclidean --count --table --global").output,
            "count\n1\n");
}

TEST_F(CliTest, ARangeThatIsCutShortSaysSo) {
  const ServerProcess little({absl::StrCat("--matrix=", kSample), "--max-top-k=20"});
  ASSERT_TRUE(little.AwaitListening());
  const Ran ran = Shell(absl::StrCat("search --words=king --min-score=0 --queries=", kSample,
                                     " --server=", little.grpc_address()));
  EXPECT_EQ(ran.exit_code, 0);
  EXPECT_THAT(ran.output, StartsWith("dotmax: there are more hits within the range than these"));
  EXPECT_THAT(ran.output, HasSubstr("],\"truncated\":true}\n"));
  EXPECT_THAT(Run(absl::StrCat("search --words=king --min-score=37 --queries=", kSample)).output,
              Not(HasSubstr("truncated")));
}

// With --local and from a server, in every form.
TEST_F(CliTest, TheBestPairsOfTwoFiles) {
  const SharedMatrix rows = testing::RandomNormal(40, 100, 1);
  const NpyFile queries(rows.view);
  const std::string files = absl::StrCat("max ", queries.path(), " ", kSample);
  for (const std::string form :
       {"", "--top-k=3", "--per-row", "--per-row --top-k=2 --metric=cosine", "--metric=squared_euclidean",
        "--min-score=60", "--min-score=60 --count", "--min-score=60 --count --per-row",
        "--per-row --min-score=60", "--max-score=20 --metric=squared_euclidean --top-k=5"}) {
    const Ran local = Shell(absl::StrCat(files, " --local ", form));
    EXPECT_EQ(local.exit_code, 0) << local.output;
    const Ran served = Run(absl::StrCat(files, " ", form));
    EXPECT_EQ(served.exit_code, 0) << served.output;
    EXPECT_EQ(served.output, local.output) << form;
    EXPECT_THAT(local.output, StartsWith("{"));
  }
  const std::vector<Hit> best =
      testing::ExactTopK(rows.view, ReadMatrix(kSample)->view, 1, Reduction::kGlobal);
  EXPECT_THAT(
      Shell(files + " --local").output,
      StartsWith(absl::StrCat("{\"hits\":[{\"query_row\":", best[0].query_row, ",\"id\":", best[0].id)));
  // Named by what lies beside.
  EXPECT_THAT(Shell(absl::StrCat("max --local --table ", kSample, " ", kSample)).output,
              ContainsRegex("non-families +1 +8405 +non-families +151.57"));
}

TEST_F(CliTest, TheClosestPairsOfOneMatrix) {
  for (const std::string form :
       {"--top-k=3", "--metric=cosine --top-k=1000", "--metric=cosine --min-score=0.9 --count",
        "--metric=squared_euclidean --max-score=3", "--per-row --top-k=2", "--per-row --metric=cosine"}) {
    const Ran file = Shell(absl::StrCat("pairs --json ", kSample, " ", form));
    const Ran collection = Run(absl::StrCat("pairs --json --collection=glove-10k ", form));
    EXPECT_EQ(file.exit_code, 0) << file.output;
    EXPECT_EQ(collection.exit_code, 0) << collection.output;
    // A file's rows have names.
    const std::string unnamed =
        std::regex_replace(file.output, std::regex(R"re(,"(query|name)":"([^"\\]|\\.)*")re"), "");
    EXPECT_EQ(unnamed, collection.output) << form;
  }
  const Ran nearest = Shell(absl::StrCat("pairs --local --table --metric=cosine --top-k=2 ", kSample));
  EXPECT_THAT(nearest.output,
              ContainsRegex("tuesday +1 +168 +wednesday +0.995175.*\ntuesday +2 +175 +thursday"));
}

TEST_F(CliTest, AnswersAsNumPyFiles) {
  const std::string path = absl::StrCat(::testing::TempDir(), "/answer-", getpid(), ".npy");
  const auto written = [&](const std::string& form) {
    const Ran ran =
        Run(absl::StrCat("search --output=", path, " --words=king,queen --queries=", kSample, " ", form));
    EXPECT_EQ(ran.exit_code, 0) << ran.output;
    EXPECT_EQ(ran.output, "");
    std::ifstream file(path, std::ios::binary);
    std::string bytes((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
    EXPECT_EQ(bytes.substr(0, 8), std::string("\x93NUMPY\x01\x00", 8));
    const size_t data = 10 + static_cast<uint8_t>(bytes[8]) + 256 * static_cast<uint8_t>(bytes[9]);
    EXPECT_EQ(data % 64, 0u);
    return std::pair(bytes.substr(10, data - 10), bytes.substr(data));
  };
  struct Record {
    uint64_t query_row, id;
    double score;
  };
  for (const std::string form : {"--top-k=2", "--top-k=2 --global"}) {
    const auto [header, data] = written(form);
    const size_t count = form == "--top-k=2" ? 4 : 2;
    EXPECT_THAT(header, HasSubstr("'descr': [('query_row', '<u8'), ('id', '<u8'), ('score', '<f8')]"));
    EXPECT_THAT(header, HasSubstr(absl::StrCat("'shape': (", count, ",)")));
    ASSERT_EQ(data.size(), count * sizeof(Record));
    Record records[4];
    std::memcpy(records, data.data(), data.size());
    EXPECT_EQ(records[0].query_row, 0u);
    EXPECT_EQ(records[0].id, 654u);
    EXPECT_EQ(records[0].score, 37.420080130919814);
    EXPECT_EQ(records[count - 1].query_row, 1u);
  }
  const auto [header, data] = written("--min-score=36 --count");
  EXPECT_THAT(header, HasSubstr("'descr': '<u8'"));
  uint64_t counts[2];
  ASSERT_EQ(data.size(), sizeof(counts));
  std::memcpy(counts, data.data(), sizeof(counts));
  EXPECT_EQ(counts[0], 1u);
  EXPECT_EQ(counts[1], 1u);
  unlink(path.c_str());
  const Ran lost = Run(absl::StrCat("search --output=/nowhere/x.npy --words=king --queries=", kSample));
  EXPECT_EQ(lost.exit_code, 1);
  EXPECT_THAT(lost.output, HasSubstr("/nowhere/x.npy could not be written"));
}

// On a terminal, and only there, what takes long is shown to go on.
TEST(CliWithoutServerTest, LongOnesShowABar) {
  const NpyFile queries(testing::RandomNormal(40'000, 64, 1, DType::kInt8).view);
  const NpyFile base(testing::RandomNormal(60'000, 64, 2, DType::kInt8).view);
  const std::string command =
      absl::StrCat("$DOTMAX_BINARY max --local --per-row --top-k=100 --threads=1 --output=/tmp/bar-",
                   getpid(), ".npy ", queries.path(), " ", base.path());
  const Ran terminal = RunCommand(absl::StrCat("script -qec '", command, "' /dev/null </dev/null"));
  EXPECT_EQ(terminal.exit_code, 0) << terminal.output;
  EXPECT_THAT(terminal.output, ContainsRegex("\\[#+ *\\] +[0-9]+% [0-9]+ s"));
  EXPECT_EQ(terminal.output.substr(terminal.output.rfind('\r')), "\r\x1b[K");
  const Ran pipe = RunCommand(command + " 2>&1");
  EXPECT_EQ(pipe.output, "");
  unlink(absl::StrCat("/tmp/bar-", getpid(), ".npy").c_str());
}

TEST_F(CliTest, InfoAndHealth) {
  EXPECT_EQ(Run("health").output, "serving\n");
  const Ran table = Run("info --table");
  EXPECT_EQ(table.exit_code, 0);
  EXPECT_THAT(table.output, ContainsRegex("glove-10k +1 +10000 +100 +float16"));
  // A matrix of this size is screened as measurements say.
  EXPECT_THAT(table.output, ContainsRegex("glove-10k +float32 +[0-9.]+ +[0-9.]+"));
  EXPECT_THAT(Run("info --json").output, HasSubstr("{\"screen\":\"float32\",\"batch_query_seconds\":"));
  EXPECT_THAT(Run("info").output, StartsWith("{\"collections\":[{\"name\":\"glove-10k\",\"version\":1,"
                                             "\"rows\":10000,\"dim\":100,\"dtype\":\"float16\","));
}

TEST(CliChangesTest, CollectionsAreLoadedReloadedSwappedAndDropped) {
  const NpyFile three(testing::RandomNormal(3, 4, 1).view);
  const NpyFile five(testing::RandomNormal(5, 4, 2).view);
  const ServerProcess server(
      {absl::StrCat("--matrix=a=", three.path()), absl::StrCat("--data-dir=", ::testing::TempDir())});
  ASSERT_TRUE(server.AwaitListening());
  const auto run = [&server](const std::string& arguments) {
    return Shell(absl::StrCat(arguments, " --server=", server.grpc_address()));
  };
  EXPECT_EQ(run(absl::StrCat("load b ", five.path())).output, "b: version 2, 5 rows of dim 4\n");
  EXPECT_EQ(run("reload a").output, "a: version 3, 3 rows of dim 4\n");
  EXPECT_EQ(run("swap a b").output, "a: version 4, 5 rows of dim 4\nb: version 5, 3 rows of dim 4\n");
  EXPECT_THAT(run("info --table").output, ContainsRegex("a +4 +5 +4 +float32"));
  EXPECT_EQ(run("drop b").output, "b: dropped\n");

  const Ran gone = run("reload b");
  EXPECT_EQ(gone.exit_code, 3);
  EXPECT_THAT(gone.output, HasSubstr("(COLLECTION_NOT_FOUND)"));
  const Ran outside = run("load b /etc/passwd");
  EXPECT_EQ(outside.exit_code, 3);
  EXPECT_THAT(outside.output, HasSubstr("/etc/passwd: is not within the data directory (PATH_NOT_ALLOWED)"));
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
  for (const std::string arguments : {"",
                                      "serch",
                                      "search",
                                      "search --top-k=0 --queries=-",
                                      "search --quries=-",
                                      "search --words=king --queries=-",
                                      "search --exclude-self --queries=-",
                                      "info extra",
                                      "search --queries=- --metric=dot",
                                      "search --queries=- --min-score=x",
                                      "search --queries=- --max-score=1",
                                      "search --queries=- --count",
                                      "search --queries=- --min-score=1 --metric=squared_euclidean",
                                      "search --queries=- --count --min-score=1 --top-k=2",
                                      "search --queries=- --output=hits.txt",
                                      "max",
                                      "max a.npy",
                                      "max a.npy b.npy c.npy",
                                      "pairs",
                                      "pairs a.npy --collection=b",
                                      "pairs --local --collection=b"}) {
    EXPECT_EQ(Shell(arguments).exit_code, 2) << arguments;
  }
  EXPECT_THAT(Shell("search --quries=-").output, HasSubstr("did you mean --queries?"));
}

TEST(CliWithoutServerTest, HelpExplainsEverything) {
  EXPECT_EQ(Shell("--help").exit_code, 0);
  for (const std::string command :
       {"search", "max", "pairs", "load", "reload", "swap", "drop", "bench", "info", "health"}) {
    EXPECT_THAT(Shell("--help").output, HasSubstr(command));
    const Ran help = Shell(command + " --help");
    EXPECT_EQ(help.exit_code, 0);
    EXPECT_THAT(help.output, HasSubstr("--server=HOST:PORT"));
  }
}

TEST(CliWithoutServerTest, FilesThatDoNotFitEachOtherAreExit3) {
  const NpyFile a(testing::RandomNormal(3, 4, 1).view);
  const NpyFile b(testing::RandomNormal(3, 5, 1).view);
  const Ran dims = Shell(absl::StrCat("max --local ", a.path(), " ", b.path()));
  EXPECT_EQ(dims.exit_code, 3);
  EXPECT_THAT(dims.output,
              HasSubstr(absl::StrCat("queries.dim: 4, but collection \"", b.path(), "\" has dim 5")));
  EXPECT_EQ(Shell(absl::StrCat("max --local ", a.path(), " absent.npy")).exit_code, 3);
  EXPECT_EQ(Shell("pairs absent.npy").exit_code, 3);
}

TEST(CliWithoutServerTest, AnAbsentServerIsExit4) {
  const Ran ran = Shell("health --server=127.0.0.1:1 --timeout=5s");
  EXPECT_EQ(ran.exit_code, 4);
  EXPECT_THAT(ran.output, StartsWith("dotmax: "));
}

}  // namespace
}  // namespace dotmax
