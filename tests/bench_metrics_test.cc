#include "client/cli/bench_metrics.h"

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"

namespace dotmax {
namespace {

// A histogram of buckets up to 1, 2 and 4.
std::string Histogram(const std::string& name, const std::string& labels, int one, int two, int four, int all,
                      double sum) {
  const auto bucket = [&](const char* end, int count) {
    return absl::StrCat(name, "_bucket{", labels, labels.empty() ? "" : ",", "le=\"", end, "\"} ", count,
                        "\n");
  };
  const std::string braced = labels.empty() ? "" : absl::StrCat("{", labels, "}");
  return absl::StrCat("# HELP ", name, " Some.\n# TYPE ", name, " histogram\n", name, "_count", braced, " ",
                      all, "\n", name, "_sum", braced, " ", sum, "\n", bucket("1", one), bucket("2", two),
                      bucket("4", four), bucket("+Inf", all));
}

TEST(BenchMetricsTest, HistogramsAreWhatCameMeanwhile) {
  const std::string before = Histogram("dotmax_search_queue_seconds", "", 7, 7, 9, 9, 20);
  const std::string after = Histogram("dotmax_search_queue_seconds", "", 17, 27, 109, 109, 140);
  const auto queue = FiguresBetween(before, after).queue_seconds;
  ASSERT_TRUE(queue.has_value());
  EXPECT_EQ(queue->count, 100);  // 10 up to 1, 10 more up to 2, 80 more up to 4
  EXPECT_EQ(queue->mean, 1.2);
  EXPECT_EQ(queue->p50, 2 + 2 * 30.0 / 80);
  EXPECT_EQ(queue->p99, 2 + 2 * 79.0 / 80);
}

TEST(BenchMetricsTest, ASeriesThatIsNewBeganAtZero) {
  const auto rows =
      FiguresBetween("", Histogram("dotmax_batch_query_rows", "", 4, 4, 4, 4, 4)).batch_query_rows;
  ASSERT_TRUE(rows.has_value());
  EXPECT_EQ(rows->p50, 0.5);
  EXPECT_EQ(rows->mean, 1);
}

TEST(BenchMetricsTest, BeyondTheLastBucketIsItsBeginning) {
  const auto rows =
      FiguresBetween("", Histogram("dotmax_batch_query_rows", "", 0, 0, 0, 3, 30)).batch_query_rows;
  ASSERT_TRUE(rows.has_value());
  EXPECT_EQ(rows->p50, 4);
}

TEST(BenchMetricsTest, NothingMeanwhileIsAbsent) {
  const std::string text = Histogram("dotmax_search_queue_seconds", "", 7, 7, 9, 9, 20);
  EXPECT_FALSE(FiguresBetween(text, text).queue_seconds.has_value());
  EXPECT_FALSE(FiguresBetween("", "").compute_seconds.has_value());
}

TEST(BenchMetricsTest, TotalsAreOfSearchAlone) {
  const std::string name = "grpc_server_handling_seconds";
  const auto total =
      FiguresBetween("", Histogram(name, "grpc_method=\"Search\"", 2, 2, 2, 2, 1) +
                             Histogram(name, "grpc_method=\"ListCollections\"", 0, 0, 0, 50, 999))
          .total_seconds;
  ASSERT_TRUE(total.has_value());
  EXPECT_EQ(total->count, 2);
  EXPECT_EQ(total->mean, 0.5);
}

TEST(BenchMetricsTest, CountersAreDifferencesOfTheSumOfAllSeriesOfThatName) {
  const ServerFigures figures =
      FiguresBetween("dotmax_pairs_screened_total 10\ndotmax_pairs_screened_total_other 5\n",
                     "dotmax_pairs_screened_total{collection=\"a b\"} "
                     "30\ndotmax_pairs_screened_total{collection=\"c\"} 1e3\n"
                     "dotmax_pairs_screened_total_other 50\ndotmax_pairs_rescored_total 4\n");
  EXPECT_EQ(figures.pairs_screened, 1020);
  EXPECT_EQ(figures.pairs_rescored, 4);
  EXPECT_EQ(figures.pairs_survived, 0);
}

TEST(BenchMetricsTest, WrongAddressesAreRefused) {
  for (const char* address : {"", "9464", ":9464", "localhost:"}) {
    EXPECT_EQ(FetchMetrics(address, "", absl::Seconds(5)).status().code(), absl::StatusCode::kInvalidArgument)
        << address;
  }
  EXPECT_EQ(FetchMetrics("127.0.0.1:1", "", absl::Seconds(5)).status().code(),
            absl::StatusCode::kUnavailable);
}

}  // namespace
}  // namespace dotmax
