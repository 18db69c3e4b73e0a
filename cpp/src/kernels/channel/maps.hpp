#pragma once

#include <cstdint>

#include "kernels/ops/inline.hpp"

// y = (x + shift) * scale of each channel: ActNorm, scaling, standardisation, batch norm. Rows are pixels.

namespace evenflow::ops {

/// y = (x + shift) * scale; y = x on other pixels.
template <class T, class Mask>
struct ChannelForward {
  Mask mask;
  const T* x;
  int64_t x_stride;
  const T* shift;
  const T* scale;
  T* y;
  int64_t y_stride;
  EVENFLOW_INLINE void operator()(int64_t row, int64_t c) const {
    const T by = shift[c], times = scale[c], v = x[row * x_stride + c];
    y[row * y_stride + c] = mask.active(row) ? (v + by) * times : v;
  }
};

/// x = y / scale - shift; x = y on other pixels.
template <class T, class Mask>
struct ChannelInverse {
  Mask mask;
  const T* y;
  int64_t y_stride;
  const T* shift;
  const T* scale;
  T* x;
  int64_t x_stride;
  EVENFLOW_INLINE void operator()(int64_t row, int64_t c) const {
    const T by = shift[c], times = scale[c], v = y[row * y_stride + c];
    x[row * x_stride + c] = mask.active(row) ? v / times - by : v;
  }
};

/// x = z / scale - shift, dx = dz * scale. Sums of each channel over active pixels: dx, dz * z.
template <class T, class Mask>
struct ChannelBackward {
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
  EVENFLOW_INLINE void operator()(int64_t row, int64_t c, T* sum, int64_t next) const {
    const T by = shift[c], times = scale[c], out = z[row * z_stride + c], g = dz[row * dz_stride + c];
    const bool on = mask.active(row);
    const T din = on ? g * times : g;
    sum[0] += on ? din : T(0);
    sum[next] += on ? g * out : T(0);
    x[row * x_stride + c] = on ? out / times - by : out;
    dx[row * dx_stride + c] = din;
  }
};

}  // namespace evenflow::ops
