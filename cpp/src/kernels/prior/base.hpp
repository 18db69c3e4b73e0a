#pragma once

#include "kernels/ops/math.hpp"
#include "kernels/ops/pack.hpp"
#include "kernels/ops/philox.hpp"

// Base distributions: their density, and draws.

namespace evenflow::ops {

/// Sum: log p0(z); dz = scale * d log p0 / dz unless null.
template <class T, bool logistic>
struct BaseLogProb {
  using Number = T;
  static constexpr int inputs = 1;
  static constexpr int outputs = 1;
  static constexpr int sums = 1;
  int64_t cols;
  const T* z;
  T* dz;
  T scale;
  EVENFLOW_INLINE void prepare() {}
  EVENFLOW_INLINE bool packs(int n) const { return fits(n, z, cols) && fits(n, dz); }
  template <int n = 1>
  EVENFLOW_INLINE void load(int64_t row, int64_t c, T* in, int64_t) const {
    put(read<n>(z + row * cols + c), in);
  }
  EVENFLOW_INLINE void compute(const T* in, T* out, T* sum) const {
    const T v = in[0];
    sum[0] =
        logistic ? -(softplus(v) + softplus(-v)) : T(-0.5) * (v * v + T(1.8378770664093453));  // log 2 pi
    out[0] = scale * (logistic ? -tanh(v / T(2)) : -v);
  }
  template <int n = 1>
  EVENFLOW_INLINE void store(int64_t row, int64_t c, const T* out, int64_t) const {
    if (dz) write(pack_of<n>(out), dz + row * cols + c);
  }
};

/// Draws. Rows are samples, columns are blocks of four numbers: block b has the numbers 4 b ... 4 b + 3.
template <class T, bool logistic>
struct FillNoise {
  static constexpr int inputs = 4;
  static constexpr int outputs = 4;
  static constexpr int sums = 0;
  uint64_t seed;
  uint32_t stream;
  uint64_t first;
  T scale;
  int64_t count;  ///< numbers of a sample
  T* out;
  EVENFLOW_INLINE void load(int64_t row, int64_t block, double* in, int64_t step) const {
    const Words words =
        philox(seed, stream, first + static_cast<uint64_t>(row), static_cast<uint32_t>(block));
    for (int k = 0; k < 4; ++k) in[k * step] = words.w[k];
  }
  EVENFLOW_INLINE void compute(const double* in, double* v, double*) const {
    const double unit = 2.3283064365386963e-10;  // 2^-32
    if constexpr (logistic) {
      for (int k = 0; k < 4; ++k) {
        v[k] = noise_log((in[k] + 0.5) * unit) - noise_log((4294967295.5 - in[k]) * unit);
      }
    } else {
      for (int k = 0; k < 4; k += 2) {  // Box-Muller
        const double radius = ops::sqrt(-2.0 * noise_log((in[k] + 0.5) * unit));
        double sine, cosine;
        noise_sine((in[k + 1] + 0.5) * unit, &sine, &cosine);
        v[k] = radius * cosine;
        v[k + 1] = radius * sine;
      }
    }
  }
  EVENFLOW_INLINE void store(int64_t row, int64_t block, const double* v, int64_t step) const {
    T* to = out + row * count + 4 * block;
    const int64_t wanted = count - 4 * block;
    for (int k = 0; k < 4 && k < wanted; ++k) to[k] = scale * static_cast<T>(v[k * step]);
  }
};

}  // namespace evenflow::ops
