#pragma once

#include "kernels/bf16.hpp"
#include "kernels/ops/math.hpp"

// Element work inside conditioners.

namespace evenflow::ops {

/// Backward of y = act((a + bias) * scale): turns dy into da in place. Sums per channel: gradients of bias
/// and of log scale (dy masked * y).
template <class T, bool relu>
struct EpilogueBackward {
  static constexpr int sums = 2;
  const T* y;
  int64_t y_stride;
  T* dy;
  int64_t dy_stride;
  const T* scale;  ///< null: 1
  EVENFLOW_HD void operator()(int64_t row, int64_t c, T* sum, int64_t next) const {
    const T out = y[row * y_stride + c];
    T g = dy[row * dy_stride + c];
    if (relu) g = out > T(0) ? g : T(0);
    const T da = scale ? g * scale[c] : g;
    dy[row * dy_stride + c] = da;
    sum[0] += da;
    sum[next] += g * out;
  }
};

/// The same for a hidden unit whose output and gradient are stored as H: da from dy, sums alike.
template <class T, class H>
struct HiddenBackward {
  static constexpr int sums = 2;
  const H* y;
  int64_t y_stride;
  const T* dy;
  int64_t dy_stride;
  const T* scale;  ///< null: 1
  bool relu;
  H* da;
  int64_t da_stride;
  EVENFLOW_HD void operator()(int64_t row, int64_t c, T* sum, int64_t next) const {
    const T out = value_of(y[row * y_stride + c]);
    T g = dy[row * dy_stride + c];
    if (relu) g = out > T(0) ? g : T(0);
    const T through = scale ? g * scale[c] : g;
    store_value(through, da + row * da_stride + c);
    sum[0] += through;
    sum[next] += g * out;
  }
};

/// y = (x + shift) * scale + beta, optionally with ReLU: batch norm inside a net.
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
  EVENFLOW_HD void operator()(int64_t row, int64_t c) const {
    const T v = (x[row * x_stride + c] + shift[c]) * scale[c] + beta[c];
    y[row * y_stride + c] = relu ? max_of(v, T(0)) : v;
  }
};

/// dy of ReLU(v) to dv in place, from x; sums: dv, dv * normalised x.
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
  EVENFLOW_HD void operator()(int64_t row, int64_t c, T* sum, int64_t next) const {
    const T normal = (x[row * x_stride + c] + shift[c]) * scale[c];
    const T g = !relu || normal + beta[c] > T(0) ? dy[row * dy_stride + c] : T(0);
    dy[row * dy_stride + c] = g;
    sum[0] += g;
    sum[next] += g * normal;
  }
};

/// dx += scale (dv - mean_dv - normal mean_dvn); running statistics: both means are zero.
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
  EVENFLOW_HD void operator()(int64_t row, int64_t c) const {
    const T normal = (x[row * x_stride + c] + shift[c]) * scale[c];
    dx[row * dx_stride + c] += scale[c] * (dv[row * dv_stride + c] - mean_dv[c] - normal * mean_dvn[c]);
  }
};

/// [gain x, -gain x, mask] through ReLU: concatenated ReLU with Real NVP's mask channel.
template <class T>
struct ConcatRelu {
  const T* x;
  int64_t x_stride;
  int64_t channels;
  T gain;
  int parity;  ///< (i + j) % 2 of pixels whose mask channel is 1; -1: no mask channel
  int64_t width;
  int64_t height;
  T* y;
  int64_t y_stride;
  EVENFLOW_HD void operator()(int64_t row, int64_t c) const {
    const T v = gain * x[row * x_stride + c];
    T* out = y + row * y_stride;
    out[c] = max_of(v, T(0));
    out[c + channels] = max_of(-v, T(0));
    if (parity >= 0 && c == 0) {
      out[2 * channels] = ((row / width % height + row % width) & 1) == parity ? T(1) : T(0);
    }
  }
};

template <class T>
struct ConcatReluBackward {
  const T* y;
  int64_t y_stride;
  const T* dy;
  int64_t dy_stride;
  int64_t channels;
  T gain;
  T* dx;
  int64_t dx_stride;
  EVENFLOW_HD void operator()(int64_t row, int64_t c) const {
    const T* out = y + row * y_stride;
    const T* g = dy + row * dy_stride;
    const T up = out[c] > T(0) ? g[c] : T(0);
    const T down = out[c + channels] > T(0) ? g[c + channels] : T(0);
    dx[row * dx_stride + c] = gain * (up - down);
  }
};

/// y = mask * x, or y += mask * x.
template <class T>
struct MaskPixels {
  const T* x;
  int64_t x_stride;
  int parity;
  int64_t width;
  int64_t height;
  bool accumulate;
  T* y;
  int64_t y_stride;
  EVENFLOW_HD void operator()(int64_t row, int64_t c) const {
    const bool on = ((row / width % height + row % width) & 1) == parity;
    const T v = on ? x[row * x_stride + c] : T(0);
    T& out = y[row * y_stride + c];
    out = accumulate ? out + v : v;
  }
};

/// Squared column norms of v (rows, cols).
template <class T>
struct NormSquares {
  static constexpr int sums = 1;
  const T* v;
  int64_t cols;
  EVENFLOW_HD void operator()(int64_t row, int64_t c, T* sum, int64_t) const {
    const T value = v[row * cols + c];
    sum[0] += value * value;
  }
};

/// w = v * factor (per column).
template <class T>
struct ScaleColumns {
  const T* v;
  const T* factor;
  int64_t cols;
  T* w;
  EVENFLOW_HD void operator()(int64_t row, int64_t c) const {
    w[row * cols + c] = v[row * cols + c] * factor[c];
  }
};

template <class T>
struct ColumnDots {
  static constexpr int sums = 1;
  const T* a;
  const T* b;
  int64_t cols;
  EVENFLOW_HD void operator()(int64_t row, int64_t c, T* sum, int64_t) const {
    sum[0] += a[row * cols + c] * b[row * cols + c];
  }
};

/// dv += factor * dw - v * along (per column): the part of dw along v is projected out.
template <class T>
struct WeightNormBackward {
  const T* v;
  const T* dw;
  const T* factor;
  const T* along;
  int64_t cols;
  T* dv;
  EVENFLOW_HD void operator()(int64_t row, int64_t c) const {
    const int64_t i = row * cols + c;
    dv[i] += factor[c] * dw[i] - v[i] * along[c];
  }
};

}  // namespace evenflow::ops
