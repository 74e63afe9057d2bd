// The exact search against its own speed of light: oneDNN's matmul alone, of float32 and of int8, nothing
// done with the scores. Interleaved; peers.py compares with other programs.
//
//   engine_bench [--matrix=FILE] [--axes=N] [--threads=N] [--top-k=K] [--global] [Google Benchmark's flags]
//
// --axes forces the int8 screen with that many axes.
//
// Without a file: 200,000 × 100 standard normal. Queries are rows held out of the matrix, evenly spaced.
// Ends with one line per batch size: throughput of the exact search / that of the matmuls, from the medians.
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <iterator>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "absl/synchronization/mutex.h"
#include "benchmark/benchmark.h"
#include "server/base/dtype.h"
#include "server/engine/aligned.h"
#include "server/engine/engine.h"
#include "server/engine/matrix.h"
#include "server/store/ingest.h"
#include "tests/bench/plain_matmul.h"
#include "tests/data.h"

namespace dotmax {
namespace {

constexpr int kRepetitions = 9;
constexpr int kBatchSizes[] = {1, 16, 256, 1024};
constexpr uint64_t kShuffle = 397;  // prime: i · 397 mod count visits every place once

// Takes rows 0, step, 2·step, ... out of a matrix, as many as the largest batch, and shuffles them: files are
// often ordered.
struct HeldOut {
  SharedMatrix base;
  SharedMatrix queries;
};
HeldOut HoldOut(const SharedMatrix& all) {
  const MatrixView& view = all.view;
  const uint64_t count = std::min<uint64_t>(kBatchSizes[std::size(kBatchSizes) - 1], view.rows / 2);
  const uint64_t step = view.rows / count;
  auto bytes = std::make_shared<std::vector<std::byte>>(view.bytes());
  std::byte* const queries = bytes->data();
  std::byte* base = queries + count * view.row_bytes();
  HeldOut out = {{{base, view.rows - count, view.dim, view.dtype}, bytes},
                 {{queries, count, view.dim, view.dtype}, bytes}};
  for (uint64_t i = 0; i < view.rows; ++i) {
    if (i % step == 0 && i / step < count) {
      std::copy_n(view.row(i), view.row_bytes(), queries + i / step * kShuffle % count * view.row_bytes());
    } else {
      base = std::copy_n(view.row(i), view.row_bytes(), base);
    }
  }
  return out;
}

struct Setup {
  const Matrix& matrix;
  const SharedMatrix& queries;
  int threads;
  uint32_t top_k;
  Reduction reduction;
  AlignedArray<float> float32_rows;
  AlignedArray<float> float32_queries;
};

void Exact(benchmark::State& state, const Setup& setup) {
  const Matrix& matrix = setup.matrix;
  Engine engine(setup.threads);
  SearchStats stats;
  uint64_t first = 0;
  for (auto _ : state) {
    const SharedMatrix queries = testing::Slice(setup.queries, first, state.range(0));
    first = (first + state.range(0)) % (setup.queries.view.rows - state.range(0) + 1);
    const absl::StatusOr<Answer> answer =
        engine.Search(matrix, queries.view, {.top_k = setup.top_k, .reduction = setup.reduction},
                      [] { return absl::OkStatus(); });
    if (!answer.ok()) return state.SkipWithError(answer.status().ToString().c_str());
    stats = answer->stats;
  }
  state.counters["queries/s"] =
      benchmark::Counter(state.iterations() * state.range(0), benchmark::Counter::kIsRate);
  state.counters["survivors"] = static_cast<double>(stats.pairs_survived) / stats.pairs_screened;
}

void Plain(benchmark::State& state, const Setup& setup, TileKind kind) {
  const auto plain = testing::PlainMatmul::Create(
      kind, static_cast<int>(setup.matrix.view().dim), {setup.float32_rows.data(), setup.matrix.view().rows},
      {setup.float32_queries.data(), static_cast<uint64_t>(state.range(0))}, setup.threads);
  if (!plain.ok()) return state.SkipWithError(plain.status().ToString().c_str());
  for (auto _ : state) (*plain)->Run();
  state.counters["queries/s"] =
      benchmark::Counter(state.iterations() * state.range(0), benchmark::Counter::kIsRate);
}

void Float32(benchmark::State& state, const Setup& setup) { Plain(state, setup, TileKind::kFloat32); }
void Int8(benchmark::State& state, const Setup& setup) { Plain(state, setup, TileKind::kInt8); }

AlignedArray<float> AsFloat32(const MatrixView& view) {
  AlignedArray<float> values;
  ToFloat32(view.data, view.dtype, view.rows * view.dim, values.Reserve(view.rows * view.dim));
  return values;
}

// Prints as usual, and keeps the medians for the ratios.
class RatioReporter : public benchmark::ConsoleReporter {
 public:
  RatioReporter() : ConsoleReporter(isatty(STDOUT_FILENO) != 0 ? OO_ColorTabular : OO_Tabular) {}

  void ReportRuns(const std::vector<Run>& runs) override {
    ConsoleReporter::ReportRuns(runs);
    for (const Run& run : runs) {
      if (run.aggregate_name == "median")
        medians_[run.run_name.function_name + "/" + run.run_name.args] = run.GetAdjustedRealTime();
    }
  }

  void PrintRatios() const {
    for (const int queries : kBatchSizes) {
      const std::string batch = absl::StrCat("/", queries);
      const auto exact = medians_.find("exact" + batch);
      for (const char* kind : {"float32", "int8"}) {
        const auto plain = medians_.find(kind + batch);
        if (exact == medians_.end() || plain == medians_.end()) continue;
        std::printf("M = %4d: exact search runs at %.2f of the plain %s matmul\n", queries,
                    plain->second / exact->second, kind);
      }
    }
  }

 private:
  std::map<std::string, double> medians_;
};

int Main(int argc, char** argv) {
  absl::SetMutexDeadlockDetectionMode(absl::OnDeadlockCycle::kIgnore);  // as the server does
  SharedMatrix base;
  std::vector<char*> rest;
  std::string path;
  ScreenOptions options;
  int threads = 1;
  uint32_t top_k = 1;
  Reduction reduction = Reduction::kPerRow;
  for (int i = 0; i < argc; ++i) {
    absl::string_view argument = argv[i];
    if (absl::ConsumePrefix(&argument, "--matrix=")) {
      path = std::string(argument);
    } else if (absl::ConsumePrefix(&argument, "--axes=")) {
      if (!absl::SimpleAtoi(argument, &options.axes)) return 2;
      options.kind = ScreenOptions::Kind::kInt8;
    } else if (absl::ConsumePrefix(&argument, "--threads=")) {
      if (!absl::SimpleAtoi(argument, &threads) || threads < 1) return 2;
    } else if (absl::ConsumePrefix(&argument, "--top-k=")) {
      if (!absl::SimpleAtoi(argument, &top_k) || top_k < 1) return 2;
    } else if (argument == "--global") {
      reduction = Reduction::kGlobal;
    } else {
      rest.push_back(argv[i]);
    }
  }
  if (path.empty()) {
    base = testing::RandomNormal(200000, 100, 1);
  } else {
    absl::StatusOr<SharedMatrix> read = ReadMatrix(path);
    if (!read.ok()) {
      std::fprintf(stderr, "%s\n", read.status().ToString().c_str());
      return 1;
    }
    base = *std::move(read);
  }
  std::string interleave = "--benchmark_enable_random_interleaving=true";
  rest.push_back(interleave.data());
  int count = static_cast<int>(rest.size());
  benchmark::Initialize(&count, rest.data());
  if (benchmark::ReportUnrecognizedArguments(count, rest.data())) return 2;

  const HeldOut held_out = HoldOut(base);
  const Matrix matrix(held_out.base, options);
  std::printf("%s\n", matrix.screen().c_str());
  const Setup setup = {matrix,
                       held_out.queries,
                       threads,
                       top_k,
                       reduction,
                       AsFloat32(held_out.base.view),
                       AsFloat32(held_out.queries.view)};
  for (const int queries : kBatchSizes) {
    for (const auto& [name, run] :
         {std::pair{"exact", &Exact}, std::pair{"float32", &Float32}, std::pair{"int8", &Int8}}) {
      benchmark::RegisterBenchmark(name, [&setup, run = run](benchmark::State& s) { run(s, setup); })
          ->Arg(queries)
          ->Unit(benchmark::kMillisecond)
          ->Repetitions(kRepetitions)
          ->ReportAggregatesOnly();
    }
  }
  RatioReporter reporter;
  benchmark::RunSpecifiedBenchmarks(&reporter);
  reporter.PrintRatios();
  return 0;
}

}  // namespace
}  // namespace dotmax

int main(int argc, char** argv) { return dotmax::Main(argc, argv); }
