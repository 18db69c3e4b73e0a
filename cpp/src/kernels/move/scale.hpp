#pragma once

#include "kernels/ops/math.hpp"

// Products of arrays with numbers, and sums of both.

namespace evenflow::ops {

/// x *= factor.
template <class T>
struct ScaleAll {
  T factor;
  T* x;
  EVENFLOW_INLINE void operator()(int64_t, int64_t i) const { x[i] *= factor; }
};

/// y = factor * x.
struct Scaled {
  double factor;
  const double* x;
  double* y;
  EVENFLOW_INLINE void operator()(int64_t, int64_t i) const { y[i] = factor * x[i]; }
};

/// Row i of x (n, d) *= factors[i].
template <class T>
struct ScaleRows {
  const double* factors;
  int64_t d;
  T* x;
  EVENFLOW_INLINE void operator()(int64_t i, int64_t c) const { x[i * d + c] *= static_cast<T>(factors[i]); }
};

/// x[i] += factor * total[0].
template <class U>
struct AddTotal {
  double factor;
  const U* total;
  double* x;
  EVENFLOW_INLINE void operator()(int64_t, int64_t i) const {
    x[i] = multiply_add(factor, static_cast<double>(total[0]), x[i]);
  }
};

}  // namespace evenflow::ops
