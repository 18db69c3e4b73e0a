#pragma once

#include "kernels/ops/checkerboard.hpp"
#include "kernels/ops/math.hpp"

namespace evenflow::ops {

/// y = relu([gain x, -gain x]), a concatenated ReLU, with Real NVP's mask as one more channel.
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
  EVENFLOW_INLINE void operator()(int64_t row, int64_t c) const {
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
  EVENFLOW_INLINE void operator()(int64_t row, int64_t c) const {
    const T* out = y + row * y_stride;
    const T* g = dy + row * dy_stride;
    const T up = out[c] > T(0) ? g[c] : T(0);
    const T down = out[c + channels] > T(0) ? g[c + channels] : T(0);
    dx[row * dx_stride + c] = gain * (up - down);
  }
};

}  // namespace evenflow::ops
