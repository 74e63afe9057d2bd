// The engine for peers.py: loads two float32 files, says how, then times what each line of standard input
// asks for. Answers are lines of JSON.
//
//   engine_worker BASE.npy QUERIES.npy      {"screen": "int8, 92 of 100 axes", "load_seconds": 0.5, ...}
//   search THREADS CALLS FIRST COUNT TOP_K  {"seconds": 0.01, "ids": [...], ...}, of CALLS batches of COUNT
//                                           queries from FIRST on; seconds are one batch's
//   float32 THREADS CALLS FIRST COUNT       {"seconds": 0.01}, of oneDNN's matmul alone, on one batch
//   int8 THREADS CALLS FIRST COUNT
//
// What cannot be done is {"error": "why"}.
#include <chrono>
#include <iostream>
#include <memory>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
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
  uint32_t top_k = 1;
  Metric metric = Metric::kInnerProduct;
};

absl::StatusOr<Command> Parse(const std::string& line, uint64_t queries) {
  Command command;
  std::istringstream words(line);
  words >> command.name >> command.threads >> command.calls >> command.first >> command.count;
  if (command.name == "search") words >> command.top_k;
  int metric = 0;
  if (words && words >> metric)
    command.metric = static_cast<Metric>(metric);
  else
    words.clear();
  if (!words || command.threads < 1 || command.calls < 1 || command.count < 1 || command.top_k < 1 ||
      command.first + command.calls * command.count > queries) {
    return absl::InvalidArgumentError(absl::StrCat("cannot do: ", line));
  }
  return command;
}

class Worker {
 public:
  Worker(const Matrix& matrix, const SharedMatrix& queries) : matrix_(matrix), queries_(queries) {}

  absl::StatusOr<std::string> Answer(const std::string& line) {
    const absl::StatusOr<Command> command = Parse(line, queries_.view.rows);
    if (!command.ok()) return command.status();
    if (command->name == "search") return Search(*command);
    if (command->name == "float32") return Plain(*command, TileKind::kFloat32);
    if (command->name == "int8") return Plain(*command, TileKind::kInt8);
    return absl::InvalidArgumentError(absl::StrCat("no such command: ", command->name));
  }

 private:
  absl::StatusOr<std::string> Search(const Command& command) {
    if (engine_ == nullptr || engine_->threads() != command.threads) {
      engine_ = std::make_unique<Engine>(command.threads);
    }
    double seconds = 0;
    SearchStats stats;
    std::vector<Hit> hits;
    for (int call = 0; call < command.calls; ++call) {
      const SharedMatrix batch =
          testing::Slice(queries_, command.first + call * command.count, command.count);
      absl::StatusOr<dotmax::Answer> answer;
      seconds += Seconds([&] {
        answer = engine_->Search(matrix_, batch.view, {.top_k = command.top_k, .metric = command.metric},
                                 [] { return absl::OkStatus(); });
      });
      if (!answer.ok()) return answer.status();
      hits.insert(hits.end(), answer->hits.begin(), answer->hits.end());
      stats.pairs_screened += answer->stats.pairs_screened;
      stats.pairs_survived += answer->stats.pairs_survived;
      stats.pairs_checked += answer->stats.pairs_checked;
      stats.pairs_rescored += answer->stats.pairs_rescored;
    }
    const auto join = [&](auto append) { return absl::StrJoin(hits, ", ", append); };
    return absl::StrCat(
        "{\"seconds\": ", JsonNumber(seconds / command.calls), ", \"screened\": ", stats.pairs_screened,
        ", \"survived\": ", stats.pairs_survived, ", \"checked\": ", stats.pairs_checked,
        ", \"rescored\": ", stats.pairs_rescored, ", \"ids\": [",
        join([](std::string* out, const Hit& hit) { absl::StrAppend(out, hit.id); }), "], \"scores\": [",
        join([](std::string* out, const Hit& hit) { absl::StrAppend(out, JsonNumber(hit.score)); }), "]}");
  }

  absl::StatusOr<std::string> Plain(const Command& command, TileKind kind) {
    const MatrixView& base = matrix_.view();
    const auto plain =
        testing::PlainMatmul::Create(kind, static_cast<int>(base.dim), {base.data, base.rows},
                                     {queries_.view.row(command.first), command.count}, command.threads);
    if (!plain.ok()) return plain.status();
    const double seconds = Seconds([&] {
      for (int call = 0; call < command.calls; ++call) (*plain)->Run();
    });
    return absl::StrCat("{\"seconds\": ", JsonNumber(seconds / command.calls), "}");
  }

  const Matrix& matrix_;
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

absl::Status Serve(const std::string& base_path, const std::string& queries_path) {
  absl::StatusOr<SharedMatrix> base, queries;
  std::unique_ptr<const Matrix> matrix;
  const double load_seconds = Seconds([&] {
    base = ReadFloat32(base_path);
    if (base.ok()) matrix = std::make_unique<Matrix>(*base);
  });
  if (!base.ok()) return base.status();
  queries = ReadFloat32(queries_path);
  if (!queries.ok()) return queries.status();
  if (queries->view.dim != base->view.dim) return absl::InvalidArgumentError("the two files differ in dim");
  std::cout << "{\"screen\": " << JsonString(matrix->screen())
            << ", \"load_seconds\": " << JsonNumber(load_seconds)
            << ", \"resident_bytes\": " << matrix->resident_bytes()
            << ", \"onednn\": " << JsonString(OneDnnVersion()) << "}" << std::endl;
  Worker worker(*matrix, *queries);
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
  if (argc != 3) {
    std::cerr << "usage: engine_worker BASE.npy QUERIES.npy\n";
    return 2;
  }
  const absl::Status status = Serve(argv[1], argv[2]);
  if (!status.ok()) std::cerr << status.message() << "\n";
  return status.ok() ? 0 : 1;
}

}  // namespace
}  // namespace dotmax

int main(int argc, char** argv) { return dotmax::Main(argc, argv); }
