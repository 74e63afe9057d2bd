// The C++ client of dotmax: spans in, values out, absl::Status for failures.
//
//   absl::StatusOr<dotmax::Client> client = dotmax::Client::Create({.target = "localhost:50051"});
//   std::vector<float> queries = ...;  // M · 100 numbers, row-major
//   absl::StatusOr<dotmax::SearchResult> result = client->Search(dotmax::Rows(queries, 100), {.top_k = 10});
//   for (size_t i = 0; i < result->query_count(); ++i)
//     for (size_t hit = result->begin(i); hit < result->end(i); ++hit)
//       Use(i, result->ids[hit], result->scores[hit]);
//
// The best pairs of two matrices that no server holds, of any size:
//
//   client->MaxInnerProduct(dotmax::Rows(a, 100), dotmax::Rows(b, 100), {.top_k = 10, .global = true});
//
// Every score is the metric's true value rounded once to float64; hits come best first, then by query row,
// then by id. See proto/dotmax/v1/dotmax.proto for what each number means.
#ifndef DOTMAX_CLIENT_CPP_INCLUDE_DOTMAX_CLIENT_H_
#define DOTMAX_CLIENT_CPP_INCLUDE_DOTMAX_CLIENT_H_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "absl/types/span.h"

namespace dotmax {

enum class ElementType : uint8_t { kFloat32, kFloat16, kBFloat16, kFloat64, kInt8 };

// A borrowed dense matrix: rows × dim elements, row-major, little-endian, no padding.
struct Rows {
  Rows() = default;
  // From whole rows: values.size() must be a multiple of dim (Search says so when it is not).
  Rows(absl::Span<const float> values, uint32_t row_dim)
      : Rows(values.data(), values.size() * sizeof(float), row_dim, ElementType::kFloat32) {}
  Rows(absl::Span<const double> values, uint32_t row_dim)
      : Rows(values.data(), values.size() * sizeof(double), row_dim, ElementType::kFloat64) {}
  Rows(absl::Span<const int8_t> values, uint32_t row_dim)
      : Rows(values.data(), values.size(), row_dim, ElementType::kInt8) {}
  // Any type, by its bytes; for float16 and bfloat16.
  Rows(const void* row_data, size_t byte_count, uint32_t row_dim, ElementType element_type)
      : data(row_data), bytes(byte_count), dim(row_dim), type(element_type) {}

  size_t row_bytes() const;
  size_t count() const { return row_bytes() == 0 ? 0 : bytes / row_bytes(); }

  const void* data = nullptr;
  size_t bytes = 0;
  uint32_t dim = 0;
  ElementType type = ElementType::kFloat32;
};

// Files are PEM, and read once, by Create.
struct TlsOptions {
  std::string ca_file = {};  // the certificates that may have signed the server's; empty: the system's
  // What the client shows to servers that ask for it: both or none.
  std::string certificate_file = {}, key_file = {};
  std::string server_name = {};  // that the server's certificate must bear; empty: the target's
};

struct ClientOptions {
  std::string target = "localhost:50051";        // a gRPC name: host:port, unix:path, dns:///host:port
  absl::Duration timeout = absl::Seconds(60);    // of each call that does not give its own
  size_t max_message_bytes = size_t{64} << 20;   // both ways; the server has a limit of its own
  std::optional<TlsOptions> tls = std::nullopt;  // without: in the clear
  std::string token = {};                        // goes along with every call; without tls in the clear, too
};

enum class ScoreMetric : uint8_t {
  kInnerProduct,
  kCosine,            // 0 where a row is zero
  kSquaredEuclidean,  // the smallest is the best
};

// Ids [row_splits[i], row_splits[i + 1]) of `ids` are no hits of query row i, in any order. Both empty: none.
struct Exclusions {
  std::vector<uint64_t> row_splits, ids;
};

struct SearchOptions {
  std::string collection = {};  // that is searched; empty: the server's only one
  // That the collection must have; kFailedPrecondition if it has another one. Without it, the one that it has
  // when the first message comes, for all messages of a call.
  std::optional<uint64_t> version = std::nullopt;
  // How many hits; 0 for 1, or with a score given below all within it, up to the server's limit and what a
  // reply holds (SearchResult::truncated).
  uint32_t top_k = 1;
  bool global = false;  // the top_k of all (query row, row) pairs instead of those of each query row
  ScoreMetric metric = ScoreMetric::kInnerProduct;
  // The range: only scores of at least this, or, of kSquaredEuclidean, of at most this.
  std::optional<double> min_score = std::nullopt;
  std::optional<double> max_score = std::nullopt;
  bool count_only = false;  // of the pairs within the range; top_k is not looked at
  Exclusions exclude = {};
  std::optional<absl::Duration> timeout = std::nullopt;
  // Of each request and reply, if less than the client's; 0 for none. Give the server's (Describe) when it
  // may be the smaller one.
  uint64_t max_message_bytes = 0;
  // Called on the calling thread whenever a message has gone, with how much of the whole is done.
  std::function<void(uint64_t done, uint64_t total)> progress = nullptr;
};

// Rows [first, first + rows) of a resident collection; rows = 0: all from `first` on.
struct CollectionRows {
  std::string collection = {};  // empty: the one that is searched
  uint64_t first = 0;
  uint64_t rows = 0;
};

// What is made of the pairs of a collection with itself.
enum class SelfPairs : uint8_t {
  kAll,
  kNotItself,  // no row is its own hit
  kEachOnce,   // of (i, j) and (j, i) only the one with the smaller query row; no row with itself
};

struct BestHit {
  uint64_t query_row = 0;
  uint64_t id = 0;
  double score = 0.0;
};

// Parallel arrays; hit h is ids[h], scores[h] and, for global searches, query_rows[h].
struct SearchResult {
  std::vector<uint64_t> row_splits;  // empty for global searches
  std::vector<uint64_t> ids;
  std::vector<double> scores;
  std::vector<uint64_t> query_rows;  // empty unless global
  std::optional<BestHit> best;
  std::vector<bool>
      truncated;  // with a range and top_k = 0, by query row (one if global): whether there are more
  std::vector<uint64_t> counts;  // with count_only, by query row (one if global)
  uint64_t version = 0;          // of the collection; 0 for a base that was sent
  double coverage = 0.0;         // rows searched / rows held
  double queue_seconds = 0.0;
  double compute_seconds = 0.0;
  uint64_t pairs_screened = 0;
  uint64_t pairs_survived = 0;
  uint64_t pairs_checked = 0;
  uint64_t pairs_rescored = 0;

  // Not for global searches: the hits of query row i are [begin(i), end(i)).
  size_t query_count() const { return row_splits.empty() ? 0 : row_splits.size() - 1; }
  size_t begin(size_t i) const { return row_splits[i]; }
  size_t end(size_t i) const { return row_splits[i + 1]; }
};

// A and B of one dim, and of any number of rows.
struct RowsPair {
  Rows queries, base;
};

struct PairsOptions {
  ScoreMetric metric = ScoreMetric::kInnerProduct;
  std::optional<absl::Duration> timeout = std::nullopt;
  uint64_t max_message_bytes = 0;  // as SearchOptions'
};

// The best of each pair of matrices, as parallel arrays; pairs without rows on either side have none.
struct PairsResult {
  struct Best {
    uint64_t pair = 0;
    uint64_t query_row = 0;
    uint64_t id = 0;
    double score = 0.0;
  };

  std::vector<uint64_t> pairs;  // ascending
  std::vector<uint64_t> query_rows;
  std::vector<uint64_t> ids;
  std::vector<double> scores;
  std::optional<Best> best;  // of all, the lowest pair on ties
  double queue_seconds = 0.0;
  double compute_seconds = 0.0;
};

// What a way to rule out hopeless pairs was measured to take when the matrix was loaded: seconds per query.
struct ScreenTiming {
  std::string screen;
  double batch_query_seconds = 0;
  std::optional<double> single_query_seconds;
};

struct CollectionDescription {
  std::string name;
  uint64_t rows = 0;
  uint32_t dim = 0;
  ElementType type = ElementType::kFloat32;
  uint64_t resident_bytes = 0;
  std::string screen;
  std::vector<ScreenTiming> estimates;
  uint64_t version = 0;       // larger than that of any change before
  bool file_changed = false;  // its mapped file has changed: searches fail until it is loaded again
};

enum class LoadStage : uint8_t {
  kWaiting,    // for other loads
  kReading,    // the file
  kPreparing,  // choosing how to search it, and encoding it
};

struct CollectionLoadOptions {
  // Of the whole load, which can take minutes.
  absl::Duration timeout = absl::Hours(1);
  // Called on the calling thread, a few times a second.
  std::function<void(LoadStage stage, uint64_t bytes_done, uint64_t bytes_total)> progress = nullptr;
};

struct ServerDescription {
  std::vector<CollectionDescription> collections;  // by name
  uint32_t max_top_k = 0;
  uint64_t max_message_bytes = 0;
};

// One channel to a server, or to all that a name stands for (dns:///), which take turns. Thread-safe; calls
// block, and try again for about a second when the server is UNAVAILABLE. Movable.
class Client {
 public:
  // Does not connect yet: the first call does. kInvalidArgument for options that cannot be, kNotFound for a
  // file that cannot be read.
  static absl::StatusOr<Client> Create(const ClientOptions& options = {});

  Client(Client&&) noexcept;
  Client& operator=(Client&&) noexcept;
  ~Client();

  // The best rows of a collection for `queries`. Queries that do not fit into one message are sent as
  // several, and the replies joined: the result is the same. Fails with the server's code and message
  // (StatusReason and StatusFieldViolations say more), kDeadlineExceeded, or kUnavailable.
  absl::StatusOr<SearchResult> Search(const Rows& queries, const SearchOptions& options = {}) const;

  // The same for rows of a collection as queries, which are not sent. Query row i is row first + i.
  absl::StatusOr<SearchResult> SearchRows(const CollectionRows& queries, SelfPairs self,
                                          const SearchOptions& options = {}) const;

  // Search, for any number of batches of queries in one call. `next` gives one after the other, and nothing
  // when there are no more; it is called on a thread of the call's own, and what a batch borrows must last
  // until its result has come. `take` is called on the calling thread as results come, in any order, with the
  // batch's number, from 0; a batch that fails has its own status, and the others go on. When `take` returns
  // false, the call ends. Batches are taken while results are: at most 64 are under way, and each must fit
  // into a message.
  //
  // Fails with what ended the stream before all was answered. Without options.timeout there is none;
  // options.exclude and progress are not looked at.
  absl::Status SearchStream(absl::FunctionRef<std::optional<Rows>()> next,
                            absl::FunctionRef<bool(uint64_t batch, absl::StatusOr<SearchResult> result)> take,
                            const SearchOptions& options = {}) const;

  // Search for a base that is sent, too, and held by no server (options.collection is not looked at). What
  // does not fit into one message is streamed. Queries beyond the message limit go in parts, each with the
  // whole base.
  absl::StatusOr<SearchResult> MaxInnerProduct(const Rows& queries, const Rows& base,
                                               const SearchOptions& options = {}) const;

  // The best of each of many pairs of matrices, in as many messages as they take.
  absl::StatusOr<PairsResult> MaxOfPairs(absl::Span<const RowsPair> pairs,
                                         const PairsOptions& options = {}) const;

  // What is resident, and the server's limits.
  absl::StatusOr<ServerDescription> Describe() const;

  // Loads a file that the server can read, by its path within the server's data directory, as a new
  // collection, or as a new version of one that there is. What fails changes nothing; StatusReason says why.
  absl::StatusOr<CollectionDescription> LoadCollection(const std::string& name, const std::string& path,
                                                       const CollectionLoadOptions& options = {}) const;
  // The same from the file that the collection came from.
  absl::StatusOr<CollectionDescription> ReloadCollection(const std::string& name,
                                                         const CollectionLoadOptions& options = {}) const;
  // Each name means what the other one did, from one moment to the next. Returns what they mean now.
  absl::StatusOr<std::pair<CollectionDescription, CollectionDescription>> SwapCollections(
      const std::string& a, const std::string& b) const;
  absl::Status DropCollection(const std::string& name) const;

  // Ok while the server takes searches; kUnavailable with its state otherwise.
  absl::Status CheckHealth() const;

 private:
  struct Impl;
  explicit Client(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

// What the server attached to a failure (google.rpc.ErrorInfo, BadRequest).
struct FieldViolation {
  std::string field;  // "queries.data"
  std::string description;
};
std::string StatusReason(const absl::Status& status);  // "DIM_MISMATCH"; empty if none
std::vector<FieldViolation> StatusFieldViolations(const absl::Status& status);

}  // namespace dotmax

#endif  // DOTMAX_CLIENT_CPP_INCLUDE_DOTMAX_CLIENT_H_
