#pragma once

#include "kernels/ops/checkerboard.hpp"

// Copies of arrays, and sums with them. Rows are pixels.

namespace evenflow::ops {

/// y = x.
template <class T>
struct Copy {
  const T* x;
  int64_t x_stride;
  T* y;
  int64_t y_stride;
  EVENFLOW_INLINE void operator()(int64_t row, int64_t c) const {
    y[row * y_stride + c] = x[row * x_stride + c];
  }
};

/// y = x, where samples lie from_step and to_step values apart.
template <class T>
struct CopyBlocks {
  int64_t pixels;  ///< of a sample
  const T* x;
  int64_t x_stride;
  int64_t from_step;
  T* y;
  int64_t y_stride;
  int64_t to_step;
  EVENFLOW_INLINE void operator()(int64_t row, int64_t c) const {
    const int64_t i = row / pixels, p = row % pixels;
    y[i * to_step + p * y_stride + c] = x[i * from_step + p * x_stride + c];
  }
};

/// y += x.
template <class T>
struct Add {
  const T* x;
  int64_t x_stride;
  T* y;
  int64_t y_stride;
  EVENFLOW_INLINE void operator()(int64_t row, int64_t c) const {
    y[row * y_stride + c] += x[row * x_stride + c];
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
  const T* x;
  int64_t x_stride;
  int parity;
  int64_t width;
  int64_t height;
  bool accumulate;
  T* y;
  int64_t y_stride;
  EVENFLOW_INLINE void operator()(int64_t row, int64_t c) const {
    const T value = x[row * x_stride + c], kept = on_parity(row, width, height, parity) ? value : T(0);
    T& to = y[row * y_stride + c];
    to = accumulate ? to + kept : kept;
  }
};

}  // namespace evenflow::ops
