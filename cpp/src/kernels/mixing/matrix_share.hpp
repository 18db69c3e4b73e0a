#pragma once

#include <cstdint>

#include "kernels/ops/inline.hpp"

// Matrices of 1x1 convolutions are computed in float64, each by one block of rows * cols threads: a thread
// has every rows-th row and every cols-th column. An element's sum has the same order for any number of
// threads; on the CPU one thread has everything.

namespace evenflow::ops {

/// A thread's share of a matrix: from row `begin` on, it has the rows first_row(begin), first_row(begin) +
/// rows, ...; and columns likewise.
template <int rows, int cols>
struct MatrixShare {
  int64_t i0, j0;
  EVENFLOW_INLINE explicit MatrixShare(int thread) : i0(thread / cols), j0(thread % cols) {}
  EVENFLOW_INLINE int64_t first_row(int64_t begin) const { return begin + (i0 + rows - begin % rows) % rows; }
  EVENFLOW_INLINE int64_t first_col(int64_t begin) const { return begin + (j0 + cols - begin % cols) % cols; }
  EVENFLOW_INLINE bool has_col(int64_t j) const { return j % cols == j0; }
};

}  // namespace evenflow::ops
