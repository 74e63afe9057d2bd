#include "server/rpc/request.h"

#include <limits>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/base/errors.h"
#include "server/rpc/convert.h"
#include "tests/data.h"
#include "tests/wire.h"

namespace dotmax {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using testing::MakeMatrix;
using testing::MatrixOf;

const double kInfinity = std::numeric_limits<double>::infinity();

// 2 × 3 of 1 to 6.
v1::Matrix Good() { return MatrixOf(MakeMatrix({1, 2, 3, 4, 5, 6}, 3)); }

const std::vector<CollectionInfo>& Resident() {
  static const auto* const resident = new std::vector<CollectionInfo>{
      {"big", 1, 1'000'000, 3, DType::kFloat32, 0, "", {}}, {"small", 1, 2, 3, DType::kFloat32, 0, "", {}}};
  return *resident;
}

TEST(QueryFromProtoTest, DefaultsAreOneHitPerRow) {
  v1::SearchRequest request;
  *request.mutable_queries() = Good();
  const absl::StatusOr<Query> query = QueryFromProto(request, RequestLimits(), {});
  ASSERT_TRUE(query.ok()) << query.status();
  EXPECT_EQ(query->collection, "");
  EXPECT_EQ(query->selection.top_k, 1u);
  EXPECT_EQ(query->selection.reduction, Reduction::kPerRow);
  EXPECT_EQ(query->rows.view.rows, 2u);
}

TEST(QueryFromProtoTest, LimitsAndEnumsAreHeld) {
  const RequestLimits limits = {.max_top_k = 10};
  v1::SearchRequest request;
  *request.mutable_queries() = Good();
  request.set_top_k(10);
  EXPECT_TRUE(QueryFromProto(request, limits, {}).ok());
  request.set_top_k(11);
  absl::Status status = QueryFromProto(request, limits, {}).status();
  EXPECT_EQ(ErrorField(status), "top_k");
  EXPECT_EQ(ErrorReason(status), "TOP_K_TOO_LARGE");
  EXPECT_THAT(std::string(status.message()),
              AllOf(HasSubstr("11"), HasSubstr("10 "), HasSubstr("--max-top-k")));

  request.set_top_k(1);
  request.set_reduction(static_cast<v1::Reduction>(9));
  status = QueryFromProto(request, limits, {}).status();
  EXPECT_EQ(ErrorField(status), "reduction");
  EXPECT_EQ(ErrorReason(status), "UNKNOWN_REDUCTION");
}

TEST(QueryFromProtoTest, AReplyThatCannotBeSentIsRefusedBeforeItIsComputed) {
  const std::vector<CollectionInfo> resident = {{"big", 1, 1'000'000, 3, DType::kFloat32, 0, "", {}},
                                                {"small", 1, 2, 3, DType::kFloat32, 0, "", {}}};
  const RequestLimits limits = {.max_top_k = 1000, .max_message_bytes = 10'000};
  v1::SearchRequest request;
  *request.mutable_queries() = Good();
  request.set_top_k(1000);
  request.set_collection("small");  // has no 1,000 rows to send
  EXPECT_TRUE(QueryFromProto(request, limits, resident).ok());
  request.set_collection("big");
  const absl::Status status = QueryFromProto(request, limits, resident).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(ErrorField(status), "top_k");
  EXPECT_EQ(ErrorReason(status), "REPLY_TOO_LARGE");
  EXPECT_THAT(std::string(status.message()), AllOf(HasSubstr("10000"), HasSubstr("--max-message-bytes")));
}

// The bound holds for the largest ids, and wastes at most its fixed part.
TEST(MaxReplyBytesTest, IsAnUpperBoundOfWhatIsSent) {
  constexpr uint64_t kRows = 1'000'000;
  constexpr uint32_t kTopK = 200;
  for (const Reduction reduction : {Reduction::kPerRow, Reduction::kGlobal}) {
    for (const uint64_t queries : {uint64_t{0}, uint64_t{1}, uint64_t{300}}) {
      for (const char* form : {"", "truncated", "counts"}) {
        Selection selection = {.top_k = kTopK, .reduction = reduction};
        selection.tell_truncated = form == std::string("truncated");
        selection.count_only = form == std::string("counts");
        const bool global = reduction == Reduction::kGlobal;
        const uint64_t groups = global ? 1 : queries;
        Answer answer;
        uint64_t hits = global ? (queries > 0 ? kTopK : 0) : queries * kTopK;
        if (selection.count_only) hits = 0;
        for (uint64_t i = 0; i < hits; ++i) answer.hits.push_back({-1e300, queries - 1, kRows - 1});
        if (!global) answer.row_splits.assign(queries + 1, hits);
        if (hits > 0) answer.best = answer.hits[0];
        if (selection.tell_truncated) answer.truncated.assign(groups, true);
        if (selection.count_only) answer.counts.assign(groups, global ? queries * kRows : kRows);
        answer.rows_held = answer.rows_searched = kRows;
        answer.stats = {1.5, 1.5, ~uint64_t{0}, ~uint64_t{0}, ~uint64_t{0}};
        v1::SearchResponse response;
        AnswerToProto(answer, reduction, &response);
        const uint64_t bound = MaxReplyBytes(queries, kRows, selection);
        EXPECT_LE(response.ByteSizeLong(), bound);
        EXPECT_GE(response.ByteSizeLong() + 256, bound);
      }
    }
  }
}

TEST(MaxReplyBytesTest, SaturatesBeyond64Bits) {
  EXPECT_EQ(MaxReplyBytes(~uint64_t{0}, ~uint64_t{0}, {.top_k = ~uint32_t{0}}), ~uint64_t{0});
}

// A request that is right, with an exclusion and a range of its own metric.
template <typename Request>
Request Whole() {
  Request request;
  *request.mutable_queries() = Good();
  request.set_top_k(5);
  request.set_min_score(-1.5);
  for (const uint64_t split : {0, 3, 4}) request.mutable_exclude()->add_row_splits(split);
  for (const uint64_t id : {7, 2, 5, 1}) request.mutable_exclude()->add_ids(id);
  return request;
}

absl::StatusOr<Query> ToQuery(const v1::SearchRequest& request) {
  return QueryFromProto(request, RequestLimits(), Resident());
}
absl::StatusOr<Query> ToQuery(const v1::MaxInnerProductRequest& request) {
  return QueryFromProto(request, RequestLimits());
}

template <typename Request>
class BothRequestsTest : public ::testing::Test {
 protected:
  // Expects that `request` is refused under `field`.
  static void Refused(const Request& request, const std::string& field, const std::string& reason,
                      const std::vector<std::string>& words) {
    SCOPED_TRACE(reason);
    const absl::Status status = ToQuery(request).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
    EXPECT_EQ(ErrorField(status), field);
    EXPECT_EQ(ErrorReason(status), reason);
    EXPECT_THAT(std::string(status.message()), HasSubstr(field + ": "));
    for (const std::string& word : words) EXPECT_THAT(std::string(status.message()), HasSubstr(word));
  }
};

using Requests = ::testing::Types<v1::SearchRequest, v1::MaxInnerProductRequest>;
TYPED_TEST_SUITE(BothRequestsTest, Requests);

TYPED_TEST(BothRequestsTest, EveryFieldOfTheSelectionArrives) {
  TypeParam request = Whole<TypeParam>();
  request.set_reduction(v1::GLOBAL);
  request.set_metric(v1::COSINE);
  const absl::StatusOr<Query> query = ToQuery(request);
  ASSERT_TRUE(query.ok()) << query.status();
  EXPECT_EQ(query->selection.top_k, 5u);
  EXPECT_EQ(query->selection.reduction, Reduction::kGlobal);
  EXPECT_EQ(query->selection.metric, Metric::kCosine);
  EXPECT_THAT(query->selection.bounds, ElementsAre(-1.5));
  EXPECT_FALSE(query->selection.tell_truncated);
  EXPECT_FALSE(query->selection.count_only);
  EXPECT_THAT(query->selection.excluded_splits, ElementsAre(0, 3, 4));
  EXPECT_THAT(query->selection.excluded, ElementsAre(2, 5, 7, 1));
}

TYPED_TEST(BothRequestsTest, DistancesAreBoundedFromAbove) {
  TypeParam request = Whole<TypeParam>();
  request.set_metric(v1::SQUARED_EUCLIDEAN);
  this->Refused(request, "min_score", "BOUND_OF_ANOTHER_METRIC", {"-1.5", "SQUARED_EUCLIDEAN", "max_score"});
  request.clear_min_score();
  request.set_max_score(0);
  ASSERT_TRUE(ToQuery(request).ok());
  EXPECT_THAT(ToQuery(request)->selection.bounds, ElementsAre(0));
  request.set_metric(v1::COSINE);
  this->Refused(request, "max_score", "BOUND_OF_ANOTHER_METRIC", {"0", "COSINE", "min_score"});
  request.clear_metric();
  this->Refused(request, "max_score", "BOUND_OF_ANOTHER_METRIC", {"INNER_PRODUCT", "min_score"});
}

TYPED_TEST(BothRequestsTest, BoundsAreNumbersInfinityIncluded) {
  TypeParam request = Whole<TypeParam>();
  request.set_min_score(-kInfinity);
  EXPECT_TRUE(ToQuery(request).ok());
  request.set_min_score(std::numeric_limits<double>::quiet_NaN());
  this->Refused(request, "min_score", "NOT_A_NUMBER", {"nan"});
  request.clear_min_score();
  request.set_metric(v1::SQUARED_EUCLIDEAN);
  request.set_max_score(std::numeric_limits<double>::quiet_NaN());
  this->Refused(request, "max_score", "NOT_A_NUMBER", {"nan"});
}

TYPED_TEST(BothRequestsTest, UnknownEnumsAreRefused) {
  TypeParam request = Whole<TypeParam>();
  request.set_metric(static_cast<v1::Metric>(12));
  this->Refused(request, "metric", "UNKNOWN_METRIC", {"12"});
  request = Whole<TypeParam>();
  request.set_reduction(static_cast<v1::Reduction>(12));
  this->Refused(request, "reduction", "UNKNOWN_REDUCTION", {"12"});
}

TYPED_TEST(BothRequestsTest, CountsNeedARangeAndNothingElse) {
  TypeParam request = Whole<TypeParam>();
  request.set_count_only(true);
  this->Refused(request, "top_k", "COUNT_WITH_TOP_K", {"5"});
  request.clear_top_k();
  const absl::StatusOr<Query> query = ToQuery(request);
  ASSERT_TRUE(query.ok()) << query.status();
  EXPECT_TRUE(query->selection.count_only);
  EXPECT_FALSE(query->selection.tell_truncated);
  request.clear_min_score();
  this->Refused(request, "count_only", "NO_RANGE", {"min_score"});
  request.set_metric(v1::SQUARED_EUCLIDEAN);
  this->Refused(request, "count_only", "NO_RANGE", {"max_score"});
}

TYPED_TEST(BothRequestsTest, MalformedExclusionsAreRefused) {
  struct Case {
    std::vector<uint64_t> splits;
    size_t ids;
    std::vector<std::string> words;
  };
  for (const Case& wrong : std::vector<Case>{{{}, 2, {"0 splits", "2 query rows"}},
                                             {{0, 2}, 2, {"2 splits", "2 query rows"}},
                                             {{0, 1, 1, 2}, 2, {"4 splits", "2 query rows"}},
                                             {{1, 1, 2}, 2, {"1, not 0"}},
                                             {{0, 2, 1}, 1, {"split 2 is 1", "2"}},
                                             {{0, 1, 2}, 3, {"last is 2", "3 ids"}},
                                             {{0, 1, 2}, 0, {"last is 2", "0 ids"}}}) {
    TypeParam request = Whole<TypeParam>();
    request.clear_exclude();
    for (const uint64_t split : wrong.splits) request.mutable_exclude()->add_row_splits(split);
    for (size_t id = 0; id < wrong.ids; ++id) request.mutable_exclude()->add_ids(id);
    this->Refused(request, "exclude.row_splits", "MALFORMED_SPLITS", wrong.words);
  }
  TypeParam request = Whole<TypeParam>();
  request.mutable_exclude()->clear_ids();
  request.mutable_exclude()->clear_row_splits();
  ASSERT_TRUE(ToQuery(request).ok());
  EXPECT_THAT(ToQuery(request)->selection.excluded_splits, IsEmpty());
}

TYPED_TEST(BothRequestsTest, AllOfARangeMeansUpToTheLimits) {
  TypeParam request = Whole<TypeParam>();
  *request.mutable_queries() = MatrixOf(testing::RandomNormal(100, 3, 1));
  request.clear_exclude();
  request.clear_top_k();
  if constexpr (std::is_same_v<TypeParam, v1::MaxInnerProductRequest>) {
    *request.mutable_base() = MatrixOf(testing::RandomNormal(2000, 3, 2));
  } else {
    request.set_collection("big");
  }
  EXPECT_EQ(ToQuery(request)->selection.top_k, 1000u);
  EXPECT_TRUE(ToQuery(request)->selection.tell_truncated);
  for (const v1::Reduction reduction : {v1::PER_ROW, v1::GLOBAL}) {
    request.set_reduction(reduction);
    const RequestLimits limits = {.max_top_k = 1000, .max_message_bytes = 10'000};
    absl::StatusOr<Query> query;
    uint64_t rows = 1'000'000;
    if constexpr (std::is_same_v<TypeParam, v1::MaxInnerProductRequest>) {
      query = QueryFromProto(request, limits);
      rows = 2000;
    } else {
      query = QueryFromProto(request, limits, Resident());
    }
    ASSERT_TRUE(query.ok()) << query.status();
    Selection selection = query->selection;
    EXPECT_GT(selection.top_k, 1u);
    EXPECT_LE(MaxReplyBytes(100, rows, selection), 10'000u);
    ++selection.top_k;
    EXPECT_GT(MaxReplyBytes(100, rows, selection), 10'000u);
  }
}

TEST(QueryFromProtoTest, CountsThatCannotBeSentAreRefusedBeforeTheyAreComputed) {
  v1::SearchRequest request;
  request.set_collection("big");
  request.mutable_resident_queries();
  request.set_min_score(0);
  request.set_count_only(true);
  EXPECT_TRUE(ToQuery(request).ok());
  const absl::Status status =
      QueryFromProto(request, {.max_top_k = 1, .max_message_bytes = 1'000'000}, Resident()).status();
  EXPECT_EQ(ErrorField(status), "count_only");
  EXPECT_EQ(ErrorReason(status), "REPLY_TOO_LARGE");
}

// Rows [first, first + rows) of `collection`, or all from `first` on, as queries to "big".
v1::SearchRequest OfResident(const std::string& collection, uint64_t first, uint64_t rows) {
  v1::SearchRequest request;
  request.set_collection("big");
  request.mutable_resident_queries()->set_collection(collection);
  request.mutable_resident_queries()->set_first(first);
  request.mutable_resident_queries()->set_rows(rows);
  return request;
}

TEST(ResidentQueriesTest, RowsAreCountedByTheirCollection) {
  const auto rows = [](const v1::SearchRequest& request) {
    const absl::StatusOr<Query> query = ToQuery(request);
    EXPECT_TRUE(query.ok()) << query.status();
    return query.ok() ? QueryRows(*query, Resident()) : ~uint64_t{0};
  };
  EXPECT_EQ(rows(OfResident("", 10, 5)), 5u);
  EXPECT_EQ(rows(OfResident("", 10, 0)), 999'990u);
  EXPECT_EQ(rows(OfResident("big", 1'000'000, 0)), 0u);
  EXPECT_EQ(rows(OfResident("small", 1, 0)), 1u);
  EXPECT_EQ(rows(OfResident("small", 0, 2)), 2u);
  const absl::StatusOr<Query> query = ToQuery(OfResident("small", 1, 1));
  EXPECT_EQ(query->resident->collection, "small");
  EXPECT_EQ(query->resident->first, 1u);
  EXPECT_EQ(query->resident->rows, 1u);
}

TEST(ResidentQueriesTest, RowsThatAreNotThereAreOutOfRange) {
  for (const v1::SearchRequest& request : {OfResident("small", 3, 0), OfResident("small", 1, 2),
                                           OfResident("small", 2, 1), OfResident("small", 1, ~uint64_t{0})}) {
    const absl::Status status = ToQuery(request).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kOutOfRange);
    EXPECT_EQ(ErrorReason(status), "ROWS_OUT_OF_RANGE");
    EXPECT_THAT(std::string(status.message()),
                AllOf(HasSubstr(absl::StrCat(request.resident_queries().rows(), " rows from ",
                                             request.resident_queries().first())),
                      HasSubstr("\"small\" has 2")));
  }
  // Which the searcher will say.
  EXPECT_TRUE(ToQuery(OfResident("absent", 3, 0)).ok());
}

TEST(ResidentQueriesTest, ARequestHasOneA) {
  v1::SearchRequest both = OfResident("", 0, 1);
  *both.mutable_queries() = Good();
  absl::Status status = ToQuery(both).status();
  EXPECT_EQ(ErrorField(status), "queries");
  EXPECT_EQ(ErrorReason(status), "TWO_QUERIES");
  status = ToQuery(v1::SearchRequest()).status();
  EXPECT_EQ(ErrorField(status), "queries");
  EXPECT_EQ(ErrorReason(status), "NO_QUERIES");
}

TEST(ResidentQueriesTest, SelfPairsAreOfOneCollection) {
  v1::SearchRequest request = OfResident("", 0, 1);
  request.set_self_pairs(v1::NOT_ITSELF);
  EXPECT_EQ(ToQuery(request)->selection.self, Selection::Self::kNotItself);
  request = OfResident("big", 0, 1);
  request.set_self_pairs(v1::EACH_ONCE);
  EXPECT_EQ(ToQuery(request)->selection.self, Selection::Self::kOnce);

  request = OfResident("small", 0, 1);
  request.set_self_pairs(v1::EACH_ONCE);
  absl::Status status = ToQuery(request).status();
  EXPECT_EQ(ErrorField(status), "self_pairs");
  EXPECT_EQ(ErrorReason(status), "TWO_COLLECTIONS");
  EXPECT_THAT(std::string(status.message()),
              AllOf(HasSubstr("EACH_ONCE"), HasSubstr("small"), HasSubstr("big")));

  v1::SearchRequest sent;
  *sent.mutable_queries() = Good();
  sent.set_self_pairs(v1::NOT_ITSELF);
  status = ToQuery(sent).status();
  EXPECT_EQ(ErrorField(status), "self_pairs");
  EXPECT_EQ(ErrorReason(status), "NO_RESIDENT_QUERIES");

  request = OfResident("", 0, 1);
  request.set_self_pairs(static_cast<v1::SelfPairs>(5));
  EXPECT_EQ(ErrorReason(ToQuery(request).status()), "UNKNOWN_SELF_PAIRS");
}

TEST(InlineBaseTest, IsBorrowedAndHasTheDimOfTheQueries) {
  v1::MaxInnerProductRequest request;
  *request.mutable_queries() = Good();
  *request.mutable_base() = MatrixOf(MakeMatrix({1, 2, 3}, 3, DType::kInt8));
  const absl::StatusOr<Query> query = ToQuery(request);
  ASSERT_TRUE(query.ok()) << query.status();
  EXPECT_EQ(query->base->view.rows, 1u);
  EXPECT_EQ(query->base->view.dtype, DType::kInt8);
  EXPECT_EQ(static_cast<const void*>(query->base->view.data), request.base().data().data());

  *request.mutable_base() = MatrixOf(MakeMatrix({1, 2, 3, 4}, 4));
  absl::Status status = ToQuery(request).status();
  EXPECT_EQ(ErrorField(status), "base.dim");
  EXPECT_EQ(ErrorReason(status), "DIM_MISMATCH");
  EXPECT_EQ(status.message(), "base.dim: 4, but queries.dim is 3");

  request.mutable_base()->mutable_data()->pop_back();
  EXPECT_EQ(ErrorField(ToQuery(request).status()), "base.data");
  request.clear_base();
  EXPECT_TRUE(ToQuery(request).ok());
  request.clear_queries();
  EXPECT_TRUE(ToQuery(request).ok());
  request.set_collection("big");
  status = ToQuery(request).status();
  EXPECT_EQ(ErrorField(status), "collection");
  EXPECT_EQ(ErrorReason(status), "COLLECTION_AND_BASE");
}

TEST(PairsFromProtoTest, FieldsNameTheirPair) {
  v1::BatchMaxInnerProductRequest request;
  request.set_metric(v1::COSINE);
  for (int p = 0; p < 9; ++p) {
    *request.add_pairs()->mutable_queries() = Good();
    *request.mutable_pairs(p)->mutable_base() = Good();
  }
  request.mutable_pairs(3)->clear_base();
  const absl::StatusOr<PairsQuery> query = PairsFromProto(request);
  ASSERT_TRUE(query.ok()) << query.status();
  EXPECT_EQ(query->metric, Metric::kCosine);
  ASSERT_EQ(query->pairs.size(), 9u);
  EXPECT_EQ(query->pairs[3].base.rows, 0u);
  EXPECT_EQ(query->pairs[8].queries.rows, 2u);

  v1::BatchMaxInnerProductRequest wrong = request;
  wrong.mutable_pairs(8)->mutable_queries()->mutable_data()->pop_back();
  EXPECT_EQ(ErrorField(PairsFromProto(wrong).status()), "pairs[8].queries.data");
  *wrong.mutable_pairs(7)->mutable_base() = MatrixOf(MakeMatrix({1, 2, 3, 4}, 4));
  const absl::Status status = PairsFromProto(wrong).status();
  EXPECT_EQ(ErrorField(status), "pairs[7].base.dim");
  EXPECT_EQ(status.message(), "pairs[7].base.dim: 4, but pairs[7].queries.dim is 3");
  wrong.set_metric(static_cast<v1::Metric>(9));
  EXPECT_EQ(ErrorField(PairsFromProto(wrong).status()), "metric");
}

TEST(InMessageTest, KeepsWhatWasAttached) {
  const absl::Status status = InMessage(7, InvalidField("base.dim", "DIM_CHANGED", "base.dim: 4"));
  EXPECT_EQ(status.message(), "message 7: base.dim: 4");
  EXPECT_EQ(ErrorField(status), "base.dim");
  EXPECT_EQ(ErrorReason(status), "DIM_CHANGED");
  EXPECT_TRUE(InMessage(7, absl::OkStatus()).ok());
}

}  // namespace
}  // namespace dotmax
