// Which kernel of our own for 8-bit codes this machine has (vnni.h, avx2.h), and calls to it. AMX's (amx.h)
// serves beside it.
#ifndef DOTMAX_SERVER_ENGINE_CODE_KERNEL_H_
#define DOTMAX_SERVER_ENGINE_CODE_KERNEL_H_

#include <cstddef>
#include <cstdint>

#include "absl/types/span.h"
#include "server/engine/code_rows.h"
#include "server/engine/reduce.h"

namespace dotmax {

class CodeKernel {
 public:
  // Looks at the processor, which takes microseconds.
  CodeKernel();

  // Without one, codes are oneDNN's (tile.h), where that can; REQUIRES exists() for all calls below.
  bool exists() const { return kind_ != Kind::kNone; }
  // For logs.
  const char* name() const { return kind_ == Kind::kVnni ? "avx512_vnni" : "avx2"; }
  // Whether queries' codes must be small, as avx2.h says.
  bool sums_in_16_bits() const { return kind_ == Kind::kAvx2; }

  // As vnni.h's.
  int Columns(int queries, int dim) const;
  size_t PackedBytes(int columns, int dim) const;
  void Pack(const int8_t* queries, int columns, int dim, int8_t* packed) const;
  void Score(const CodeRows& tile, int rows, const int8_t* packed, int columns, int32_t* scores) const;
  size_t Collect(const CodeRows& tile, int rows, const int8_t* packed, int columns, const int32_t* thresholds,
                 Survivor* survivors) const;
  // Whether there is such a thing with thresholds that depend on the row.
  bool collects_by_row() const { return kind_ == Kind::kVnni; }
  size_t Collect(const CodeRows& tile, int rows, const int8_t* packed, int columns,
                 const ThresholdsByRow& thresholds, const RowTerms& terms, Survivor* survivors) const;
  void ScoreSurvivors(const CodeRows& tile, const int8_t* const* queries,
                      absl::Span<const Survivor> survivors, int32_t* scores) const;

 private:
  enum class Kind { kNone, kAvx2, kVnni };
  Kind kind_;
};

}  // namespace dotmax

#endif  // DOTMAX_SERVER_ENGINE_CODE_KERNEL_H_
