#include "server/rpc/load_stream.h"

#include <optional>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "dotmax/v1/collections.grpc.pb.h"

namespace dotmax {
namespace {

v1::LoadProgress::Stage ToProto(LoadProgress::Stage stage) {
  switch (stage) {
    case LoadProgress::Stage::kWaiting:
      return v1::LoadProgress::WAITING;
    case LoadProgress::Stage::kReading:
      return v1::LoadProgress::READING;
    case LoadProgress::Stage::kPreparing:
      return v1::LoadProgress::PREPARING;
  }
  return v1::LoadProgress::STAGE_UNSPECIFIED;
}

// One message is written at a time; of those that come meanwhile, the last one is next. The call ends when
// the load has, and nothing is written any more.
class LoadCall final : public Call<grpc::ServerWriteReactor<grpc::ByteBuffer>> {
 public:
  LoadCall(const Backend& backend, OpenCalls* open, grpc::CallbackServerContext* context, const char* method)
      : Call(backend, open, {"server_stream", v1::Collections::service_full_name(), method}, Scope::kAdmin,
             context) {}

  void Load(grpc::ByteBuffer* bytes) {
    v1::LoadCollectionRequest request;
    if (!Take(bytes, &request)) return;
    backend().admin->Load(request.name(), request.path(), record().limits().cancelled, ProgressTo(),
                          DoneTo());
  }

  void Reload(grpc::ByteBuffer* bytes) {
    v1::ReloadCollectionRequest request;
    if (!Take(bytes, &request)) return;
    backend().admin->Reload(request.name(), record().limits().cancelled, ProgressTo(), DoneTo());
  }

 private:
  template <typename Request>
  bool Take(grpc::ByteBuffer* bytes, Request* request) {
    absl::Status status = record().admission();
    if (status.ok()) status = Parse(bytes, request);
    if (!status.ok()) End(status);
    return status.ok();
  }

  CollectionAdmin::Progress ProgressTo() {
    return [this](const LoadProgress& progress) {
      v1::LoadProgress message;
      message.set_stage(ToProto(progress.stage));
      message.set_bytes_done(progress.bytes_done);
      message.set_bytes_total(progress.bytes_total);
      Next(std::move(message), std::nullopt);
    };
  }

  CollectionAdmin::Done DoneTo() {
    return [this](const absl::StatusOr<CollectionInfo>& info) {
      std::optional<v1::LoadProgress> last;
      if (info.ok()) {
        last.emplace().set_stage(v1::LoadProgress::PUBLISHED);
        CollectionToProto(*info, last->mutable_collection());
      }
      const bool gone = info.status().code() == absl::StatusCode::kCancelled;
      Next(std::move(last), gone ? record().CallerIsGone() : info.status());
    };
  }

  void OnWriteDone(bool ok) override {
    {
      absl::MutexLock lock(&mutex_);
      writing_ = false;
      if (!ok) broken_ = true;  // the caller is gone; the load will hear of it, too
    }
    Next(std::nullopt, std::nullopt);
  }

  // What is to be written, if anything, and how the load ended, if it has. The object may be gone when this
  // returns.
  void Next(std::optional<v1::LoadProgress> message, std::optional<absl::Status> result) {
    std::optional<absl::Status> end;
    {
      absl::MutexLock lock(&mutex_);
      if (message.has_value()) next_ = std::move(message);
      if (result.has_value()) result_ = std::move(result);
      if (writing_) return;
      if (next_.has_value() && !broken_) {
        Write(*next_, &bytes_);
        next_.reset();
        writing_ = true;
      } else if (result_.has_value() && !ended_) {
        ended_ = true;
        end = result_;
      } else {
        return;
      }
    }
    if (end.has_value()) {
      End(*end);
    } else {
      StartWrite(&bytes_);
    }
  }

  grpc::ByteBuffer bytes_;  // that are written

  absl::Mutex mutex_;
  bool writing_ ABSL_GUARDED_BY(mutex_) = false;
  bool broken_ ABSL_GUARDED_BY(mutex_) = false;
  bool ended_ ABSL_GUARDED_BY(mutex_) = false;
  std::optional<v1::LoadProgress> next_ ABSL_GUARDED_BY(mutex_);
  std::optional<absl::Status> result_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace

grpc::ServerWriteReactor<grpc::ByteBuffer>* StartLoad(const Backend& backend, OpenCalls* open,
                                                      grpc::CallbackServerContext* context,
                                                      grpc::ByteBuffer* request) {
  auto* call = new LoadCall(backend, open, context, "LoadCollection");
  call->Load(request);
  return call;
}

grpc::ServerWriteReactor<grpc::ByteBuffer>* StartReload(const Backend& backend, OpenCalls* open,
                                                        grpc::CallbackServerContext* context,
                                                        grpc::ByteBuffer* request) {
  auto* call = new LoadCall(backend, open, context, "ReloadCollection");
  call->Reload(request);
  return call;
}

}  // namespace dotmax
