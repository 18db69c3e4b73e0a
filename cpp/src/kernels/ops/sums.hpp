#pragma once

#include "kernels/ops/checkerboard.hpp"

// Column sums, and functors that consume them, for several topics. Totals are in double.

namespace evenflow::ops {

/// The sum of each column over the pixels that take part.
template <class T>
struct ColumnSum {
  static constexpr int sums = 1;
  PixelMask mask;
  const T* x;
  int64_t x_stride;
  EVENFLOW_INLINE void operator()(int64_t row, int64_t c, T* sum, int64_t) const {
    const T value = x[row * x_stride + c];
    sum[0] += mask.active(row) ? value : T(0);
  }
};

/// Adds a column's two sums, which are `step` apart, to gradients: dbias += the first, dlogs += factor * the
/// second. Either may be null.
template <class T>
struct AddPair {
  static constexpr int sums = 2;
  double factor;
  T* dbias;
  T* dlogs;
  EVENFLOW_INLINE void operator()(int64_t c, const double* sum, int64_t step) const {
    if (dbias) dbias[c] += static_cast<T>(sum[0]);
    if (dlogs) dlogs[c] += static_cast<T>(factor * sum[step]);
  }
};

/// out[i] += factor * sums[i].
template <class T>
struct AddSums {
  double factor;
  const double* sums;
  T* out;
  EVENFLOW_INLINE void operator()(int64_t, int64_t i) const { out[i] += static_cast<T>(factor * sums[i]); }
};

/// Stores a column's sum.
struct StoreSum {
  static constexpr int sums = 1;
  double* out;
  EVENFLOW_INLINE void operator()(int64_t c, const double* sum, int64_t) const { out[c] = sum[0]; }
};

/// Calls f(column, its sums, their distance) for sums (F::sums, cols) that are in memory.
template <class F>
struct FromSums {
  const double* sums;
  int64_t cols;
  F f;
  EVENFLOW_INLINE void operator()(int64_t, int64_t c) const { f(c, sums + c, cols); }
};

}  // namespace evenflow::ops
