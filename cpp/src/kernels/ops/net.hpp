#pragma once

#include "kernels/bf16.hpp"
#include "kernels/ops/checkerboard.hpp"
#include "kernels/ops/math.hpp"
#include "kernels/ops/pack.hpp"

// Element work inside conditioners. A ReLU is max_of(0, v): of NaN it is NaN, which an error then names.

namespace evenflow::ops {

/// Backward of y = act((a + bias) * scale): turns dy into da in place. Sums per channel: gradients of bias
/// and of log scale (dy masked * y).
template <class T, bool relu>
struct EpilogueBackward {
  using Number = T;
  static constexpr int sums = 2;
  const T* y;
  int64_t y_stride;
  T* dy;
  int64_t dy_stride;
  T scaled;  ///< 1, or 0 without a scale: a choice by a number becomes one of vectors, by a bool a branch
  /// The scale, else anything as long: a load from null takes 50 ns even if it is of no lane of a vector.
  const T* scale;
  EVENFLOW_HD EpilogueBackward(const T* y_, int64_t y_stride_, T* dy_, int64_t dy_stride_, const T* scale_)
      : y(y_),
        y_stride(y_stride_),
        dy(dy_),
        dy_stride(dy_stride_),
        scaled(scale_ ? T(1) : T(0)),
        scale(scale_ ? scale_ : y_) {}
  EVENFLOW_HD bool flat(int64_t cols) const {
    return y_stride == cols && dy_stride == cols && scaled == T(0);
  }
  EVENFLOW_HD EpilogueBackward joined(int64_t row, int64_t together) const {
    return {y + row * y_stride, y_stride * together, dy + row * dy_stride, dy_stride * together, nullptr};
  }
  EVENFLOW_HD bool packs(int n) const {
    return fits(n, y, y_stride) && fits(n, dy, dy_stride) && fits(n, scale);
  }
  template <int n = 1>
  EVENFLOW_HD void operator()(int64_t row, int64_t c, T* sum, int64_t next) const {
    const Pack<T, n> out = read<n>(y + row * y_stride + c), gradient = read<n>(dy + row * dy_stride + c);
    Pack<T, n> da;
    for (int e = 0; e < n; ++e) {
      const T factor = scale[c + e];
      const T g = !relu || out.v[e] > T(0) ? gradient.v[e] : T(0);
      da.v[e] = scaled > T(0) ? g * factor : g;
      sum[e] += da.v[e];
      sum[next + e] += g * out.v[e];
    }
    write(da, dy + row * dy_stride + c);
  }
};

/// The same for a hidden unit whose output and gradient are stored as H: da from dy, sums alike.
template <class T, class H>
struct HiddenBackward {
  using Number = T;
  static constexpr int sums = 2;
  const H* y;
  int64_t y_stride;
  const T* dy;
  int64_t dy_stride;
  const T* scale;  ///< null: 1
  bool relu;
  H* da;
  int64_t da_stride;
  EVENFLOW_HD bool packs(int n) const {
    return fits(n, y, y_stride) && fits(n, dy, dy_stride) && fits(n, da, da_stride);
  }
  template <int n = 1>
  EVENFLOW_HD void operator()(int64_t row, int64_t c, T* sum, int64_t next) const {
    const Pack<H, n> out = read<n>(y + row * y_stride + c);
    const Pack<T, n> slope = read<n>(dy + row * dy_stride + c);
    Pack<H, n> to;
    for (int e = 0; e < n; ++e) {
      const T at = value_of(out.v[e]);
      T g = slope.v[e];
      if (relu) g = at > T(0) ? g : T(0);
      const T through = scale ? g * scale[c + e] : g;
      store_value(through, &to.v[e]);
      sum[e] += through;
      sum[next + e] += g * at;
    }
    write(to, da + row * da_stride + c);
  }
};

/// y = (x + shift) * scale + beta, optionally with ReLU: batch norm inside a net.
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
  EVENFLOW_HD bool packs(int n) const {
    return fits(n, x, x_stride) && fits(n, y, y_stride) && fits(n, shift) && fits(n, scale) && fits(n, beta);
  }
  template <int n = 1>
  EVENFLOW_HD void operator()(int64_t row, int64_t c) const {
    const Pack<T, n> by = read<n>(shift + c), times = read<n>(scale + c), more = read<n>(beta + c);
    Pack<T, n> out = read<n>(x + row * x_stride + c);
    for (int e = 0; e < n; ++e) {
      const T v = (out.v[e] + by.v[e]) * times.v[e] + more.v[e];
      out.v[e] = relu ? max_of(T(0), v) : v;
    }
    write(out, y + row * y_stride + c);
  }
};

/// dy of ReLU(v) to dv in place, from x; sums: dv, dv * normalised x.
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
  EVENFLOW_HD bool packs(int n) const {
    return fits(n, x, x_stride) && fits(n, dy, dy_stride) && fits(n, shift) && fits(n, scale) &&
           fits(n, beta);
  }
  template <int n = 1>
  EVENFLOW_HD void operator()(int64_t row, int64_t c, T* sum, int64_t next) const {
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

/// dx += scale (dv - mean_dv - normal mean_dvn); running statistics: both means are zero.
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
  EVENFLOW_HD bool packs(int n) const {
    return fits(n, x, x_stride) && fits(n, dv, dv_stride) && fits(n, dx, dx_stride) && fits(n, shift) &&
           fits(n, scale) && fits(n, mean_dv) && fits(n, mean_dvn);
  }
  template <int n = 1>
  EVENFLOW_HD void operator()(int64_t row, int64_t c) const {
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
    out[c] = max_of(T(0), v);
    out[c + channels] = max_of(T(0), -v);
    if (parity >= 0 && c == 0) {
      out[2 * channels] = on_parity(row, width, height, parity) ? T(1) : T(0);
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
  using Number = T;
  const T* x;
  int64_t x_stride;
  int parity;
  int64_t width;
  int64_t height;
  bool accumulate;
  T* y;
  int64_t y_stride;
  EVENFLOW_HD bool packs(int n) const { return fits(n, x, x_stride) && fits(n, y, y_stride); }
  template <int n = 1>
  EVENFLOW_HD void operator()(int64_t row, int64_t c) const {
    const bool on = on_parity(row, width, height, parity);
    Pack<T, n> v = read<n>(x + row * x_stride + c);
    for (int e = 0; e < n; ++e) v.v[e] = on ? v.v[e] : T(0);
    if (accumulate) {
      const Pack<T, n> more = read<n>(y + row * y_stride + c);
      for (int e = 0; e < n; ++e) v.v[e] += more.v[e];
    }
    write(v, y + row * y_stride + c);
  }
};

/// Squared column norms of v (rows, cols).
template <class T>
struct NormSquares {
  using Number = T;
  static constexpr int sums = 1;
  const T* v;
  int64_t cols;
  EVENFLOW_HD bool packs(int n) const { return fits(n, v, cols); }
  template <int n = 1>
  EVENFLOW_HD void operator()(int64_t row, int64_t c, T* sum, int64_t) const {
    const Pack<T, n> value = read<n>(v + row * cols + c);
    for (int e = 0; e < n; ++e) sum[e] += value.v[e] * value.v[e];
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
  using Number = T;
  static constexpr int sums = 1;
  const T* a;
  const T* b;
  int64_t cols;
  EVENFLOW_HD bool packs(int n) const { return fits(n, a, cols) && fits(n, b, cols); }
  template <int n = 1>
  EVENFLOW_HD void operator()(int64_t row, int64_t c, T* sum, int64_t) const {
    const Pack<T, n> left = read<n>(a + row * cols + c), right = read<n>(b + row * cols + c);
    for (int e = 0; e < n; ++e) sum[e] += left.v[e] * right.v[e];
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
