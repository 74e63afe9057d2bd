#include "server/batch/catalog.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "server/base/errors.h"

namespace dotmax {
namespace {

CollectionInfo InfoOf(const Catalog::Resident& resident) {
  const Matrix& matrix = *resident.matrix;
  const MatrixView& view = matrix.view();
  return {.name = resident.name,
          .version = resident.version,
          .rows = view.rows,
          .dim = view.dim,
          .dtype = view.dtype,
          .resident_bytes = matrix.resident_bytes(),
          .screen = matrix.screen(),
          .estimates = matrix.estimates(),
          .names = resident.names};
}

template <typename Map>
std::string Names(const Map& by_name) {
  if (by_name.empty()) return "none";
  return absl::StrJoin(by_name, ", ",
                       [](std::string* out, const auto& entry) { absl::StrAppend(out, entry.first); });
}

template <typename Map>
absl::Status NotFound(const std::string& name, const Map& by_name) {
  return Error(absl::StatusCode::kNotFound, "COLLECTION_NOT_FOUND",
               absl::StrCat("collection: there is no \"", name, "\"; the server holds ", Names(by_name)));
}

bool IsIntact(const Catalog::Resident& resident) {
  return resident.backing == nullptr || resident.backing->Intact();
}

}  // namespace

absl::Status Catalog::Resident::Intact() const {
  if (IsIntact(*this)) return absl::OkStatus();
  return Error(absl::StatusCode::kDataLoss, "FILE_CHANGED",
               absl::StrCat("collection \"", name, "\": its file, ", source.path,
                            ", which is mapped, has been cut or written since; reload it"));
}

void Catalog::Open() {
  absl::MutexLock lock(&mutex_);
  loading_ = false;
}

std::shared_ptr<const Catalog::State> Catalog::Now() const {
  absl::MutexLock lock(&mutex_);
  return state_;
}

absl::StatusOr<Catalog::Resident> Catalog::Find(absl::string_view name) const {
  std::shared_ptr<const State> state;
  {
    absl::MutexLock lock(&mutex_);
    if (loading_) {
      return Error(absl::StatusCode::kUnavailable, "LOADING", "the server is still loading its collections");
    }
    state = state_;
  }
  auto found = state->by_name.find(name);
  if (name.empty() && state->by_name.size() == 1) found = state->by_name.begin();
  if (found != state->by_name.end()) return found->second;
  if (!name.empty()) return NotFound(std::string(name), state->by_name);
  return Error(
      absl::StatusCode::kNotFound, "COLLECTION_NOT_FOUND",
      absl::StrCat("collection: a name is needed, because the server holds ", Names(state->by_name)));
}

ResidentInfos Catalog::Infos() const {
  const std::shared_ptr<const State> state = Now();
  std::shared_ptr<std::vector<CollectionInfo>> changed;
  size_t i = 0;
  for (const auto& [name, resident] : state->by_name) {
    if (!IsIntact(resident)) {
      if (changed == nullptr) changed = std::make_shared<std::vector<CollectionInfo>>(*state->infos);
      (*changed)[i].intact = false;
    }
    ++i;
  }
  return changed != nullptr ? changed : state->infos;
}

std::vector<Catalog::Resident> Catalog::All() const {
  const std::shared_ptr<const State> state = Now();
  std::vector<Resident> all;
  for (const auto& [name, resident] : state->by_name) all.push_back(resident);
  return all;
}

std::shared_ptr<const Catalog::State> Catalog::Become(ByName by_name) {
  auto infos = std::make_shared<std::vector<CollectionInfo>>();
  for (const auto& [name, resident] : by_name) infos->push_back(InfoOf(resident));
  return std::exchange(state_, std::make_shared<State>(State{std::move(by_name), std::move(infos)}));
}

Catalog::Resident& Catalog::Put(ByName& by_name, const std::string& name, Entry entry) {
  return by_name[name] = {name,
                          ++versions_,
                          std::move(entry.matrix),
                          std::move(entry.backing),
                          std::move(entry.source),
                          std::move(entry.names)};
}

CollectionInfo Catalog::Publish(const std::string& name, Entry entry) {
  std::shared_ptr<const State> before;
  absl::MutexLock lock(&mutex_);
  ByName by_name = state_->by_name;
  CollectionInfo info = InfoOf(Put(by_name, name, std::move(entry)));
  before = Become(std::move(by_name));
  return info;
}

absl::StatusOr<CollectionInfo> Catalog::Replace(const Resident& replaced, Entry entry) {
  std::shared_ptr<const State> before;
  absl::MutexLock lock(&mutex_);
  ByName by_name = state_->by_name;
  const auto found = by_name.find(replaced.name);
  if (found == by_name.end() || found->second.version != replaced.version) {
    return Error(absl::StatusCode::kAborted, "COLLECTION_CHANGED",
                 absl::StrCat("collection \"", replaced.name, "\" is no longer version ", replaced.version,
                              ", which was loaded again; nothing was changed"));
  }
  CollectionInfo info = InfoOf(Put(by_name, replaced.name, std::move(entry)));
  before = Become(std::move(by_name));
  return info;
}

absl::StatusOr<std::pair<CollectionInfo, CollectionInfo>> Catalog::Swap(const std::string& a,
                                                                        const std::string& b) {
  std::shared_ptr<const State> before;
  absl::MutexLock lock(&mutex_);
  ByName by_name = state_->by_name;
  for (const std::string& name : {a, b}) {
    if (!by_name.contains(name)) return NotFound(name, by_name);
  }
  const auto entry = [&by_name](const std::string& name) {
    const Resident& resident = by_name[name];
    return Entry{resident.matrix, resident.backing, resident.source, resident.names};
  };
  Entry of_a = entry(a), of_b = entry(b);
  std::pair<CollectionInfo, CollectionInfo> infos;
  infos.first = InfoOf(Put(by_name, a, std::move(of_b)));
  infos.second = InfoOf(Put(by_name, b, std::move(of_a)));
  before = Become(std::move(by_name));
  return infos;
}

absl::Status Catalog::Drop(const std::string& name) {
  std::shared_ptr<const State> before;
  absl::MutexLock lock(&mutex_);
  ByName by_name = state_->by_name;
  if (by_name.erase(name) == 0) return NotFound(name, by_name);
  before = Become(std::move(by_name));
  return absl::OkStatus();
}

}  // namespace dotmax
