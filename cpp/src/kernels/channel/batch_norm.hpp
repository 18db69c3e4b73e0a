#pragma once

#include "kernels/ops/checkerboard.hpp"
#include "kernels/ops/pack.hpp"

// Moments of a batch, and the gradients that pass through them. Rows are pixels.

namespace evenflow::ops {

/// The sum of (x - mean)^2 of each column. Pixels that do not take part count as zeros of the array.
template <class T>
struct ColumnSquares {
  using Number = T;
  static constexpr int sums = 1;
  PixelMask mask;
  const T* x;
  int64_t x_stride;
  const T* mean;
  EVENFLOW_INLINE bool packs(int n) const { return fits(n, x, x_stride) && fits(n, mean); }
  template <int n = 1>
  EVENFLOW_INLINE void operator()(int64_t row, int64_t c, T* sum, int64_t) const {
    const Pack<T, n> in = read<n>(x + row * x_stride + c), middle = read<n>(mean + c);
    const bool on = mask.active(row);
    for (int e = 0; e < n; ++e) {
      const T d = (on ? in.v[e] : T(0)) - middle.v[e];
      sum[e] += d * d;
    }
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
  using Number = T;
  static constexpr int sums = 2;
  PixelMask mask;
  const T* y;
  int64_t y_stride;
  const T* dy;
  int64_t dy_stride;
  EVENFLOW_INLINE bool packs(int n) const { return fits(n, y, y_stride) && fits(n, dy, dy_stride); }
  template <int n = 1>
  EVENFLOW_INLINE void operator()(int64_t row, int64_t c, T* sum, int64_t next) const {
    const Pack<T, n> out = read<n>(y + row * y_stride + c), slope = read<n>(dy + row * dy_stride + c);
    const bool on = mask.active(row);
    for (int e = 0; e < n; ++e) {
      const T g = on ? slope.v[e] : T(0);
      sum[e] += g;
      sum[next + e] += g * out.v[e];
    }
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
  EVENFLOW_INLINE bool packs(int n) const {
    return fits(n, y, y_stride) && fits(n, dy, dy_stride) && fits(n, x, x_stride) && fits(n, dx, dx_stride) &&
           fits(n, shift) && fits(n, scale) && fits(n, mean_dy) && fits(n, mean_dyy);
  }
  template <int n = 1>
  EVENFLOW_INLINE void operator()(int64_t row, int64_t c) const {
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
