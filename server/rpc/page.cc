#include "server/rpc/page.h"

#include <algorithm>
#include <cmath>
#include <optional>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/time/clock.h"
#include "server/base/errors.h"
#include "server/base/json.h"
#include "server/base/row_names.h"
#include "server/rpc/page_assets.h"

namespace dotmax {
namespace {

constexpr absl::string_view kJson = "application/json; charset=utf-8";

int HttpStatus(absl::StatusCode code) {
  switch (code) {
    case absl::StatusCode::kInvalidArgument:
    case absl::StatusCode::kOutOfRange:
      return 400;
    case absl::StatusCode::kUnauthenticated:
      return 401;
    case absl::StatusCode::kPermissionDenied:
      return 403;
    case absl::StatusCode::kNotFound:
      return 404;
    case absl::StatusCode::kFailedPrecondition:
    case absl::StatusCode::kAborted:
      return 409;
    case absl::StatusCode::kResourceExhausted:
      return 429;
    case absl::StatusCode::kUnavailable:
      return 503;
    case absl::StatusCode::kDeadlineExceeded:
      return 504;
    default:
      return 500;
  }
}

Page::Reply Failure(const absl::Status& status) {
  Page::Reply reply = {.status = HttpStatus(status.code()), .content_type = kJson};
  const std::optional<std::string> field = ErrorField(status);
  reply.body = absl::StrCat("{\"error\":{\"code\":", JsonString(absl::StatusCodeToString(status.code())),
                            ",\"reason\":", JsonString(ErrorReason(status).value_or("")),
                            field.has_value() ? absl::StrCat(",\"field\":", JsonString(*field)) : "",
                            ",\"message\":", JsonString(status.message()), "}}\n");
  if (const std::optional<absl::Duration> delay = ErrorRetryDelay(status)) {
    reply.retry_after = absl::StrCat(std::ceil(absl::ToDoubleSeconds(*delay)));
  }
  return reply;
}

std::string Parameter(const Page::Request& request, const std::string& name, const std::string& otherwise) {
  const auto found = request.parameters.find(name);
  return found == request.parameters.end() ? otherwise : found->second;
}

absl::StatusOr<Metric> MetricOf(const std::string& name) {
  if (name == "inner_product") return Metric::kInnerProduct;
  if (name == "cosine") return Metric::kCosine;
  if (name == "squared_euclidean") return Metric::kSquaredEuclidean;
  return InvalidField(
      "metric", "UNKNOWN_METRIC",
      absl::StrCat("metric: \"", name, "\" is none of inner_product, cosine, squared_euclidean"));
}

// Counts while it exists.
class Counted {
 public:
  explicit Counted(std::atomic<int>& count) : count_(count), number_(++count) {}
  ~Counted() { --count_; }
  Counted(const Counted&) = delete;
  Counted& operator=(const Counted&) = delete;

  int number() const { return number_; }

 private:
  std::atomic<int>& count_;
  const int number_;
};

absl::StatusOr<CollectionInfo> NamedCollection(const Searcher& searcher, const std::string& name) {
  const ResidentInfos infos = searcher.Collections();
  for (const CollectionInfo& info : *infos) {
    if (info.name != name && !(name.empty() && infos->size() == 1)) continue;
    if (info.names != nullptr) return info;
    return Error(absl::StatusCode::kFailedPrecondition, "NO_NAMES",
                 absl::StrCat("collection: the rows of \"", info.name, "\" have no names"));
  }
  return Error(absl::StatusCode::kNotFound, "COLLECTION_NOT_FOUND",
               absl::StrCat("collection: there is no \"", name, "\""));
}

}  // namespace

Page::Reply Page::Answer(const Request& request) const {
  if (request.path == "/")
    return {.content_type = "text/html; charset=utf-8", .body = std::string(page_index_html)};
  if (request.path == "/page.css")
    return {.content_type = "text/css; charset=utf-8", .body = std::string(page_page_css)};
  if (request.path == "/page.js") {
    return {.content_type = "text/javascript; charset=utf-8", .body = std::string(page_page_js)};
  }
  const bool search = request.path == "/search.json";
  if (!search && request.path != "/collections.json") {
    return Failure(Error(absl::StatusCode::kNotFound, "NO_SUCH_PAGE",
                         absl::StrCat(request.path, ": there is no such page")));
  }
  const auto figures = [&]() -> absl::StatusOr<std::string> {
    if (tokens_ == nullptr) return search ? Search(request, request.peer) : Collections();
    const absl::StatusOr<std::string> client =
        tokens_->Admit(request.authorization, Scope::kSearch, absl::Now());
    if (!client.ok()) return client.status();
    return search ? Search(request, *client) : Collections();
  };
  absl::StatusOr<std::string> body = figures();
  if (body.ok()) return {.content_type = kJson, .body = *std::move(body)};
  metrics_->Refused(ErrorReason(body.status()).value_or(""));
  return Failure(body.status());
}

absl::StatusOr<std::string> Page::Collections() const {
  const ResidentInfos infos = searcher_->Collections();
  std::vector<std::string> collections;
  for (const CollectionInfo& info : *infos) {
    std::vector<std::string> estimates;
    for (const ScreenEstimate& estimate : info.estimates) {
      estimates.push_back(absl::StrCat(
          "{\"screen\":", JsonString(estimate.screen),
          ",\"batch_query_seconds\":", JsonNumber(estimate.batch_query_seconds), ",\"single_query_seconds\":",
          estimate.single_query_seconds ? JsonNumber(*estimate.single_query_seconds) : "null", "}"));
    }
    collections.push_back(absl::StrCat(
        "{\"name\":", JsonString(info.name), ",\"version\":", info.version, ",\"rows\":", info.rows,
        ",\"dim\":", info.dim, ",\"dtype\":", JsonString(DTypeName(info.dtype)),
        ",\"resident_bytes\":", info.resident_bytes, ",\"screen\":", JsonString(info.screen), ",\"intact\":",
        info.intact ? "true" : "false", ",\"named\":", info.names != nullptr ? "true" : "false",
        ",\"estimates\":[", absl::StrJoin(estimates, ","), "]}"));
  }
  return absl::StrCat("{\"collections\":[", absl::StrJoin(collections, ","), "]}\n");
}

absl::StatusOr<std::string> Page::Search(const Request& request, const std::string& client) const {
  const absl::StatusOr<CollectionInfo> collection =
      NamedCollection(*searcher_, Parameter(request, "collection", ""));
  if (!collection.ok()) return collection.status();
  const absl::StatusOr<Metric> metric = MetricOf(Parameter(request, "metric", "inner_product"));
  if (!metric.ok()) return metric.status();
  const std::string top_k = Parameter(request, "top_k", "10");
  Query query;
  if (!absl::SimpleAtoi(top_k, &query.selection.top_k) || query.selection.top_k < 1 ||
      query.selection.top_k > kMaxHits) {
    return InvalidField("top_k", "TOP_K_OUT_OF_RANGE",
                        absl::StrCat("top_k: \"", top_k, "\" is not from 1 to ", kMaxHits));
  }
  const std::string word = Parameter(request, "word", "");
  const std::optional<uint64_t> row = collection->names->Find(word);
  if (!row.has_value()) {
    return Error(absl::StatusCode::kNotFound, "ROW_NOT_FOUND",
                 absl::StrCat("word: no row of \"", collection->name, "\" is named \"", word, "\""));
  }
  const Counted counted(searches_);
  if (counted.number() > kMaxSearches) {
    return RetryAfter(absl::Seconds(1), "QUEUE_FULL", "others search by this page just now");
  }

  query.collection = collection->name;
  query.version = collection->version;  // the names are of this one
  query.resident = ResidentRows{"", *row, 1};
  query.selection.metric = *metric;
  query.selection.self = Selection::Self::kNotItself;
  const absl::Time begin = absl::Now();
  query.limits.client = client;
  query.limits.deadline = begin + kDeadline;
  const absl::StatusOr<dotmax::Answer> answer = SearchAndWait(*searcher_, std::move(query));
  if (!answer.ok()) return answer.status();
  metrics_->SearchAnswered(1, answer->stats);

  const double milliseconds = absl::ToDoubleMilliseconds(absl::Now() - begin);
  std::vector<std::string> hits;
  for (const Hit& hit : answer->hits) {
    hits.push_back(absl::StrCat("{\"id\":", hit.id, ",\"name\":", JsonString((*collection->names)[hit.id]),
                                ",\"score\":", JsonNumber(hit.score), "}"));
  }
  return absl::StrCat("{\"query\":", JsonString(word), ",\"version\":", answer->version,
                      ",\"milliseconds\":", JsonNumber(std::round(milliseconds * 100) / 100), ",\"hits\":[",
                      absl::StrJoin(hits, ","), "]}\n");
}

}  // namespace dotmax
