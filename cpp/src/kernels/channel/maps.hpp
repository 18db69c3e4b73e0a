#pragma once

#include "kernels/ops/pack.hpp"

// y = (x + shift) * scale of each channel: ActNorm, scaling, standardisation, batch norm. Rows are pixels.

namespace evenflow::ops {

/// y = (x + shift) * scale; y = x on other pixels.
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
  EVENFLOW_INLINE bool packs(int n) const {
    return fits(n, x, x_stride) && fits(n, y, y_stride) && fits(n, shift) && fits(n, scale);
  }
  template <int n = 1>
  EVENFLOW_INLINE void operator()(int64_t row, int64_t c) const {
    const Pack<T, n> by = read<n>(shift + c), times = read<n>(scale + c);
    const bool on = mask.active(row);
    Pack<T, n> v = read<n>(x + row * x_stride + c);
    for (int e = 0; e < n; ++e) v.v[e] = on ? (v.v[e] + by.v[e]) * times.v[e] : v.v[e];
    write(v, y + row * y_stride + c);
  }
};

/// x = y / scale - shift; x = y on other pixels.
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
  EVENFLOW_INLINE bool packs(int n) const {
    return fits(n, y, y_stride) && fits(n, x, x_stride) && fits(n, shift) && fits(n, scale);
  }
  template <int n = 1>
  EVENFLOW_INLINE void operator()(int64_t row, int64_t c) const {
    const Pack<T, n> by = read<n>(shift + c), times = read<n>(scale + c);
    const bool on = mask.active(row);
    Pack<T, n> v = read<n>(y + row * y_stride + c);
    for (int e = 0; e < n; ++e) v.v[e] = on ? v.v[e] / times.v[e] - by.v[e] : v.v[e];
    write(v, x + row * x_stride + c);
  }
};

/// x = z / scale - shift, dx = dz * scale. Sums of each channel over active pixels: dx, dz * z.
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
  EVENFLOW_INLINE bool packs(int n) const {
    return fits(n, z, z_stride) && fits(n, dz, dz_stride) && fits(n, x, x_stride) && fits(n, dx, dx_stride) &&
           fits(n, shift) && fits(n, scale);
  }
  template <int n = 1>
  EVENFLOW_INLINE void operator()(int64_t row, int64_t c, T* sum, int64_t next) const {
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

}  // namespace evenflow::ops
