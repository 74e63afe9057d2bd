#include "server/rpc/stream_input.h"

#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "server/base/errors.h"
#include "server/rpc/convert.h"

namespace dotmax {
namespace {

constexpr char kStart[] = "start.";

absl::Status Invalid(absl::string_view field, absl::string_view reason, absl::string_view what) {
  return InvalidField(field, reason, absl::StrCat(field, ": ", what));
}

}  // namespace

absl::Status GatheredMatrix::Add(v1::Matrix* part, absl::string_view field, uint64_t message) {
  const absl::StatusOr<SharedMatrix> matrix = MatrixFromProto(*part, field);
  if (!matrix.ok()) return matrix.status();
  const MatrixView& view = matrix->view;
  if (view.rows == 0) return absl::OkStatus();
  if (!has_rows()) {
    dim_ = view.dim;
    dtype_ = view.dtype;
    first_message_ = message;
  }
  if (view.dim != dim_) {
    return Invalid(absl::StrCat(field, ".dim"), "DIM_CHANGED",
                   absl::StrCat(view.dim, ", but the rows of message ", first_message_, " have dim ", dim_));
  }
  if (view.dtype != dtype_) {
    return Invalid(absl::StrCat(field, ".dtype"), "DTYPE_CHANGED",
                   absl::StrCat(DTypeName(view.dtype), ", but the rows of message ", first_message_, " are ",
                                DTypeName(dtype_)));
  }
  if (bytes_ == nullptr) bytes_ = std::make_shared<std::string>();
  const size_t added = view.bytes();
  if (bytes_->empty() && !part->data().empty() && added >= StreamInput::kChunkBytes / 2) {
    *bytes_ = std::move(*part->mutable_data());
  } else {
    bytes_->append(reinterpret_cast<const char*>(view.data), added);
  }
  rows_ += view.rows;
  total_rows_ += view.rows;
  return absl::OkStatus();
}

MatrixView GatheredMatrix::view() const {
  return {bytes_ == nullptr ? nullptr : reinterpret_cast<const std::byte*>(bytes_->data()), rows_, dim_,
          dtype_};
}

SharedMatrix GatheredMatrix::Take() {
  SharedMatrix taken{view(), std::move(bytes_)};
  bytes_ = nullptr;
  rows_ = 0;
  return taken;
}

absl::Status StreamInput::Take(v1::MaxInnerProductStreamRequest message) {
  const uint64_t number = messages_++;
  return InMessage(number, TakePart(message, number));
}

absl::Status StreamInput::TakePart(v1::MaxInnerProductStreamRequest& message, uint64_t number) {
  using Part = v1::MaxInnerProductStreamRequest::PartCase;
  if (message.part_case() == Part::kStart) {
    if (number > 0) return Invalid("start", "TWO_STARTS", "only message 0 is one");
    return TakeStart(*message.mutable_start());
  }
  const bool queries = message.part_case() == Part::kQueries;
  const char* const field = queries ? "queries" : message.part_case() == Part::kBase ? "base" : "part";
  if (number == 0) return Invalid("start", "NO_START", absl::StrCat("must come first, but ", field, " does"));
  if (queries) return TakeQueries(message.mutable_queries(), field, number);
  if (message.part_case() == Part::kBase) return TakeBase(message.mutable_base(), field, number);
  return Invalid("part", "NO_PART", "none of start, queries and base is set");
}

absl::Status StreamInput::TakeStart(v1::MaxInnerProductRequest& start) {
  absl::StatusOr<Selection> selection = SelectionFromProto(start, limits_, kStart);
  if (!selection.ok()) return selection.status();
  selection_ = *std::move(selection);
  v1::Matrix queries, base;
  queries.Swap(start.mutable_queries());
  base.Swap(start.mutable_base());
  start_.Swap(&start);
  if (absl::Status s = TakeQueries(&queries, "start.queries", 0); !s.ok()) return s;
  return TakeBase(&base, "start.base", 0);
}

absl::Status StreamInput::TakeQueries(v1::Matrix* rows, absl::string_view field, uint64_t number) {
  if (queries_are_complete_) {
    return Invalid(field, "QUERIES_AFTER_BASE", "rows of A come before rows of B, but B has begun");
  }
  if (absl::Status s = gathered_queries_.Add(rows, field, number); !s.ok()) return s;
  if (gathered_queries_.bytes() > limits_.max_message_bytes) {
    return Error(
        absl::StatusCode::kResourceExhausted, "QUERIES_TOO_LARGE",
        absl::StrCat(field, ": ", gathered_queries_.bytes(),
                     " bytes of A so far, above the message limit of ", limits_.max_message_bytes,
                     " (--max-message-bytes), which A must meet in all; split A over several streams"));
  }
  return absl::OkStatus();
}

absl::Status StreamInput::TakeBase(v1::Matrix* rows, absl::string_view field, uint64_t number) {
  if (rows->rows() > 0 && !start_.collection().empty()) {
    return Invalid(field, "COLLECTION_AND_BASE",
                   absl::StrCat(rows->rows(), " rows, but the start says that B is collection \"",
                                start_.collection(), "\""));
  }
  if (absl::Status s = base_.Add(rows, field, number); !s.ok()) return s;
  if (!base_.has_rows()) return absl::OkStatus();
  const absl::string_view queries_field = number == 0 ? "start.queries" : "queries";
  const MatrixView queries = queries_are_complete_ ? queries_.view : gathered_queries_.view();
  if (absl::Status s = CheckDims(queries, queries_field, base_.view(), field); !s.ok()) return s;
  if (!queries_are_complete_) {
    if (absl::Status s = CompleteQueries(); !s.ok()) return s;
  }
  return CheckReply(limits_, kStart, queries_.view.rows, base_.total_rows(), selection_);
}

absl::Status StreamInput::CompleteQueries() {
  queries_are_complete_ = true;
  queries_ = gathered_queries_.Take();
  const uint64_t query_rows = queries_.view.rows;
  if (absl::Status s = ExclusionsFromProto(start_.exclude(), kStart, query_rows, selection_); !s.ok())
    return s;
  start_.clear_exclude();
  // How many rows B has is not known before its end, and top_k must not change on the way.
  constexpr uint64_t kAnyRows = std::numeric_limits<uint64_t>::max();
  const uint64_t rows = start_.collection().empty() ? kAnyRows : RowsOf(resident_, start_.collection());
  FitTopK(limits_, query_rows, rows, selection_);
  if (start_.collection().empty()) return absl::OkStatus();
  return CheckReply(limits_, kStart, query_rows, rows, selection_);
}

absl::Status StreamInput::End() {
  if (messages_ == 0) {
    return InvalidField("start", "NO_START", "start: must come first, but the stream ended without messages");
  }
  return queries_are_complete_ ? absl::OkStatus() : CompleteQueries();
}

}  // namespace dotmax
