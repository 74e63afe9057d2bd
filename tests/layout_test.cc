// The arrows of ARCHITECTURE.md, held against every #include of the tree. What the table does not allow is
// forbidden; a file in a folder that the table does not know is, too.
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "absl/strings/strip.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace dotmax {
namespace {

namespace fs = std::filesystem;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

// From a folder (or one file), what its files may include: folders of ours, generated headers ("proto"), and
// third-party roots. Abseil and the standard library are everyone's. The longest matching key counts.
const std::map<std::string, std::set<std::string>>& Arrows() {
  static const auto* const arrows = new std::map<std::string, std::set<std::string>>{
      {"server/base", {}},
      {"server/base/metrics.cc", {"prometheus"}},
      {"server/base/crypto.cc", {"openssl"}},
      {"server/engine", {"server/base"}},
      {"server/engine/tile.cc", {"oneapi", "omp.h"}},
      {"server/engine/amx.cc", {"hwy"}},
      {"server/engine/avx2.cc", {"hwy"}},
      {"server/engine/vnni.cc", {"hwy"}},
      {"server/engine/reduce.cc", {"hwy"}},
      {"server/engine/row_loops.cc", {"hwy"}},
      {"server/engine/pair_sums.cc", {"server/base", "hwy"}},
      {"server/engine/exact.cc", {"server/base", "mpfr.h"}},
      {"server/batch", {"server/base", "server/engine"}},
      {"server/store", {"server/base"}},
      {"server/load", {"server/base", "server/engine", "server/batch", "server/store"}},
      {"server/rpc", {"server/base", "proto", "grpc", "grpcpp", "google/protobuf"}},
      {"server/rpc/http.cc", {"server/base", "civetweb.h"}},
      {"server/main.cc",
       {"server/base", "server/engine", "server/batch", "server/store", "server/load", "server/rpc"}},
      {"client/cpp", {"dotmax/client.h", "proto", "grpcpp", "google/protobuf"}},
      // --local searches without a server.
      {"client/cli", {"dotmax/client.h", "server/base", "server/store", "server/engine", "server/batch"}},
      {"client/cli/hdf5.cc", {"server/base", "hdf5.h"}},
      {"client/cli/bench_load.cc",
       {"dotmax/client.h", "client/cpp/credentials.h", "client/cpp/wire.h", "server/base", "proto",
        "grpcpp"}},
      {"tests/oracle.h", {"server/base/types.h"}},
      {"tests/oracle.cc", {}},
      {"tests",
       {"server", "client", "dotmax/client.h", "proto", "grpcpp", "google/protobuf", "gtest", "gmock",
        "hwy"}},
      {"tests/bench", {"server", "client", "tests", "dotmax/client.h", "benchmark"}},
  };
  return *arrows;
}

// Third-party roots that only the table above lets in. What is in no list is the system's.
constexpr absl::string_view kThirdParty[] = {
    "oneapi", "omp.h",           "hwy",    "prometheus", "CivetServer.h", "civetweb.h",      "grpcpp",
    "grpc",   "google/protobuf", "gtest",  "gmock",      "benchmark",     "dotmax/client.h", "mpfr.h",
    "gmp.h",  "hdf5.h",          "openssl"};

bool Within(absl::string_view path, absl::string_view root) {
  return path == root || absl::StartsWith(path, absl::StrCat(root, "/"));
}

// What an #include names, in the table's words; empty if it needs no permission.
std::string Target(const std::string& include) {
  if (absl::EndsWith(include, ".pb.h")) return "proto";
  for (const absl::string_view root : kThirdParty) {
    if (Within(include, root)) return std::string(root);
  }
  for (const absl::string_view ours : {"server", "client", "tests"}) {
    if (Within(include, ours)) return include;
  }
  return "";
}

// Why `file` (relative to the root) may not include `include`; empty if it may.
std::string Violation(const std::string& file, const std::string& include) {
  const std::string target = Target(include);
  if (target.empty()) return "";
  const std::set<std::string>* allowed = nullptr;
  size_t longest = 0;
  for (const auto& [from, to] : Arrows()) {
    if (Within(file, from) && from.size() >= longest) {
      allowed = &to;
      longest = from.size();
    }
  }
  if (allowed == nullptr) return absl::StrCat(file, " is in a folder that the table of arrows does not know");
  const std::string folder = file.substr(0, file.rfind('/'));
  if (Within(target, folder) && target.rfind('/') == folder.size()) return "";  // its own folder
  for (const std::string& to : *allowed) {
    if (Within(target, to)) return "";
  }
  return absl::StrCat(file, " includes ", include);
}

std::vector<std::string> Includes(const fs::path& path) {
  std::vector<std::string> includes;
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);) {
    absl::string_view rest = line;
    if (!absl::ConsumePrefix(&rest, "#include ")) continue;
    const size_t end = rest.find_first_of("\">", 1);
    if (end != rest.npos) includes.emplace_back(rest.substr(1, end - 1));
  }
  return includes;
}

std::vector<std::string> Violations(const fs::path& root) {
  std::vector<std::string> violations;
  for (const char* top : {"server", "client", "tests"}) {
    if (!fs::exists(root / top)) continue;
    for (const fs::directory_entry& entry : fs::recursive_directory_iterator(root / top)) {
      const std::string extension = entry.path().extension();
      if (extension != ".h" && extension != ".cc") continue;
      const std::string file = fs::relative(entry.path(), root);
      for (const std::string& include : Includes(entry.path())) {
        if (std::string why = Violation(file, include); !why.empty()) violations.push_back(std::move(why));
      }
    }
  }
  return violations;
}

TEST(LayoutTest, EveryIncludeFollowsAnArrow) { EXPECT_THAT(Violations(DOTMAX_SOURCE_DIR), IsEmpty()); }

TEST(LayoutTest, TheTopLevelIsAsAgreed) {
  const std::set<std::string> allowed = {"proto",
                                         "server",
                                         "client",
                                         "tests",
                                         "deploy",
                                         "Dockerfile",
                                         "README.md",
                                         "ARCHITECTURE.md",
                                         "LICENSE",
                                         "CMakeLists.txt",
                                         "CMakePresets.json",
                                         "build"};
  for (const fs::directory_entry& entry : fs::directory_iterator(DOTMAX_SOURCE_DIR)) {
    const std::string name = entry.path().filename();
    EXPECT_TRUE(name[0] == '.' || allowed.contains(name)) << name;
  }
}

TEST(LayoutTest, EveryTestMirrorsAModule) {
  // Tests of the whole, and of what is not under server/ by that name.
  const std::set<std::string> whole = {"attack", "bench_command", "bench_histogram", "bench_metrics",
                                       "cli",    "client",        "compatibility",   "conformance",
                                       "fault",  "layout",        "lifecycle",       "memory",
                                       "oracle", "queries",       "selection",       "server"};
  std::set<std::string> modules;
  for (const fs::directory_entry& entry :
       fs::recursive_directory_iterator(fs::path(DOTMAX_SOURCE_DIR) / "server")) {
    if (entry.path().extension() == ".h") modules.insert(entry.path().stem());
  }
  for (const fs::directory_entry& entry : fs::directory_iterator(fs::path(DOTMAX_SOURCE_DIR) / "tests")) {
    const std::string name = entry.path().stem();
    absl::string_view stem = name;
    if (!absl::ConsumeSuffix(&stem, "_test")) continue;
    EXPECT_TRUE(modules.contains(std::string(stem)) || whole.contains(std::string(stem))) << stem;
  }
}

// The checker itself: arrows that must not be.
TEST(LayoutTest, BrokenArrowsAreFound) {
  for (const auto& [file, include] : std::vector<std::pair<std::string, std::string>>{
           {"server/base/types.h", "server/engine/matrix.h"},
           {"server/engine/engine.cc", "server/batch/dispatcher.h"},
           {"server/engine/engine.cc", "oneapi/dnnl/dnnl.hpp"},
           {"server/engine/engine.cc", "hwy/highway.h"},
           {"server/engine/bound.h", "mpfr.h"},
           {"tests/oracle.cc", "mpfr.h"},
           {"server/engine/matrix.cc", "dotmax/v1/matrix.pb.h"},
           {"server/store/ingest.cc", "server/rpc/convert.h"},
           {"server/rpc/search.cc", "server/engine/engine.h"},
           {"server/rpc/search.cc", "server/batch/dispatcher.h"},
           {"server/rpc/load_stream.cc", "server/load/loader.h"},
           {"server/load/loader.cc", "server/rpc/call.h"},
           {"server/batch/catalog.cc", "server/store/file.h"},
           {"server/rpc/search.cc", "CivetServer.h"},
           {"server/base/log.cc", "prometheus/counter.h"},
           {"server/rpc/tokens.cc", "openssl/sha.h"},
           {"client/cpp/client.cc", "server/base/types.h"},
           {"client/cpp/search.cc", "server/engine/engine.h"},
           {"client/cli/main.cc", "server/rpc/convert.h"},
           {"client/cli/main.cc", "dotmax/v1/dotmax.pb.h"},
           {"client/cli/bench.cc", "dotmax/v1/dotmax.pb.h"},
           {"client/cli/bench_load.h", "grpcpp/channel.h"},
           {"tests/oracle.cc", "server/base/dtype.h"},
           {"tests/oracle.h", "server/engine/exact.h"},
           {"server/unknown/x.cc", "server/base/types.h"}}) {
    EXPECT_NE(Violation(file, include), "") << file << " -> " << include;
  }
}

TEST(LayoutTest, GoodArrowsAreNot) {
  for (const auto& [file, include] : std::vector<std::pair<std::string, std::string>>{
           {"server/engine/engine.cc", "server/engine/topk.h"},
           {"server/engine/engine.cc", "absl/strings/str_cat.h"},
           {"server/engine/engine.cc", "vector"},
           {"server/engine/tile.cc", "oneapi/dnnl/dnnl.hpp"},
           {"server/rpc/search.cc", "dotmax/v1/dotmax.grpc.pb.h"},
           {"tests/oracle.cc", "tests/oracle.h"},
           {"tests/bench/engine_bench.cc", "server/engine/engine.h"}}) {
    EXPECT_EQ(Violation(file, include), "") << file << " -> " << include;
  }
}

TEST(LayoutTest, AFileThatBreaksAnArrowIsNamed) {
  const fs::path root = fs::path(::testing::TempDir()) / absl::StrCat("layout_", ::getpid());
  fs::create_directories(root / "server/engine");
  std::ofstream(root / "server/engine/x.cc") << "#include <vector>\n#include \"server/rpc/convert.h\"\n";
  EXPECT_THAT(Violations(root), ElementsAre("server/engine/x.cc includes server/rpc/convert.h"));
  fs::remove_all(root);
}

}  // namespace
}  // namespace dotmax
