#include "server/rpc/metadata.h"

#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"

namespace dotmax {
namespace {

using Metadata = std::multimap<grpc::string_ref, grpc::string_ref>;

CallMetadata Read(const char* key, const std::string& value) {
  return ReadMetadata(Metadata{{key, grpc::string_ref(value.data(), value.size())}});
}

TEST(MetadataTest, NothingMeansTheDefaults) {
  const CallMetadata read = ReadMetadata({});
  EXPECT_EQ(read.authorization, "");
  EXPECT_EQ(read.request_id, "");
  EXPECT_EQ(read.trace_id, "");
  EXPECT_EQ(read.priority, Priority::kNormal);
}

TEST(MetadataTest, ARequestIdIsTakenIfItCanBeLoggedAsItIs) {
  const std::string longest(CallMetadata::kMaxRequestId, 'x');
  for (const std::string& id : {std::string("a"), std::string("9f86d081-\"{}\""), longest}) {
    EXPECT_EQ(Read("x-request-id", id).request_id, id);
  }
  for (const std::string& id : {std::string(), std::string("a b"), std::string("a\nb"),
                                std::string("\xc3\xa4"), std::string("a\0b", 3), longest + "x"}) {
    EXPECT_EQ(Read("x-request-id", id).request_id, "") << id;
  }
}

TEST(MetadataTest, ATraceIsTakenFromAValidTraceparent) {
  const std::string trace = "0af7651916cd43dd8448eb211c80319c", parent = "b7ad6b7169203331";
  const std::string good = absl::StrCat("00-", trace, "-", parent, "-01");
  EXPECT_EQ(Read("traceparent", good).trace_id, trace);
  EXPECT_EQ(Read("traceparent", absl::StrCat("cc-", trace, "-", parent, "-01-more")).trace_id, trace);
  for (const std::string& bad :
       {std::string(), good.substr(1),
        good + "-more",  // version 00 has no more
        good + "x", absl::StrCat("cc-", trace, "-", parent, "-01x"),
        absl::StrCat("ff-", trace, "-", parent, "-01"),
        absl::StrCat("00-", std::string(32, '0'), "-", parent, "-01"),
        absl::StrCat("00-", trace, "-", std::string(16, '0'), "-01"),
        absl::StrCat("00-", std::string(32, 'A'), "-", parent, "-01"),
        absl::StrCat("00_", trace, "-", parent, "-01"), absl::StrCat("00-", trace, "-", parent, "-0g")}) {
    EXPECT_EQ(Read("traceparent", bad).trace_id, "") << bad;
  }
}

TEST(MetadataTest, PrioritiesHaveNames) {
  EXPECT_EQ(Read("dotmax-priority", "low").priority, Priority::kLow);
  EXPECT_EQ(Read("dotmax-priority", "normal").priority, Priority::kNormal);
  EXPECT_EQ(Read("dotmax-priority", "high").priority, Priority::kHigh);
  for (const char* name : {"HIGH", "urgent", " high"}) {
    EXPECT_EQ(Read("dotmax-priority", name).priority, std::nullopt);
    EXPECT_EQ(Read("dotmax-priority", name).priority_name, name);
  }
}

TEST(MetadataTest, TheHostOfAPeerIsWithoutItsPort) {
  const std::vector<std::pair<const char*, const char*>> cases = {
      {"ipv4:192.0.2.1:4711", "192.0.2.1"},
      {"ipv6:%5B2001:db8::1%5D:4711", "2001:db8::1"},
      {"ipv6:[2001:db8::1]:4711", "2001:db8::1"},
      {"ipv6:%5Bfe80::1%25eth0%5D:4711", "fe80::1%eth0"},
      {"unix:/run/dotmax.sock", "unix:/run/dotmax.sock"},
      {"unix:", "unix:"},
      {"ipv4:odd", "ipv4:odd"},
      {"", ""},
  };
  for (const auto& [peer, host] : cases) EXPECT_EQ(HostOfPeer(peer), host);
}

}  // namespace
}  // namespace dotmax
