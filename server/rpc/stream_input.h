// The messages of one MaxInnerProductStream, in the order in which they come: checked, gathered into A, and
// cut into chunks of B that are worth a search each.
#ifndef DOTMAX_SERVER_RPC_STREAM_INPUT_H_
#define DOTMAX_SERVER_RPC_STREAM_INPUT_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "dotmax/v1/dotmax.pb.h"
#include "server/base/searcher.h"
#include "server/base/types.h"
#include "server/rpc/request.h"

namespace dotmax {

// Rows of one matrix from any number of messages. Not thread-safe.
class GatheredMatrix {
 public:
  // Appends the rows of `part`, which may lose its bytes. kInvalidArgument, under fields of `field`, for a
  // malformed part and one of another dim or dtype than those before, also before Take.
  absl::Status Add(v1::Matrix* part, absl::string_view field, uint64_t message);

  bool has_rows() const { return total_rows_ > 0; }
  uint64_t total_rows() const { return total_rows_; }  // also those before the last Take
  uint64_t bytes() const { return bytes_ == nullptr ? 0 : bytes_->size(); }
  // The rows since the last Take, without their owner.
  MatrixView view() const;

  // The same with their owner. What comes then begins anew.
  SharedMatrix Take();

 private:
  std::shared_ptr<std::string> bytes_;
  uint64_t rows_ = 0;
  uint64_t total_rows_ = 0;
  uint32_t dim_ = 0;
  DType dtype_ = DType::kFloat32;
  uint64_t first_message_ = 0;
};

// Not thread-safe.
class StreamInput {
 public:
  // A chunk is full when it has this many bytes. Large enough that what a search does once per chunk is
  // little; blocks as large, and larger ones up to the message limit, are taken as they are.
  static constexpr uint64_t kChunkBytes = uint64_t{16} << 20;

  // `resident` is what the searcher holds.
  StreamInput(const RequestLimits& limits, std::vector<CollectionInfo> resident)
      : limits_(limits), resident_(std::move(resident)) {}

  // Takes the next message. After a failure, which names the message by its number from 0, nothing more may
  // be called.
  absl::Status Take(v1::MaxInnerProductStreamRequest message);
  // There are no more messages.
  absl::Status End();

  // Once rows of B have come, or after End, the rest is known:
  bool queries_are_complete() const { return queries_are_complete_; }
  const SharedMatrix& queries() const { return queries_; }
  const Selection& selection() const { return selection_; }
  const std::string& collection() const { return start_.collection(); }  // that is B, if not empty
  std::optional<uint64_t> version() const {                              // that it must have
    return start_.has_version() ? std::optional<uint64_t>(start_.version()) : std::nullopt;
  }

  bool ChunkIsFull() const { return base_.bytes() >= kChunkBytes; }
  bool HasChunk() const { return base_.bytes() > 0; }
  SharedMatrix TakeChunk() { return base_.Take(); }

 private:
  absl::Status TakePart(v1::MaxInnerProductStreamRequest& message, uint64_t number);
  absl::Status TakeStart(v1::MaxInnerProductRequest& start);
  absl::Status TakeQueries(v1::Matrix* rows, absl::string_view field, uint64_t number);
  absl::Status TakeBase(v1::Matrix* rows, absl::string_view field, uint64_t number);
  absl::Status CompleteQueries();

  const RequestLimits limits_;
  const std::vector<CollectionInfo> resident_;
  uint64_t messages_ = 0;
  v1::MaxInnerProductRequest start_;  // without its matrices
  Selection selection_;
  GatheredMatrix gathered_queries_;
  bool queries_are_complete_ = false;
  SharedMatrix queries_;  // once complete
  GatheredMatrix base_;
};

}  // namespace dotmax

#endif  // DOTMAX_SERVER_RPC_STREAM_INPUT_H_
