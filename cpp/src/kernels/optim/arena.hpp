#pragma once

#include "kernels/ops/pack.hpp"

// What is done with all parameters or gradients at once, besides an optimiser's update.

namespace evenflow::ops {

/// average += rate (x - average).
template <class T>
struct Average {
  using Number = T;
  const T* x;
  T rate;
  T* average;
  template <class G>
  EVENFLOW_INLINE void each_array(const G& g) const {
    g(x, 0), g(average, 0);
  }
  EVENFLOW_INLINE T* target() const { return average; }
  template <int n = 1>
  EVENFLOW_INLINE Pack<T, n> next(int64_t i) const {
    const Pack<T, n> now = read<n>(x + i);
    Pack<T, n> mean = read<n>(average + i);
    for (int e = 0; e < n; ++e) mean.v[e] += rate * (now.v[e] - mean.v[e]);
    return mean;
  }
};

/// The sum of x^2.
template <class T>
struct SumSquares {
  using Number = T;
  const T* x;
  template <class G>
  EVENFLOW_INLINE void each_array(const G& g) const {
    g(x, 0);
  }
  template <int n = 1>
  EVENFLOW_INLINE Pack<double, n> operator()(int64_t, int64_t i) const {
    const Pack<T, n> in = read<n>(x + i);
    Pack<double, n> out;
    for (int e = 0; e < n; ++e) out.v[e] = static_cast<double>(in.v[e]) * static_cast<double>(in.v[e]);
    return out;
  }
};

}  // namespace evenflow::ops
