#pragma once

#include <cstdint>
#include <cstring>

#include "kernels/ops/math.hpp"

// A SIMD vector that behaves like a number. Code written for a number (ops/math.hpp, the coupling laws)
// compiles for it too. A loop inside such code then does not keep the loop over elements from vectorising.

namespace evenflow::ops {

template <class T, int n>
struct Lanes {
  typedef T Vector __attribute__((vector_size(n * sizeof(T))));
  using Bits = std::conditional_t<sizeof(T) == 4, int32_t, int64_t>;
  using Mask = Lanes<Bits, n>;
  Vector v;

  Lanes() = default;
  EVENFLOW_INLINE Lanes(T all) : v(all - Vector{}) {}
  EVENFLOW_INLINE static Lanes of(Vector vector) {
    Lanes out;
    out.v = vector;
    return out;
  }

  EVENFLOW_INLINE static Lanes load(const T* from) {
    Lanes out;
    memcpy(&out.v, from, sizeof out.v);
    return out;
  }
  EVENFLOW_INLINE void store(T* to) const { memcpy(to, &v, sizeof v); }

  EVENFLOW_INLINE friend Lanes operator+(Lanes a, Lanes b) { return Lanes::of(a.v + b.v); }
  EVENFLOW_INLINE friend Lanes operator-(Lanes a, Lanes b) { return Lanes::of(a.v - b.v); }
  EVENFLOW_INLINE friend Lanes operator*(Lanes a, Lanes b) { return Lanes::of(a.v * b.v); }
  EVENFLOW_INLINE friend Lanes operator/(Lanes a, Lanes b) { return Lanes::of(a.v / b.v); }
  EVENFLOW_INLINE friend Lanes operator-(Lanes a) { return Lanes::of(-a.v); }
  EVENFLOW_INLINE friend Lanes operator&(Lanes a, Lanes b) { return Lanes::of(a.v & b.v); }
  EVENFLOW_INLINE friend Lanes operator|(Lanes a, Lanes b) { return Lanes::of(a.v | b.v); }
  EVENFLOW_INLINE friend Lanes operator<<(Lanes a, int bits) { return Lanes::of(a.v << bits); }
  EVENFLOW_INLINE friend Lanes operator>>(Lanes a, int bits) { return Lanes::of(a.v >> bits); }

  EVENFLOW_INLINE friend Mask operator<(Lanes a, Lanes b) { return Mask::of(a.v < b.v); }
  EVENFLOW_INLINE friend Mask operator>(Lanes a, Lanes b) { return Mask::of(a.v > b.v); }
  EVENFLOW_INLINE friend Mask operator<=(Lanes a, Lanes b) { return Mask::of(a.v <= b.v); }
  EVENFLOW_INLINE friend Mask operator>=(Lanes a, Lanes b) { return Mask::of(a.v >= b.v); }
  EVENFLOW_INLINE friend Mask operator==(Lanes a, Lanes b) { return Mask::of(a.v == b.v); }
};

template <class T, int n>
struct ElementOf<Lanes<T, n>> {
  using type = T;
};

template <class T, int n>
EVENFLOW_INLINE Lanes<T, n> select(typename Lanes<T, n>::Mask condition, Lanes<T, n> a, Lanes<T, n> b) {
  return Lanes<T, n>::of(condition.v ? a.v : b.v);
}

template <class T, int n>
EVENFLOW_INLINE Lanes<T, n> max_of(Lanes<T, n> a, Lanes<T, n> b) {
  return select(a > b, a, b);
}
template <class T, int n>
EVENFLOW_INLINE Lanes<T, n> min_of(Lanes<T, n> a, Lanes<T, n> b) {
  return select(a < b, a, b);
}
template <class T, int n>
EVENFLOW_INLINE Lanes<T, n> abs_of(Lanes<T, n> a) {
  return select(a < Lanes<T, n>(0), -a, a);
}

template <class T, int n, class F>
EVENFLOW_INLINE Lanes<T, n> for_each_number(Lanes<T, n> x, const F& f) {
  Lanes<T, n> out;
  for (int i = 0; i < n; ++i) out.v[i] = f(x.v[i]);
  return out;
}

template <int n>
EVENFLOW_INLINE Lanes<int32_t, n> truncate(Lanes<float, n> x) {
  return Lanes<int32_t, n>::of(__builtin_convertvector(x.v, typename Lanes<int32_t, n>::Vector));
}
template <int n>
EVENFLOW_INLINE Lanes<float, n> to_float(Lanes<int32_t, n> x) {
  return Lanes<float, n>::of(__builtin_convertvector(x.v, typename Lanes<float, n>::Vector));
}
template <int n>
EVENFLOW_INLINE Lanes<float, n> bits_to_float(Lanes<int32_t, n> bits) {
  return Lanes<float, n>::of(reinterpret_cast<typename Lanes<float, n>::Vector>(bits.v));
}
template <int n>
EVENFLOW_INLINE Lanes<int32_t, n> float_to_bits(Lanes<float, n> x) {
  return Lanes<int32_t, n>::of(reinterpret_cast<typename Lanes<int32_t, n>::Vector>(x.v));
}
template <class T, int n>
EVENFLOW_INLINE Lanes<T, n> sqrt(Lanes<T, n> x) {
  return for_each_number(x, [](T one) { return sqrt(one); });
}

}  // namespace evenflow::ops
