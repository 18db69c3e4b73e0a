#pragma once

#include "kernels/ops/math.hpp"

// Batch norm inside a net, with or without ReLU. A ReLU is max_of(0, v): NaN stays NaN, so that an error can
// name it.

namespace evenflow::ops {

/// y = (x + shift) * scale + beta, then ReLU where `relu`.
template <class T>
struct NormRelu {
  const T* x;
  int64_t x_stride;
  const T* shift;
  const T* scale;
  const T* beta;
  bool relu;
  T* y;
  int64_t y_stride;
  EVENFLOW_INLINE void operator()(int64_t row, int64_t c) const {
    const T v = (x[row * x_stride + c] + shift[c]) * scale[c] + beta[c];
    y[row * y_stride + c] = relu ? max_of(T(0), v) : v;
  }
};

/// Turns dy into dv in place, where v is NormRelu's result before ReLU. Sums: dv, dv * normalised x.
template <class T>
struct NormReluSums {
  static constexpr int sums = 2;
  const T* x;
  int64_t x_stride;
  const T* shift;
  const T* scale;
  const T* beta;
  bool relu;
  T* dy;
  int64_t dy_stride;
  EVENFLOW_INLINE void operator()(int64_t row, int64_t c, T* sum, int64_t next) const {
    const T normal = (x[row * x_stride + c] + shift[c]) * scale[c], more = beta[c];
    const T slope = dy[row * dy_stride + c], g = !relu || normal + more > T(0) ? slope : T(0);
    sum[0] += g;
    sum[next] += g * normal;
    dy[row * dy_stride + c] = g;
  }
};

/// dx += scale (dv - mean_dv - normal mean_dvn). Both means are zero where statistics are the running ones.
template <class T>
struct NormReluBackward {
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
  EVENFLOW_INLINE void operator()(int64_t row, int64_t c) const {
    const T normal = (x[row * x_stride + c] + shift[c]) * scale[c];
    dx[row * dx_stride + c] += scale[c] * (dv[row * dv_stride + c] - mean_dv[c] - normal * mean_dvn[c]);
  }
};

}  // namespace evenflow::ops
