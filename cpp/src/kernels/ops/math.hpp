#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "kernels/ops/host_device.hpp"

// Elementary functions with the same expression on every device. float32: branch-free, so that loops over
// them vectorise; errors measured by tests/cpp/test_math.cpp. float64: the C library's.

namespace evenflow::ops {

EVENFLOW_HD float bits_to_float(int32_t bits) {
  float f;
  memcpy(&f, &bits, sizeof f);
  return f;
}

EVENFLOW_HD int32_t float_to_bits(float f) {
  int32_t bits;
  memcpy(&bits, &f, sizeof bits);
  return bits;
}

template <class T>
EVENFLOW_HD T max_of(T a, T b) {
  return a > b ? a : b;
}

template <class T>
EVENFLOW_HD T min_of(T a, T b) {
  return a < b ? a : b;
}

template <class T>
EVENFLOW_HD T abs_of(T a) {
  return a < T(0) ? -a : a;
}

EVENFLOW_HD double sqrt(double x) {
  return ::sqrt(x);
}
EVENFLOW_HD float sqrt(float x) {
  return ::sqrtf(x);
}

EVENFLOW_HD double exp(double x) {
  return ::exp(x);
}

EVENFLOW_HD float exp(float x) {
  x = x > 89.0f ? 89.0f : x;
  x = x < -104.0f ? -104.0f : x;
  const float magic = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer
  const float n = (x * 1.44269504f + magic) - magic;
  const float r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  // 2^n in two factors, so that neither leaves the exponent's range; NaN passes through r.
  const int32_t whole = n == n ? static_cast<int32_t>(n) : 0;
  const int32_t half = whole / 2;
  return p * bits_to_float((half + 127) << 23) * bits_to_float((whole - half + 127) << 23);
}

EVENFLOW_HD double log(double x) {
  return ::log(x);
}

EVENFLOW_HD float log(float x) {
  const bool tiny = x < 1.17549435e-38f;
  const float y = tiny ? x * 8388608.0f : x;
  const int32_t bits = float_to_bits(y);
  int32_t e = ((bits >> 23) & 0xff) - 126;
  float m = bits_to_float((bits & 0x007fffff) | 0x3f000000);  // [0.5, 1)
  const bool low = m < 0.707106781f;
  e = low ? e - 1 : e;
  m = low ? m + m : m;
  const float f = static_cast<float>(tiny ? e - 23 : e);
  m -= 1.0f;
  const float z = m * m;
  float p = 7.0376836292e-2f;
  p = p * m - 1.1514610310e-1f;
  p = p * m + 1.1676998740e-1f;
  p = p * m - 1.2420140846e-1f;
  p = p * m + 1.4249322787e-1f;
  p = p * m - 1.6668057665e-1f;
  p = p * m + 2.0000714765e-1f;
  p = p * m - 2.4999993993e-1f;
  p = p * m + 3.3333331174e-1f;
  float result = p * m * z + f * -2.12194440e-4f - 0.5f * z;
  result = m + result + f * 0.693359375f;
  result = x > 3.4e38f ? x : result;  // infinity
  result = x == 0.0f ? -HUGE_VALF : result;
  return x >= 0.0f ? result : bits_to_float(0x7fc00000);  // negative and NaN
}

EVENFLOW_HD double log1p(double x) {
  return ::log1p(x);
}

/// For x >= 0. The second term undoes the rounding of 1 + x.
EVENFLOW_HD float log1p(float x) {
  const float w = 1.0f + x;
  return log(w) - ((w - 1.0f) - x) / w;
}

EVENFLOW_HD double tanh(double x) {
  return ::tanh(x);
}

EVENFLOW_HD float tanh(float x) {
  const float a = abs_of(x);
  const float z = x * x;
  float p = -5.70498872745e-3f;
  p = p * z + 2.06390887954e-2f;
  p = p * z - 5.37397155531e-2f;
  p = p * z + 1.33314422036e-1f;
  p = p * z - 3.33332819422e-1f;
  const float small = p * z * x + x;
  const float large = 1.0f - 2.0f / (exp(2.0f * a) + 1.0f);
  return a < 0.625f ? small : (x < 0.0f ? -large : large);
}

template <class T>
EVENFLOW_HD T sigmoid(T x) {
  return T(1) / (T(1) + exp(-x));
}

/// log(1 + e^x), without overflow.
template <class T>
EVENFLOW_HD T softplus(T x) {
  return max_of(x, T(0)) + log1p(exp(-abs_of(x)));
}

}  // namespace evenflow::ops
