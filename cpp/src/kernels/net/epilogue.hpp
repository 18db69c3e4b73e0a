#pragma once

#include "kernels/bf16.hpp"
#include "kernels/ops/pack.hpp"

// Gradients of a convolution's bias, scale and ReLU.

namespace evenflow::ops {

/// Of y = a + bias: da is dy, and the sum of each channel is the bias's gradient.
template <class T>
struct BiasBackward {
  using Number = T;
  static constexpr int sums = 1;
  const T* dy;
  int64_t dy_stride;
  EVENFLOW_INLINE bool packs(int n) const { return fits(n, dy, dy_stride); }
  template <int n = 1>
  EVENFLOW_INLINE void operator()(int64_t row, int64_t c, T* sum, int64_t) const {
    const Pack<T, n> gradient = read<n>(dy + row * dy_stride + c);
    for (int e = 0; e < n; ++e) sum[e] += gradient.v[e];
  }
};

/// Of y = act((a + bias) * scale): turns dy into da in place. Sums of each channel: the gradients of bias and
/// of log scale (dy * y where the ReLU passes).
template <class T, bool relu>
struct EpilogueBackward {
  using Number = T;
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
  EVENFLOW_INLINE bool packs(int n) const {
    return fits(n, y, y_stride) && fits(n, dy, dy_stride) && fits(n, scale);
  }
  template <int n = 1>
  EVENFLOW_INLINE void operator()(int64_t row, int64_t c, T* sum, int64_t next) const {
    const Pack<T, n> out = read<n>(y + row * y_stride + c), gradient = read<n>(dy + row * dy_stride + c);
    Pack<T, n> da;
    for (int e = 0; e < n; ++e) {
      const T factor = scale[c + e];
      const T g = !relu || out.v[e] > T(0) ? gradient.v[e] : T(0);
      da.v[e] = scaled > T(0) ? g * factor : g;
      sum[e] += da.v[e];
      sum[next + e] += g * out.v[e];
    }
    write(da, dy + row * dy_stride + c);
  }
};

/// The same for a hidden unit, whose output and gradient are stored as H. Here da is an array of its own.
template <class T, class H>
struct HiddenBackward {
  using Number = T;
  static constexpr int sums = 2;
  const H* y;
  int64_t y_stride;
  const T* dy;
  int64_t dy_stride;
  const T* scale;  ///< null: 1
  bool relu;
  H* da;
  int64_t da_stride;
  EVENFLOW_INLINE bool packs(int n) const {
    return fits(n, y, y_stride) && fits(n, dy, dy_stride) && fits(n, da, da_stride);
  }
  template <int n = 1>
  EVENFLOW_INLINE void operator()(int64_t row, int64_t c, T* sum, int64_t next) const {
    const Pack<H, n> out = read<n>(y + row * y_stride + c);
    const Pack<T, n> slope = read<n>(dy + row * dy_stride + c);
    Pack<H, n> to;
    for (int e = 0; e < n; ++e) {
      const T at = value_of(out.v[e]);
      T g = slope.v[e];
      if (relu) g = at > T(0) ? g : T(0);
      const T through = scale ? g * scale[c + e] : g;
      store_value(through, &to.v[e]);
      sum[e] += through;
      sum[next + e] += g * at;
    }
    write(to, da + row * da_stride + c);
  }
};

}  // namespace evenflow::ops
