#pragma once

#include "kernels/ops/philox.hpp"

namespace evenflow::ops {

/// floor(x / 2^shift) + u, four numbers a column. u is a multiple of 2^-16, so that the sum of up to 8 bits
/// is exact in float32.
template <class T>
struct Dequantize {
  uint64_t seed;
  uint32_t stream;
  uint64_t first;
  int shift;
  bool noise;
  int64_t count;
  const uint8_t* x;
  T* out;
  EVENFLOW_INLINE void operator()(int64_t row, int64_t block) const {
    Words words = {{0, 0, 0, 0}};
    if (noise) words = philox(seed, stream, first + static_cast<uint64_t>(row), static_cast<uint32_t>(block));
    for (int k = 0; k < 4 && 4 * block + k < count; ++k) {
      const int64_t i = row * count + 4 * block + k;
      out[i] = static_cast<T>(x[i] >> shift) + static_cast<T>(words.w[k] >> 16) * T(1.52587890625e-5);
    }
  }
};

}  // namespace evenflow::ops
