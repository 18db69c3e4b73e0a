#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "kernels/ops/inline.hpp"

// Elementary functions with the same expression on every device. Their argument is a number, or some numbers
// of one register (cpu/lanes.hpp). float32: branch-free, so that loops over them vectorise; errors measured
// by tests/cpp/test_math.cpp. float64: the C library's.

namespace evenflow::ops {

/// The type of one number of a V.
template <class V>
struct ElementOf {
  using type = V;
};
template <class V>
using Element = typename ElementOf<V>::type;

template <class V>
constexpr bool is_single = std::is_same<Element<V>, float>::value;

/// The number, or the numbers side by side, of a V in memory.
template <class V>
EVENFLOW_INLINE V loaded(const Element<V>* from) {
  if constexpr (std::is_same<V, Element<V>>::value) {
    return *from;
  } else {
    return V::load(from);
  }
}
template <class V>
EVENFLOW_INLINE void keep(V x, Element<V>* to) {
  if constexpr (std::is_same<V, Element<V>>::value) {
    *to = x;
  } else {
    x.store(to);
  }
}

/// a where the condition holds, else b.
template <class V>
EVENFLOW_INLINE V select(bool condition, V a, V b) {
  return condition ? a : b;
}

/// f of each number.
template <class V, class F>
EVENFLOW_INLINE V for_each_number(V x, const F& f) {
  return f(x);
}

/// Towards zero, for numbers within the range of int32_t.
EVENFLOW_INLINE int32_t truncate(float x) {
  return static_cast<int32_t>(x);
}
EVENFLOW_INLINE float to_float(int32_t x) {
  return static_cast<float>(x);
}

EVENFLOW_INLINE float bits_to_float(int32_t bits) {
  float f;
  memcpy(&f, &bits, sizeof f);
  return f;
}

EVENFLOW_INLINE int32_t float_to_bits(float f) {
  int32_t bits;
  memcpy(&bits, &f, sizeof bits);
  return bits;
}

/// The larger number; b if either is NaN. So does min_of.
template <class T>
EVENFLOW_INLINE T max_of(T a, T b) {
  return a > b ? a : b;
}

template <class T>
EVENFLOW_INLINE T min_of(T a, T b) {
  return a < b ? a : b;
}

template <class T>
EVENFLOW_INLINE T abs_of(T a) {
  return a < T(0) ? -a : a;
}

/// a * b, rounded: compilers fuse a product with the addition that follows where a machine can, and only
/// there.
EVENFLOW_INLINE double rounded_product(double a, double b) {
#ifdef __CUDA_ARCH__
  return __dmul_rn(a, b);
#else
  const volatile double product = a * b;
  return product;
#endif
}

/// a * b + c, rounded once if the processor can. A compiler may round once in a loop's vectors and twice in
/// its remainder, which gives two results of one formula.
EVENFLOW_INLINE double multiply_add(double a, double b, double c) {
#if defined(__CUDA_ARCH__)
  return ::fma(a, b, c);
#elif defined(__FMA__) || defined(__ARM_FEATURE_FMA)
  return __builtin_fma(a, b, c);
#else
  return a * b + c;
#endif
}

EVENFLOW_INLINE double sqrt(double x) {
  return ::sqrt(x);
}
EVENFLOW_INLINE float sqrt(float x) {
  return ::sqrtf(x);
}

template <class V>
EVENFLOW_INLINE V single_exp(V x) {
  x = select(x > 89.0f, V(89.0f), x);
  x = select(x < -104.0f, V(-104.0f), x);
  const float magic = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer
  const V n = (x * 1.44269504f + magic) - magic;
  const V r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
  V p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  // 2^n in two factors, so that neither leaves the exponent's range; NaN passes through r.
  const auto whole = truncate(select(n == n, n, V(0.0f)));
  const auto half = whole / 2;
  return p * bits_to_float((half + 127) << 23) * bits_to_float((whole - half + 127) << 23);
}

template <class V>
EVENFLOW_INLINE V exp(V x) {
  if constexpr (is_single<V>) {
    return single_exp(x);
  } else {
    return for_each_number(x, [](double d) { return ::exp(d); });
  }
}

template <class V>
EVENFLOW_INLINE V single_log(V x) {
  const auto tiny = x < 1.17549435e-38f;
  const V y = select(tiny, x * 8388608.0f, x);
  const auto bits = float_to_bits(y);
  auto e = ((bits >> 23) & 0xff) - 126;
  V m = bits_to_float((bits & 0x007fffff) | 0x3f000000);  // [0.5, 1)
  const auto low = m < 0.707106781f;
  e = select(low, e - 1, e);
  m = select(low, m + m, m);
  const V f = to_float(select(tiny, e - 23, e));
  m = m - 1.0f;
  const V z = m * m;
  V p = 7.0376836292e-2f;
  p = p * m - 1.1514610310e-1f;
  p = p * m + 1.1676998740e-1f;
  p = p * m - 1.2420140846e-1f;
  p = p * m + 1.4249322787e-1f;
  p = p * m - 1.6668057665e-1f;
  p = p * m + 2.0000714765e-1f;
  p = p * m - 2.4999993993e-1f;
  p = p * m + 3.3333331174e-1f;
  V result = p * m * z + f * -2.12194440e-4f - 0.5f * z;
  result = m + result + f * 0.693359375f;
  result = select(x > 3.4e38f, x, result);  // infinity
  result = select(x == 0.0f, V(-HUGE_VALF), result);
  return select(x >= 0.0f, result, V(bits_to_float(0x7fc00000)));  // negative and NaN
}

template <class V>
EVENFLOW_INLINE V log(V x) {
  if constexpr (is_single<V>) {
    return single_log(x);
  } else {
    return for_each_number(x, [](double d) { return ::log(d); });
  }
}

/// For x >= 0.
template <class V>
EVENFLOW_INLINE V log1p(V x) {
  if constexpr (is_single<V>) {
    const V w = 1.0f + x;
    return log(w) - ((w - 1.0f) - x) / w;  // the second term undoes the rounding of 1 + x
  } else {
    return for_each_number(x, [](double d) { return ::log1p(d); });
  }
}

// For noise: double precision and branch-free, so that loops vectorise and every device has the same numbers.

/// log x for 2^-40 <= x <= 1, with a relative error of at most 2^-51.
EVENFLOW_INLINE double noise_log(double x) {
  uint64_t bits;
  memcpy(&bits, &x, sizeof bits);
  // x = 2^e m, 0.7 < m < 1.42; 2^52 + e as a double holds e in its lowest bits.
  const uint64_t shifted = bits - 0x3fe6a09e667f3bcdu;
  const uint64_t exponent = (shifted >> 52 ^ 0x800u) + 0x4330000000000000u;
  double e, m;
  memcpy(&e, &exponent, sizeof e);
  e -= 4503599627370496.0 + 2048;
  const uint64_t rest = (shifted & 0x000fffffffffffffu) + 0x3fe6a09e667f3bcdu;
  memcpy(&m, &rest, sizeof m);
  const double s = (m - 1) / (m + 1), z = s * s;  // log m = 2 artanh s
  double p = 1.0 / 21;
  p = p * z + 1.0 / 19;
  p = p * z + 1.0 / 17;
  p = p * z + 1.0 / 15;
  p = p * z + 1.0 / 13;
  p = p * z + 1.0 / 11;
  p = p * z + 1.0 / 9;
  p = p * z + 1.0 / 7;
  p = p * z + 1.0 / 5;
  p = p * z + 1.0 / 3;
  return e * 6.93147180369123816490e-01 + (2 * s + (2 * s * z * p + e * 1.90821492927058770002e-10));
}

/// Sine and cosine of 2 pi u, 0 <= u <= 1, with an error of at most 2^-51. Taylor series on
/// angles within pi / 4.
EVENFLOW_INLINE void noise_sine(double u, double* sine, double* cosine) {
  const double magic = 6755399441055744.0;  // 1.5 * 2^52: adding it rounds to an integer
  const double shifted = 4 * u + magic, quarter = shifted - magic;
  const double x = (4 * u - quarter) * 1.5707963267948966, z = x * x;
  double s = -7.6471637318198164759e-13;
  s = s * z + 1.6059043836821614599e-10;
  s = s * z - 2.5052108385441718775e-08;
  s = s * z + 2.7557319223985890653e-06;
  s = s * z - 1.9841269841269841270e-04;
  s = s * z + 8.3333333333333333333e-03;
  s = s * z - 1.6666666666666666667e-01;
  s = s * z * x + x;
  double c = 4.7794773323873852974e-14;
  c = c * z - 1.1470745597729724714e-11;
  c = c * z + 2.0876756987868098979e-09;
  c = c * z - 2.7557319223985890653e-07;
  c = c * z + 2.4801587301587301587e-05;
  c = c * z - 1.3888888888888888889e-03;
  c = c * z + 4.1666666666666666667e-02;
  c = c * z * z + (1 - 0.5 * z);
  uint64_t turns;
  memcpy(&turns, &shifted, sizeof turns);
  const bool odd = turns & 1, below = turns & 2, left = (turns + 1) & 2;
  const double a = odd ? c : s, b = odd ? s : c;
  *sine = below ? -a : a;
  *cosine = left ? -b : b;
}

template <class V>
EVENFLOW_INLINE V single_tanh(V x) {
  const V a = abs_of(x);
  const V z = x * x;
  V p = -5.70498872745e-3f;
  p = p * z + 2.06390887954e-2f;
  p = p * z - 5.37397155531e-2f;
  p = p * z + 1.33314422036e-1f;
  p = p * z - 3.33332819422e-1f;
  const V small = p * z * x + x;
  const V large = 1.0f - 2.0f / (exp(2.0f * a) + 1.0f);
  return select(a < 0.625f, small, select(x < 0.0f, -large, large));
}

template <class V>
EVENFLOW_INLINE V tanh(V x) {
  if constexpr (is_single<V>) {
    return single_tanh(x);
  } else {
    return for_each_number(x, [](double d) { return ::tanh(d); });
  }
}

/// e^x - 1 for x <= 0, without the cancellation near 0: (e^x - 1) / (e^x + 1) = tanh(x / 2).
template <class V>
EVENFLOW_INLINE V expm1(V x) {
  if constexpr (is_single<V>) {
    const V t = tanh(0.5f * x);
    return 2.0f * t / (1.0f - t);
  } else {
    return for_each_number(x, [](double d) { return ::expm1(d); });
  }
}

template <class T>
EVENFLOW_INLINE T sigmoid(T x) {
  return T(1) / (T(1) + exp(-x));
}

/// log(1 + e^x), without overflow.
template <class T>
EVENFLOW_INLINE T softplus(T x) {
  return max_of(x, T(0)) + log1p(exp(-abs_of(x)));
}

/// exp(x), computed in float64 and rounded once, so that every device agrees.
template <class T>
EVENFLOW_INLINE T rounded_exp(T x) {
  return static_cast<T>(exp(static_cast<double>(x)));
}

}  // namespace evenflow::ops
