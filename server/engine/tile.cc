#include "server/engine/tile.h"

#include <omp.h>

#include <oneapi/dnnl/dnnl.hpp>
#include <utility>

#include "absl/strings/str_cat.h"

namespace dotmax {
namespace {

using dnnl::memory;

memory::desc Float32(memory::dim rows, memory::dim columns, memory::format_tag layout) {
  return memory::desc({rows, columns}, memory::data_type::f32, layout);
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
  Impl(int tile_rows, int dim, int query_columns)
      : rows(tile_rows),
        columns(query_columns),
        tile(Float32(rows, dim, memory::format_tag::ab)),
        queries(Float32(dim, columns, memory::format_tag::ba)),
        scores(Float32(rows, columns, memory::format_tag::ab)),
        description(Describe(engine, tile, Float32(dim, columns, memory::format_tag::any), scores)),
        matmul(description),
        reorder(dnnl::reorder::primitive_desc(engine, queries, engine, description.weights_desc())) {}

  const int rows, columns;
  dnnl::engine engine{dnnl::engine::kind::cpu, 0};
  memory::desc tile, queries, scores;
  dnnl::matmul::primitive_desc description;
  dnnl::matmul matmul;
  dnnl::reorder reorder;
};

TileMatmul::TileMatmul(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
TileMatmul::~TileMatmul() = default;

absl::StatusOr<std::unique_ptr<const TileMatmul>> TileMatmul::Create(int rows, int dim, int columns) {
  // oneDNN freezes the number of threads into a primitive when it is made.
  omp_set_num_threads(1);
  try {
    return std::unique_ptr<const TileMatmul>(new TileMatmul(std::make_unique<Impl>(rows, dim, columns)));
  } catch (const dnnl::error& error) {
    return absl::InternalError(absl::StrCat("oneDNN matmul of ", rows, " x ", dim, " by ", columns,
                                            " cannot be made: ", error.what()));
  }
}

int TileMatmul::rows() const { return impl_->rows; }
int TileMatmul::columns() const { return impl_->columns; }
size_t TileMatmul::packed_bytes() const { return impl_->description.weights_desc().get_size(); }
size_t TileMatmul::scratch_bytes() const { return impl_->description.scratchpad_desc().get_size(); }
std::string TileMatmul::implementation() const { return impl_->description.impl_info_str(); }

void TileMatmul::Pack(const float* queries, void* packed) const {
  omp_set_num_threads(1);
  dnnl::stream stream(impl_->engine);
  memory from(impl_->queries, impl_->engine, Mutable(queries));
  memory to(impl_->description.weights_desc(), impl_->engine, packed);
  impl_->reorder.execute(stream, from, to);
}

void TileMatmul::Run(const float* tile, const void* packed, void* scratch, float* scores) const {
  dnnl::stream stream(impl_->engine);
  const dnnl::engine& engine = impl_->engine;
  impl_->matmul.execute(
      stream, {{DNNL_ARG_SRC, memory(impl_->tile, engine, Mutable(tile))},
               {DNNL_ARG_WEIGHTS, memory(impl_->description.weights_desc(), engine, Mutable(packed))},
               {DNNL_ARG_DST, memory(impl_->scores, engine, scores)},
               {DNNL_ARG_SCRATCHPAD, memory(impl_->description.scratchpad_desc(), engine, scratch)}});
}

std::string OneDnnVersion() {
  const dnnl::version_t* version = dnnl::version();
  return absl::StrCat(version->major, ".", version->minor, ".", version->patch);
}

}  // namespace dotmax
