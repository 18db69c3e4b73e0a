#pragma once

#include "kernels/ops/math.hpp"

// Channel-wise maps: ActNorm, scaling, standardisation, batch norm. Rows are pixels.

namespace evenflow::ops {

/// Pixels that take part: all of them, or one colour of a checkerboard.
struct PixelMask {
  int parity = -1;  ///< (i + j) % 2 of the pixels that take part; -1: all
  int64_t width = 1;
  int64_t height = 1;

  EVENFLOW_HD bool active(int64_t row) const {
    if (parity < 0) return true;
    return ((row / width % height + row % width) & 1) == parity;
  }
};

/// y = (x + shift) * scale; other pixels pass.
template <class T>
struct ChannelForward {
  PixelMask mask;
  const T* x;
  int64_t x_stride;
  const T* shift;
  const T* scale;
  T* y;
  int64_t y_stride;
  EVENFLOW_HD void operator()(int64_t row, int64_t c) const {
    const T in = x[row * x_stride + c];
    y[row * y_stride + c] = mask.active(row) ? (in + shift[c]) * scale[c] : in;
  }
};

/// x = y / scale - shift; other pixels pass.
template <class T>
struct ChannelInverse {
  PixelMask mask;
  const T* y;
  int64_t y_stride;
  const T* shift;
  const T* scale;
  T* x;
  int64_t x_stride;
  EVENFLOW_HD void operator()(int64_t row, int64_t c) const {
    const T out = y[row * y_stride + c];
    x[row * x_stride + c] = mask.active(row) ? out / scale[c] - shift[c] : out;
  }
};

/// Rebuilds x, dx = dz * scale; sums per channel over active pixels: dx, dz * z.
template <class T>
struct ChannelBackward {
  static constexpr int sums = 2;
  PixelMask mask;
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
  EVENFLOW_HD void operator()(int64_t row, int64_t c, T* sum, int64_t next) const {
    const T out = z[row * z_stride + c];
    const T g = dz[row * dz_stride + c];
    const bool on = mask.active(row);
    const T din = on ? g * scale[c] : g;
    x[row * x_stride + c] = on ? out / scale[c] - shift[c] : out;
    dx[row * dx_stride + c] = din;
    sum[0] += on ? din : T(0);
    sum[next] += on ? g * out : T(0);
  }
};

template <class T>
struct ColumnSum {
  static constexpr int sums = 1;
  PixelMask mask;
  const T* x;
  int64_t x_stride;
  EVENFLOW_HD void operator()(int64_t row, int64_t c, T* sum, int64_t) const {
    sum[0] += mask.active(row) ? x[row * x_stride + c] : T(0);
  }
};

/// Squares of (masked x - mean): masked-out pixels count as zeros of the array.
template <class T>
struct ColumnSquares {
  static constexpr int sums = 1;
  PixelMask mask;
  const T* x;
  int64_t x_stride;
  const T* mean;
  EVENFLOW_HD void operator()(int64_t row, int64_t c, T* sum, int64_t) const {
    const T d = (mask.active(row) ? x[row * x_stride + c] : T(0)) - mean[c];
    sum[0] += d * d;
  }
};

/// Sums per channel over active pixels: dy, dy * y.
template <class T>
struct BatchNormSums {
  static constexpr int sums = 2;
  PixelMask mask;
  const T* y;
  int64_t y_stride;
  const T* dy;
  int64_t dy_stride;
  EVENFLOW_HD void operator()(int64_t row, int64_t c, T* sum, int64_t next) const {
    const T g = mask.active(row) ? dy[row * dy_stride + c] : T(0);
    sum[0] += g;
    sum[next] += g * y[row * y_stride + c];
  }
};

/// x = y / scale - shift, dx = scale (dy - mean_dy - y mean_dyy), where the means include the log-det's
/// share.
template <class T>
struct BatchNormBackward {
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
  EVENFLOW_HD void operator()(int64_t row, int64_t c) const {
    const T out = y[row * y_stride + c];
    const T g = dy[row * dy_stride + c];
    const bool on = mask.active(row);
    x[row * x_stride + c] = on ? out / scale[c] - shift[c] : out;
    dx[row * dx_stride + c] = on ? scale[c] * (g - mean_dy[c] - out * mean_dyy[c]) : g;
  }
};

}  // namespace evenflow::ops
