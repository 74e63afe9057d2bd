// The list of tests/conformance, asked by the C++ client.
#include <google/protobuf/struct.pb.h>
#include <google/protobuf/util/json_util.h>

#include <bit>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <map>
#include <optional>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "dotmax/client.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/server_process.h"

namespace dotmax {
namespace {

namespace fs = std::filesystem;
using google::protobuf::ListValue;
using google::protobuf::Struct;
using google::protobuf::Value;

const fs::path& Folder() {
  static const auto* const folder = new fs::path(fs::path(DOTMAX_SOURCE_DIR) / "tests/conformance");
  return *folder;
}

bool Has(const Struct& s, const std::string& name) { return s.fields().contains(name); }
const Value& At(const Struct& s, const std::string& name) { return s.fields().at(name); }
double Number(const Struct& s, const std::string& name) {
  return Has(s, name) ? At(s, name).number_value() : 0.0;
}
std::string Text(const Struct& s, const std::string& name) {
  return Has(s, name) ? At(s, name).string_value() : "";
}

Value ToValue(double number) {
  Value value;
  value.set_number_value(number);
  return value;
}
Value ToValue(const std::string& text) {
  Value value;
  value.set_string_value(text);
  return value;
}
Value ToValue(bool truth) {
  Value value;
  value.set_bool_value(truth);
  return value;
}
template <typename T>
Value ToValue(const std::vector<T>& items) {
  Value value;
  value.mutable_list_value();
  for (const auto& item : items) {
    if constexpr (std::is_same_v<T, std::string> || std::is_same_v<T, bool>) {
      *value.mutable_list_value()->add_values() = ToValue(T(item));
    } else {
      *value.mutable_list_value()->add_values() = ToValue(static_cast<double>(item));
    }
  }
  return value;
}
Value ToValue(Struct fields) {
  Value value;
  *value.mutable_struct_value() = std::move(fields);
  return value;
}
Struct Fields(std::map<std::string, Value> fields) {
  Struct s;
  for (auto& [name, value] : fields) (*s.mutable_fields())[name] = std::move(value);
  return s;
}

// A matrix of the list, and the bytes that it borrows.
struct Matrix {
  explicit Matrix(const Struct& s) : dim(static_cast<uint32_t>(Number(s, "dim"))) {
    const std::string name = Text(s, "dtype");
    const bool bits = Has(s, "bits");
    for (const Value& value : At(s, bits ? "bits" : "values").list_value().values()) {
      if (name == "FLOAT32") Add(static_cast<float>(value.number_value()), ElementType::kFloat32);
      if (name == "FLOAT64") Add(value.number_value(), ElementType::kFloat64);
      if (name == "INT8") Add(static_cast<int8_t>(value.number_value()), ElementType::kInt8);
      if (name == "FLOAT16") Add(static_cast<uint16_t>(value.number_value()), ElementType::kFloat16);
      if (name == "BFLOAT16") Add(static_cast<uint16_t>(value.number_value()), ElementType::kBFloat16);
    }
  }

  template <typename T>
  void Add(T element, ElementType element_type) {
    type = element_type;
    bytes.append(reinterpret_cast<const char*>(&element), sizeof(element));
  }

  Rows rows() const { return Rows(bytes.data(), bytes.size(), dim, type); }

  std::string bytes;
  uint32_t dim;
  ElementType type = ElementType::kFloat32;
};

ScoreMetric MetricOf(const Struct& request) {
  const std::string name = Text(request, "metric");
  return name == "COSINE"              ? ScoreMetric::kCosine
         : name == "SQUARED_EUCLIDEAN" ? ScoreMetric::kSquaredEuclidean
                                       : ScoreMetric::kInnerProduct;
}

SearchOptions OptionsOf(const Struct& request) {
  SearchOptions options;
  options.collection = Text(request, "collection");
  if (Has(request, "version")) options.version = static_cast<uint64_t>(Number(request, "version"));
  if (Has(request, "top_k")) options.top_k = static_cast<uint32_t>(Number(request, "top_k"));
  options.global = Text(request, "reduction") == "GLOBAL";
  options.metric = MetricOf(request);
  if (Has(request, "min_score")) options.min_score = Number(request, "min_score");
  if (Has(request, "max_score")) options.max_score = Number(request, "max_score");
  options.count_only = Has(request, "count_only");
  if (Has(request, "exclude")) {
    options.exclude.row_splits = {0};
    for (const Value& row : At(request, "exclude").list_value().values()) {
      for (const Value& id : row.list_value().values()) {
        options.exclude.ids.push_back(static_cast<uint64_t>(id.number_value()));
      }
      options.exclude.row_splits.push_back(options.exclude.ids.size());
    }
  }
  return options;
}

Struct ErrorOf(const absl::Status& status) {
  std::vector<std::string> fields;
  for (const FieldViolation& violation : StatusFieldViolations(status)) fields.push_back(violation.field);
  Struct error = Fields({{"code", ToValue(absl::StatusCodeToString(status.code()))},
                         {"reason", ToValue(StatusReason(status))},
                         {"fields", ToValue(fields)}});
  return Fields({{"error", ToValue(std::move(error))}});
}

template <typename Best>
Value BestOf(const std::optional<Best>& best) {
  Value value;
  value.set_null_value(google::protobuf::NULL_VALUE);
  if (!best.has_value()) return value;
  std::map<std::string, Value> fields = {{"query_row", ToValue(static_cast<double>(best->query_row))},
                                         {"id", ToValue(static_cast<double>(best->id))},
                                         {"score", ToValue(best->score)}};
  if constexpr (std::is_same_v<Best, PairsResult::Best>) {
    fields["pair"] = ToValue(static_cast<double>(best->pair));
  }
  return ToValue(Fields(std::move(fields)));
}

Struct ReplyOf(const absl::StatusOr<SearchResult>& result) {
  if (!result.ok()) return ErrorOf(result.status());
  std::map<std::string, Value> fields = {
      {"ids", ToValue(result->ids)}, {"scores", ToValue(result->scores)}, {"best", BestOf(result->best)}};
  if (result->row_splits.empty()) {
    fields["query_rows"] = ToValue(result->query_rows);
  } else {
    fields["row_splits"] = ToValue(result->row_splits);
  }
  if (!result->truncated.empty()) fields["truncated"] = ToValue(result->truncated);
  if (!result->counts.empty()) fields["counts"] = ToValue(result->counts);
  return Fields({{"reply", ToValue(Fields(std::move(fields)))}});
}

Struct ReplyOf(const absl::StatusOr<PairsResult>& result) {
  if (!result.ok()) return ErrorOf(result.status());
  Struct reply = Fields({{"pairs", ToValue(result->pairs)},
                         {"query_rows", ToValue(result->query_rows)},
                         {"ids", ToValue(result->ids)},
                         {"scores", ToValue(result->scores)},
                         {"best", BestOf(result->best)}});
  return Fields({{"reply", ToValue(std::move(reply))}});
}

Struct Stream(const Client& client, const ListValue& requests) {
  std::vector<Matrix> batches;
  for (const Value& request : requests.values()) {
    batches.emplace_back(At(request.struct_value(), "queries").struct_value());
  }
  size_t sent = 0;
  std::vector<Struct> replies(batches.size());
  const absl::Status status = client.SearchStream(
      [&]() -> std::optional<Rows> {
        return sent == batches.size() ? std::nullopt : std::optional(batches[sent++].rows());
      },
      [&](uint64_t batch, const absl::StatusOr<SearchResult>& result) {
        replies.at(batch) = ReplyOf(result);
        return true;
      },
      OptionsOf(requests.values(0).struct_value()));
  if (!status.ok()) return ErrorOf(status);
  Value list;
  for (Struct& reply : replies) *list.mutable_list_value()->add_values() = ToValue(std::move(reply));
  return Fields({{"replies", std::move(list)}});
}

Struct List(const Client& client) {
  constexpr const char* kNames[] = {"FLOAT32", "FLOAT16", "BFLOAT16", "FLOAT64", "INT8"};
  const absl::StatusOr<ServerDescription> server = client.Describe();
  if (!server.ok()) return ErrorOf(server.status());
  Value list;
  for (const CollectionDescription& c : server->collections) {
    *list.mutable_list_value()->add_values() =
        ToValue(Fields({{"name", ToValue(c.name)},
                        {"rows", ToValue(static_cast<double>(c.rows))},
                        {"dim", ToValue(static_cast<double>(c.dim))},
                        {"dtype", ToValue(std::string(kNames[static_cast<size_t>(c.type)]))}}));
  }
  return Fields({{"reply", std::move(list)}});
}

Struct Ask(const Client& client, const std::string& call, const Value& request_value) {
  if (call == "stream") return Stream(client, request_value.list_value());
  if (call == "list") return List(client);
  const Struct& request = request_value.struct_value();
  const auto matrix = [](const Struct& s, const std::string& name) {
    return Matrix(At(s, name).struct_value());
  };
  if (call == "search" && Has(request, "queries")) {
    return ReplyOf(client.Search(matrix(request, "queries").rows(), OptionsOf(request)));
  }
  if (call == "search") {
    const Struct& range = At(request, "resident_queries").struct_value();
    const std::string self = Text(request, "self_pairs");
    return ReplyOf(client.SearchRows({.collection = Text(range, "collection"),
                                      .first = static_cast<uint64_t>(Number(range, "first")),
                                      .rows = static_cast<uint64_t>(Number(range, "rows"))},
                                     self == "NOT_ITSELF"  ? SelfPairs::kNotItself
                                     : self == "EACH_ONCE" ? SelfPairs::kEachOnce
                                                           : SelfPairs::kAll,
                                     OptionsOf(request)));
  }
  if (call == "max") {
    const Matrix queries = matrix(request, "queries"), base = matrix(request, "base");
    return ReplyOf(client.MaxInnerProduct(queries.rows(), base.rows(), OptionsOf(request)));
  }
  if (call == "pairs") {
    std::vector<std::pair<Matrix, Matrix>> matrices;
    for (const Value& pair : At(request, "pairs").list_value().values()) {
      matrices.emplace_back(matrix(pair.struct_value(), "queries"), matrix(pair.struct_value(), "base"));
    }
    std::vector<RowsPair> pairs;
    for (const auto& [queries, base] : matrices) pairs.push_back({queries.rows(), base.rows()});
    return ReplyOf(client.MaxOfPairs(pairs, {.metric = MetricOf(request)}));
  }
  if (call == "drop") return ErrorOf(client.DropCollection(Text(request, "name")));
  if (call == "swap") return ErrorOf(client.SwapCollections(Text(request, "a"), Text(request, "b")).status());
  if (call == "load") {
    return ErrorOf(client.LoadCollection(Text(request, "name"), Text(request, "path")).status());
  }
  ADD_FAILURE() << "there is no call " << call;
  return {};
}

// In order of name, numbers as their bits: 0.0 is not -0.0.
std::string Print(const Value& value) {
  switch (value.kind_case()) {
    case Value::kStructValue: {
      std::map<std::string, std::string> fields;
      for (const auto& [name, field] : value.struct_value().fields()) fields[name] = Print(field);
      std::string out = "{";
      for (const auto& [name, field] : fields) absl::StrAppend(&out, name, ": ", field, " ");
      return out + "}";
    }
    case Value::kListValue: {
      std::string out = "[";
      for (const Value& item : value.list_value().values()) absl::StrAppend(&out, Print(item), " ");
      return out + "]";
    }
    case Value::kNumberValue:
      return absl::StrCat(value.number_value(), "/",
                          absl::Hex(std::bit_cast<uint64_t>(value.number_value())));
    default:
      return value.ShortDebugString();
  }
}

TEST(ConformanceTest, EveryCase) {
  std::vector<std::string> flags = {absl::StrCat("--data-dir=", Folder().string())};
  for (const fs::directory_entry& entry : fs::directory_iterator(Folder())) {
    if (entry.path().extension() == ".npy") flags.push_back(absl::StrCat("--matrix=", entry.path().string()));
  }
  const testing::ServerProcess server(flags);
  ASSERT_TRUE(server.AwaitListening());
  const absl::StatusOr<Client> client = Client::Create({.target = server.grpc_address()});
  ASSERT_TRUE(client.ok()) << client.status();

  std::ostringstream text;
  text << std::ifstream(Folder() / "cases.json").rdbuf();
  Value cases;
  ASSERT_TRUE(google::protobuf::util::JsonStringToMessage(text.str(), &cases).ok());
  ASSERT_GT(cases.list_value().values_size(), 50);
  for (const Value& value : cases.list_value().values()) {
    Struct expected = value.struct_value();
    SCOPED_TRACE(Text(expected, "name"));
    const Struct got = Ask(*client, Text(expected, "call"), At(expected, "request"));
    for (const char* name : {"name", "call", "request"}) expected.mutable_fields()->erase(name);
    EXPECT_EQ(Print(ToValue(got)), Print(ToValue(expected)));
  }
}

}  // namespace
}  // namespace dotmax
