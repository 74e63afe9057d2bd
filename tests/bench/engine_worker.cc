// The engine for peers.py and questions.py: loads two float32 files, says how, then times what each line of
// standard input asks for. Answers are lines of JSON.
//
//   engine_worker BASE.npy QUERIES.npy      {"screen": "int8, 92 of 100 axes", "load_seconds": 0.5, ...}
//   search THREADS CALLS FIRST COUNT TOP_K [OPTION...]
//                                           {"seconds": 0.01, "ids": [...], ...}, of CALLS batches of COUNT
//                                           queries from FIRST on; seconds are one batch's. Options:
//       1, 2           cosine, squared Euclidean distance
//       global         the best pairs of all queries, instead of those of each
//       bound=SCORE    only what is at least as good; says of each query whether there is more than TOP_K
//       count          only counts that, "counts"
//       quiet          leaves ids and scores out: "digest" tells whether they are the same
//   float32 THREADS CALLS FIRST COUNT       {"seconds": 0.01}, of oneDNN's matmul alone, on one batch
//   int8 THREADS CALLS FIRST COUNT
//
//   engine_worker --pairs BASE.npy QUERIES.npy
//   pairs THREADS CALLS FIRST COUNT QUERY_ROWS BASE_ROWS
//                                           {"seconds": 0.01, "ids": [...], ...}, of the COUNT pairs from
//                                           FIRST on: the files cut into matrices of as many rows
//
// What cannot be done is {"error": "why"}.
#include <bit>
#include <chrono>
#include <iostream>
#include <memory>
#include <sstream>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/synchronization/mutex.h"
#include "server/base/json.h"
#include "server/engine/engine.h"
#include "server/engine/matrix.h"
#include "server/engine/tile.h"
#include "server/store/ingest.h"
#include "tests/bench/plain_matmul.h"
#include "tests/data.h"

namespace dotmax {
namespace {

double Seconds(absl::FunctionRef<void()> work) {
  const auto start = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

struct Command {
  std::string name;
  int threads = 0;
  int calls = 0;
  uint64_t first = 0;
  uint64_t count = 0;
  Selection selection;                     // search
  bool quiet = false;                      // search
  uint64_t query_rows = 0, base_rows = 0;  // pairs
};

bool ParseOption(const std::string& word, Command& command) {
  Selection& selection = command.selection;
  double bound = 0;
  if (word == "1" || word == "2") {
    selection.metric = word == "1" ? Metric::kCosine : Metric::kSquaredEuclidean;
  } else if (word == "global") {
    selection.reduction = Reduction::kGlobal;
  } else if (absl::StartsWith(word, "bound=") && absl::SimpleAtod(word.substr(6), &bound)) {
    selection.bounds = {bound};
    selection.tell_truncated = !selection.count_only;
  } else if (word == "count") {
    selection.count_only = true;
    selection.tell_truncated = false;
  } else if (word == "quiet") {
    command.quiet = true;
  } else {
    return false;
  }
  return true;
}

absl::StatusOr<Command> Parse(const std::string& line) {
  Command command;
  std::istringstream words(line);
  words >> command.name >> command.threads >> command.calls >> command.first >> command.count;
  if (command.name == "search") words >> command.selection.top_k;
  if (command.name == "pairs") words >> command.query_rows >> command.base_rows;
  bool ok = !words.fail() && command.threads >= 1 && command.calls >= 1 && command.count >= 1;
  for (std::string word; ok && words >> word;) ok = command.name == "search" && ParseOption(word, command);
  const Selection& selection = command.selection;
  ok = ok && (selection.count_only ? !selection.bounds.empty() : selection.top_k >= 1);
  if (!ok) return absl::InvalidArgumentError(absl::StrCat("cannot do: ", line));
  return command;
}

// Of hits: FNV-1a over the bits of ids, query rows and scores.
uint64_t Digest(const std::vector<Hit>& hits) {
  uint64_t digest = 14695981039346656037u;
  for (const Hit& hit : hits) {
    for (const uint64_t part : {hit.id, hit.query_row, std::bit_cast<uint64_t>(hit.score)}) {
      digest = (digest ^ part) * 1099511628211u;
    }
  }
  return digest;
}

template <class Values, class Append>
std::string List(const Values& values, Append append) {
  return absl::StrCat("[", absl::StrJoin(values, ", ", append), "]");
}

// `"ids": [...], "scores": [...], "query_rows": [...]`.
std::string HitLists(const std::vector<Hit>& hits) {
  const auto list = [&](auto append) { return List(hits, append); };
  return absl::StrCat(
      "\"ids\": ", list([](std::string* out, const Hit& hit) { absl::StrAppend(out, hit.id); }),
      ", \"scores\": ",
      list([](std::string* out, const Hit& hit) { absl::StrAppend(out, JsonNumber(hit.score)); }),
      ", \"query_rows\": ",
      list([](std::string* out, const Hit& hit) { absl::StrAppend(out, hit.query_row); }));
}

class Worker {
 public:
  // `matrix` may be null, and then only pairs can be asked for.
  Worker(const Matrix* matrix, const SharedMatrix& base, const SharedMatrix& queries)
      : matrix_(matrix), base_(base), queries_(queries) {}

  absl::StatusOr<std::string> Answer(const std::string& line) {
    const absl::StatusOr<Command> command = Parse(line);
    if (!command.ok()) return command.status();
    const auto fits = [&](uint64_t rows, const SharedMatrix& matrix) {
      return (command->first + command->calls * command->count) * rows <= matrix.view.rows;
    };
    if (command->name == "pairs" && matrix_ == nullptr) {
      if (fits(command->query_rows, queries_) && fits(command->base_rows, base_)) return Pairs(*command);
    } else if (matrix_ != nullptr && fits(1, queries_)) {
      if (command->name == "search") return Search(*command);
      if (command->name == "float32") return Plain(*command, TileKind::kFloat32);
      if (command->name == "int8") return Plain(*command, TileKind::kInt8);
    }
    return absl::InvalidArgumentError(absl::StrCat("cannot do: ", line));
  }

 private:
  Engine& EngineWith(int threads) {
    if (engine_ == nullptr || engine_->threads() != threads) engine_ = std::make_unique<Engine>(threads);
    return *engine_;
  }

  absl::StatusOr<std::string> Search(const Command& command) {
    Engine& engine = EngineWith(command.threads);
    double seconds = 0;
    SearchStats stats;
    std::vector<Hit> hits;
    std::vector<uint64_t> counts;
    bool truncated = false;
    for (int call = 0; call < command.calls; ++call) {
      const SharedMatrix batch =
          testing::Slice(queries_, command.first + call * command.count, command.count);
      absl::StatusOr<dotmax::Answer> answer;
      seconds += Seconds([&] {
        answer = engine.Search(*matrix_, batch.view, command.selection, [] { return absl::OkStatus(); });
      });
      if (!answer.ok()) return answer.status();
      hits.insert(hits.end(), answer->hits.begin(), answer->hits.end());
      counts.insert(counts.end(), answer->counts.begin(), answer->counts.end());
      for (const bool query : answer->truncated) truncated |= query;
      stats.pairs_screened += answer->stats.pairs_screened;
      stats.pairs_survived += answer->stats.pairs_survived;
      stats.pairs_checked += answer->stats.pairs_checked;
      stats.pairs_rescored += answer->stats.pairs_rescored;
    }
    return absl::StrCat("{\"seconds\": ", JsonNumber(seconds / command.calls),
                        ", \"screened\": ", stats.pairs_screened, ", \"survived\": ", stats.pairs_survived,
                        ", \"checked\": ", stats.pairs_checked, ", \"rescored\": ", stats.pairs_rescored,
                        ", \"digest\": ", Digest(hits), ", \"truncated\": ", truncated ? "true" : "false",
                        ", \"counts\": ", List(counts, absl::AlphaNumFormatter()), command.quiet ? "" : ", ",
                        command.quiet ? "" : HitLists(hits), "}");
  }

  absl::StatusOr<std::string> Pairs(const Command& command) {
    Engine& engine = EngineWith(command.threads);
    double seconds = 0;
    std::vector<Hit> hits;
    SearchStats stats;
    for (int call = 0; call < command.calls; ++call) {
      std::vector<PairsQuery::Pair> pairs;
      for (uint64_t i = 0; i < command.count; ++i) {
        const uint64_t p = command.first + call * command.count + i;
        pairs.push_back({testing::Slice(queries_, p * command.query_rows, command.query_rows).view,
                         testing::Slice(base_, p * command.base_rows, command.base_rows).view});
      }
      absl::StatusOr<PairsAnswer> answer;
      seconds += Seconds(
          [&] { answer = engine.MaxOfPairs(pairs, Metric::kInnerProduct, [] { return absl::OkStatus(); }); });
      if (!answer.ok()) return answer.status();
      for (const PairsAnswer::PairHit& pair : answer->hits) hits.push_back(pair.hit);
      stats.pairs_screened += answer->stats.pairs_screened;
      stats.pairs_rescored += answer->stats.pairs_rescored;
    }
    return absl::StrCat("{\"seconds\": ", JsonNumber(seconds / command.calls),
                        ", \"screened\": ", stats.pairs_screened, ", \"rescored\": ", stats.pairs_rescored,
                        ", ", HitLists(hits), "}");
  }

  absl::StatusOr<std::string> Plain(const Command& command, TileKind kind) {
    const MatrixView& base = base_.view;
    const auto plain =
        testing::PlainMatmul::Create(kind, static_cast<int>(base.dim), {base.data, base.rows},
                                     {queries_.view.row(command.first), command.count}, command.threads);
    if (!plain.ok()) return plain.status();
    const double seconds = Seconds([&] {
      for (int call = 0; call < command.calls; ++call) (*plain)->Run();
    });
    return absl::StrCat("{\"seconds\": ", JsonNumber(seconds / command.calls), "}");
  }

  const Matrix* const matrix_;
  const SharedMatrix& base_;
  const SharedMatrix& queries_;
  std::unique_ptr<Engine> engine_;
};

absl::StatusOr<SharedMatrix> ReadFloat32(const std::string& path) {
  absl::StatusOr<SharedMatrix> matrix = ReadMatrix(path);
  if (matrix.ok() && (matrix->view.dtype != DType::kFloat32 || matrix->view.rows == 0)) {
    return absl::InvalidArgumentError(absl::StrCat(path, ": not rows of float32"));
  }
  return matrix;
}

absl::Status Serve(bool pairs, const std::string& base_path, const std::string& queries_path) {
  absl::StatusOr<SharedMatrix> base, queries;
  std::unique_ptr<const Matrix> matrix;
  const double load_seconds = Seconds([&] {
    base = ReadFloat32(base_path);
    if (base.ok() && !pairs) matrix = std::make_unique<Matrix>(*base);
  });
  if (!base.ok()) return base.status();
  queries = ReadFloat32(queries_path);
  if (!queries.ok()) return queries.status();
  if (queries->view.dim != base->view.dim) return absl::InvalidArgumentError("the two files differ in dim");
  std::cout << "{\"screen\": " << JsonString(pairs ? "" : matrix->screen())
            << ", \"load_seconds\": " << JsonNumber(load_seconds)
            << ", \"resident_bytes\": " << (pairs ? base->view.bytes() : matrix->resident_bytes())
            << ", \"onednn\": " << JsonString(OneDnnVersion()) << "}" << std::endl;
  Worker worker(matrix.get(), *base, *queries);
  for (std::string line; std::getline(std::cin, line);) {
    const absl::StatusOr<std::string> answer = worker.Answer(line);
    if (answer.ok()) {
      std::cout << *answer << std::endl;
    } else {
      std::cout << "{\"error\": " << JsonString(answer.status().message()) << "}" << std::endl;
    }
  }
  return absl::OkStatus();
}

int Main(int argc, char** argv) {
  absl::SetMutexDeadlockDetectionMode(absl::OnDeadlockCycle::kIgnore);  // as the server does
  const bool pairs = argc == 4 && std::string_view(argv[1]) == "--pairs";
  if (argc != 3 && !pairs) {
    std::cerr << "usage: engine_worker [--pairs] BASE.npy QUERIES.npy\n";
    return 2;
  }
  const absl::Status status = Serve(pairs, argv[argc - 2], argv[argc - 1]);
  if (!status.ok()) std::cerr << status.message() << "\n";
  return status.ok() ? 0 : 1;
}

}  // namespace
}  // namespace dotmax

int main(int argc, char** argv) { return dotmax::Main(argc, argv); }
