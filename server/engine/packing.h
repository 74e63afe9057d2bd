// How queries' codes lie for kernels of our own whose lanes each sum four products at a time: in groups that
// are scored together, by which each row's codes are read once.
#ifndef DOTMAX_SERVER_ENGINE_PACKING_H_
#define DOTMAX_SERVER_ENGINE_PACKING_H_

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>

namespace dotmax {

inline constexpr int kQuad = 4;   // products that a lane sums at once
inline constexpr int kLine = 64;  // bytes of a cache line, which vectors divide
inline constexpr int kHalf = 8;   // the smallest group of queries whose lanes may be queries

constexpr int RoundUpToLine(int dim) { return (dim + kLine - 1) / kLine * kLine; }

// What a kernel makes of groups, for one dim.
struct GroupShapes {
  // Of `columns` queries to go, how many are scored together: as many as leave registers for enough rows.
  constexpr int Group(int columns) const {
    for (int group = most; group >= kHalf; group /= 2) {
      if (columns >= group) return group;
    }
    return columns;
  }
  // Whether a group's lanes are queries, or dimensions.
  constexpr bool ByQuery(int group) const { return group >= fewest_by_query; }

  int most;             // a power of two
  int fewest_by_query;  // ≥ kHalf
};

// Of a group of packed queries; a multiple of a vector, which eight short queries may not fill.
constexpr size_t GroupBytes(GroupShapes shapes, int group, int dim) {
  return shapes.ByQuery(group) ? RoundUpToLine(group * dim) : static_cast<size_t>(group) * RoundUpToLine(dim);
}

// At most; any rest is narrower than a vector.
constexpr size_t PackedBytes(int columns, int dim) {
  return static_cast<size_t>(columns) * RoundUpToLine(dim);
}

// A group whose lanes are queries: each one's first quad, then each one's second.
inline void PackByQuery(const int8_t* queries, int group, size_t dim, int8_t* to) {
  for (size_t i = 0; i < dim; i += kQuad) {
    for (int c = 0; c < group; ++c, to += kQuad) std::memcpy(to, queries + c * dim + i, kQuad);
  }
}

// `by_query` does what PackByQuery does.
inline void PackGroups(GroupShapes shapes, const int8_t* queries, int columns, int dim, int8_t* packed,
                       decltype(PackByQuery)* by_query = PackByQuery) {
  const size_t n = static_cast<size_t>(dim);
  for (int group; columns > 0; columns -= group, queries += group * n) {
    group = shapes.Group(columns);
    int8_t* to = packed;
    packed += GroupBytes(shapes, group, dim);
    if (shapes.ByQuery(group)) {
      by_query(queries, group, n, to);
      continue;
    }
    // Zeros meet what a row's last vector reads of the next row.
    for (int c = 0; c < group; ++c, to += RoundUpToLine(dim)) {
      std::fill(std::copy_n(queries + c * n, n, to), to + RoundUpToLine(dim), int8_t{0});
    }
  }
}

}  // namespace dotmax

#endif  // DOTMAX_SERVER_ENGINE_PACKING_H_
