#include "server/load/warm_up.h"

#include <memory>
#include <utility>
#include <vector>

#include "absl/time/clock.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/batch/catalog.h"
#include "server/batch/dispatcher.h"
#include "server/engine/engine.h"
#include "tests/data.h"

namespace dotmax {
namespace {

using ::testing::ElementsAre;
using testing::RandomNormal;

// Passes searches on, and remembers how many rows they were of.
class Recorder : public Searcher {
 public:
  explicit Recorder(Searcher* searcher) : searcher_(searcher) {}

  void Search(Query query, Done done) override {
    rows.push_back(query.resident->rows);
    searcher_->Search(std::move(query),
                      [this, done = std::move(done)](absl::StatusOr<Answer> answer) mutable {
                        ok += answer.ok();
                        done(std::move(answer));
                      });
  }
  void MaxOfPairs(PairsQuery query, PairsDone done) override {
    searcher_->MaxOfPairs(std::move(query), std::move(done));
  }
  ResidentInfos Collections() const override { return searcher_->Collections(); }

  std::vector<uint64_t> rows;
  size_t ok = 0;

 private:
  Searcher* const searcher_;
};

TEST(WarmUpTest, EveryCollectionIsSearchedForOneRowAndForABlock) {
  const auto catalog = std::make_shared<Catalog>();
  catalog->Publish("a", std::make_shared<const Matrix>(RandomNormal(1000, 8, 1)));
  catalog->Publish("b", std::make_shared<const Matrix>(RandomNormal(100, 4, 2)));
  catalog->Publish("empty", std::make_shared<const Matrix>(RandomNormal(0, 4, 2)));
  Dispatcher dispatcher(std::make_unique<Engine>(1), catalog, {});
  Recorder recorder(&dispatcher);
  WarmUp(recorder, absl::InfiniteFuture());
  EXPECT_THAT(recorder.rows, ElementsAre(1, 256, 1, 100));
  EXPECT_EQ(recorder.ok, 4u);

  Recorder late(&dispatcher);
  WarmUp(late, absl::Now());
  EXPECT_TRUE(late.rows.empty());
}

}  // namespace
}  // namespace dotmax
