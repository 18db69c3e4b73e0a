#pragma once

#include "kernels/ops/checkerboard.hpp"
#include "kernels/ops/math.hpp"
#include "kernels/ops/pack.hpp"

// Channel-wise maps: ActNorm, scaling, standardisation, batch norm. Rows are pixels.

namespace evenflow::ops {

/// Pixels that take part: all of them, or one colour of a checkerboard.
struct PixelMask {
  int parity = -1;  ///< (i + j) % 2 of the pixels that take part; -1: all
  int64_t width = 1;
  int64_t height = 1;

  EVENFLOW_HD bool active(int64_t row) const {
    if (parity < 0) return true;
    return on_parity(row, width, height, parity);
  }
};

/// All of them, where nothing else can be: no division for a pixel.
struct AllPixels {
  EVENFLOW_HD bool active(int64_t) const { return true; }
};

/// y = (x + shift) * scale; other pixels pass.
template <class T, class Mask>
struct ChannelForward {
  using Number = T;
  Mask mask;
  const T* x;
  int64_t x_stride;
  const T* shift;
  const T* scale;
  T* y;
  int64_t y_stride;
  EVENFLOW_HD bool packs(int n) const {
    return fits(n, x, x_stride) && fits(n, y, y_stride) && fits(n, shift) && fits(n, scale);
  }
  template <int n = 1>
  EVENFLOW_HD void operator()(int64_t row, int64_t c) const {
    const Pack<T, n> by = read<n>(shift + c), times = read<n>(scale + c);
    const bool on = mask.active(row);
    Pack<T, n> v = read<n>(x + row * x_stride + c);
    for (int e = 0; e < n; ++e) v.v[e] = on ? (v.v[e] + by.v[e]) * times.v[e] : v.v[e];
    write(v, y + row * y_stride + c);
  }
};

/// x = y / scale - shift; other pixels pass.
template <class T, class Mask>
struct ChannelInverse {
  using Number = T;
  Mask mask;
  const T* y;
  int64_t y_stride;
  const T* shift;
  const T* scale;
  T* x;
  int64_t x_stride;
  EVENFLOW_HD bool packs(int n) const {
    return fits(n, y, y_stride) && fits(n, x, x_stride) && fits(n, shift) && fits(n, scale);
  }
  template <int n = 1>
  EVENFLOW_HD void operator()(int64_t row, int64_t c) const {
    const Pack<T, n> by = read<n>(shift + c), times = read<n>(scale + c);
    const bool on = mask.active(row);
    Pack<T, n> v = read<n>(y + row * y_stride + c);
    for (int e = 0; e < n; ++e) v.v[e] = on ? v.v[e] / times.v[e] - by.v[e] : v.v[e];
    write(v, x + row * x_stride + c);
  }
};

/// Rebuilds x, dx = dz * scale; sums per channel over active pixels: dx, dz * z.
template <class T, class Mask>
struct ChannelBackward {
  using Number = T;
  static constexpr int sums = 2;
  Mask mask;
  const T* z;
  int64_t z_stride;
  const T* dz;
  int64_t dz_stride;
  const T* shift;
  const T* scale;
  T* x;
  int64_t x_stride;
  T* dx;
  int64_t dx_stride;
  EVENFLOW_HD bool packs(int n) const {
    return fits(n, z, z_stride) && fits(n, dz, dz_stride) && fits(n, x, x_stride) && fits(n, dx, dx_stride) &&
           fits(n, shift) && fits(n, scale);
  }
  template <int n = 1>
  EVENFLOW_HD void operator()(int64_t row, int64_t c, T* sum, int64_t next) const {
    const Pack<T, n> by = read<n>(shift + c), times = read<n>(scale + c);
    const Pack<T, n> out = read<n>(z + row * z_stride + c), g = read<n>(dz + row * dz_stride + c);
    const bool on = mask.active(row);
    Pack<T, n> in, din;
    for (int e = 0; e < n; ++e) {
      din.v[e] = on ? g.v[e] * times.v[e] : g.v[e];
      in.v[e] = on ? out.v[e] / times.v[e] - by.v[e] : out.v[e];
      sum[e] += on ? din.v[e] : T(0);
      sum[next + e] += on ? g.v[e] * out.v[e] : T(0);
    }
    write(in, x + row * x_stride + c);
    write(din, dx + row * dx_stride + c);
  }
};

template <class T>
struct ColumnSum {
  using Number = T;
  static constexpr int sums = 1;
  PixelMask mask;
  const T* x;
  int64_t x_stride;
  EVENFLOW_HD bool packs(int n) const { return fits(n, x, x_stride); }
  template <int n = 1>
  EVENFLOW_HD void operator()(int64_t row, int64_t c, T* sum, int64_t) const {
    const Pack<T, n> in = read<n>(x + row * x_stride + c);
    const bool on = mask.active(row);
    for (int e = 0; e < n; ++e) sum[e] += on ? in.v[e] : T(0);
  }
};

/// Squares of (masked x - mean): masked-out pixels count as zeros of the array.
template <class T>
struct ColumnSquares {
  using Number = T;
  static constexpr int sums = 1;
  PixelMask mask;
  const T* x;
  int64_t x_stride;
  const T* mean;
  EVENFLOW_HD bool packs(int n) const { return fits(n, x, x_stride) && fits(n, mean); }
  template <int n = 1>
  EVENFLOW_HD void operator()(int64_t row, int64_t c, T* sum, int64_t) const {
    const Pack<T, n> in = read<n>(x + row * x_stride + c), middle = read<n>(mean + c);
    const bool on = mask.active(row);
    for (int e = 0; e < n; ++e) {
      const T d = (on ? in.v[e] : T(0)) - middle.v[e];
      sum[e] += d * d;
    }
  }
};

/// Sums per channel over active pixels: dy, dy * y.
template <class T>
struct BatchNormSums {
  using Number = T;
  static constexpr int sums = 2;
  PixelMask mask;
  const T* y;
  int64_t y_stride;
  const T* dy;
  int64_t dy_stride;
  EVENFLOW_HD bool packs(int n) const { return fits(n, y, y_stride) && fits(n, dy, dy_stride); }
  template <int n = 1>
  EVENFLOW_HD void operator()(int64_t row, int64_t c, T* sum, int64_t next) const {
    const Pack<T, n> out = read<n>(y + row * y_stride + c), slope = read<n>(dy + row * dy_stride + c);
    const bool on = mask.active(row);
    for (int e = 0; e < n; ++e) {
      const T g = on ? slope.v[e] : T(0);
      sum[e] += g;
      sum[next + e] += g * out.v[e];
    }
  }
};

/// x = y / scale - shift, dx = scale (dy - mean_dy - y mean_dyy), where the means include the log-det's
/// share.
template <class T>
struct BatchNormBackward {
  using Number = T;
  PixelMask mask;
  const T* y;
  int64_t y_stride;
  const T* dy;
  int64_t dy_stride;
  const T* shift;
  const T* scale;
  const T* mean_dy;
  const T* mean_dyy;
  T* x;
  int64_t x_stride;
  T* dx;
  int64_t dx_stride;
  EVENFLOW_HD bool packs(int n) const {
    return fits(n, y, y_stride) && fits(n, dy, dy_stride) && fits(n, x, x_stride) && fits(n, dx, dx_stride) &&
           fits(n, shift) && fits(n, scale) && fits(n, mean_dy) && fits(n, mean_dyy);
  }
  template <int n = 1>
  EVENFLOW_HD void operator()(int64_t row, int64_t c) const {
    const Pack<T, n> by = read<n>(shift + c), times = read<n>(scale + c);
    const Pack<T, n> dy_mean = read<n>(mean_dy + c), dyy_mean = read<n>(mean_dyy + c);
    const Pack<T, n> out = read<n>(y + row * y_stride + c), g = read<n>(dy + row * dy_stride + c);
    const bool on = mask.active(row);
    Pack<T, n> in, din;
    for (int e = 0; e < n; ++e) {
      in.v[e] = on ? out.v[e] / times.v[e] - by.v[e] : out.v[e];
      din.v[e] = on ? times.v[e] * (g.v[e] - dy_mean.v[e] - out.v[e] * dyy_mean.v[e]) : g.v[e];
    }
    write(in, x + row * x_stride + c);
    write(din, dx + row * dx_stride + c);
  }
};

}  // namespace evenflow::ops
