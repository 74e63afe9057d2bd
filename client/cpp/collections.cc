// Client's view of what a server holds, and its changes.
#include <optional>
#include <utility>

#include "client/cpp/impl.h"

namespace dotmax {
namespace {

CollectionDescription FromProto(const v1::Collection& c) {
  CollectionDescription description;
  description.name = c.name();
  description.rows = c.rows();
  description.dim = c.dim();
  description.type = TypeFromProto(c.dtype());
  description.resident_bytes = c.resident_bytes();
  description.screen = c.screen();
  description.version = c.version();
  description.file_changed = c.file_changed();
  for (const v1::ScreenEstimate& estimate : c.estimates()) {
    description.estimates.push_back({estimate.screen(), estimate.batch_query_seconds(), std::nullopt});
    if (estimate.has_single_query_seconds()) {
      description.estimates.back().single_query_seconds = estimate.single_query_seconds();
    }
  }
  return description;
}

LoadStage FromProto(v1::LoadProgress::Stage stage) {
  switch (stage) {
    case v1::LoadProgress::READING:
      return LoadStage::kReading;
    case v1::LoadProgress::PREPARING:
      return LoadStage::kPreparing;
    default:
      return LoadStage::kWaiting;
  }
}

absl::StatusOr<CollectionDescription> Follow(grpc::ClientReaderInterface<v1::LoadProgress>& stream,
                                             const CollectionLoadOptions& options) {
  std::optional<CollectionDescription> collection;
  for (v1::LoadProgress message; stream.Read(&message);) {
    if (message.has_collection()) {
      collection = FromProto(message.collection());
    } else if (options.progress) {
      options.progress(FromProto(message.stage()), message.bytes_done(), message.bytes_total());
    }
  }
  if (absl::Status s = FromGrpc(stream.Finish()); !s.ok()) return s;
  if (!collection.has_value()) return absl::InternalError("the server did not say what it has loaded");
  return *std::move(collection);
}

}  // namespace

absl::StatusOr<ServerDescription> Client::Describe() const {
  grpc::ClientContext context;
  impl_->Prepare(context, impl_->Deadline(std::nullopt));
  v1::ListCollectionsResponse response;
  const grpc::Status status = impl_->collections->ListCollections(&context, {}, &response);
  if (!status.ok()) return FromGrpc(status);
  ServerDescription server;
  server.max_top_k = response.limits().max_top_k();
  server.max_message_bytes = response.limits().max_message_bytes();
  for (const v1::Collection& c : response.collections()) server.collections.push_back(FromProto(c));
  return server;
}

absl::StatusOr<CollectionDescription> Client::LoadCollection(const std::string& name, const std::string& path,
                                                             const CollectionLoadOptions& options) const {
  grpc::ClientContext context;
  impl_->Prepare(context, absl::Now() + options.timeout);
  v1::LoadCollectionRequest request;
  request.set_name(name);
  request.set_path(path);
  return Follow(*impl_->collections->LoadCollection(&context, request), options);
}

absl::StatusOr<CollectionDescription> Client::ReloadCollection(const std::string& name,
                                                               const CollectionLoadOptions& options) const {
  grpc::ClientContext context;
  impl_->Prepare(context, absl::Now() + options.timeout);
  v1::ReloadCollectionRequest request;
  request.set_name(name);
  return Follow(*impl_->collections->ReloadCollection(&context, request), options);
}

absl::StatusOr<std::pair<CollectionDescription, CollectionDescription>> Client::SwapCollections(
    const std::string& a, const std::string& b) const {
  grpc::ClientContext context;
  impl_->Prepare(context, impl_->Deadline(std::nullopt));
  v1::SwapCollectionsRequest request;
  request.set_a(a);
  request.set_b(b);
  v1::SwapCollectionsResponse response;
  const grpc::Status status = impl_->collections->SwapCollections(&context, request, &response);
  if (!status.ok()) return FromGrpc(status);
  return std::make_pair(FromProto(response.a()), FromProto(response.b()));
}

absl::Status Client::DropCollection(const std::string& name) const {
  grpc::ClientContext context;
  impl_->Prepare(context, impl_->Deadline(std::nullopt));
  v1::DropCollectionRequest request;
  request.set_name(name);
  v1::DropCollectionResponse response;
  return FromGrpc(impl_->collections->DropCollection(&context, request, &response));
}

}  // namespace dotmax
