#include "server/load/loader.h"

#include <algorithm>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/notification.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "server/base/errors.h"
#include "server/base/process.h"
#include "server/engine/matrix.h"
#include "server/load/budget.h"
#include "server/store/ingest.h"
#include "server/store/names.h"

namespace dotmax {
namespace {

constexpr size_t kMostWaiting = 16;  // loads that callers asked for
constexpr size_t kMostNameBytes = 200;
constexpr absl::Duration kProgressInterval = absl::Milliseconds(250);
constexpr absl::Duration kLogInterval = absl::Seconds(1);
constexpr absl::Duration kWatchInterval = absl::Seconds(1);
constexpr int kNiceness = 10;  // searches get about nine times as much of a processor that both want

absl::Status CheckName(const std::string& name) {
  const bool printable = std::all_of(name.begin(), name.end(),
                                     [](char c) { return !absl::ascii_iscntrl(static_cast<uint8_t>(c)); });
  if (!name.empty() && name.size() <= kMostNameBytes && printable) return absl::OkStatus();
  return InvalidField("name", "BAD_NAME",
                      absl::StrCat("name: ", name.empty() ? "empty" : "unprintable or too long", "; 1 to ",
                                   kMostNameBytes, " bytes without control characters can be"));
}

absl::Status Draining() {
  return Error(absl::StatusCode::kUnavailable, "DRAINING", "the server is shutting down");
}

// A failure to read a file, in the words of CollectionAdmin.
absl::Status Explain(const absl::Status& status) {
  if (ErrorReason(status).has_value()) return status;
  switch (status.code()) {
    case absl::StatusCode::kNotFound:
      return Error(status.code(), "FILE_NOT_FOUND", status.message());
    case absl::StatusCode::kInvalidArgument:
      return Error(absl::StatusCode::kFailedPrecondition, "MALFORMED_FILE", status.message());
    case absl::StatusCode::kResourceExhausted:
      return Error(status.code(), "NOT_ENOUGH_MEMORY", status.message());
    default:
      return Error(status.code(), "FILE_NOT_READABLE", status.message());
  }
}

}  // namespace

void Loader::Caller::Tell(const LoadProgress& progress) {
  absl::MutexLock lock(&mutex_);
  if (done_ != nullptr && progress_ != nullptr) progress_(progress);
}

void Loader::Caller::End(absl::StatusOr<CollectionInfo> info) {
  Done done;
  {
    absl::MutexLock lock(&mutex_);
    done = std::exchange(done_, nullptr);
  }
  if (done != nullptr) done(std::move(info));
}

Loader::Loader(std::shared_ptr<Catalog> catalog, Options options, Logger* log, Metrics* metrics)
    : catalog_(std::move(catalog)),
      options_(std::move(options)),
      log_(log),
      metrics_(metrics),
      thread_([this] { Loop(); }) {}

Loader::~Loader() { Shutdown(); }

absl::Status Loader::LoadTrusted(const std::string& name, const std::string& path) {
  absl::Status status;
  absl::Notification loaded;
  const auto done = [&](const absl::StatusOr<CollectionInfo>& info) {
    status = info.status();
    loaded.Notify();
  };
  Enqueue({name, Catalog::Source{path, false}, nullptr, std::make_shared<Caller>(nullptr, done)},
          /*counted=*/false);
  loaded.WaitForNotification();
  return status;
}

void Loader::Load(std::string name, std::string path, Cancelled cancelled, Progress progress, Done done) {
  if (absl::Status s = CheckName(name); !s.ok()) {
    done(s);
    return;
  }
  Enqueue({std::move(name), Catalog::Source{std::move(path), true}, std::move(cancelled),
           std::make_shared<Caller>(std::move(progress), std::move(done))});
}

void Loader::Reload(std::string name, Cancelled cancelled, Progress progress, Done done) {
  Enqueue({std::move(name), std::nullopt, std::move(cancelled),
           std::make_shared<Caller>(std::move(progress), std::move(done))});
}

absl::StatusOr<std::pair<CollectionInfo, CollectionInfo>> Loader::Swap(const std::string& a,
                                                                       const std::string& b) {
  if (a == b) {
    return InvalidField("b", "SAME_COLLECTION", absl::StrCat("b: \"", b, "\", as a; name two collections"));
  }
  auto swapped = catalog_->Swap(a, b);
  if (!swapped.ok()) return swapped;
  log_->Write(
      LogLevel::kInfo, "swapped",
      {{"a", a}, {"a_version", swapped->first.version}, {"b", b}, {"b_version", swapped->second.version}});
  ShowResident();
  return swapped;
}

absl::Status Loader::Drop(const std::string& name) {
  if (absl::Status s = catalog_->Drop(name); !s.ok()) return s;
  log_->Write(LogLevel::kInfo, "dropped", {{"collection", name}});
  ShowResident();
  return absl::OkStatus();
}

void Loader::ReloadAll() {
  for (const Catalog::Resident& resident : catalog_->All()) {
    if (resident.source.path.empty()) continue;
    {
      absl::MutexLock lock(&mutex_);
      const bool waits = std::any_of(queue_.begin(), queue_.end(), [&](const Job& job) {
        return !job.source.has_value() && job.name == resident.name;
      });
      if (waits) continue;
    }
    Enqueue({resident.name, std::nullopt, nullptr, std::make_shared<Caller>(nullptr, nullptr)},
            /*counted=*/false);
  }
}

void Loader::Drain() {
  std::deque<Job> waiting;
  std::shared_ptr<Caller> running;
  {
    absl::MutexLock lock(&mutex_);
    draining_ = true;
    waiting.swap(queue_);
    running = running_;
  }
  if (running != nullptr) running->End(Draining());
  for (Job& job : waiting) job.caller->End(Draining());
}

bool Loader::AwaitEnd(absl::Time deadline) {
  Drain();
  absl::MutexLock lock(&mutex_);
  return mutex_.AwaitWithDeadline(absl::Condition(&ended_), deadline);
}

void Loader::Shutdown() {
  Drain();
  absl::MutexLock lock(&join_mutex_);
  if (thread_.joinable()) thread_.join();
}

void Loader::Enqueue(Job job, bool counted) {
  const std::shared_ptr<Caller> caller = job.caller;
  caller->Tell({});
  if (absl::Status s = Admit(job, counted); !s.ok()) caller->End(s);
}

absl::Status Loader::Admit(const Job& job, bool counted) {
  absl::MutexLock lock(&mutex_);
  if (draining_) return Draining();
  if (counted && queue_.size() >= kMostWaiting) {
    return Error(absl::StatusCode::kResourceExhausted, "LOAD_QUEUE_FULL",
                 absl::StrCat(queue_.size(), " loads wait already; one runs at a time"));
  }
  queue_.push_back(job);
  return absl::OkStatus();
}

absl::Status Loader::StopReason(const Job& job) const {
  {
    absl::MutexLock lock(&mutex_);
    if (draining_) return Draining();
  }
  if (job.cancelled != nullptr && job.cancelled->load(std::memory_order_relaxed)) {
    return Error(absl::StatusCode::kCancelled, "CANCELLED", "the caller cancelled the load");
  }
  return absl::OkStatus();
}

void Loader::Loop() {
  GiveWay(kNiceness);
  for (;;) {
    std::optional<Job> job;
    {
      absl::MutexLock lock(&mutex_);
      mutex_.AwaitWithTimeout(absl::Condition(this, &Loader::HasWork),
                              options_.map ? kWatchInterval : absl::InfiniteDuration());
      if (!queue_.empty()) {
        job = std::move(queue_.front());
        queue_.pop_front();
        running_ = job->caller;
      } else if (draining_) {
        ended_ = true;
        return;
      }
    }
    if (job.has_value()) {
      absl::StatusOr<CollectionInfo> info = Run(*job);
      {
        absl::MutexLock lock(&mutex_);
        running_ = nullptr;
      }
      job->caller->End(std::move(info));
    }
    WatchFiles();
  }
}

absl::StatusOr<CollectionInfo> Loader::Run(Job& job) {
  const absl::Time started = absl::Now();
  std::optional<Catalog::Resident> replaced;
  absl::StatusOr<CollectionInfo> info = [&]() -> absl::StatusOr<CollectionInfo> {
    if (absl::Status s = StopReason(job); !s.ok()) return s;
    Catalog::Source source;
    if (job.source.has_value()) {
      source = *job.source;
    } else {
      for (Catalog::Resident& resident : catalog_->All()) {
        if (resident.name == job.name) replaced = std::move(resident);
      }
      if (!replaced.has_value()) {
        return Error(absl::StatusCode::kNotFound, "COLLECTION_NOT_FOUND",
                     absl::StrCat("collection: there is no \"", job.name, "\""));
      }
      source = replaced->source;
      // Not to be kept for the length of the load.
      replaced->matrix = nullptr;
      replaced->backing = nullptr;
      if (source.path.empty()) {
        return Error(absl::StatusCode::kFailedPrecondition, "NO_FILE",
                     absl::StrCat("collection \"", job.name, "\" came from no file"));
      }
    }
    absl::StatusOr<Catalog::Entry> entry = Read(job, source);
    if (!entry.ok()) return Explain(entry.status());
    if (absl::Status s = StopReason(job); !s.ok()) return s;
    return replaced.has_value() ? catalog_->Replace(*replaced, *std::move(entry))
                                : catalog_->Publish(job.name, *std::move(entry));
  }();
  const double seconds = absl::ToDoubleSeconds(absl::Now() - started);
  if (info.ok()) {
    log_->Write(LogLevel::kInfo, "loaded",
                {{"collection", info->name},
                 {"version", info->version},
                 {"path", job.source.has_value() ? job.source->path : replaced->source.path},
                 {"rows", info->rows},
                 {"dim", static_cast<uint64_t>(info->dim)},
                 {"dtype", DTypeName(info->dtype)},
                 {"resident_bytes", info->resident_bytes},
                 {"screen", info->screen},
                 {"seconds", seconds}});
  } else {
    log_->Write(LogLevel::kWarning, "load_failed",
                {{"collection", job.name},
                 {"reason", ErrorReason(info.status()).value_or("")},
                 {"message", info.status().message()},
                 {"seconds", seconds}});
  }
  // What was withdrawn says nothing of the file.
  if (StopReason(job).ok() || info.ok()) metrics_->LoadEnded(job.name, info.ok(), absl::Now());
  ShowResident();
  return info;
}

absl::StatusOr<Catalog::Entry> Loader::Read(Job& job, const Catalog::Source& source) {
  LoadProgress progress = {.stage = LoadProgress::Stage::kReading};
  absl::Time next_progress = absl::InfinitePast();
  absl::Time next_log = absl::Now() + kLogInterval;
  const auto tell = [&](uint64_t done, uint64_t total) {
    progress.bytes_done = done;
    progress.bytes_total = total;
    const absl::Time now = absl::Now();
    if (now >= next_progress) {
      next_progress = now + kProgressInterval;
      job.caller->Tell(progress);
    }
    if (now >= next_log) {
      next_log = now + kLogInterval;
      log_->Write(LogLevel::kInfo, "loading",
                  {{"collection", job.name}, {"path", source.path}, {"bytes", done}, {"of", total}});
    }
  };
  ReadOptions options;
  options.map = options_.map;
  options.admit = [this](const MatrixView& shape, bool mapped) {
    return CheckMemory(shape, mapped, options_.memory_limit);
  };
  options.progress = tell;
  options.stop = [this, &job] { return StopReason(job); };

  if (source.in_data_dir && !options_.data_dir.has_value()) {
    return Error(absl::StatusCode::kPermissionDenied, "PATH_NOT_ALLOWED",
                 absl::StrCat("path: ", source.path,
                              ": the server was started without --data-dir, and loads no files by name"));
  }
  absl::StatusOr<SharedMatrix> rows = ReadMatrix(Open(source, source.path), source.path, options);
  if (!rows.ok()) return rows.status();

  progress.stage = LoadProgress::Stage::kPreparing;
  next_progress = absl::InfinitePast();
  tell(rows->view.bytes(), rows->view.bytes());
  Catalog::Entry entry = {nullptr, rows->backing, source};
  if (options_.names) entry.names = Names(job, source, rows->view.rows);
  entry.matrix = std::make_shared<const Matrix>(*std::move(rows));
  if (entry.backing != nullptr && !entry.backing->Intact()) {
    return absl::InvalidArgumentError(absl::StrCat(source.path, ": changed while being read"));
  }
  return entry;
}

absl::StatusOr<File> Loader::Open(const Catalog::Source& source, const std::string& path) const {
  return source.in_data_dir ? options_.data_dir->OpenFile(path) : File::Open(path);
}

std::shared_ptr<const RowNames> Loader::Names(const Job& job, const Catalog::Source& source,
                                              uint64_t rows) const {
  const std::string path = NamesPathBeside(source.path);
  absl::StatusOr<std::vector<std::string>> names = ReadNames(Open(source, path), path);
  if (names.ok() && names->size() == rows) return std::make_shared<const RowNames>(*std::move(names));
  // Most matrices have none.
  if (!absl::IsNotFound(names.status())) {
    log_->Write(
        LogLevel::kWarning, "names_ignored",
        {{"collection", job.name},
         {"message", names.ok() ? absl::StrCat(path, ": ", names->size(), " names for ", rows, " rows")
                                : std::string(names.status().message())}});
  }
  return nullptr;
}

void Loader::ShowResident() {
  absl::MutexLock lock(&shown_mutex_);
  metrics_->SetResident(*catalog_->Infos());
}

void Loader::WatchFiles() {
  if (!options_.map) return;
  const ResidentInfos infos = catalog_->Infos();
  bool changed = false;
  for (const CollectionInfo& info : *infos) {
    if (info.intact || !changed_versions_.insert(info.version).second) continue;
    changed = true;
    log_->Write(LogLevel::kError, "file_changed", {{"collection", info.name}, {"version", info.version}});
  }
  if (changed) ShowResident();
}

}  // namespace dotmax
