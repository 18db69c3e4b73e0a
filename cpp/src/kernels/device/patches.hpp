#pragma once

#include "kernels/bf16.hpp"
#include "kernels/net/kernels.hpp"
#include "kernels/ops/inline.hpp"

// What is done to arrays before and after the matrix products that a convolution becomes.

namespace evenflow::device {

/// act((sum + bias) * scale) of a channel.
template <class T>
EVENFLOW_INLINE T finish(const Epilogue<T>& e, int64_t c, T sum) {
  if (e.bias) sum += e.bias[c];
  if (e.scale) sum *= e.scale[c];
  return e.relu && sum < T(0) ? T(0) : sum;
}

/// y = act((x + bias) * scale), where y may be x.
template <class T, class Y>
struct Finish {
  const T* x;
  int64_t x_stride;
  Epilogue<T> epilogue;
  Y* y;
  int64_t y_stride;
  EVENFLOW_INLINE void operator()(int64_t row, int64_t c) const {
    store_value(finish(epilogue, c, x[row * x_stride + c]), y + row * y_stride + c);
  }
};

/// y = x, rounded to y's type.
template <class S, class H>
struct Round {
  const S* x;
  int64_t x_stride;
  H* y;
  int64_t y_stride;
  EVENFLOW_INLINE void operator()(int64_t row, int64_t c) const {
    store_value(value_of(x[row * x_stride + c]), y + row * y_stride + c);
  }
};

/// The pixel that a tap of a 3x3 kernel reads; with sign -1, the pixel that reads this one through it.
struct Neighbour {
  int64_t pixel;
  bool inside;  ///< of the image
  EVENFLOW_INLINE Neighbour(int64_t from, int64_t tap, int sign, int64_t height, int64_t width) {
    const int64_t down = sign * (tap / 3 - 1), right = sign * (tap % 3 - 1);
    const int64_t i = from / width % height + down, j = from % width + right;
    pixel = from + down * width + right;
    inside = i >= 0 && i < height && j >= 0 && j < width;
  }
};

/// A row of each pixel: for every tap the neighbour's channels, 0 outside of the image. With `edge` there is
/// one more channel, 1 outside and 0 inside.
template <class S, class H>
struct Patches {
  const S* x;
  int64_t stride;
  int64_t height;
  int64_t width;
  int64_t channels;
  bool edge;
  int sign;
  H* out;
  int64_t out_stride;
  EVENFLOW_INLINE void operator()(int64_t pixel, int64_t k) const {
    const int64_t rows = channels + (edge ? 1 : 0), c = k % rows;
    const Neighbour of(pixel, k / rows, sign, height, width);
    H* to = out + pixel * out_stride + k;
    if (c == channels) {
      store_value(of.inside ? 0.0f : 1.0f, to);
    } else {
      store_value(of.inside ? value_of(x[of.pixel * stride + c]) : decltype(value_of(*x))(0), to);
    }
  }
};

/// Weights (taps, rows, cout) as a matrix (channel, (tap, output)), without the edge's rows.
template <class T, class H>
struct TapsAside {
  const T* w;
  int64_t rows;
  int64_t cout;
  H* out;
  int64_t out_stride;
  EVENFLOW_INLINE void operator()(int64_t c, int64_t k) const {
    store_value(w[(k / cout * rows + c) * cout + k % cout], out + c * out_stride + k);
  }
};

/// The gradient of weights from that of TapsAside.
template <class T>
struct AddTaps {
  const T* from;  ///< (channel, (tap, output))
  int64_t rows;
  int64_t cout;
  bool overwrite;
  T* dw;
  EVENFLOW_INLINE void operator()(int64_t c, int64_t k) const {
    T& to = dw[(k / cout * rows + c) * cout + k % cout];
    to = (overwrite ? T(0) : to) + from[c * 9 * cout + k];
  }
};

/// y = act((sum over taps + bias) * scale), or y += the sum. A tap adds z[neighbour, tap]; for a neighbour
/// outside the image it adds the edge channel's weight, if there is one.
template <class T, class Y>
struct SumTaps {
  const T* z;
  int64_t tap_step;  ///< channels of a tap in z
  int64_t height;
  int64_t width;
  int sign;
  const T* edge;  ///< null: no such channel
  int64_t edge_step;
  Epilogue<T> epilogue;
  bool add;
  Y* y;
  int64_t y_stride;
  EVENFLOW_INLINE void operator()(int64_t pixel, int64_t c) const {
    T sum(0);
    for (int64_t tap = 0; tap < 9; ++tap) {
      const Neighbour of(pixel, tap, sign, height, width);
      if (of.inside) {
        sum += z[(of.pixel * 9 + tap) * tap_step + c];
      } else if (edge) {
        sum += edge[tap * edge_step + c];
      }
    }
    Y* to = y + pixel * y_stride + c;
    store_value((add ? value_of(*to) : T(0)) + finish(epilogue, c, sum), to);
  }
};

}  // namespace evenflow::device
