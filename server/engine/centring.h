// Rows that lie about one direction, as those of embeddings, pictures and counts do: what they differ from
// their mean by is short, and 8-bit steps of it are small.
#ifndef DOTMAX_SERVER_ENGINE_CENTRING_H_
#define DOTMAX_SERVER_ENGINE_CENTRING_H_

#include <cstddef>
#include <cstdint>
#include <limits>
#include <vector>

#include "server/base/types.h"

namespace dotmax {

// For any vectors c and u, any α = n·z·k, and t = u·(b − c),
//
//   a·b = a·c + (a − αu)·(b − c) + α·t = a·c + x·y,
//   x = (a − αu, z, ..., z), y = (b − c, k·t, ..., k·t), n more coordinates each,
//
// so that queries a are encoded as x and rows b as y, and a·c is added to every score of a query. c is the
// rows' mean, u its direction and αu about the part of a query along it. n and the scale k are such that no
// coordinate of queries like the rows, or of rows, is much larger than others. Immutable.
class Centring {
 public:
  // By a sample of the rows. Any rows will do; they gain if their mean is long beside what they differ from
  // it by, and they differ in other directions than that. REQUIRES: rows.rows ≥ 1; magnitudes as Int8Codes
  // wants them.
  static Centring Of(const MatrixView& rows);

  uint32_t dim() const { return static_cast<uint32_t>(centre_.size()); }
  uint32_t lifted_dim() const { return dim() + copies_; }  // of x and y
  const std::vector<float>& centre() const { return centre_; }
  double centre_norm() const { return centre_norm_; }  // ≥ ‖c‖
  // Of a row's mean square, the part that its mean is.
  double share() const { return share_; }

  // Writes y, in float32, of a row, and x of a query: lifted_dim() numbers.
  void LiftRow(const float* row, float* to) const;
  void LiftQuery(const float* query, float* to) const;
  // How far that is from y and x at most, for a row or query of length ≤ norm, rounded to float32 before.
  double RowError(double norm) const;
  double QueryError(double norm) const;

  uint64_t bytes() const { return dim() * (2 * sizeof(float) + sizeof(double)); }

 private:
  Centring() = default;

  std::vector<float> centre_, direction_;  // c, u
  std::vector<double> wide_direction_;
  double centre_norm_ = 0.0, direction_norm_ = 0.0;  // ≥ ‖c‖, ‖u‖
  double along_ = 0.0;                               // about u·c
  double share_ = 0.0;
  uint32_t copies_ = 0;  // n
  double scale_ = 1.0;   // k, a power of two
};

// What a·(b − centre) must reach for a·b to reach `score`, which may be infinite, if `centre` ≥ a·centre.
inline double LessCentre(double score, double centre) {
  return score == std::numeric_limits<double>::infinity() ? score : score - centre;
}

}  // namespace dotmax

#endif  // DOTMAX_SERVER_ENGINE_CENTRING_H_
