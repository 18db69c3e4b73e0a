#pragma once

#include "kernels/ops/math.hpp"
#include "kernels/ops/pack.hpp"

// Whether results are finite, and how far they are from what they should be.

namespace evenflow::ops {

/// 1 for a value that is not finite.
template <class T>
struct NotFinite {
  using Number = T;
  const T* x;
  int64_t x_stride;
  template <class G>
  EVENFLOW_INLINE void each_array(const G& g) const {
    g(x, x_stride);
  }
  template <int n = 1>
  EVENFLOW_INLINE Pack<double, n> operator()(int64_t row, int64_t c) const {
    const Pack<T, n> in = read<n>(x + row * x_stride + c);
    Pack<double, n> out;
    for (int e = 0; e < n; ++e) out.v[e] = in.v[e] - in.v[e] == T(0) ? 0.0 : 1.0;
    return out;
  }
};

/// |a - b|, infinite where it is not finite; with `size` |b|.
template <class T, bool size>
struct Distance {
  using Number = T;
  const T* a;
  int64_t a_stride;
  const T* b;
  int64_t b_stride;
  template <class G>
  EVENFLOW_INLINE void each_array(const G& g) const {
    g(a, a_stride), g(b, b_stride);
  }
  template <int n = 1>
  EVENFLOW_INLINE Pack<double, n> operator()(int64_t row, int64_t c) const {
    const Pack<T, n> truth = read<n>(b + row * b_stride + c), got = read<n>(a + row * a_stride + c);
    Pack<double, n> out;
    for (int e = 0; e < n; ++e) {
      const double right = truth.v[e];
      const double error = abs_of(static_cast<double>(got.v[e]) - right);
      out.v[e] = size ? abs_of(right) : min_of(error, HUGE_VAL);
    }
    return out;
  }
};

}  // namespace evenflow::ops
