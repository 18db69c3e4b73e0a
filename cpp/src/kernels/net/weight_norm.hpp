#pragma once

#include "kernels/ops/math.hpp"

// Weight normalisation: w = g v / |v| for each column of v (rows, cols).

namespace evenflow::ops {

/// Squared norms of columns.
template <class T>
struct NormSquares {
  static constexpr int sums = 1;
  const T* v;
  int64_t cols;
  EVENFLOW_INLINE void operator()(int64_t row, int64_t c, T* sum, int64_t) const {
    const T value = v[row * cols + c];
    sum[0] += value * value;
  }
};

/// norms = sqrt(squares), factor = g / norms.
template <class T>
struct NormFactors {
  const double* squares;
  const T* g;  ///< null: 1
  T* norms;
  T* factor;
  EVENFLOW_INLINE void operator()(int64_t, int64_t c) const {
    norms[c] = static_cast<T>(sqrt(squares[c]));
    factor[c] = (g ? g[c] : T(1)) / norms[c];
  }
};

/// w = v * factor, one factor a column.
template <class T>
struct ScaleColumns {
  const T* v;
  const T* factor;
  int64_t cols;
  T* w;
  EVENFLOW_INLINE void operator()(int64_t row, int64_t c) const {
    w[row * cols + c] = v[row * cols + c] * factor[c];
  }
};

/// Dot products of the columns of a with those of b.
template <class T>
struct ColumnDots {
  static constexpr int sums = 1;
  const T* a;
  const T* b;
  int64_t cols;
  EVENFLOW_INLINE void operator()(int64_t row, int64_t c, T* sum, int64_t) const {
    sum[0] += a[row * cols + c] * b[row * cols + c];
  }
};

/// Adds the gradient by g to dg, given the dot products of dw and v. Also computes the two factors that
/// WeightNormBackward needs.
template <class T>
struct NormFactorsBackward {
  const double* dots;
  const T* g;  ///< null: 1
  const T* norms;
  T* factor;
  T* along;
  T* dg;  ///< may be null
  EVENFLOW_INLINE void operator()(int64_t, int64_t c) const {
    const double dot = dots[c] / norms[c];  // d loss / d g
    factor[c] = (g ? g[c] : T(1)) / norms[c];
    along[c] = static_cast<T>(factor[c] * dot / norms[c]);
    if (dg) dg[c] += static_cast<T>(dot);
  }
};

/// dv += factor * dw - v * along, two factors a column: the part of dw along v is projected out.
template <class T>
struct WeightNormBackward {
  const T* v;
  const T* dw;
  const T* factor;
  const T* along;
  int64_t cols;
  T* dv;
  EVENFLOW_INLINE void operator()(int64_t row, int64_t c) const {
    const int64_t i = row * cols + c;
    dv[i] += factor[c] * dw[i] - v[i] * along[c];
  }
};

}  // namespace evenflow::ops
