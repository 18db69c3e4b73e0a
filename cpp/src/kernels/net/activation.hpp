#pragma once

#include "evenflow/types.hpp"
#include "kernels/ops/math.hpp"
#include "kernels/ops/pack.hpp"

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
  using Number = T;
  const T* x;
  int64_t x_stride;
  T* y;
  int64_t y_stride;
  EVENFLOW_INLINE bool packs(int n) const { return fits(n, x, x_stride) && fits(n, y, y_stride); }
  template <int n = 1>
  EVENFLOW_INLINE void operator()(int64_t row, int64_t c) const {
    Pack<T, n> v = read<n>(x + row * x_stride + c);
    for (int e = 0; e < n; ++e) v.v[e] = F::value(v.v[e]);
    write(v, y + row * y_stride + c);
  }
};

/// dx = dy f', where dx may be dy, or dx += dy f'.
template <class T, class F, bool add>
struct ActivateBackward {
  using Number = T;
  const T* at;  ///< f(x), or x
  int64_t at_stride;
  const T* dy;
  int64_t dy_stride;
  T* dx;
  int64_t dx_stride;
  EVENFLOW_INLINE bool packs(int n) const {
    return fits(n, at, at_stride) && fits(n, dy, dy_stride) && fits(n, dx, dx_stride);
  }
  template <int n = 1>
  EVENFLOW_INLINE void operator()(int64_t row, int64_t c) const {
    const Pack<T, n> v = read<n>(at + row * at_stride + c), g = read<n>(dy + row * dy_stride + c);
    T* to = dx + row * dx_stride + c;
    Pack<T, n> out = read<n>(to);
    for (int e = 0; e < n; ++e) {
      const T through = F::backward(v.v[e], g.v[e]);
      out.v[e] = add ? out.v[e] + through : through;
    }
    write(out, to);
  }
};

/// y *= sigmoid(s), a gated linear unit.
template <class T>
struct Gate {
  using Number = T;
  const T* s;
  int64_t s_stride;
  T* y;
  int64_t y_stride;
  EVENFLOW_INLINE bool packs(int n) const { return fits(n, s, s_stride) && fits(n, y, y_stride); }
  template <int n = 1>
  EVENFLOW_INLINE void operator()(int64_t row, int64_t c) const {
    const Pack<T, n> by = read<n>(s + row * s_stride + c);
    Pack<T, n> v = read<n>(y + row * y_stride + c);
    for (int e = 0; e < n; ++e) v.v[e] = v.v[e] * sigmoid(by.v[e]);
    write(v, y + row * y_stride + c);
  }
};

/// ds += dy y (1 - sigmoid(s)), then dy *= sigmoid(s), the gradient before the gate.
template <class T>
struct GateBackward {
  using Number = T;
  const T* s;
  int64_t s_stride;
  const T* y;
  int64_t y_stride;
  T* dy;
  int64_t dy_stride;
  T* ds;
  int64_t ds_stride;
  EVENFLOW_INLINE bool packs(int n) const {
    return fits(n, s, s_stride) && fits(n, y, y_stride) && fits(n, dy, dy_stride) && fits(n, ds, ds_stride);
  }
  template <int n = 1>
  EVENFLOW_INLINE void operator()(int64_t row, int64_t c) const {
    const Pack<T, n> by = read<n>(s + row * s_stride + c), v = read<n>(y + row * y_stride + c);
    Pack<T, n> g = read<n>(dy + row * dy_stride + c), out = read<n>(ds + row * ds_stride + c);
    for (int e = 0; e < n; ++e) {
      const T gate = sigmoid(by.v[e]);
      out.v[e] += g.v[e] * v.v[e] * (T(1) - gate);
      g.v[e] = g.v[e] * gate;
    }
    write(out, ds + row * ds_stride + c);
    write(g, dy + row * dy_stride + c);
  }
};

}  // namespace evenflow::ops
