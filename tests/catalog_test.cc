#include "server/batch/catalog.h"

#include <atomic>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/base/errors.h"
#include "tests/data.h"

namespace dotmax {
namespace {

using ::testing::HasSubstr;
using testing::RandomNormal;

std::shared_ptr<const Matrix> MatrixOf(uint64_t rows) {
  return std::make_shared<const Matrix>(RandomNormal(rows, 4, rows));
}

std::string ReasonOf(const absl::Status& status) { return ErrorReason(status).value_or(""); }

TEST(CatalogTest, EveryChangeGetsALargerVersion) {
  Catalog catalog;
  EXPECT_EQ(catalog.Publish("a", MatrixOf(1)), 1u);
  EXPECT_EQ(catalog.Publish("b", MatrixOf(2)), 2u);
  EXPECT_EQ(catalog.Publish("a", MatrixOf(3)), 3u);
  EXPECT_EQ(catalog.Find("a")->version, 3u);
  EXPECT_EQ(catalog.Find("a")->matrix->view().rows, 3u);
  const auto swapped = catalog.Swap("a", "b");
  ASSERT_TRUE(swapped.ok());
  EXPECT_EQ(swapped->first.version, 4u);
  EXPECT_EQ(swapped->first.rows, 2u);
  EXPECT_EQ(swapped->second.version, 5u);
  EXPECT_EQ(swapped->second.rows, 3u);
  EXPECT_EQ(catalog.Find("b")->name, "b");
  EXPECT_EQ(catalog.Find("b")->matrix->view().rows, 3u);
}

TEST(CatalogTest, SourcesAreSwappedWithTheirMatrices) {
  Catalog catalog;
  catalog.Publish("a", {MatrixOf(1), nullptr, {"a.npy", false}});
  catalog.Publish("b", {MatrixOf(2), nullptr, {"b.npy", true}});
  ASSERT_TRUE(catalog.Swap("a", "b").ok());
  EXPECT_EQ(catalog.Find("a")->source.path, "b.npy");
  EXPECT_TRUE(catalog.Find("a")->source.in_data_dir);
  EXPECT_EQ(catalog.Find("b")->source.path, "a.npy");
}

TEST(CatalogTest, WhatIsNotThereIsNamedAndNothingChanges) {
  Catalog catalog;
  EXPECT_THAT(catalog.Find("a").status().message(), HasSubstr("the server holds none"));
  catalog.Publish("a", MatrixOf(1));
  for (const absl::Status& status : {catalog.Find("x").status(), catalog.Drop("x"),
                                     catalog.Swap("a", "x").status(), catalog.Swap("x", "a").status()}) {
    EXPECT_EQ(status.code(), absl::StatusCode::kNotFound);
    EXPECT_EQ(ReasonOf(status), "COLLECTION_NOT_FOUND");
    EXPECT_THAT(status.message(), HasSubstr("\"x\""));
  }
  EXPECT_EQ(catalog.Find("")->version, 1u);
  ASSERT_TRUE(catalog.Drop("a").ok());
  EXPECT_TRUE(catalog.Infos()->empty());
  EXPECT_FALSE(catalog.Find("").ok());
}

TEST(CatalogTest, OnlyWhatIsStillThereIsReplaced) {
  Catalog catalog;
  catalog.Publish("a", MatrixOf(1));
  const Catalog::Resident first = *catalog.Find("a");
  const auto second = catalog.Replace(first, {MatrixOf(2)});
  ASSERT_TRUE(second.ok());
  EXPECT_EQ(second->version, 2u);
  const absl::Status late = catalog.Replace(first, {MatrixOf(3)}).status();
  EXPECT_EQ(late.code(), absl::StatusCode::kAborted);
  EXPECT_EQ(ReasonOf(late), "COLLECTION_CHANGED");
  EXPECT_EQ(catalog.Find("a")->matrix->view().rows, 2u);
  const Catalog::Resident dropped = *catalog.Find("a");
  ASSERT_TRUE(catalog.Drop("a").ok());
  EXPECT_EQ(ReasonOf(catalog.Replace(dropped, {MatrixOf(3)}).status()), "COLLECTION_CHANGED");
  EXPECT_TRUE(catalog.Infos()->empty());
}

TEST(CatalogTest, TheLastOneToLetGoFreesAMatrix) {
  Catalog catalog;
  auto matrix = MatrixOf(1);
  const std::weak_ptr<const Matrix> watch = matrix;
  catalog.Publish("a", std::move(matrix));
  const ResidentInfos infos = catalog.Infos();  // keep no matrix
  {
    const Catalog::Resident user = *catalog.Find("a");
    catalog.Publish("a", MatrixOf(2));
    EXPECT_FALSE(watch.expired());
    EXPECT_EQ(user.matrix->view().rows, 1u);
  }
  EXPECT_TRUE(watch.expired());
  EXPECT_EQ(infos->at(0).rows, 1u);
}

TEST(CatalogTest, WhileLoadingNothingIsFoundButAllIsListed) {
  Catalog catalog(/*loading=*/true);
  catalog.Publish("a", MatrixOf(1));
  const absl::Status status = catalog.Find("a").status();
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(ReasonOf(status), "LOADING");
  EXPECT_EQ(catalog.Infos()->size(), 1u);
  catalog.Open();
  EXPECT_TRUE(catalog.Find("a").ok());
}

class File : public Backing {
 public:
  bool Intact() const override { return intact.load(); }
  std::atomic<bool> intact{true};
};

TEST(CatalogTest, AFileThatChangesIsSaidWhereverItsCollectionIs) {
  Catalog catalog;
  const auto file = std::make_shared<File>();
  catalog.Publish("a", MatrixOf(1));
  catalog.Publish("b", {MatrixOf(2), file, {"b.npy", false}});
  const Catalog::Resident b = *catalog.Find("b");
  EXPECT_TRUE(b.Intact().ok());
  file->intact = false;
  EXPECT_EQ(b.Intact().code(), absl::StatusCode::kDataLoss);
  EXPECT_EQ(ReasonOf(b.Intact()), "FILE_CHANGED");
  EXPECT_THAT(b.Intact().message(), HasSubstr("b.npy"));
  EXPECT_TRUE(catalog.Infos()->at(0).intact);
  EXPECT_FALSE(catalog.Infos()->at(1).intact);
  EXPECT_TRUE(catalog.Find("a")->Intact().ok());
}

TEST(CatalogTest, WhoeverLooksSeesAllOfAChange) {
  Catalog catalog;
  catalog.Publish("one", MatrixOf(1));
  catalog.Publish("two", MatrixOf(2));
  std::atomic<bool> stop{false};
  std::thread swaps([&] {
    while (!stop) EXPECT_TRUE(catalog.Swap("one", "two").ok());
  });
  for (int i = 0; i < 2000; ++i) {
    const ResidentInfos infos = catalog.Infos();
    ASSERT_EQ(infos->size(), 2u);
    ASSERT_EQ(infos->at(0).rows + infos->at(1).rows, 3u);
  }
  stop = true;
  swaps.join();
}

}  // namespace
}  // namespace dotmax
