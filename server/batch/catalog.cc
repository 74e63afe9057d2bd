#include "server/batch/catalog.h"

#include <utility>

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
          .estimates = matrix.estimates()};
}

}  // namespace

std::shared_ptr<const Catalog::State> Catalog::Now() const {
  absl::MutexLock lock(&mutex_);
  return state_;
}

absl::StatusOr<Catalog::Resident> Catalog::Find(absl::string_view name) const {
  const std::shared_ptr<const State> state = Now();
  auto found = state->by_name.find(name);
  if (name.empty() && state->by_name.size() == 1) found = state->by_name.begin();
  if (found != state->by_name.end()) return found->second;
  const std::string names = absl::StrJoin(
      state->by_name, ", ", [](std::string* out, const auto& entry) { absl::StrAppend(out, entry.first); });
  return Error(absl::StatusCode::kNotFound, "COLLECTION_NOT_FOUND",
               name.empty()
                   ? absl::StrCat("collection: a name is needed, because the server holds ", names)
                   : absl::StrCat("collection: there is no \"", name, "\"; the server holds ", names));
}

ResidentInfos Catalog::Infos() const {
  std::shared_ptr<const State> state = Now();
  const std::vector<CollectionInfo>* const infos = &state->infos;
  return {std::move(state), infos};
}

uint64_t Catalog::Publish(const std::string& name, std::shared_ptr<const Matrix> matrix) {
  // What is replaced is freed, if nobody else has it, after the lock.
  std::shared_ptr<const State> replaced;
  absl::MutexLock lock(&mutex_);
  auto state = std::make_shared<State>();
  state->by_name = state_->by_name;
  const uint64_t version = ++versions_;
  state->by_name[name] = {name, version, std::move(matrix)};
  for (const auto& [key, resident] : state->by_name) state->infos.push_back(InfoOf(resident));
  replaced = std::exchange(state_, std::move(state));
  return version;
}

}  // namespace dotmax
