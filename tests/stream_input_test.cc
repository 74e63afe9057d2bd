#include "server/rpc/stream_input.h"

#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/base/errors.h"
#include "tests/data.h"
#include "tests/wire.h"

namespace dotmax {
namespace {

using Message = v1::MaxInnerProductStreamRequest;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using testing::MatrixOf;
using testing::RandomNormal;
using ::testing::StartsWith;

constexpr uint32_t kDim = 4;

Message Start(const std::string& collection = "") {
  Message message;
  message.mutable_start()->set_top_k(2);
  message.mutable_start()->set_collection(collection);
  return message;
}
Message Queries(const SharedMatrix& rows) {
  Message message;
  *message.mutable_queries() = MatrixOf(rows);
  return message;
}
Message Base(const SharedMatrix& rows) {
  Message message;
  *message.mutable_base() = MatrixOf(rows);
  return message;
}

std::string Bytes(const MatrixView& view) {
  return std::string(reinterpret_cast<const char*>(view.data), view.bytes());
}

class StreamInputTest : public ::testing::Test {
 protected:
  // Gives `messages` one by one, and their end; the first failure.
  static absl::Status Feed(StreamInput& input, std::vector<Message> messages) {
    for (Message& message : messages) {
      if (absl::Status s = input.Take(std::move(message)); !s.ok()) return s;
    }
    return input.End();
  }

  void Refused(std::vector<Message> messages, absl::string_view message, const std::string& field,
               const std::string& reason, const std::vector<std::string>& words = {}) {
    SCOPED_TRACE(reason);
    StreamInput input(limits_, resident_);
    const absl::Status status = Feed(input, std::move(messages));
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
    EXPECT_EQ(ErrorReason(status), reason) << status;
    EXPECT_EQ(ErrorField(status), field);
    EXPECT_THAT(std::string(status.message()), StartsWith(absl::StrCat(message, field, ": ")));
    for (const std::string& word : words) EXPECT_THAT(std::string(status.message()), HasSubstr(word));
  }

  const SharedMatrix a_ = RandomNormal(5, kDim, 1);
  const SharedMatrix b_ = RandomNormal(6, kDim, 2, DType::kInt8);
  RequestLimits limits_;
  std::vector<CollectionInfo> resident_ = {{"words", 1, 100, kDim, DType::kFloat32, 0, "", {}}};
};

TEST_F(StreamInputTest, RowsAreGatheredFromAllMessages) {
  Message start = Start();
  *start.mutable_start()->mutable_queries() = MatrixOf(testing::Slice(a_, 0, 2));
  StreamInput input(limits_, resident_);
  ASSERT_TRUE(input.Take(start).ok());
  ASSERT_TRUE(input.Take(Queries(testing::Slice(a_, 2, 0))).ok());
  ASSERT_TRUE(input.Take(Queries(testing::Slice(a_, 2, 3))).ok());
  EXPECT_FALSE(input.queries_are_complete());
  ASSERT_TRUE(input.Take(Base(testing::Slice(b_, 0, 1))).ok());
  EXPECT_TRUE(input.queries_are_complete());
  ASSERT_TRUE(input.Take(Base(testing::Slice(b_, 1, 5))).ok());
  ASSERT_TRUE(input.End().ok());
  EXPECT_EQ(Bytes(input.queries().view), Bytes(a_.view));
  EXPECT_EQ(input.selection().top_k, 2u);
  ASSERT_TRUE(input.HasChunk());
  const SharedMatrix chunk = input.TakeChunk();
  EXPECT_EQ(chunk.view.rows, 6u);
  EXPECT_EQ(chunk.view.dtype, DType::kInt8);
  EXPECT_EQ(Bytes(chunk.view), Bytes(b_.view));
  EXPECT_FALSE(input.HasChunk());
}

TEST_F(StreamInputTest, OneMessageMayHoldEverything) {
  Message start = Start();
  *start.mutable_start()->mutable_queries() = MatrixOf(a_);
  *start.mutable_start()->mutable_base() = MatrixOf(b_);
  StreamInput input(limits_, resident_);
  ASSERT_TRUE(Feed(input, {start}).ok());
  EXPECT_EQ(Bytes(input.queries().view), Bytes(a_.view));
  EXPECT_EQ(Bytes(input.TakeChunk().view), Bytes(b_.view));
}

TEST_F(StreamInputTest, EmptyMatricesAreValid) {
  StreamInput neither(limits_, resident_);
  ASSERT_TRUE(Feed(neither, {Start()}).ok());
  EXPECT_TRUE(neither.queries_are_complete());
  EXPECT_EQ(neither.queries().view.rows, 0u);
  EXPECT_FALSE(neither.HasChunk());
  StreamInput no_queries(limits_, resident_);
  ASSERT_TRUE(Feed(no_queries, {Start(), Base(b_)}).ok());
  EXPECT_EQ(no_queries.TakeChunk().view.rows, 6u);
  StreamInput collection(limits_, resident_);
  ASSERT_TRUE(Feed(collection, {Start("words"), Queries(a_), Base(testing::Slice(b_, 0, 0))}).ok());
  EXPECT_EQ(collection.collection(), "words");
}

TEST_F(StreamInputTest, ChunksAreFullAtTheirSize) {
  const SharedMatrix half = RandomNormal(StreamInput::kChunkBytes / 2 / (kDim * sizeof(float)), kDim, 3);
  limits_.max_message_bytes = 1 << 30;
  StreamInput input(limits_, resident_);
  ASSERT_TRUE(input.Take(Start()).ok());
  for (int chunk = 0; chunk < 2; ++chunk) {
    ASSERT_TRUE(input.Take(Base(half)).ok());
    EXPECT_FALSE(input.ChunkIsFull());
    ASSERT_TRUE(input.Take(Base(half)).ok());
    EXPECT_TRUE(input.ChunkIsFull());
    const SharedMatrix taken = input.TakeChunk();
    EXPECT_EQ(Bytes(taken.view), absl::StrCat(Bytes(half.view), Bytes(half.view)));
    EXPECT_FALSE(input.ChunkIsFull());
  }
}

TEST_F(StreamInputTest, ExclusionsAreOfAllQueryRowsTogether) {
  Message start = Start();
  for (const uint64_t split : {0, 2, 2, 2, 2, 3})
    start.mutable_start()->mutable_exclude()->add_row_splits(split);
  for (const uint64_t id : {9, 3, 4}) start.mutable_start()->mutable_exclude()->add_ids(id);
  StreamInput input(limits_, resident_);
  ASSERT_TRUE(
      Feed(input, {start, Queries(testing::Slice(a_, 0, 3)), Queries(testing::Slice(a_, 3, 2))}).ok());
  EXPECT_THAT(input.selection().excluded, ElementsAre(3, 9, 4));
  Refused({start, Queries(testing::Slice(a_, 0, 3))}, "", "start.exclude.row_splits", "MALFORMED_SPLITS",
          {"6 splits", "3 query rows"});
}

TEST_F(StreamInputTest, MessagesOutOfOrderAreNamed) {
  Refused({}, "", "start", "NO_START", {"without messages"});
  Refused({Queries(a_)}, "message 0: ", "start", "NO_START", {"queries"});
  Refused({Base(b_)}, "message 0: ", "start", "NO_START", {"base"});
  Refused({Message()}, "message 0: ", "start", "NO_START");
  Refused({Start(), Message()}, "message 1: ", "part", "NO_PART");
  Refused({Start(), Queries(a_), Start()}, "message 2: ", "start", "TWO_STARTS");
  Refused({Start(), Queries(a_), Base(b_), Queries(a_)}, "message 3: ", "queries", "QUERIES_AFTER_BASE");
  Refused({Start("words"), Queries(a_), Base(b_)}, "message 2: ", "base", "COLLECTION_AND_BASE", {"words"});
}

TEST_F(StreamInputTest, PartsThatDoNotFitEachOtherAreNamed) {
  const SharedMatrix wide = RandomNormal(2, kDim + 1, 3);
  const SharedMatrix wide_int8 = RandomNormal(2, kDim + 1, 3, DType::kInt8);
  const SharedMatrix halves = RandomNormal(2, kDim, 3, DType::kFloat16);
  Refused({Start(), Queries(a_), Queries(wide)}, "message 2: ", "queries.dim", "DIM_CHANGED",
          {"5", "message 1", "4"});
  Refused({Start(), Queries(a_), Queries(halves)}, "message 2: ", "queries.dtype", "DTYPE_CHANGED",
          {"float16", "message 1", "float32"});
  Refused({Start(), Queries(a_), Base(wide)}, "message 2: ", "base.dim", "DIM_MISMATCH",
          {"5", "queries.dim is 4"});
  Refused({Start(), Base(b_), Base(wide_int8)}, "message 2: ", "base.dim", "DIM_CHANGED",
          {"5", "message 1", "4"});
  Refused({Start(), Base(b_), Base(halves)}, "message 2: ", "base.dtype", "DTYPE_CHANGED");
  Message start = Start();
  *start.mutable_start()->mutable_queries() = MatrixOf(wide);
  *start.mutable_start()->mutable_base() = MatrixOf(b_);
  Refused({start}, "message 0: ", "start.base.dim", "DIM_MISMATCH");
}

TEST_F(StreamInputTest, TheFirstRowsOfBStillCountOnceTaken) {
  StreamInput input(limits_, resident_);
  ASSERT_TRUE(input.Take(Start()).ok());
  ASSERT_TRUE(input.Take(Base(b_)).ok());
  input.TakeChunk();
  EXPECT_EQ(ErrorReason(input.Take(Base(RandomNormal(1, kDim, 1)))), "DTYPE_CHANGED");
}

TEST_F(StreamInputTest, MalformedPartsAreNamed) {
  Message broken = Base(b_);
  broken.mutable_base()->mutable_data()->pop_back();
  Refused({Start(), broken}, "message 1: ", "base.data", "WRONG_BYTE_COUNT", {"23", "24"});
  Message start = Start();
  start.mutable_start()->set_metric(static_cast<v1::Metric>(9));
  Refused({start}, "message 0: ", "start.metric", "UNKNOWN_METRIC");
}

TEST_F(StreamInputTest, AMeetsTheMessageLimitInAll) {
  limits_.max_message_bytes = 2 * a_.view.bytes();
  StreamInput input(limits_, resident_);
  const absl::Status status =
      Feed(input, {Start(), Queries(a_), Queries(a_), Queries(testing::Slice(a_, 0, 1))});
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(ErrorReason(status), "QUERIES_TOO_LARGE");
  EXPECT_THAT(std::string(status.message()), AllOf(StartsWith("message 3: queries: 176 bytes"),
                                                   HasSubstr("160"), HasSubstr("--max-message-bytes")));
}

TEST_F(StreamInputTest, AReplyThatCannotBeSentIsRefusedOnceItIsKnown) {
  limits_ = {.max_top_k = 1000, .max_message_bytes = 20'000};
  Message start = Start();
  start.mutable_start()->set_top_k(1000);
  std::vector<Message> messages = {start, Queries(a_)};
  for (int i = 0; i < 80; ++i) messages.push_back(Base(b_));  // 5 · 480 hits
  Refused(messages, "message 67: ", "start.top_k", "REPLY_TOO_LARGE", {"20000"});
  messages.resize(20);
  StreamInput input(limits_, resident_);
  EXPECT_TRUE(Feed(input, messages).ok());
  StreamInput range(limits_, resident_);
  start.mutable_start()->clear_top_k();
  start.mutable_start()->set_min_score(0);
  ASSERT_TRUE(Feed(range, {start, Queries(a_), Base(b_)}).ok());
  EXPECT_TRUE(range.selection().tell_truncated);
  EXPECT_GT(range.selection().top_k, 100u);
  EXPECT_LT(range.selection().top_k, 300u);
}

}  // namespace
}  // namespace dotmax
