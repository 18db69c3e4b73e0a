#pragma once

#include "evenflow/types.hpp"
#include "kernels/ops/math.hpp"

// The hidden units of dense nets, and the gates of residual blocks.

namespace evenflow::ops {

// An activation f: value(x) = f(x), backward(at, dy) = dy f'. `at` is f(x), which nets keep for the next
// product anyway, or x where by_input.

struct Relu {
  static constexpr bool by_input = false;
  template <class T>
  EVENFLOW_INLINE static T value(T x) {
    // NaN stays NaN, so that an error can name it. With max_of GCC makes branches, and no vectors.
    return x > T(0) ? x : x < T(0) ? T(0) : x;
  }
  template <class T>
  EVENFLOW_INLINE static T backward(T y, T dy) {
    return y > T(0) ? dy : T(0);
  }
};

struct LeakyRelu {
  static constexpr bool by_input = false;
  template <class T>
  EVENFLOW_INLINE static T value(T x) {
    return x > T(0) ? x : T(0.01) * x;
  }
  template <class T>
  EVENFLOW_INLINE static T backward(T y, T dy) {
    return y > T(0) ? dy : T(0.01) * dy;
  }
};

struct Tanh {
  static constexpr bool by_input = false;
  template <class T>
  EVENFLOW_INLINE static T value(T x) {
    const T size = tanh(abs_of(x));  // with tanh(x) alone GCC leaves branches, and makes no vectors
    return x < T(0) ? -size : size;
  }
  template <class T>
  EVENFLOW_INLINE static T backward(T y, T dy) {
    return dy * (T(1) - y * y);
  }
};

struct Elu {
  static constexpr bool by_input = false;
  template <class T>
  EVENFLOW_INLINE static T value(T x) {
    return x > T(0) ? x : expm1(min_of(T(0), x));
  }
  template <class T>
  EVENFLOW_INLINE static T backward(T y, T dy) {
    return y > T(0) ? dy : dy * (y + T(1));
  }
};

/// It isn't monotone, so its slope is not told by its value.
struct Silu {
  static constexpr bool by_input = true;
  template <class T>
  EVENFLOW_INLINE static T value(T x) {
    return x * sigmoid(x);
  }
  template <class T>
  EVENFLOW_INLINE static T backward(T x, T dy) {
    const T s = sigmoid(x);
    return dy * (s + x * s * (T(1) - s));
  }
};

/// Calls g with the activation as a type.
template <class G>
[[gnu::always_inline]] inline void with_activation(Activation f, const G& g) {
  switch (f) {
    case Activation::relu:
      return g(Relu());
    case Activation::leaky_relu:
      return g(LeakyRelu());
    case Activation::tanh:
      return g(Tanh());
    case Activation::silu:
      return g(Silu());
    case Activation::elu:
      return g(Elu());
  }
}

/// y = f(x), where y may be x.
template <class T, class F>
struct Activate {
  const T* x;
  int64_t x_stride;
  T* y;
  int64_t y_stride;
  EVENFLOW_INLINE void operator()(int64_t row, int64_t c) const {
    y[row * y_stride + c] = F::value(x[row * x_stride + c]);
  }
};

/// dx = dy f', where dx may be dy, or dx += dy f'.
template <class T, class F, bool add>
struct ActivateBackward {
  const T* at;  ///< f(x), or x
  int64_t at_stride;
  const T* dy;
  int64_t dy_stride;
  T* dx;
  int64_t dx_stride;
  EVENFLOW_INLINE void operator()(int64_t row, int64_t c) const {
    const T through = F::backward(at[row * at_stride + c], dy[row * dy_stride + c]);
    T& to = dx[row * dx_stride + c];
    to = add ? to + through : through;
  }
};

/// y *= sigmoid(s), a gated linear unit.
template <class T>
struct Gate {
  const T* s;
  int64_t s_stride;
  T* y;
  int64_t y_stride;
  EVENFLOW_INLINE void operator()(int64_t row, int64_t c) const {
    y[row * y_stride + c] *= sigmoid(s[row * s_stride + c]);
  }
};

/// ds += dy y (1 - sigmoid(s)), then dy *= sigmoid(s), the gradient before the gate.
template <class T>
struct GateBackward {
  const T* s;
  int64_t s_stride;
  const T* y;
  int64_t y_stride;
  T* dy;
  int64_t dy_stride;
  T* ds;
  int64_t ds_stride;
  EVENFLOW_INLINE void operator()(int64_t row, int64_t c) const {
    const T gate = sigmoid(s[row * s_stride + c]), g = dy[row * dy_stride + c];
    ds[row * ds_stride + c] += g * y[row * y_stride + c] * (T(1) - gate);
    dy[row * dy_stride + c] = g * gate;
  }
};

}  // namespace evenflow::ops
