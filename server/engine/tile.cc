#include "server/engine/tile.h"

#include <omp.h>

#include <algorithm>
#include <cstdint>
#include <oneapi/dnnl/dnnl.hpp>
#include <unordered_map>
#include <utility>

#include "absl/strings/str_cat.h"
#include "server/engine/aligned.h"

namespace dotmax {
namespace {

using dnnl::memory;

memory::desc Dense(memory::data_type type, memory::dim rows, memory::dim columns, memory::format_tag layout) {
  return memory::desc({rows, columns}, type, layout);
}

dnnl::matmul::primitive_desc Describe(const dnnl::engine& engine, const memory::desc& tile,
                                      const memory::desc& queries, const memory::desc& scores) {
  dnnl::primitive_attr attributes;
  attributes.set_scratchpad_mode(dnnl::scratchpad_mode::user);
  // The environment (ONEDNN_DEFAULT_FPMATH_MODE) could lower the precision that bound.h counts on.
  attributes.set_fpmath_mode(dnnl::fpmath_mode::strict);
#if DNNL_VERSION_MAJOR >= 3
  return dnnl::matmul::primitive_desc(engine, tile, queries, scores, attributes);
#else
  return dnnl::matmul::primitive_desc(dnnl::matmul::desc(tile, queries, scores), attributes, engine);
#endif
}

void* Mutable(const void* pointer) { return const_cast<void*>(pointer); }  // oneDNN inputs are not const

}  // namespace

struct TileMatmul::Impl {
  Impl(TileKind kind, int tile_rows, int row_dim, int query_columns)
      : rows(tile_rows),
        dim(row_dim),
        columns(query_columns),
        tile(Dense(kind == TileKind::kInt8 ? memory::data_type::u8 : memory::data_type::f32, rows, dim,
                   memory::format_tag::ab)),
        queries(Dense(QueryType(kind), dim, columns, memory::format_tag::ba)),
        scores(Dense(kind == TileKind::kInt8 ? memory::data_type::s32 : memory::data_type::f32, rows, columns,
                     memory::format_tag::ab)),
        description(
            Describe(engine, tile, Dense(QueryType(kind), dim, columns, memory::format_tag::any), scores)),
        matmul(description),
        reorder(dnnl::reorder::primitive_desc(engine, queries, engine, description.weights_desc())) {}

  static memory::data_type QueryType(TileKind kind) {
    return kind == TileKind::kInt8 ? memory::data_type::s8 : memory::data_type::f32;
  }

  const int rows, dim, columns;
  dnnl::engine engine{dnnl::engine::kind::cpu, 0};
  memory::desc tile, queries, scores;
  dnnl::matmul::primitive_desc description;
  dnnl::matmul matmul;
  dnnl::reorder reorder;
};

TileMatmul::TileMatmul(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
TileMatmul::~TileMatmul() = default;

absl::StatusOr<std::unique_ptr<const TileMatmul>> TileMatmul::Create(TileKind kind, int rows, int dim,
                                                                     int columns) {
  // oneDNN freezes the number of threads into a primitive when it is made.
  omp_set_num_threads(1);
  try {
    std::unique_ptr<const TileMatmul> matmul(
        new TileMatmul(std::make_unique<Impl>(kind, rows, dim, columns)));
    if (kind == TileKind::kInt8 && !matmul->SumsExactly()) {
      return absl::UnimplementedError(absl::StrCat(matmul->implementation(), " saturates 8-bit products"));
    }
    return matmul;
  } catch (const dnnl::error& error) {
    return absl::InternalError(absl::StrCat("oneDNN matmul of ", rows, " x ", dim, " by ", columns,
                                            " cannot be made: ", error.what()));
  }
}

// The largest products that there are: if these do not saturate, nothing does.
bool TileMatmul::SumsExactly() const {
  const int dim = static_cast<int>(impl_->dim);
  AlignedArray<uint8_t> tile;
  AlignedArray<int8_t> queries;
  AlignedArray<int32_t> scores;
  AlignedArray<std::byte> packed, scratch;
  std::fill_n(tile.Reserve(static_cast<size_t>(rows()) * dim), static_cast<size_t>(rows()) * dim,
              uint8_t{255});
  std::fill_n(queries.Reserve(static_cast<size_t>(columns()) * dim), static_cast<size_t>(columns()) * dim,
              int8_t{127});
  Pack(queries.data(), packed.Reserve(packed_bytes()));
  TileRunner(*this, packed.data(), scratch.Reserve(scratch_bytes()),
             scores.Reserve(static_cast<size_t>(rows()) * columns()))
      .Run(tile.data());
  const auto exact = [dim](int32_t score) { return score == 255 * 127 * dim; };
  return std::all_of(scores.data(), scores.data() + static_cast<size_t>(rows()) * columns(), exact);
}

int TileMatmul::rows() const { return impl_->rows; }
int TileMatmul::columns() const { return impl_->columns; }
size_t TileMatmul::packed_bytes() const { return impl_->description.weights_desc().get_size(); }
size_t TileMatmul::scratch_bytes() const { return impl_->description.scratchpad_desc().get_size(); }
std::string TileMatmul::implementation() const { return impl_->description.impl_info_str(); }

void TileMatmul::Pack(const void* queries, void* packed) const {
  omp_set_num_threads(1);
  dnnl::stream stream(impl_->engine);
  memory from(impl_->queries, impl_->engine, Mutable(queries));
  memory to(impl_->description.weights_desc(), impl_->engine, packed);
  impl_->reorder.execute(stream, from, to);
}

// oneDNN's own objects for a call, made once: for small tiles, making them anew would cost as much as the
// call.
struct TileRunner::Impl {
  const dnnl::matmul& matmul;
  dnnl::stream stream;
  memory tile;
  std::unordered_map<int, memory> arguments;
};

TileRunner::TileRunner(const TileMatmul& matmul, const void* packed, void* scratch, void* scores)
    : impl_([&] {
        const TileMatmul::Impl& kernel = *matmul.impl_;
        const dnnl::engine& engine = kernel.engine;
        const memory tile(kernel.tile, engine, nullptr);
        return new Impl{
            kernel.matmul,
            dnnl::stream(engine),
            tile,
            {{DNNL_ARG_SRC, tile},
             {DNNL_ARG_WEIGHTS, memory(kernel.description.weights_desc(), engine, Mutable(packed))},
             {DNNL_ARG_DST, memory(kernel.scores, engine, scores)},
             {DNNL_ARG_SCRATCHPAD, memory(kernel.description.scratchpad_desc(), engine, scratch)}}};
      }()) {
  omp_set_num_threads(1);
}

TileRunner::~TileRunner() = default;

void TileRunner::Run(const void* tile) {
  impl_->tile.set_data_handle(Mutable(tile));
  impl_->matmul.execute(impl_->stream, impl_->arguments);
}

std::string OneDnnVersion() {
  const dnnl::version_t* version = dnnl::version();
  return absl::StrCat(version->major, ".", version->minor, ".", version->patch);
}

}  // namespace dotmax
