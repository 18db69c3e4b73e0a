#pragma once

#include "kernels/ops/checkerboard.hpp"

// Moments of a batch, and the gradients that pass through them. Rows are pixels.

namespace evenflow::ops {

/// The sum of (x - mean)^2 of each column. Pixels that do not take part count as zeros of the array.
template <class T>
struct ColumnSquares {
  static constexpr int sums = 1;
  PixelMask mask;
  const T* x;
  int64_t x_stride;
  const T* mean;
  EVENFLOW_INLINE void operator()(int64_t row, int64_t c, T* sum, int64_t) const {
    const T in = x[row * x_stride + c];
    const T d = (mask.active(row) ? in : T(0)) - mean[c];
    sum[0] += d * d;
  }
};

/// out[i] = sums[i] / count.
template <class T>
struct MeanOf {
  const double* sums;
  double count;
  T* out;
  EVENFLOW_INLINE void operator()(int64_t, int64_t i) const { out[i] = static_cast<T>(sums[i] / count); }
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
  EVENFLOW_INLINE void operator()(int64_t row, int64_t c, T* sum, int64_t next) const {
    const T out = y[row * y_stride + c], slope = dy[row * dy_stride + c];
    const T g = mask.active(row) ? slope : T(0);
    sum[0] += g;
    sum[next] += g * out;
  }
};

/// means (2, channels) = (sums + [0, active * dlogdet[0]]) / pixels; dlogdet may be null.
template <class T>
struct NormMeans {
  const double* sums;
  const double* dlogdet;
  double active;
  double pixels;
  int64_t channels;
  T* means;
  EVENFLOW_INLINE void operator()(int64_t row, int64_t c) const {
    const double more = row == 1 && dlogdet ? active * dlogdet[0] : 0.0;
    means[row * channels + c] = static_cast<T>((sums[row * channels + c] + more) / pixels);
  }
};

/// x = y / scale - shift, dx = scale (dy - mean_dy - y mean_dyy). The means include what the log-determinant
/// adds to them.
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
  EVENFLOW_INLINE void operator()(int64_t row, int64_t c) const {
    const T by = shift[c], times = scale[c], dy_mean = mean_dy[c], dyy_mean = mean_dyy[c];
    const T out = y[row * y_stride + c], g = dy[row * dy_stride + c];
    const bool on = mask.active(row);
    x[row * x_stride + c] = on ? out / times - by : out;
    dx[row * dx_stride + c] = on ? times * (g - dy_mean - out * dyy_mean) : g;
  }
};

}  // namespace evenflow::ops
