// Collections that change while a real server answers.
#include <grpcpp/client_context.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <filesystem>
#include <fstream>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/notification.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "dotmax/v1/collections.grpc.pb.h"
#include "dotmax/v1/dotmax.grpc.pb.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/data.h"
#include "tests/oracle.h"
#include "tests/server_process.h"
#include "tests/wire.h"

namespace dotmax {
namespace {

namespace fs = std::filesystem;
using testing::Channel;
using testing::ErrorOf;
using testing::ExactTopK;
using ::testing::HasSubstr;
using testing::HttpGet;
using ::testing::Not;
using testing::NpyFile;
using testing::RandomNormal;
using testing::SearchRequestOf;
using testing::ServerProcess;
using testing::WireError;

constexpr uint32_t kDim = 16;

// A server with a data directory of its own, in which `a` is "a.npy".
class CollectionsTest : public ::testing::Test {
 protected:
  CollectionsTest() {
    fs::create_directories(root_ / "data");
    Put("a.npy", first_);
  }
  ~CollectionsTest() override {
    server_ = nullptr;
    fs::remove_all(root_);
  }

  // Atomically, as a file's name should change under a server.
  void Put(const std::string& name, const SharedMatrix& matrix) const {
    const NpyFile file(matrix.view);
    fs::copy_file(file.path(), Path("next"), fs::copy_options::overwrite_existing);
    fs::rename(Path("next"), Path(name));
  }
  std::string Path(const std::string& name) const { return root_ / "data" / name; }

  void Start(std::vector<std::string> flags = {}) {
    flags.push_back(absl::StrCat("--matrix=a=", Path("a.npy")));
    flags.push_back(absl::StrCat("--data-dir=", Path("")));
    server_ = std::make_unique<ServerProcess>(flags);
    ASSERT_TRUE(server_->AwaitListening());
    channel_ = Channel(server_->grpc_address());
    admin_ = v1::Collections::NewStub(channel_);
  }

  struct Loaded {
    WireError error;
    v1::Collection collection;
    std::vector<v1::LoadProgress> progress;
  };
  static Loaded Follow(grpc::ClientReaderInterface<v1::LoadProgress>& stream) {
    Loaded loaded;
    for (v1::LoadProgress message; stream.Read(&message);) {
      EXPECT_FALSE(loaded.collection.version() > 0) << "nothing comes after the collection";
      loaded.progress.push_back(message);
      if (message.has_collection()) loaded.collection = message.collection();
    }
    loaded.error = ErrorOf(stream.Finish());
    EXPECT_EQ(loaded.error.code == grpc::StatusCode::OK, loaded.collection.version() > 0);
    return loaded;
  }
  Loaded Load(const std::string& name, const std::string& path) {
    grpc::ClientContext context;
    v1::LoadCollectionRequest request;
    request.set_name(name);
    request.set_path(path);
    return Follow(*admin_->LoadCollection(&context, request));
  }
  Loaded Reload(const std::string& name) {
    grpc::ClientContext context;
    v1::ReloadCollectionRequest request;
    request.set_name(name);
    return Follow(*admin_->ReloadCollection(&context, request));
  }
  WireError Drop(const std::string& name) {
    grpc::ClientContext context;
    v1::DropCollectionRequest request;
    request.set_name(name);
    v1::DropCollectionResponse response;
    return ErrorOf(admin_->DropCollection(&context, request, &response));
  }
  WireError Swap(const std::string& a, const std::string& b, v1::SwapCollectionsResponse* response) {
    grpc::ClientContext context;
    v1::SwapCollectionsRequest request;
    request.set_a(a);
    request.set_b(b);
    return ErrorOf(admin_->SwapCollections(&context, request, response));
  }
  WireError Search(const v1::SearchRequest& request, v1::SearchResponse* response) {
    grpc::ClientContext context;
    return ErrorOf(v1::Dotmax::NewStub(channel_)->Search(&context, request, response));
  }
  v1::SearchRequest Ask(const std::string& name) const {
    return SearchRequestOf(name, queries_, 3, v1::GLOBAL);
  }

  // Expects that `name` is `rows`, of this version.
  void ExpectIs(const std::string& name, const SharedMatrix& rows, uint64_t version) {
    v1::SearchResponse response;
    const WireError error = Search(Ask(name), &response);
    ASSERT_EQ(error.code, grpc::StatusCode::OK) << error.message;
    EXPECT_EQ(response.version(), version);
    ExpectHits(response, rows);
  }
  void ExpectHits(const v1::SearchResponse& response, const SharedMatrix& rows) const {
    const std::vector<Hit> expected = ExactTopK(queries_.view, rows.view, 3, Reduction::kGlobal);
    ASSERT_EQ(response.ids_size(), 3);
    for (int i = 0; i < 3; ++i) {
      EXPECT_EQ(response.ids(i), expected[i].id);
      EXPECT_EQ(response.scores(i), expected[i].score);
    }
  }

  uint64_t Memory() const { return server_->Use().anonymous_bytes; }

  const fs::path root_ = fs::path(::testing::TempDir()) / absl::StrCat("collections_test_", getpid());
  const SharedMatrix first_ = RandomNormal(200, kDim, 1);
  const SharedMatrix second_ = RandomNormal(300, kDim, 2);
  const SharedMatrix queries_ = RandomNormal(5, kDim, 3);
  std::unique_ptr<ServerProcess> server_;
  std::shared_ptr<grpc::Channel> channel_;
  std::unique_ptr<v1::Collections::Stub> admin_;
};

TEST_F(CollectionsTest, ComeChangeNamesAndGo) {
  ASSERT_NO_FATAL_FAILURE(Start());
  ExpectIs("a", first_, 1);
  Put("b.npy", second_);
  const Loaded b = Load("b", "b.npy");
  ASSERT_EQ(b.error.code, grpc::StatusCode::OK) << b.error.message;
  EXPECT_EQ(b.collection.version(), 2u);
  EXPECT_EQ(b.collection.rows(), 300u);
  EXPECT_EQ(b.progress.back().stage(), v1::LoadProgress::PUBLISHED);
  ExpectIs("b", second_, 2);

  Put("a.npy", second_);
  ExpectIs("a", first_, 1);  // until somebody says so
  EXPECT_EQ(Reload("a").collection.version(), 3u);
  ExpectIs("a", second_, 3);
  EXPECT_EQ(Load("a", Path("b.npy")).collection.version(), 4u);

  Put("c.npy", first_);
  EXPECT_EQ(Load("c", "c.npy").collection.version(), 5u);
  v1::SwapCollectionsResponse swapped;
  EXPECT_EQ(Swap("a", "c", &swapped).code, grpc::StatusCode::OK);
  EXPECT_EQ(swapped.a().version(), 6u);
  EXPECT_EQ(swapped.a().rows(), 200u);
  EXPECT_EQ(swapped.b().name(), "c");
  ExpectIs("a", first_, 6);
  ExpectIs("c", second_, 7);

  EXPECT_EQ(Drop("c").code, grpc::StatusCode::OK);
  EXPECT_EQ(Drop("c").reason, "COLLECTION_NOT_FOUND");
  v1::SearchResponse response;
  EXPECT_EQ(Search(Ask("c"), &response).code, grpc::StatusCode::NOT_FOUND);
  const std::string metrics = HttpGet(server_->http_port(), "/metrics").body;
  EXPECT_THAT(metrics, Not(HasSubstr("collection=\"c\"")));
  EXPECT_THAT(metrics, HasSubstr("dotmax_collection_version{collection=\"a\"} 6\n"));

  grpc::ClientContext context;
  v1::ListCollectionsResponse list;
  ASSERT_TRUE(admin_->ListCollections(&context, {}, &list).ok());
  ASSERT_EQ(list.collections_size(), 2);
  EXPECT_EQ(list.collections(0).version(), 6u);
}

TEST_F(CollectionsTest, AnAnswerIsOfTheVersionThatWasAskedForOrThereIsNone) {
  ASSERT_NO_FATAL_FAILURE(Start());
  v1::SearchRequest request = Ask("a");
  request.set_version(1);
  v1::SearchResponse response;
  EXPECT_EQ(Search(request, &response).code, grpc::StatusCode::OK);
  ASSERT_EQ(Reload("a").error.code, grpc::StatusCode::OK);
  const WireError error = Search(request, &response);
  EXPECT_EQ(error.code, grpc::StatusCode::FAILED_PRECONDITION);
  EXPECT_EQ(error.reason, "VERSION_MISMATCH");

  // Streams over a collection, too.
  for (const uint64_t version : {1, 2}) {
    grpc::ClientContext context;
    const auto stream = v1::Dotmax::NewStub(channel_)->MaxInnerProductStream(&context, &response);
    v1::MaxInnerProductStreamRequest message;
    message.mutable_start()->set_collection("a");
    message.mutable_start()->set_version(version);
    message.mutable_start()->set_top_k(3);
    message.mutable_start()->set_reduction(v1::GLOBAL);
    *message.mutable_start()->mutable_queries() = testing::MatrixOf(queries_);
    stream->Write(message);
    stream->WritesDone();
    const WireError streamed = ErrorOf(stream->Finish());
    if (version == 1) {
      EXPECT_EQ(streamed.reason, "VERSION_MISMATCH");
    } else {
      EXPECT_EQ(streamed.code, grpc::StatusCode::OK) << streamed.message;
      EXPECT_EQ(response.version(), 2u);
      ExpectHits(response, first_);
    }
  }
}

TEST_F(CollectionsTest, FilesOutsideTheDataDirectoryAreNotLoaded) {
  ASSERT_NO_FATAL_FAILURE(Start());
  fs::create_directories(root_ / "other");
  fs::copy_file(Path("a.npy"), root_ / "other/x.npy");
  fs::create_symlink(root_ / "other/x.npy", Path("link.npy"));
  fs::create_symlink(root_ / "other", Path("dir"));
  for (const std::string& path :
       {std::string("../other/x.npy"), std::string((root_ / "other/x.npy").native()), std::string("link.npy"),
        std::string("dir/x.npy"), std::string("dir/../a.npy"), std::string("/etc/passwd")}) {
    const WireError error = Load("x", path).error;
    EXPECT_EQ(error.code, grpc::StatusCode::PERMISSION_DENIED) << path;
    EXPECT_EQ(error.reason, "PATH_NOT_ALLOWED") << path;
  }
  EXPECT_EQ(Load("x", "absent.npy").error.reason, "FILE_NOT_FOUND");
  std::ofstream(Path("bad.npy")) << "not a matrix";
  EXPECT_EQ(Load("a", "bad.npy").error.reason, "MALFORMED_FILE");
  ASSERT_EQ(mkfifo(Path("pipe.npy").c_str(), 0600), 0);
  EXPECT_EQ(Load("a", "pipe.npy").error.reason, "MALFORMED_FILE");
  ExpectIs("a", first_, 1);
  EXPECT_EQ(Load("x", "./a.npy").error.code, grpc::StatusCode::OK);
}

TEST_F(CollectionsTest, WithoutADataDirectoryNoFileIsNamed) {
  const ServerProcess server({absl::StrCat("--matrix=a=", Path("a.npy"))});
  ASSERT_TRUE(server.AwaitListening());
  admin_ = v1::Collections::NewStub(Channel(server.grpc_address()));
  EXPECT_EQ(Load("x", "a.npy").error.reason, "PATH_NOT_ALLOWED");
  EXPECT_EQ(Reload("a").collection.version(), 2u);
}

TEST_F(CollectionsTest, WhatDoesNotFitIntoMemoryIsRefused) {
  ASSERT_NO_FATAL_FAILURE(Start({"--memory-limit=400000000"}));
  Put("large.npy", RandomNormal(1'500'000, kDim, 4));
  const WireError error = Load("large", "large.npy").error;
  EXPECT_EQ(error.code, grpc::StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_EQ(error.reason, "NOT_ENOUGH_MEMORY");
  EXPECT_THAT(error.message, HasSubstr("left of 400000000"));
  ExpectIs("a", first_, 1);
}

// Each reply holds the exact hits of the version that it names, whatever happens around it.
TEST_F(CollectionsTest, InAStormOfChangesEveryAnswerIsOfOneVersion) {
  ASSERT_NO_FATAL_FAILURE(Start());
  Put("b.npy", second_);
  ASSERT_EQ(Load("b", "b.npy").error.code, grpc::StatusCode::OK);
  constexpr int kCallers = 4;
  std::atomic<bool> stop{false};
  std::vector<std::map<uint64_t, v1::SearchResponse>> answers(kCallers);
  std::vector<std::thread> callers;
  for (int c = 0; c < kCallers; ++c) {
    callers.emplace_back([&, c] {
      uint64_t last = 0;
      while (!stop) {
        v1::SearchResponse response;
        const WireError error = Search(Ask("a"), &response);
        ASSERT_EQ(error.code, grpc::StatusCode::OK) << error.message;
        EXPECT_GE(response.version(), last);  // one caller, one question at a time
        last = response.version();
        const auto [seen, fresh] = answers[c].emplace(last, response);
        EXPECT_TRUE(fresh || seen->second.scores(0) == response.scores(0));
      }
    });
  }
  std::map<uint64_t, const SharedMatrix*> versions = {{1, &first_}};
  const SharedMatrix* now = &first_;
  const SharedMatrix* in_file = &first_;
  const SharedMatrix* in_b = &second_;
  for (int i = 0; i < 60; ++i) {
    if (i % 3 == 0) {
      // By name: the file of a is a.npy again.
      in_file = in_file == &first_ ? &second_ : &first_;
      Put("a.npy", *in_file);
      now = in_file;
      versions[Load("a", "a.npy").collection.version()] = now;
    } else if (i % 3 == 1) {
      in_file = in_file == &first_ ? &second_ : &first_;
      Put("a.npy", *in_file);
      now = in_file;
      versions[Reload("a").collection.version()] = now;
    } else {
      v1::SwapCollectionsResponse swapped;
      ASSERT_EQ(Swap("a", "b", &swapped).code, grpc::StatusCode::OK);
      std::swap(now, in_b);
      versions[swapped.a().version()] = now;
    }
  }
  stop = true;
  for (std::thread& caller : callers) caller.join();
  size_t seen = 0;
  for (const auto& of_caller : answers) {
    for (const auto& [version, response] : of_caller) {
      ASSERT_TRUE(versions.contains(version)) << version;
      ExpectHits(response, *versions[version]);
      ++seen;
    }
  }
  EXPECT_GT(seen, 3u * kCallers) << "the storm passed unnoticed";
}

TEST_F(CollectionsTest, MemoryOfWhatIsReplacedOrDroppedIsGivenBack) {
  ASSERT_NO_FATAL_FAILURE(Start());
  const SharedMatrix large = RandomNormal(500'000, 32, 4);  // 64 MB
  Put("large.npy", large);
  const uint64_t before = Memory();
  ASSERT_EQ(Load("large", "large.npy").error.code, grpc::StatusCode::OK);
  const uint64_t loaded = Memory() - before;
  EXPECT_GT(loaded, large.view.bytes());
  for (int i = 0; i < 3; ++i) ASSERT_EQ(Reload("large").error.code, grpc::StatusCode::OK);
  EXPECT_LT(Memory() - before, loaded + loaded / 2);  // one of them
  ASSERT_EQ(Drop("large").code, grpc::StatusCode::OK);
  EXPECT_LT(Memory(), before + loaded / 2);
}

TEST_F(CollectionsTest, ACancelledLoadPublishesNothingAndLeavesTheServerAsItWas) {
  ASSERT_NO_FATAL_FAILURE(Start());
  Put("large.npy", RandomNormal(1'000'000, 64, 4, DType::kInt8));
  grpc::ClientContext context;
  v1::LoadCollectionRequest request;
  request.set_name("a");
  request.set_path("large.npy");
  const auto stream = admin_->LoadCollection(&context, request);
  v1::LoadProgress message;
  do {
    ASSERT_TRUE(stream->Read(&message));
  } while (message.stage() == v1::LoadProgress::WAITING);
  context.TryCancel();
  EXPECT_EQ(stream->Finish().error_code(), grpc::StatusCode::CANCELLED);
  ASSERT_TRUE(server_->AwaitOutput("\"event\":\"load_failed\""));
  EXPECT_THAT(server_->output(), HasSubstr("\"reason\":\"CANCELLED\""));
  ASSERT_TRUE(server_->AwaitIdle());
  ExpectIs("a", first_, 1);
  EXPECT_EQ(Reload("a").collection.version(), 2u);  // the loader is free
}

TEST_F(CollectionsTest, AStopWaitsForNoLoad) {
  ASSERT_NO_FATAL_FAILURE(Start({"--drain-timeout=100ms"}));
  Put("large.npy", RandomNormal(1'000'000, 64, 4, DType::kInt8));
  grpc::ClientContext context;
  v1::LoadCollectionRequest request;
  request.set_name("large");
  request.set_path("large.npy");
  const auto stream = admin_->LoadCollection(&context, request);
  v1::LoadProgress message;
  do {
    ASSERT_TRUE(stream->Read(&message));
  } while (message.stage() != v1::LoadProgress::PREPARING);
  server_->Signal(SIGTERM);
  const Loaded loaded = Follow(*stream);
  EXPECT_EQ(loaded.error.code, grpc::StatusCode::UNAVAILABLE);
  EXPECT_EQ(loaded.error.reason, "DRAINING");
  EXPECT_EQ(server_->AwaitExit(), 0);
  EXPECT_THAT(server_->output(), HasSubstr("\"event\":\"stopped\",\"abandoned_loads\":1"));
}

TEST_F(CollectionsTest, WhatIsNoRequestIsRefused) {
  ASSERT_NO_FATAL_FAILURE(Start());
  for (const char* method : {"LoadCollection", "ReloadCollection", "SwapCollections", "DropCollection"}) {
    grpc::Status status;
    testing::CallRaw(channel_, absl::StrCat("/dotmax.v1.Collections/", method), "\xff", &status);
    const WireError error = ErrorOf(status);
    EXPECT_EQ(error.code, grpc::StatusCode::INVALID_ARGUMENT) << method;
    EXPECT_EQ(error.reason, "MALFORMED_REQUEST") << method;
  }
}

// With --mmap: the file's bytes are the server's memory.
TEST_F(CollectionsTest, AMappedFileThatIsCutEndsSearchesNotTheServer) {
  const SharedMatrix large = RandomNormal(20'000, kDim, 5);
  Put("large.npy", large);
  ASSERT_NO_FATAL_FAILURE(Start({"--mmap"}));
  ASSERT_EQ(Load("large", "large.npy").collection.version(), 2u);
  ExpectIs("large", large, 2);
  fs::remove(Path("a.npy"));  // a file without a name is still there
  ExpectIs("a", first_, 1);

  ASSERT_EQ(truncate(Path("large.npy").c_str(), 8192), 0);
  // What is asked of the float64 rows, and of the codes: all of it fails, nothing breaks.
  for (int i = 0; i < 20; ++i) {
    v1::SearchResponse response;
    const WireError error = Search(Ask("large"), &response);
    EXPECT_EQ(error.code, grpc::StatusCode::DATA_LOSS);
    EXPECT_EQ(error.reason, "FILE_CHANGED");
  }
  ASSERT_TRUE(server_->AwaitOutput("\"event\":\"file_changed\",\"collection\":\"large\""));
  EXPECT_TRUE(testing::Becomes([this] {
    return absl::StrContains(HttpGet(server_->http_port(), "/metrics").body,
                             "dotmax_collection_intact{collection=\"large\"} 0\n");
  }));
  grpc::ClientContext context;
  v1::ListCollectionsResponse list;
  ASSERT_TRUE(admin_->ListCollections(&context, {}, &list).ok());
  EXPECT_FALSE(list.collections(0).file_changed());
  EXPECT_TRUE(list.collections(1).file_changed());
  ExpectIs("a", first_, 1);

  Put("large.npy", large);
  EXPECT_EQ(Reload("large").collection.version(), 3u);
  ExpectIs("large", large, 3);
  EXPECT_EQ(Reload("a").error.reason, "FILE_NOT_FOUND");
  ExpectIs("a", first_, 1);
}

// While it is searched, at any moment.
TEST_F(CollectionsTest, AFileThatIsCutDuringSearchesNeverGivesAWrongAnswer) {
  const SharedMatrix large = RandomNormal(50'000, kDim, 5);
  Put("a.npy", large);
  ASSERT_NO_FATAL_FAILURE(Start({"--mmap"}));
  const std::vector<Hit> expected = ExactTopK(queries_.view, large.view, 3, Reduction::kGlobal);
  for (int round = 0; round < 5; ++round) {
    absl::Notification answered;
    std::thread cutter([&, round] {
      answered.WaitForNotification();
      absl::SleepFor(absl::Milliseconds(round));
      EXPECT_EQ(truncate(Path("a.npy").c_str(), 100'000), 0);
    });
    int answers = 0;
    for (;;) {
      v1::SearchResponse response;
      const WireError error = Search(Ask("a"), &response);
      if (error.code == grpc::StatusCode::DATA_LOSS) break;
      ASSERT_EQ(error.code, grpc::StatusCode::OK) << error.message;
      ASSERT_EQ(response.scores(0), expected[0].score);
      ASSERT_EQ(response.ids(2), expected[2].id);
      if (++answers == 1) answered.Notify();
    }
    ASSERT_GT(answers, 0);
    cutter.join();
    Put("a.npy", large);
    ASSERT_EQ(Reload("a").error.code, grpc::StatusCode::OK);
  }
}

}  // namespace
}  // namespace dotmax
