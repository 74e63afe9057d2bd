#include "client/cli/bench_load.h"

#include <grpcpp/channel.h>
#include <grpcpp/client_context.h>
#include <grpcpp/completion_queue.h>
#include <grpcpp/create_channel.h>
#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/security/credentials.h>
#include <grpcpp/support/byte_buffer.h>
#include <grpcpp/support/channel_arguments.h>
#include <sys/prctl.h>
#include <sys/resource.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <deque>
#include <memory>
#include <optional>
#include <thread>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "absl/synchronization/notification.h"
#include "absl/time/clock.h"
#include "client/cli/common.h"
#include "client/cpp/credentials.h"
#include "client/cpp/wire.h"
#include "dotmax/v1/dotmax.pb.h"

namespace dotmax {
namespace {

using Clock = std::chrono::steady_clock;

constexpr absl::Duration kTick = absl::Milliseconds(100);
constexpr std::chrono::milliseconds kGrace(10);
const char kMethod[] = "/dotmax.v1.Dotmax/Search";

// All of them as they go over the wire, so that sending one is no work.
std::vector<grpc::ByteBuffer> Serialize(const LoadRequests& requests) {
  std::vector<grpc::ByteBuffer> messages;
  v1::SearchRequest request;
  request.set_collection(requests.options.collection);
  request.set_top_k(requests.options.top_k);
  request.set_metric(ToProto(requests.options.metric));
  request.set_reduction(requests.options.global ? v1::GLOBAL : v1::PER_ROW);
  const Rows queries = ToRows(requests.queries.view);
  for (uint64_t i = 0; i < requests.count(); ++i) {
    ToProto(queries, i * requests.rows, requests.rows, request.mutable_queries());
    const grpc::Slice slice(request.SerializeAsString());
    messages.emplace_back(&slice, 1);
  }
  return messages;
}

// The hits of a reply; nothing where it is none.
std::optional<SearchResult> Parse(const grpc::ByteBuffer& message) {
  grpc::Slice slice;
  v1::SearchResponse reply;
  if (!message.DumpToSingleSlice(&slice).ok() ||
      !reply.ParseFromArray(slice.begin(), static_cast<int>(slice.size()))) {
    return std::nullopt;
  }
  return ResultFromProto(reply);
}

// A connection of its own to options.target. Calls are never repeated: what fails is to be seen.
absl::StatusOr<std::shared_ptr<grpc::Channel>> Connect(const LoadOptions& options) {
  grpc::ChannelArguments arguments;
  arguments.SetMaxReceiveMessageSize(-1);
  arguments.SetMaxSendMessageSize(-1);
  arguments.SetInt(GRPC_ARG_ENABLE_RETRIES, 0);
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  absl::StatusOr<std::shared_ptr<grpc::ChannelCredentials>> credentials =
      ChannelCredentials(options.tls, arguments);
  if (!credentials.ok()) return credentials.status();
  std::shared_ptr<grpc::Channel> channel =
      grpc::CreateCustomChannel(options.target, *std::move(credentials), arguments);
  if (channel->WaitForConnected(absl::ToChronoTime(absl::Now() + options.timeout))) {
    return channel;
  }
  return absl::UnavailableError(
      absl::StrCat("no connection to ", options.target, " within ", absl::FormatDuration(options.timeout)));
}

// One request in flight. The object is used again; what gRPC needs is made anew for each request.
struct Call {
  uint64_t request = 0;
  bool checked = false;
  Clock::time_point due;
  std::optional<grpc::ClientContext> context;
  std::unique_ptr<grpc::GenericClientAsyncResponseReader> reader;
  grpc::ByteBuffer reply;
  grpc::Status status;
};

// One thread polls the completion queue, takes in answers and, in a closed loop, sends what follows. Of what
// gRPC offers this costs least: 28 us of processor time per request with 64 in flight, where callbacks, whose
// threads wake each other, took 37. In an open loop another thread sends, so that it is never late because of
// answers.
class Generator {
 public:
  // `options` must outlive this; `messages` are not empty.
  Generator(const LoadOptions& options, std::vector<grpc::ByteBuffer> messages,
            const std::vector<std::shared_ptr<grpc::Channel>>& channels)
      : options_(options),
        messages_(std::move(messages)),
        stubs_(channels.begin(), channels.end()),
        begun_(Clock::now()),
        window_begins_(begun_ + absl::ToChronoNanoseconds(options.warmup)),
        window_ends_(window_begins_ + absl::ToChronoNanoseconds(options.duration)) {}

  // Calls back on this thread until all requests have ended.
  LoadResult Run() {
    std::thread poller([this] { Poll(); });
    std::thread sender;
    if (open_loop()) sender = std::thread([this] { SendWhatIsDue(); });
    const double cpu_seconds = Watch();
    if (open_loop()) sender.join();
    poller.join();
    result_.seconds = absl::ToDoubleSeconds(options_.duration);
    result_.cpu_seconds = cpu_seconds;
    result_.not_sent = not_sent_;
    result_.send_delay = std::move(send_delay_);
    return std::move(result_);
  }

 private:
  bool open_loop() const { return options_.rate > 0; }
  bool InWindow(Clock::time_point time) const { return window_begins_ <= time && time < window_ends_; }

  void Poll() {
    if (!open_loop()) {
      for (int64_t i = 0; i < options_.concurrency; ++i) Send(calls_.emplace_back(), begun_);
      in_flight_ = options_.concurrency;
    }
    void* tag;
    for (bool ok; queue_.Next(&tag, &ok);) {
      Call& call = *static_cast<Call*>(tag);
      const Clock::time_point now = Clock::now();
      TakeIn(call, now);
      if (open_loop()) {
        absl::MutexLock lock(&mutex_);
        idle_.push_back(&call);
      } else if (now < window_ends_) {
        Send(call, now);
      } else if (--in_flight_ == 0) {
        queue_.Shutdown();
      }
    }
    ended_.Notify();
  }

  void SendWhatIsDue() {
    prctl(PR_SET_TIMERSLACK, 1);  // nanoseconds; by default sleep ends up to 50 µs late
    for (uint64_t i = 0;; ++i) {
      const auto after = std::chrono::duration<double>(static_cast<double>(i) / options_.rate);
      const Clock::time_point due = begun_ + std::chrono::duration_cast<Clock::duration>(after);
      if (due >= window_ends_) break;
      std::this_thread::sleep_until(due);
      const Clock::time_point now = Clock::now();
      // Too many to send them in time are not caught up with for ever.
      Call* const call = now < window_ends_ + kGrace ? Idle() : nullptr;
      if (call != nullptr) Send(*call, due);
      if (!InWindow(due)) continue;
      if (call != nullptr) {
        send_delay_.Record(absl::FromChrono(now - due));
      } else {
        ++not_sent_;
      }
    }
    queue_.Shutdown();  // what is in flight still comes
  }

  // One that is not in flight; null when there may be no more of them.
  Call* Idle() {
    absl::MutexLock lock(&mutex_);
    if (!idle_.empty()) {
      Call* const call = idle_.back();
      idle_.pop_back();
      return call;
    }
    return static_cast<int64_t>(calls_.size()) < options_.max_outstanding ? &calls_.emplace_back() : nullptr;
  }

  // Only by the thread that sends.
  void Send(Call& call, Clock::time_point due) {
    const uint64_t number = sent_++;
    call.request = number % messages_.size();
    call.due = due;
    const auto share_of = [&](uint64_t n) {
      return std::floor(static_cast<double>(n) * options_.check_share);
    };
    call.checked = share_of(number + 1) > share_of(number);
    call.reader.reset();
    call.reply.Clear();
    call.context.emplace();
    call.context->set_deadline(std::chrono::system_clock::now() +
                               absl::ToChronoNanoseconds(options_.deadline));
    AddToken(options_.token, *call.context);
    call.reader = stubs_[number % stubs_.size()].PrepareUnaryCall(&*call.context, kMethod,
                                                                  messages_[call.request], &queue_);
    call.reader->StartCall();
    call.reader->Finish(&call.reply, &call.status, &call);
  }

  // Only by the poller.
  void TakeIn(Call& call, Clock::time_point now) {
    const bool ok = call.status.ok();
    (ok ? ok_ : failed_).fetch_add(1, std::memory_order_relaxed);
    if (InWindow(call.due)) {
      const absl::Duration took = absl::FromChrono(now - call.due);
      (ok ? result_.ok : result_.failed).Record(took);
      if (!ok) {
        const auto code = static_cast<absl::StatusCode>(call.status.error_code());
        LoadResult::Failures& failures = result_.failures[code];
        if (failures.first.ok()) failures.first = absl::Status(code, call.status.error_message());
        failures.latency.Record(took);
      }
    }
    if (!ok) return;
    if (InWindow(now)) {
      ++result_.answered;
      result_.request_bytes += messages_[call.request].Length();
      result_.reply_bytes += call.reply.Length();
    }
    if (!call.checked) return;
    const std::optional<SearchResult> answer = Parse(call.reply);
    ++result_.checked;
    if (!answer.has_value() || !options_.check(call.request, *answer)) ++result_.mismatched;
  }

  // What the calling thread does meanwhile. The processor time that this process took within the window.
  double Watch() {
    AwaitUntil(window_begins_);
    if (options_.window_begins) options_.window_begins();
    const double cpu_before = CpuSeconds();
    AwaitUntil(window_ends_);
    const double cpu_seconds = CpuSeconds() - cpu_before;
    if (options_.window_ends) options_.window_ends();
    while (!ended_.WaitForNotificationWithTimeout(kTick)) TellProgress();
    return cpu_seconds;
  }

  void AwaitUntil(Clock::time_point time) {
    for (Clock::time_point now; (now = Clock::now()) < time;) {
      std::this_thread::sleep_until(std::min(time, now + absl::ToChronoNanoseconds(kTick)));
      TellProgress();
    }
  }

  void TellProgress() const {
    if (!options_.progress) return;
    options_.progress({absl::FromChrono(Clock::now() - begun_), options_.warmup + options_.duration,
                       ok_.load(std::memory_order_relaxed), failed_.load(std::memory_order_relaxed)});
  }

  static double CpuSeconds() {
    rusage used;
    getrusage(RUSAGE_SELF, &used);
    return absl::ToDoubleSeconds(absl::DurationFromTimeval(used.ru_utime) +
                                 absl::DurationFromTimeval(used.ru_stime));
  }

  const LoadOptions& options_;
  const std::vector<grpc::ByteBuffer> messages_;
  std::vector<grpc::GenericStub> stubs_;
  grpc::CompletionQueue queue_;
  const Clock::time_point begun_, window_begins_, window_ends_;

  // Of the thread that sends.
  uint64_t sent_ = 0;
  uint64_t not_sent_ = 0;
  LatencyHistogram send_delay_;

  // Of the poller.
  int64_t in_flight_ = 0;  // closed loop
  LoadResult result_;

  std::atomic<uint64_t> ok_ = 0, failed_ = 0;
  absl::Notification ended_;

  absl::Mutex mutex_;
  std::deque<Call> calls_;                           // of the thread that sends, which alone adds to it
  std::vector<Call*> idle_ ABSL_GUARDED_BY(mutex_);  // open loop
};

}  // namespace

absl::StatusOr<LoadResult> RunLoad(const LoadOptions& options, const LoadRequests& requests) {
  std::vector<std::shared_ptr<grpc::Channel>> channels;
  for (int i = 0; i < options.connections; ++i) {
    absl::StatusOr<std::shared_ptr<grpc::Channel>> channel = Connect(options);
    if (!channel.ok()) return channel.status();
    channels.push_back(*std::move(channel));
  }
  Generator generator(options, Serialize(requests), channels);
  return generator.Run();
}

}  // namespace dotmax
