#pragma once

#include <cstdint>

#include "kernels/ops/math.hpp"

namespace evenflow {

/// bfloat16: the upper half of a float32. Storage only; arithmetic is float32.
struct Bf16 {
  uint16_t bits;
};

EVENFLOW_INLINE float to_float(Bf16 x) {
  return ops::bits_to_float(static_cast<int32_t>(static_cast<uint32_t>(x.bits) << 16));
}

/// Rounds to nearest, ties to even; NaN stays NaN.
EVENFLOW_INLINE Bf16 to_bf16(float x) {
#ifdef __CUDA_ARCH__
  uint16_t bits;
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(bits) : "f"(x));
  return {bits};
#else
  const uint32_t w = static_cast<uint32_t>(ops::float_to_bits(x));
  if (x != x) return {static_cast<uint16_t>((w >> 16) | 0x40u)};
  return {static_cast<uint16_t>((w + 0x7fffu + ((w >> 16) & 1u)) >> 16)};
#endif
}

/// A stored number's value, and a value as it is stored.
EVENFLOW_INLINE float value_of(Bf16 x) {
  return to_float(x);
}
EVENFLOW_INLINE float value_of(float x) {
  return x;
}
EVENFLOW_INLINE double value_of(double x) {
  return x;
}
EVENFLOW_INLINE void store_value(float x, Bf16* to) {
  *to = to_bf16(x);
}
EVENFLOW_INLINE void store_value(float x, float* to) {
  *to = x;
}
EVENFLOW_INLINE void store_value(double x, double* to) {
  *to = x;
}

}  // namespace evenflow
