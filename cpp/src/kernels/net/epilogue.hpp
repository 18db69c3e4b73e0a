#pragma once

#include "kernels/bf16.hpp"

// Gradients of a convolution's bias, scale and ReLU.

namespace evenflow::ops {

/// Of y = a + bias: da is dy, and the sum of each channel is the bias's gradient.
template <class T>
struct BiasBackward {
  static constexpr int sums = 1;
  const T* dy;
  int64_t dy_stride;
  EVENFLOW_INLINE void operator()(int64_t row, int64_t c, T* sum, int64_t) const {
    sum[0] += dy[row * dy_stride + c];
  }
};

/// Of y = act((a + bias) * scale): turns dy into da in place. Sums of each channel: the gradients of bias and
/// of log scale (dy * y where the ReLU passes).
template <class T, bool relu>
struct EpilogueBackward {
  static constexpr int sums = 2;
  const T* y;
  int64_t y_stride;
  T* dy;
  int64_t dy_stride;
  T scaled;  ///< 1, or 0 without a scale: a choice by a number becomes one of vectors, by a bool a branch
  /// The scale, else anything as long: a load from null takes 50 ns even if it is of no lane of a vector.
  const T* scale;
  EVENFLOW_INLINE EpilogueBackward(const T* y_, int64_t y_stride_, T* dy_, int64_t dy_stride_,
                                   const T* scale_)
      : y(y_),
        y_stride(y_stride_),
        dy(dy_),
        dy_stride(dy_stride_),
        scaled(scale_ ? T(1) : T(0)),
        scale(scale_ ? scale_ : y_) {}
  EVENFLOW_INLINE void operator()(int64_t row, int64_t c, T* sum, int64_t next) const {
    const T out = y[row * y_stride + c], gradient = dy[row * dy_stride + c], factor = scale[c];
    const T g = !relu || out > T(0) ? gradient : T(0);
    const T da = scaled > T(0) ? g * factor : g;
    sum[0] += da;
    sum[next] += g * out;
    dy[row * dy_stride + c] = da;
  }
};

/// The same for a hidden unit, whose output and gradient are stored as H. Here da is an array of its own.
template <class T, class H>
struct HiddenBackward {
  static constexpr int sums = 2;
  const H* y;
  int64_t y_stride;
  const T* dy;
  int64_t dy_stride;
  const T* scale;  ///< null: 1
  bool relu;
  H* da;
  int64_t da_stride;
  EVENFLOW_INLINE void operator()(int64_t row, int64_t c, T* sum, int64_t next) const {
    const T at = value_of(y[row * y_stride + c]), slope = dy[row * dy_stride + c];
    const T g = !relu || at > T(0) ? slope : T(0);
    const T through = scale ? g * scale[c] : g;
    store_value(through, da + row * da_stride + c);
    sum[0] += through;
    sum[next] += g * at;
  }
};

}  // namespace evenflow::ops
