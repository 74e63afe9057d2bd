// Client::SearchStream: batches of queries as requests of one call, results as they come.
#include <optional>
#include <thread>
#include <utility>

#include "absl/functional/function_ref.h"
#include "absl/strings/str_cat.h"
#include "client/cpp/impl.h"
#include "client/cpp/join.h"

namespace dotmax {
namespace {

using Stream = grpc::ClientReaderWriter<v1::SearchRequest, v1::SearchResult>;

// Sends all batches. Ok too when the call has ended before: its own status says why.
absl::Status Send(Stream& stream, absl::FunctionRef<std::optional<Rows>()> next,
                  const SearchOptions& options) {
  for (uint64_t tag = 0;; ++tag) {
    const std::optional<Rows> batch = next();
    if (!batch.has_value()) break;
    if (absl::Status s = CheckRows(*batch, absl::StrCat("batch ", tag)); !s.ok()) return s;
    v1::SearchRequest request = RequestOf(options, 0, batch->count(), options.version);
    request.set_tag(tag);
    ToProto(*batch, 0, batch->count(), request.mutable_queries());
    if (!stream.Write(request)) return absl::OkStatus();
  }
  stream.WritesDone();
  return absl::OkStatus();
}

}  // namespace

absl::Status Client::SearchStream(
    absl::FunctionRef<std::optional<Rows>()> next,
    absl::FunctionRef<bool(uint64_t batch, absl::StatusOr<SearchResult> result)> take,
    const SearchOptions& options) const {
  SearchOptions asked = options;
  asked.exclude = {};
  grpc::ClientContext context;
  impl_->Prepare(context,
                 options.timeout.has_value() ? impl_->Deadline(options.timeout) : absl::InfiniteFuture());
  const std::unique_ptr<Stream> stream = impl_->search->SearchStream(&context);

  absl::Status sent;
  std::thread sender([&] {
    sent = Send(*stream, next, asked);
    if (!sent.ok()) context.TryCancel();
  });
  bool wanted = true;
  for (v1::SearchResult message; wanted && stream->Read(&message);) {
    if (message.has_response()) {
      wanted = take(message.tag(), ResultFromProto(message.response()));
    } else {
      wanted = take(message.tag(), FromRpc(message.status()));
    }
  }
  if (!wanted) context.TryCancel();  // which also ends a Write
  sender.join();
  const absl::Status ended = FromGrpc(stream->Finish());
  if (!sent.ok()) return sent;
  return wanted ? ended : absl::OkStatus();
}

}  // namespace dotmax
