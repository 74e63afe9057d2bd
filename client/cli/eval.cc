// dotmax eval: a data set of ann-benchmarks, asked its own queries.
#include <algorithm>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "client/cli/commands.h"
#include "client/cli/common.h"
#include "client/cli/format.h"
#include "client/cli/hdf5.h"
#include "client/cli/local.h"
#include "client/cli/progress.h"
#include "client/cli/question.h"
#include "server/base/dtype.h"
#include "server/base/flags.h"
#include "server/base/json.h"
#include "server/engine/exact.h"

namespace dotmax {
namespace {

struct EvalFlags {
  std::string metric;
  int64_t top_k = 10;
  int64_t batch = 256;
  int64_t queries = 0;
  int64_t threads = DefaultThreads();
  CommonFlags common;  // of these, the format alone
};

struct DataSet {
  SharedMatrix train, test;
  Hdf5File::Ids neighbors;
  ScoreMetric metric = ScoreMetric::kInnerProduct;
};

// By the names that ann-benchmarks has for distances, or ours.
absl::StatusOr<ScoreMetric> MetricOf(const std::string& name) {
  if (name == "angular" || name == "cosine") return ScoreMetric::kCosine;
  if (name == "euclidean" || name == "squared_euclidean") return ScoreMetric::kSquaredEuclidean;
  if (name == "ip" || name == "dot" || name == "inner_product") return ScoreMetric::kInnerProduct;
  return absl::InvalidArgumentError(
      absl::StrCat(name.empty() ? "the file does not say its distance"
                                : absl::StrCat("distance \"", name, "\" is unknown"),
                   "; --metric=inner_product, cosine or squared_euclidean does"));
}

absl::StatusOr<DataSet> ReadDataSet(const EvalFlags& flags, const std::string& path) {
  const absl::StatusOr<Hdf5File> file = Hdf5File::Open(path);
  if (!file.ok()) return file.status();
  Progress progress;
  absl::StatusOr<SharedMatrix> train =
      file->Read("train", [&](uint64_t done, uint64_t total) { progress.Update(done, total, "read"); });
  if (!train.ok()) return train.status();
  absl::StatusOr<SharedMatrix> test = file->Read("test");
  if (!test.ok()) return test.status();
  absl::StatusOr<Hdf5File::Ids> neighbors = file->ReadIds("neighbors");
  if (!neighbors.ok()) return neighbors.status();
  const absl::StatusOr<ScoreMetric> metric =
      MetricOf(flags.metric.empty() ? file->Attribute("distance") : flags.metric);
  if (!metric.ok()) return metric.status();
  if (test->view.dim != train->view.dim) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, ": \"test\" has dim ", test->view.dim, ", \"train\" has ", train->view.dim));
  }
  if (neighbors->rows != test->view.rows) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, ": \"neighbors\" has ", neighbors->rows, " rows, \"test\" has ", test->view.rows));
  }
  for (const uint64_t id : neighbors->values) {
    if (id >= train->view.rows) {
      return absl::InvalidArgumentError(
          absl::StrCat(path, ": \"neighbors\" names row ", id, " of ", train->view.rows));
    }
  }
  if (flags.queries > 0) test->view.rows = std::min<uint64_t>(test->view.rows, flags.queries);
  return DataSet{*std::move(train), *std::move(test), *std::move(neighbors), *metric};
}

// How answers compare with the file's neighbours, by scores that are exact. Of two rows that tie, either is
// right.
class Recall {
 public:
  Recall(const DataSet& data, uint64_t top_k) : data_(data), top_k_(top_k) {}

  // The hits of query row `row`, best first.
  void Add(uint64_t row, const uint64_t* ids, const double* scores, uint64_t count) {
    std::vector<double> elements(data_.test.view.dim);
    ToFloat64(data_.test.view.row(row), data_.test.view.dtype, elements.size(), elements.data());
    const ExactQuery query(elements, data_.test.view.dtype);
    const uint64_t* const theirs = data_.neighbors.values.data() + row * data_.neighbors.columns;
    std::optional<double> worst;  // of theirs
    for (uint64_t i = 0; i < top_k_; ++i) {
      const double score = Score(query, theirs[i]);
      if (!worst.has_value() || Better(*worst, score)) worst = score;
      if (count > 0 && !Better(scores[count - 1], score)) ++theirs_right_;
      if (std::find(ids, ids + count, theirs[i]) != ids + count) ++same_;
    }
    for (uint64_t i = 0; i < count; ++i) ours_right_ += !Better(*worst, scores[i]);
    wanted_ += top_k_;
  }

  double ours() const { return Share(ours_right_); }      // hits that are as good as their worst one
  double same() const { return Share(same_); }            // of their ids
  double theirs() const { return Share(theirs_right_); }  // neighbours that are as good as our worst one

 private:
  double Share(uint64_t count) const { return static_cast<double>(count) / static_cast<double>(wanted_); }
  bool Better(double a, double b) const {
    return data_.metric == ScoreMetric::kSquaredEuclidean ? a < b : a > b;
  }
  double Score(const ExactQuery& query, uint64_t id) const {
    const MatrixView& train = data_.train.view;
    switch (data_.metric) {
      case ScoreMetric::kCosine:
        return CorrectlyRoundedCosine(query, train.row(id), train.dtype);
      case ScoreMetric::kSquaredEuclidean:
        return CorrectlyRoundedSquaredDistance(query, train.row(id), train.dtype);
      case ScoreMetric::kInnerProduct:
        break;
    }
    return CorrectlyRoundedDot(query, train.row(id), train.dtype);
  }

  const DataSet& data_;
  const uint64_t top_k_;
  uint64_t ours_right_ = 0, same_ = 0, theirs_right_ = 0, wanted_ = 0;
};

ExitCode Run(const EvalFlags& flags, const std::string& path) {
  const absl::StatusOr<DataSet> data = ReadDataSet(flags, path);
  if (!data.ok()) return Fail(data.status());
  const uint64_t queries = data->test.view.rows;
  const uint64_t top_k =
      std::min({static_cast<uint64_t>(flags.top_k), data->neighbors.columns, data->train.view.rows});
  if (queries == 0 || top_k == 0)
    return Fail(absl::InvalidArgumentError(absl::StrCat(path, ": there are no queries")));

  const absl::Time loading = absl::Now();
  const LocalCollection collection(data->train, "train", static_cast<int>(flags.threads));
  const double load_seconds = absl::ToDoubleSeconds(absl::Now() - loading);

  Recall recall(*data, top_k);
  double seconds = 0;
  Progress progress;
  for (uint64_t first = 0; first < queries; first += flags.batch) {
    const uint64_t rows = std::min<uint64_t>(flags.batch, queries - first);
    const absl::Time asked = absl::Now();
    const absl::StatusOr<SearchResult> result =
        collection.Search({data->test.view.slice(first, rows), data->test.owner},
                          {.top_k = static_cast<uint32_t>(top_k), .metric = data->metric});
    seconds += absl::ToDoubleSeconds(absl::Now() - asked);
    if (!result.ok()) return Fail(result.status());
    for (uint64_t i = 0; i < rows; ++i) {
      const size_t begin = result->begin(i);
      recall.Add(first + i, result->ids.data() + begin, result->scores.data() + begin,
                 result->end(i) - begin);
    }
    progress.Update(first + rows, queries);
  }

  const double per_second = static_cast<double>(queries) / seconds;
  if (!flags.common.WantsTable()) {
    return Print(absl::StrCat(
        "{\"rows\":", data->train.view.rows, ",\"dim\":", data->train.view.dim, ",\"queries\":", queries,
        ",\"top_k\":", top_k, ",\"batch\":", flags.batch, ",\"threads\":", flags.threads,
        ",\"screen\":", JsonString(collection.screen()), ",\"load_seconds\":", JsonNumber(load_seconds),
        ",\"recall\":", JsonNumber(recall.ours()), ",\"same_ids\":", JsonNumber(recall.same()),
        ",\"neighbors_right\":", JsonNumber(recall.theirs()),
        ",\"queries_per_second\":", JsonNumber(per_second), "}\n"));
  }
  const auto share = [](double value) { return absl::StrFormat("%.6f", value); };
  return Print(absl::StrCat(
      data->train.view.rows, " x ", data->train.view.dim, ", ", collection.screen(), ", loaded in ",
      absl::StrFormat("%.1f", load_seconds), " s; ", flags.threads, " threads\n",
      Table({{"top_k", "queries", "batch", "recall", "same ids", "the file's right", "queries/s", "us/query"},
             {absl::StrCat(top_k), absl::StrCat(queries), absl::StrCat(flags.batch), share(recall.ours()),
              share(recall.same()), share(recall.theirs()), absl::StrFormat("%.0f", per_second),
              absl::StrFormat("%.1f", 1e6 / per_second)}})));
}

}  // namespace

ExitCode Eval(int argc, const char* const* argv) {
  EvalFlags f;
  Flags flags(
      "dotmax eval FILE.hdf5 [FLAGS]",
      "Asks a data set of ann-benchmarks its own queries, in this process, and says how the answers compare\n"
      "with its neighbours, and how fast they came. An answer is right when its score is as good as that of\n"
      "the file's last neighbour, which is 1 in an exact search; ids differ where scores tie, or where the\n"
      "file's neighbours were found with rounded scores: \"the file's right\" says how many of them are.");
  flags.Add(
      {"metric", "METRIC", "inner_product, cosine or squared_euclidean; by default what the file says.", ""},
      &f.metric);
  flags.Add({"top-k", "K", "How many neighbours to look for; at most those that the file has.", ""}, 1,
            1'000'000, &f.top_k);
  flags.Add({"batch", "N", "How many queries are asked at once.", ""}, 1, 1'000'000, &f.batch);
  flags.Add({"queries", "N", "Only the first N queries; 0: all.", ""}, 0, int64_t{1} << 40, &f.queries);
  flags.Add({"threads", "N", "How many threads search.", ""}, 1, 1024, &f.threads);
  f.common.AddFormatTo(flags);
  return WithFlags(flags, argc, argv, {"FILE.hdf5"},
                   [&f](const std::vector<std::string>& files) { return Run(f, files[0]); });
}

}  // namespace dotmax
