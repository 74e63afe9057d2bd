#include "server/rpc/metadata.h"

#include <algorithm>

#include "absl/strings/ascii.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/strip.h"

namespace dotmax {
namespace {

// The first value of `key`, or nothing.
absl::string_view ValueOf(const std::multimap<grpc::string_ref, grpc::string_ref>& metadata,
                          const char* key) {
  const auto found = metadata.find(key);
  if (found == metadata.end()) return {};
  return absl::string_view(found->second.data(), found->second.size());
}

bool IsRequestId(absl::string_view text) {
  return !text.empty() && text.size() <= CallMetadata::kMaxRequestId &&
         std::all_of(text.begin(), text.end(), [](char c) { return absl::ascii_isgraph(c); });
}

// The trace-id of "VERSION-TRACE_ID-PARENT_ID-FLAGS", or nothing if that is malformed. Versions to come may
// say more behind a further dash.
absl::string_view TraceId(absl::string_view traceparent) {
  constexpr size_t kLength = 55;
  constexpr absl::string_view kShape = "xx-xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx-xxxxxxxxxxxxxxxx-xx";
  static_assert(kShape.size() == kLength);  // digits and dashes
  if (traceparent.size() < kLength) return {};
  for (size_t i = 0; i < kLength; ++i) {
    const char c = traceparent[i];
    const bool digit = (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f');
    if (kShape[i] == 'x' ? !digit : c != '-') return {};
  }
  const absl::string_view version = traceparent.substr(0, 2);
  if (version == "ff" || (version == "00" && traceparent.size() != kLength)) return {};
  if (traceparent.size() > kLength && traceparent[kLength] != '-') return {};
  const absl::string_view trace_id = traceparent.substr(3, 32), parent_id = traceparent.substr(36, 16);
  const auto is_set = [](absl::string_view id) { return id.find_first_not_of('0') != id.npos; };
  return is_set(trace_id) && is_set(parent_id) ? trace_id : absl::string_view();
}

std::optional<Priority> PriorityOf(absl::string_view name) {
  if (name.empty() || name == "normal") return Priority::kNormal;
  if (name == "low") return Priority::kLow;
  if (name == "high") return Priority::kHigh;
  return std::nullopt;
}

}  // namespace

CallMetadata ReadMetadata(const std::multimap<grpc::string_ref, grpc::string_ref>& metadata) {
  CallMetadata read;
  read.authorization = ValueOf(metadata, "authorization");
  if (const absl::string_view id = ValueOf(metadata, kRequestIdKey); IsRequestId(id)) read.request_id = id;
  read.trace_id = TraceId(ValueOf(metadata, "traceparent"));
  read.priority_name = ValueOf(metadata, kPriorityKey);
  read.priority = PriorityOf(read.priority_name);
  return read;
}

std::string HostOfPeer(absl::string_view peer) {
  absl::string_view host = peer;
  if (!absl::ConsumePrefix(&host, "ipv4:") && !absl::ConsumePrefix(&host, "ipv6:")) return std::string(peer);
  const size_t colon = host.rfind(':');
  if (colon == host.npos) return std::string(peer);
  std::string unescaped =
      absl::StrReplaceAll(host.substr(0, colon), {{"%5B", "["}, {"%5D", "]"}, {"%25", "%"}});
  host = unescaped;
  if (absl::ConsumePrefix(&host, "[")) absl::ConsumeSuffix(&host, "]");
  return std::string(host);
}

}  // namespace dotmax
