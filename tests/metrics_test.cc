#include "server/base/metrics.h"

#include <string>
#include <thread>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace dotmax {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

constexpr Metrics::Rpc kSearch = {"unary", "dotmax.v1.Dotmax", "Search"};
constexpr Metrics::Rpc kStream = {"client_stream", "dotmax.v1.Dotmax", "MaxInnerProductStream"};

TEST(MetricsTest, RpcsAreCountedByMethodAndCode) {
  Metrics metrics("1.2.3", "2.6.3");
  metrics.Declare(kSearch);
  metrics.Declare(kStream);
  for (int i = 0; i < 3; ++i) metrics.RpcStarted(kSearch);
  metrics.RpcHandled(kSearch, absl::StatusCode::kOk, absl::Milliseconds(2));
  metrics.RpcHandled(kSearch, absl::StatusCode::kInvalidArgument, absl::Milliseconds(200));

  const std::string text = metrics.Text();
  const std::string labels = R"(grpc_method="Search",grpc_service="dotmax.v1.Dotmax",grpc_type="unary")";
  EXPECT_THAT(text, HasSubstr("grpc_server_started_total{" + labels + "} 3\n"));
  EXPECT_THAT(text, HasSubstr("grpc_server_handled_total{grpc_code=\"OK\"," + labels + "} 1\n"));
  EXPECT_THAT(text,
              HasSubstr("grpc_server_handled_total{grpc_code=\"INVALID_ARGUMENT\"," + labels + "} 1\n"));
  EXPECT_THAT(text, HasSubstr("grpc_server_handling_seconds_count{" + labels + "} 2\n"));
  EXPECT_THAT(text, HasSubstr("grpc_server_handling_seconds_bucket{" + labels + ",le=\"0.001\"} 0\n"));
  EXPECT_THAT(text, HasSubstr("grpc_server_handling_seconds_bucket{" + labels + ",le=\"0.01\"} 1\n"));
  EXPECT_THAT(text, HasSubstr("grpc_server_handling_seconds_bucket{" + labels + ",le=\"+Inf\"} 2\n"));
  EXPECT_THAT(text, HasSubstr("dotmax_rpcs_in_flight 1\n"));

  metrics.RpcStarted(kStream);
  EXPECT_THAT(
      metrics.Text(),
      HasSubstr("grpc_server_started_total{grpc_method=\"MaxInnerProductStream\",grpc_service=\"dotmax."
                "v1.Dotmax\",grpc_type=\"client_stream\"} 1\n"));
}

TEST(MetricsTest, SearchesAddWhatTheyCost) {
  Metrics metrics("1.2.3", "2.6.3");
  EXPECT_THAT(metrics.Text(), HasSubstr("dotmax_query_rows_total 0\n"));  // shown before the first one
  const SearchStats stats = {.queue_seconds = 0.5,
                             .compute_seconds = 0.25,
                             .pairs_screened = 1000,
                             .pairs_survived = 20,
                             .pairs_checked = 5,
                             .pairs_rescored = 3};
  metrics.SearchAnswered(16, stats);
  metrics.SearchAnswered(4, stats);
  const std::string text = metrics.Text();
  EXPECT_THAT(text, HasSubstr("dotmax_query_rows_total 20\n"));
  EXPECT_THAT(text, HasSubstr("dotmax_pairs_screened_total 2000\n"));
  EXPECT_THAT(text, HasSubstr("dotmax_pairs_survived_total 40\n"));
  EXPECT_THAT(text, HasSubstr("dotmax_pairs_checked_total 10\n"));
  EXPECT_THAT(text, HasSubstr("dotmax_pairs_rescored_total 6\n"));
  EXPECT_THAT(text, HasSubstr("dotmax_search_queue_seconds_sum 1\n"));
  EXPECT_THAT(text, HasSubstr("dotmax_search_compute_seconds_sum 0.5\n"));
  EXPECT_THAT(text, HasSubstr("dotmax_search_compute_seconds_count 2\n"));
  EXPECT_THAT(text, HasSubstr("dotmax_matrix_pairs_total 0\n"));

  metrics.PairsAnswered(5, 7, stats);
  const std::string pairs = metrics.Text();
  EXPECT_THAT(pairs, HasSubstr("dotmax_matrix_pairs_total 5\n"));
  EXPECT_THAT(pairs, HasSubstr("dotmax_query_rows_total 27\n"));
  EXPECT_THAT(pairs, HasSubstr("dotmax_pairs_screened_total 3000\n"));
  EXPECT_THAT(pairs, HasSubstr("dotmax_search_compute_seconds_count 3\n"));
}

TEST(MetricsTest, ResidentCollectionsAndTheBuildAreShown) {
  Metrics metrics("1.2.3", "2.6.3");
  EXPECT_THAT(metrics.Text(), HasSubstr("dotmax_build_info{onednn=\"2.6.3\",version=\"1.2.3\"} 1\n"));
  EXPECT_THAT(metrics.Text(), Not(HasSubstr("dotmax_resident_rows{")));
  metrics.SetResident({{"a",
                        3,
                        1000,
                        4,
                        DType::kFloat32,
                        16000,
                        "int8",
                        {{"float32", 0.5, std::nullopt}, {"int8", 0.25, 2.0}}},
                       {"b \"q\"", 4, 7, 1, DType::kInt8, 7, "", {}, /*intact=*/false}});
  EXPECT_THAT(metrics.Text(), HasSubstr("dotmax_collection_version{collection=\"a\"} 3\n"));
  EXPECT_THAT(metrics.Text(), HasSubstr("dotmax_collection_intact{collection=\"a\"} 1\n"));
  EXPECT_THAT(metrics.Text(), HasSubstr("dotmax_collection_intact{collection=\"b \\\"q\\\"\"} 0\n"));
  EXPECT_THAT(metrics.Text(), HasSubstr("dotmax_screen_info{collection=\"a\",screen=\"int8\"} 1\n"));
  const std::string estimate = "dotmax_screen_estimate_seconds{collection=\"a\",";
  EXPECT_THAT(metrics.Text(), HasSubstr(estimate + "queries=\"batch\",screen=\"float32\"} 0.5\n"));
  EXPECT_THAT(metrics.Text(), HasSubstr(estimate + "queries=\"batch\",screen=\"int8\"} 0.25\n"));
  EXPECT_THAT(metrics.Text(), HasSubstr(estimate + "queries=\"one\",screen=\"int8\"} 2\n"));
  EXPECT_THAT(metrics.Text(), Not(HasSubstr(estimate + "queries=\"one\",screen=\"float32\"")));
  EXPECT_THAT(metrics.Text(), HasSubstr("dotmax_resident_rows{collection=\"a\"} 1000\n"));
  EXPECT_THAT(metrics.Text(), HasSubstr("dotmax_resident_bytes{collection=\"a\"} 16000\n"));
  EXPECT_THAT(metrics.Text(), HasSubstr("dotmax_resident_rows{collection=\"b \\\"q\\\"\"} 7\n"));
}

TEST(MetricsTest, RefusalsAreCountedByThoseReasonsThatAreOnes) {
  Metrics metrics("1.2.3", "2.6.3");
  metrics.Refused("QUEUE_FULL");
  metrics.Refused("QUEUE_FULL");
  metrics.Refused("DRAINING");
  metrics.Refused("DIM_MISMATCH");
  metrics.Refused("");
  const std::string text = metrics.Text();
  EXPECT_THAT(text, HasSubstr("dotmax_refused_total{reason=\"QUEUE_FULL\"} 2\n"));
  EXPECT_THAT(text, HasSubstr("dotmax_refused_total{reason=\"DRAINING\"} 1\n"));
  EXPECT_THAT(text, HasSubstr("dotmax_refused_total{reason=\"RATE_LIMITED\"} 0\n"));
  EXPECT_THAT(text, Not(HasSubstr("DIM_MISMATCH")));
}

TEST(MetricsTest, FilesAndTheCertificateAreShownOnceRead) {
  Metrics metrics("1.2.3", "2.6.3");
  EXPECT_THAT(metrics.Text(), HasSubstr("# TYPE dotmax_config_last_reload_success gauge\n"));
  EXPECT_THAT(metrics.Text(), Not(HasSubstr("dotmax_config_last_reload_success{")));
  metrics.ConfigLoaded("tokens", true);
  EXPECT_THAT(metrics.Text(), HasSubstr("dotmax_config_last_reload_success{file=\"tokens\"} 1\n"));
  metrics.ConfigLoaded("tokens", false);
  metrics.SetCertificateExpiry(absl::FromUnixSeconds(1700000000));
  EXPECT_THAT(metrics.Text(), HasSubstr("dotmax_config_last_reload_success{file=\"tokens\"} 0\n"));
  EXPECT_THAT(metrics.Text(), HasSubstr("dotmax_certificate_expiry_timestamp_seconds 1700000000\n"));
}

TEST(MetricsTest, CountsOfManyThreadsAddUp) {
  Metrics metrics("1.2.3", "2.6.3");
  metrics.Declare(kSearch);
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&metrics] {
      for (int i = 0; i < 1000; ++i) {
        metrics.RpcStarted(kSearch);
        metrics.RpcHandled(kSearch, absl::StatusCode::kCancelled, absl::Milliseconds(1));
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_THAT(metrics.Text(), HasSubstr("grpc_server_handled_total{grpc_code=\"CANCELLED\",grpc_method="
                                        "\"Search\",grpc_service=\"dotmax.v1.Dotmax\",grpc_type=\"unary\"} "
                                        "4000\n"));
  EXPECT_THAT(metrics.Text(), HasSubstr("dotmax_rpcs_in_flight 0\n"));
}

TEST(MetricsTest, CollectionsThatAreGoneAreNoLongerShown) {
  Metrics metrics("1.2.3", "2.6.3");
  const CollectionInfo a = {"a", 1, 10, 4, DType::kFloat32, 160, "float32", {{"float32", 0.5, 0.5}}};
  CollectionInfo b = {"b", 2, 10, 4, DType::kFloat32, 160, "float32", {}};
  metrics.LoadEnded("a", true, absl::FromUnixSeconds(1000));
  metrics.LoadEnded("b", true, absl::FromUnixSeconds(2000));
  metrics.SetResident({a, b});
  EXPECT_THAT(metrics.Text(), HasSubstr("dotmax_reload_last_success{collection=\"a\"} 1\n"));
  EXPECT_THAT(metrics.Text(),
              HasSubstr("dotmax_reload_last_success_timestamp_seconds{collection=\"b\"} 2000\n"));

  b.version = 3;
  b.screen = "int8, 4 of 4 axes";
  metrics.LoadEnded("b", false, absl::FromUnixSeconds(3000));
  metrics.LoadEnded("c", false, absl::FromUnixSeconds(3000));  // which never was
  metrics.SetResident({b});
  const std::string text = metrics.Text();
  EXPECT_THAT(text, Not(HasSubstr("collection=\"a\"")));
  EXPECT_THAT(text, Not(HasSubstr("collection=\"c\"")));
  EXPECT_THAT(text, Not(HasSubstr("screen=\"float32\"")));
  EXPECT_THAT(text, HasSubstr("dotmax_screen_info{collection=\"b\",screen=\"int8, 4 of 4 axes\"} 1\n"));
  EXPECT_THAT(text, HasSubstr("dotmax_collection_version{collection=\"b\"} 3\n"));
  EXPECT_THAT(text, HasSubstr("dotmax_reload_last_success{collection=\"b\"} 0\n"));
  EXPECT_THAT(text, HasSubstr("dotmax_reload_last_success_timestamp_seconds{collection=\"b\"} 2000\n"));

  // A name that comes back begins anew.
  metrics.SetResident({a, b});
  EXPECT_THAT(metrics.Text(), Not(HasSubstr("dotmax_reload_last_success{collection=\"a\"}")));
}

}  // namespace
}  // namespace dotmax
