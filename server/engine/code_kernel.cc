#include "server/engine/code_kernel.h"

#include "server/engine/avx2.h"
#include "server/engine/packing.h"
#include "server/engine/vnni.h"

namespace dotmax {

CodeKernel::CodeKernel()
    : kind_(HasVnniKernel()   ? Kind::kVnni
            : HasAvx2Kernel() ? Kind::kAvx2
                              : Kind::kNone) {}

int CodeKernel::Columns(int queries, int dim) const {
  return kind_ == Kind::kVnni ? VnniColumns(queries, dim) : Avx2Columns(queries);
}

size_t CodeKernel::PackedBytes(int columns, int dim) const { return dotmax::PackedBytes(columns, dim); }

void CodeKernel::Pack(const int8_t* queries, int columns, int dim, int8_t* packed) const {
  (kind_ == Kind::kVnni ? PackVnni : PackAvx2)(queries, columns, dim, packed);
}

void CodeKernel::Score(const CodeRows& tile, int rows, const int8_t* packed, int columns,
                       int32_t* scores) const {
  (kind_ == Kind::kVnni ? ScoreVnni : ScoreAvx2)(tile, rows, packed, columns, scores);
}

size_t CodeKernel::Collect(const CodeRows& tile, int rows, const int8_t* packed, int columns,
                           const int32_t* thresholds, Survivor* survivors) const {
  return kind_ == Kind::kVnni ? CollectVnni(tile, rows, packed, columns, thresholds, survivors)
                              : CollectAvx2(tile, rows, packed, columns, thresholds, survivors);
}

size_t CodeKernel::Collect(const CodeRows& tile, int rows, const int8_t* packed, int columns,
                           const ThresholdsByRow& thresholds, const RowTerms& terms,
                           Survivor* survivors) const {
  return CollectVnni(tile, rows, packed, columns, thresholds, terms, survivors);
}

void CodeKernel::ScoreSurvivors(const CodeRows& tile, const int8_t* const* queries,
                                absl::Span<const Survivor> survivors, int32_t* scores) const {
  (kind_ == Kind::kVnni ? ScoreSurvivorsVnni : ScoreSurvivorsAvx2)(tile, queries, survivors, scores);
}

}  // namespace dotmax
