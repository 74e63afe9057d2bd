// Whether the protos still mean what the released ones do: programs built from proto/released.binpb must
// understand every message, and their source must still compile. A release makes that file anew:
//   protoc --proto_path=proto --include_imports --descriptor_set_out=proto/released.binpb
//   proto/dotmax/v1/*.proto
#include <google/protobuf/descriptor.h>
#include <google/protobuf/descriptor.pb.h>

#include <filesystem>
#include <fstream>
#include <functional>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "dotmax/v1/collections.pb.h"
#include "dotmax/v1/dotmax.pb.h"
#include "dotmax/v1/matrix.pb.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace dotmax {
namespace {

using google::protobuf::Descriptor;
using google::protobuf::DescriptorPool;
using google::protobuf::EnumDescriptor;
using google::protobuf::EnumValueDescriptor;
using google::protobuf::FieldDescriptor;
using google::protobuf::FileDescriptor;
using google::protobuf::FileDescriptorProto;
using google::protobuf::FileDescriptorSet;
using google::protobuf::MethodDescriptor;
using google::protobuf::ServiceDescriptor;
using ::testing::ElementsAre;
using ::testing::IsEmpty;

using Problems = std::vector<std::string>;

// What a field is on the wire and in generated code.
std::string Kind(const FieldDescriptor& field) {
  std::string kind = absl::StrCat(field.is_repeated()    ? "repeated "
                                  : field.has_presence() ? "optional "
                                                         : "",
                                  field.type_name());
  if (field.message_type() != nullptr) absl::StrAppend(&kind, " ", field.message_type()->full_name());
  if (field.enum_type() != nullptr) absl::StrAppend(&kind, " ", field.enum_type()->full_name());
  if (field.real_containing_oneof() != nullptr) {
    absl::StrAppend(&kind, " in ", field.real_containing_oneof()->name());
  }
  return kind;
}

void Compare(const EnumDescriptor& released, const EnumDescriptor& now, Problems& problems) {
  for (int i = 0; i < released.value_count(); ++i) {
    const EnumValueDescriptor& was = *released.value(i);
    const EnumValueDescriptor* const is = now.FindValueByNumber(was.number());
    if (is == nullptr ? !(now.IsReservedNumber(was.number()) && now.IsReservedName(was.name()))
                      : is->name() != was.name()) {
      problems.push_back(absl::StrCat(was.full_name(), " = ", was.number(), " is gone, and not reserved"));
    }
  }
}

void Compare(const Descriptor& released, const Descriptor& now, Problems& problems) {
  for (int i = 0; i < released.field_count(); ++i) {
    const FieldDescriptor& was = *released.field(i);
    const FieldDescriptor* const is = now.FindFieldByNumber(was.number());
    if (is == nullptr) {
      if (!now.IsReservedNumber(was.number()) || !now.IsReservedName(was.name())) {
        problems.push_back(absl::StrCat(was.full_name(), " = ", was.number(), " is gone, and not reserved"));
      }
    } else if (is->name() != was.name() || Kind(*is) != Kind(was)) {
      problems.push_back(absl::StrCat(was.full_name(), " = ", was.number(), " was ", Kind(was), ", and is ",
                                      is->name(), ", ", Kind(*is)));
    }
  }
  for (int i = 0; i < released.nested_type_count(); ++i) {
    const Descriptor& was = *released.nested_type(i);
    if (const Descriptor* const is = now.FindNestedTypeByName(was.name())) {
      Compare(was, *is, problems);
    } else {
      problems.push_back(absl::StrCat(was.full_name(), " is gone"));
    }
  }
  for (int i = 0; i < released.enum_type_count(); ++i) {
    const EnumDescriptor& was = *released.enum_type(i);
    if (const EnumDescriptor* const is = now.FindEnumTypeByName(was.name())) {
      Compare(was, *is, problems);
    } else {
      problems.push_back(absl::StrCat(was.full_name(), " is gone"));
    }
  }
}

void Compare(const ServiceDescriptor& released, const ServiceDescriptor& now, Problems& problems) {
  for (int i = 0; i < released.method_count(); ++i) {
    const MethodDescriptor& was = *released.method(i);
    const MethodDescriptor* const is = now.FindMethodByName(was.name());
    if (is == nullptr || is->input_type()->full_name() != was.input_type()->full_name() ||
        is->output_type()->full_name() != was.output_type()->full_name() ||
        is->client_streaming() != was.client_streaming() ||
        is->server_streaming() != was.server_streaming()) {
      problems.push_back(absl::StrCat(was.full_name(), " is gone, or another"));
    }
  }
}

void Compare(const FileDescriptor& released, const FileDescriptor& now, Problems& problems) {
  const auto all = [&](int count, auto item, auto find) {
    for (int i = 0; i < count; ++i) {
      const auto* const was = std::invoke(item, released, i);
      if (const auto* const is = std::invoke(find, now, was->name())) {
        Compare(*was, *is, problems);
      } else {
        problems.push_back(absl::StrCat(was->full_name(), " is gone"));
      }
    }
  };
  if (released.package() != now.package())
    problems.push_back(absl::StrCat(released.name(), ": another package"));
  all(released.message_type_count(), &FileDescriptor::message_type, &FileDescriptor::FindMessageTypeByName);
  all(released.enum_type_count(), &FileDescriptor::enum_type, &FileDescriptor::FindEnumTypeByName);
  all(released.service_count(), &FileDescriptor::service, &FileDescriptor::FindServiceByName);
}

// What of `released` programs would miss in `now`.
Problems Missing(const FileDescriptorSet& released, const DescriptorPool& now) {
  Problems problems;
  DescriptorPool pool;
  for (const FileDescriptorProto& file : released.file()) {
    const FileDescriptor* const was = pool.BuildFile(file);
    const FileDescriptor* const is = now.FindFileByName(file.name());
    if (was == nullptr || is == nullptr) {
      problems.push_back(absl::StrCat(file.name(), " is gone"));
    } else {
      Compare(*was, *is, problems);
    }
  }
  return problems;
}

FileDescriptorSet Released() {
  FileDescriptorSet released;
  std::ifstream file(std::filesystem::path(DOTMAX_SOURCE_DIR) / "proto/released.binpb");
  EXPECT_TRUE(released.ParseFromIstream(&file));
  EXPECT_GE(released.file_size(), 3);
  return released;
}

TEST(CompatibilityTest, TheProtosUnderstandWhatWasReleased) {
  // Files are in the generated pool once something of them is used.
  v1::SearchRequest::descriptor();
  v1::Collection::descriptor();
  v1::Matrix::descriptor();
  EXPECT_THAT(Missing(Released(), *DescriptorPool::generated_pool()), IsEmpty());
}

// The checker itself: what becomes of the released protos with one change.
class ChangeTest : public ::testing::Test {
 protected:
  Problems With(const std::function<void(FileDescriptorProto&)>& change) {
    const FileDescriptorSet released = Released();
    DescriptorPool pool;
    for (FileDescriptorProto file : released.file()) {
      if (file.name() == "dotmax/v1/matrix.proto") change(file);
      EXPECT_NE(pool.BuildFile(file), nullptr);
    }
    return Missing(released, pool);
  }
};

TEST_F(ChangeTest, NothingAndAdditionsAreFine) {
  EXPECT_THAT(With([](FileDescriptorProto&) {}), IsEmpty());
  EXPECT_THAT(With([](FileDescriptorProto& file) {
                auto& field = *file.mutable_message_type(0)->add_field();
                field.set_name("stride");
                field.set_number(99);
                field.set_type(google::protobuf::FieldDescriptorProto::TYPE_UINT64);
                field.set_label(google::protobuf::FieldDescriptorProto::LABEL_OPTIONAL);
              }),
              IsEmpty());
}

TEST_F(ChangeTest, WhatBreaksIsNamed) {
  EXPECT_THAT(
      With([](FileDescriptorProto& file) { file.mutable_message_type(0)->mutable_field(0)->set_number(77); }),
      ElementsAre("dotmax.v1.Matrix.rows = 1 is gone, and not reserved"));
  EXPECT_THAT(
      With([](FileDescriptorProto& file) { file.mutable_message_type(0)->mutable_field(0)->set_name("n"); }),
      ElementsAre("dotmax.v1.Matrix.rows = 1 was uint64, and is n, uint64"));
  EXPECT_THAT(With([](FileDescriptorProto& file) {
                file.mutable_message_type(0)->mutable_field(0)->set_type(
                    google::protobuf::FieldDescriptorProto::TYPE_UINT32);
              }),
              ElementsAre("dotmax.v1.Matrix.rows = 1 was uint64, and is rows, uint32"));
  EXPECT_THAT(With([](FileDescriptorProto& file) {
                file.mutable_message_type(0)->mutable_field(0)->set_label(
                    google::protobuf::FieldDescriptorProto::LABEL_REPEATED);
              }),
              ElementsAre("dotmax.v1.Matrix.rows = 1 was uint64, and is rows, repeated uint64"));
  EXPECT_THAT(
      With([](FileDescriptorProto& file) { file.mutable_enum_type(0)->mutable_value()->RemoveLast(); }),
      ElementsAre("dotmax.v1.INT8 = 5 is gone, and not reserved"));
}

TEST_F(ChangeTest, WhatIsReservedMayGo) {
  EXPECT_THAT(With([](FileDescriptorProto& file) {
                auto& message = *file.mutable_message_type(0);
                message.mutable_field()->DeleteSubrange(0, 1);
                message.add_reserved_name("rows");
                auto& range = *message.add_reserved_range();
                range.set_start(1);
                range.set_end(2);
              }),
              IsEmpty());
}

}  // namespace
}  // namespace dotmax
