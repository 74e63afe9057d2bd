#include "server/engine/encode.h"

#include <algorithm>
#include <vector>

#include "server/engine/bound.h"
#include "server/engine/deflation.h"
#include "server/engine/packing.h"
#include "server/engine/row_loops.h"

namespace dotmax {
namespace {

// From so many on a row takes so much longer than another look at its codes, by more of the query's bits,
// that this pays; not after fine codes, which leave few, nor for so few elements that rows are in cache.
constexpr int kFewestDimsForRests = 256;
constexpr uint64_t kFewestElementsForRests = uint64_t{1} << 21;

// The coordinates of a block's queries, `count` each.
struct Coordinates {
  const float* of(size_t q) const { return first + q * count; }

  const float* first;
  size_t count;
};

// Queries [first, end) of a block for one set of rows' codes, whose coordinates `from` begin with. Codes are
// at a stride of at least code_dim, zeros beyond that.
template <class Codes>
void Encode(const Codes& rows, const QueryBlock& block, const Coordinates& from, size_t first, size_t end,
            int8_t* codes, EncodedQueries& encoded) {
  for (size_t q = first; q < end; ++q) {
    int8_t* const to = codes + q * encoded.stride;
    encoded.queries[q] = rows.EncodeQuery(block.exponents[q], block.norms[q], from.of(q), to);
    std::fill(to + rows.code_dim(), to + encoded.stride, int8_t{0});
  }
}

// What these codes of queries [first, end) miss; the rest as above.
void EncodeRests(const Int8Codes& rows, const EncodedQueries& queries, const Coordinates& from, size_t first,
                 size_t end, int8_t* codes, EncodedRests& encoded) {
  for (size_t q = first; q < end; ++q) {
    int8_t* const to = codes + q * encoded.stride;
    encoded.queries[q] = rows.EncodeRest(queries[q], from.of(q), queries.codes_of(q), to);
    std::fill(to + rows.code_dim(), to + encoded.stride, int8_t{0});
  }
}

// Coordinates of queries [first, end) along the axes, which are the kernel's tile: a block of any width packs
// the queries and not them.
void Project(const Axes& axes, const TileMatmul& kernel, const float* queries, size_t first, size_t end,
             PassBuffers::Part& buffers, float* projected) {
  const size_t columns = kernel.columns();
  float* const wide = buffers.queries.Reserve(columns * axes.dim);
  std::fill(std::copy(queries + first * axes.dim, queries + end * axes.dim, wide), wide + columns * axes.dim,
            0.0f);
  kernel.Pack(wide, buffers.packed.Reserve(kernel.packed_bytes()));
  float* const by_axis = buffers.by_axis.Reserve(axes.count * columns);
  TileRunner(kernel, buffers.packed.data(), buffers.scratch.Reserve(kernel.scratch_bytes()), by_axis)
      .Run(axes.directions.data());
  for (size_t q = first; q < end; ++q) {
    for (uint32_t i = 0; i < axes.count; ++i) {
      projected[q * axes.count + i] = by_axis[i * columns + (q - first)];
    }
  }
}

}  // namespace

absl::StatusOr<EncodedBlock> EncodeBlock(const Int8Codes& rows, bool by_head, const QueryBlock& block,
                                         PassBuffers& buffers) {
  const Int8Codes& first_rows = by_head ? *rows.head() : rows;
  // Those of a head that the rows' codes begin with begin their axes.
  const bool is_joint = by_head && rows.axes().head > 0;
  const Axes& axes = is_joint ? rows.axes() : first_rows.axes();
  const size_t count = block.size();
  const TileMatmul* project = nullptr;
  float* projected = nullptr;
  if (!axes.identity) {
    const absl::StatusOr<const TileMatmul*> kernel =
        buffers.kernels.Get(TileKind::kFloat32, static_cast<int>(axes.count), static_cast<int>(axes.dim),
                            PaddedColumns(buffers.PartSize(count)));
    if (!kernel.ok()) return kernel.status();
    project = *kernel;
    projected = buffers.projected.Reserve(count * axes.count);
  }
  // Queries as whole rows are seen, for these codes or fine ones.
  const Deflation* const deflation = rows.deflation();
  const Spread* const spread = rows.spread();
  Coordinates whole = {block.scaled, block.dim()};
  float* seen = nullptr;
  if (deflation != nullptr || spread != nullptr) {
    seen = buffers.seen.Reserve(count * whole.count);
    whole.first = seen;
  }
  const Coordinates along = project != nullptr ? Coordinates{projected, axes.count} : whole;
  const FineCodes* const fine = rows.fine();
  EncodedBlock encoded;
  // The queries of balls are scored where they lie.
  const bool with_rests = buffers.kernels.has_own() && rows.centre_codes() == nullptr && fine == nullptr &&
                          rows.axes().head == 0 && rows.code_dim() >= kFewestDimsForRests &&
                          rows.rows() * rows.code_dim() >= kFewestElementsForRests;
  encoded.queries.stride = with_rests ? RoundUpToLine(first_rows.code_dim()) : first_rows.code_dim();
  encoded.queries.queries.resize(count);
  int8_t* const codes = buffers.codes.Reserve(count * encoded.queries.stride);
  encoded.queries.codes = codes;
  int8_t* codes_again = nullptr;
  if (by_head || fine != nullptr) {
    encoded.again.stride = RoundUpToLine(by_head ? rows.code_dim() : fine->code_dim());
    encoded.again.queries.resize(count);
    codes_again = buffers.codes_again.Reserve(count * encoded.again.stride);
    encoded.again.codes = codes_again;
  }
  int8_t* rest_codes = nullptr;
  if (with_rests) {
    encoded.rests.stride = RoundUpToLine(rows.code_dim());
    encoded.rests.queries.resize(count);
    rest_codes = buffers.rest_codes.Reserve(count * encoded.rests.stride);
    encoded.rests.codes = rest_codes;
  }
  if (deflation != nullptr) encoded.along.resize(count);
  buffers.InParts(count, [&](size_t part, size_t first, size_t end) {
    if (project != nullptr) {
      Project(axes, *project, block.scaled, first, end, buffers.parts[part], projected);
    }
    for (size_t q = first; q < end && seen != nullptr; ++q) {
      float* const to = seen + q * whole.count;
      if (deflation != nullptr) {
        const double scale = ScaleByPowerOfTwo(1.0, -block.exponents[q]);
        encoded.along[q] = deflation->SplitQuery(block.exact[q].elements.data(), scale, to);
      } else {
        std::copy_n(block.scaled + q * block.dim(), whole.count, to);
      }
      if (spread != nullptr) spread->Apply(to);
    }
    Encode(first_rows, block, along, first, end, codes, encoded.queries);
    if (by_head) {
      Encode(rows, block, is_joint ? along : whole, first, end, codes_again, encoded.again);
    } else if (fine != nullptr) {
      Encode(*fine, block, whole, first, end, codes_again, encoded.again);
    }
    if (with_rests) {
      EncodeRests(rows, by_head ? encoded.again : encoded.queries, by_head ? whole : along, first, end,
                  rest_codes, encoded.rests);
    }
  });
  return encoded;
}

}  // namespace dotmax
