#pragma once

#include "kernels/ops/math.hpp"
#include "kernels/ops/pack.hpp"

// Batch norm inside a net, with or without ReLU. A ReLU is max_of(0, v): NaN stays NaN, so that an error can
// name it.

namespace evenflow::ops {

/// y = (x + shift) * scale + beta, then ReLU where `relu`.
template <class T>
struct NormRelu {
  using Number = T;
  const T* x;
  int64_t x_stride;
  const T* shift;
  const T* scale;
  const T* beta;
  bool relu;
  T* y;
  int64_t y_stride;
  EVENFLOW_INLINE bool packs(int n) const {
    return fits(n, x, x_stride) && fits(n, y, y_stride) && fits(n, shift) && fits(n, scale) && fits(n, beta);
  }
  template <int n = 1>
  EVENFLOW_INLINE void operator()(int64_t row, int64_t c) const {
    const Pack<T, n> by = read<n>(shift + c), times = read<n>(scale + c), more = read<n>(beta + c);
    Pack<T, n> out = read<n>(x + row * x_stride + c);
    for (int e = 0; e < n; ++e) {
      const T v = (out.v[e] + by.v[e]) * times.v[e] + more.v[e];
      out.v[e] = relu ? max_of(T(0), v) : v;
    }
    write(out, y + row * y_stride + c);
  }
};

/// Turns dy into dv in place, where v is NormRelu's result before ReLU. Sums: dv, dv * normalised x.
template <class T>
struct NormReluSums {
  using Number = T;
  static constexpr int sums = 2;
  const T* x;
  int64_t x_stride;
  const T* shift;
  const T* scale;
  const T* beta;
  bool relu;
  T* dy;
  int64_t dy_stride;
  EVENFLOW_INLINE bool packs(int n) const {
    return fits(n, x, x_stride) && fits(n, dy, dy_stride) && fits(n, shift) && fits(n, scale) &&
           fits(n, beta);
  }
  template <int n = 1>
  EVENFLOW_INLINE void operator()(int64_t row, int64_t c, T* sum, int64_t next) const {
    const Pack<T, n> by = read<n>(shift + c), times = read<n>(scale + c), more = read<n>(beta + c);
    const Pack<T, n> in = read<n>(x + row * x_stride + c);
    Pack<T, n> v = read<n>(dy + row * dy_stride + c);
    for (int e = 0; e < n; ++e) {
      const T normal = (in.v[e] + by.v[e]) * times.v[e];
      const T g = !relu || normal + more.v[e] > T(0) ? v.v[e] : T(0);
      v.v[e] = g;
      sum[e] += g;
      sum[next + e] += g * normal;
    }
    write(v, dy + row * dy_stride + c);
  }
};

/// dx += scale (dv - mean_dv - normal mean_dvn). Both means are zero where statistics are the running ones.
template <class T>
struct NormReluBackward {
  using Number = T;
  const T* x;
  int64_t x_stride;
  const T* shift;
  const T* scale;
  const T* mean_dv;
  const T* mean_dvn;
  const T* dv;
  int64_t dv_stride;
  T* dx;
  int64_t dx_stride;
  EVENFLOW_INLINE bool packs(int n) const {
    return fits(n, x, x_stride) && fits(n, dv, dv_stride) && fits(n, dx, dx_stride) && fits(n, shift) &&
           fits(n, scale) && fits(n, mean_dv) && fits(n, mean_dvn);
  }
  template <int n = 1>
  EVENFLOW_INLINE void operator()(int64_t row, int64_t c) const {
    const Pack<T, n> by = read<n>(shift + c), times = read<n>(scale + c);
    const Pack<T, n> dv_mean = read<n>(mean_dv + c), dvn_mean = read<n>(mean_dvn + c);
    const Pack<T, n> in = read<n>(x + row * x_stride + c), g = read<n>(dv + row * dv_stride + c);
    Pack<T, n> out = read<n>(dx + row * dx_stride + c);
    for (int e = 0; e < n; ++e) {
      const T normal = (in.v[e] + by.v[e]) * times.v[e];
      out.v[e] += times.v[e] * (g.v[e] - dv_mean.v[e] - normal * dvn_mean.v[e]);
    }
    write(out, dx + row * dx_stride + c);
  }
};

}  // namespace evenflow::ops
