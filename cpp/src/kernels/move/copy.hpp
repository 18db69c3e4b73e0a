#pragma once

#include "kernels/ops/checkerboard.hpp"
#include "kernels/ops/pack.hpp"

// Copies of arrays, and sums with them. Rows are pixels.

namespace evenflow::ops {

/// y = x.
template <class T>
struct Copy {
  using Number = T;
  const T* x;
  int64_t x_stride;
  T* y;
  int64_t y_stride;
  EVENFLOW_INLINE bool packs(int n) const { return fits(n, x, x_stride) && fits(n, y, y_stride); }
  template <int n = 1>
  EVENFLOW_INLINE void operator()(int64_t row, int64_t c) const {
    write(read<n>(x + row * x_stride + c), y + row * y_stride + c);
  }
};

/// y = x, where samples lie from_step and to_step values apart.
template <class T>
struct CopyBlocks {
  using Number = T;
  int64_t pixels;  ///< of a sample
  const T* x;
  int64_t x_stride;
  int64_t from_step;
  T* y;
  int64_t y_stride;
  int64_t to_step;
  EVENFLOW_INLINE bool packs(int n) const {
    return fits(n, x, x_stride) && fits(n, y, y_stride) && from_step % n == 0 && to_step % n == 0;
  }
  template <int n = 1>
  EVENFLOW_INLINE void operator()(int64_t row, int64_t c) const {
    const int64_t i = row / pixels, p = row % pixels;
    write(read<n>(x + i * from_step + p * x_stride + c), y + i * to_step + p * y_stride + c);
  }
};

/// y += x.
template <class T>
struct Add {
  using Number = T;
  const T* x;
  int64_t x_stride;
  T* y;
  int64_t y_stride;
  EVENFLOW_INLINE bool packs(int n) const { return fits(n, x, x_stride) && fits(n, y, y_stride); }
  template <int n = 1>
  EVENFLOW_INLINE void operator()(int64_t row, int64_t c) const {
    const Pack<T, n> more = read<n>(x + row * x_stride + c);
    Pack<T, n> v = read<n>(y + row * y_stride + c);
    for (int e = 0; e < n; ++e) v.v[e] += more.v[e];
    write(v, y + row * y_stride + c);
  }
};

/// y (n, channels) += the sums over each sample's pixels. A thread computes one output.
template <class T>
struct AddPixelSums {
  int64_t pixels;
  const T* x;
  int64_t x_stride;
  T* y;
  int64_t y_stride;
  EVENFLOW_INLINE void operator()(int64_t i, int64_t c) const {
    double sum = 0;
    for (int64_t p = 0; p < pixels; ++p) sum += x[(i * pixels + p) * x_stride + c];
    y[i * y_stride + c] += static_cast<T>(sum);
  }
};

/// y = x on pixels of that parity and 0 on the others, or y += the same.
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
  EVENFLOW_INLINE bool packs(int n) const { return fits(n, x, x_stride) && fits(n, y, y_stride); }
  template <int n = 1>
  EVENFLOW_INLINE void operator()(int64_t row, int64_t c) const {
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

}  // namespace evenflow::ops
