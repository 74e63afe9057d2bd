// The exact search against its own speed of light: plain oneDNN float32 matmul of the same tiles with the
// maximum of each query (values only: inexact, no index, no certificate), interleaved, on one thread.
//
//   engine_bench [--matrix=FILE] [--axes=N] [--threads=N] [--top-k=K] [--global] [Google Benchmark's flags]
//
// --axes forces the int8 screen with that many axes; --threads, --top-k and --global are for the exact search
// alone.
//
// Without a file: 200,000 × 100 standard normal. Queries are rows held out of the matrix, evenly spaced.
// Ends with one line per batch size: throughput of the exact search / the plain one, from the medians.
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <iterator>
#include <limits>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/strip.h"
#include "absl/synchronization/mutex.h"
#include "benchmark/benchmark.h"
#include "server/base/dtype.h"
#include "server/engine/aligned.h"
#include "server/engine/engine.h"
#include "server/engine/matrix.h"
#include "server/engine/tile.h"
#include "server/store/ingest.h"
#include "tests/data.h"

namespace dotmax {
namespace {

constexpr int kRepetitions = 9;
constexpr int kBatchSizes[] = {1, 16, 256, 1024};
constexpr int kBlock = 256;
constexpr uint64_t kShuffle = 397;  // prime: i · 397 mod count visits every place once

// One load, one max per score: what no fused reduction can avoid.
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
__attribute__((target_clones("avx512f", "avx2", "default")))
#endif
void MaxInto(const float* scores, int rows, int columns, float* best) {
  for (int row = 0; row < rows; ++row, scores += columns) {
    for (int c = 0; c < columns; ++c) best[c] = std::max(best[c], scores[c]);
  }
}

// Takes rows 0, step, 2·step, ... out of a matrix, as many as the largest batch, and shuffles them: files are
// often ordered. peers.py does the same.
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
        engine.Search(matrix, queries.view, setup.top_k, setup.reduction, [] { return absl::OkStatus(); });
    if (!answer.ok()) return state.SkipWithError(answer.status().ToString().c_str());
    stats = answer->stats;
  }
  state.counters["queries/s"] =
      benchmark::Counter(state.iterations() * state.range(0), benchmark::Counter::kIsRate);
  state.counters["survivors"] = static_cast<double>(stats.pairs_survived) / stats.pairs_screened;
}

void Plain(benchmark::State& state, const Setup& setup) {
  const Matrix& matrix = setup.matrix;
  const int queries = static_cast<int>(state.range(0));
  const int block = std::min(queries, kBlock);
  std::vector<float> a(static_cast<size_t>(queries) * matrix.view().dim);
  ToFloat32(setup.queries.view.data, setup.queries.view.dtype, a.size(), a.data());
  const auto matmul = TileMatmul::Create(TileKind::kFloat32, matrix.tile_rows(), matrix.view().dim, block);
  if (!matmul.ok()) return state.SkipWithError(matmul.status().ToString().c_str());
  AlignedArray<float> tile, scores, best;
  AlignedArray<std::byte> packed, scratch;
  packed.Reserve((*matmul)->packed_bytes());
  scratch.Reserve((*matmul)->scratch_bytes());
  tile.Reserve(static_cast<size_t>(matrix.tile_rows()) * matrix.view().dim);
  scores.Reserve(static_cast<size_t>(matrix.tile_rows()) * block);
  best.Reserve(queries);
  for (auto _ : state) {
    std::fill(best.data(), best.data() + queries, -std::numeric_limits<float>::infinity());
    for (int first = 0; first < queries; first += block) {
      (*matmul)->Pack(a.data() + static_cast<size_t>(first) * matrix.view().dim, packed.data());
      TileRunner runner(**matmul, packed.data(), scratch.data(), scores.data());
      for (uint64_t t = 0; t < matrix.tiles(); ++t) {
        runner.Run(matrix.Float32Tile(t, tile.data()));
        MaxInto(scores.data(), matrix.tile_rows(), block, best.data() + first);
      }
    }
    benchmark::DoNotOptimize(best.data()[0]);
  }
  state.counters["queries/s"] = benchmark::Counter(state.iterations() * queries, benchmark::Counter::kIsRate);
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
      const auto exact = medians_.find("exact/" + std::to_string(queries));
      const auto plain = medians_.find("plain/" + std::to_string(queries));
      if (exact == medians_.end() || plain == medians_.end()) continue;
      std::printf("M = %4d: exact search runs at %.2f of the plain matmul + max\n", queries,
                  plain->second / exact->second);
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
  const Setup setup = {matrix, held_out.queries, threads, top_k, reduction};
  for (const int queries : kBatchSizes) {
    for (const auto& [name, run] : {std::pair{"exact", &Exact}, std::pair{"plain", &Plain}}) {
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
