#pragma once

#include <limits>
#include <type_traits>

#include "evenflow/prior.hpp"
#include "kernels/ops/math.hpp"
#include "kernels/ops/pack.hpp"
#include "kernels/ops/philox.hpp"

// Base distributions: their density, and draws.

namespace evenflow::ops {

/// Calls f(the base as a type).
template <class F>
[[gnu::always_inline]] inline void with_base(Base base, const F& f) {
  if (base == Base::logistic) return f(std::integral_constant<Base, Base::logistic>());
  if (base == Base::uniform) return f(std::integral_constant<Base, Base::uniform>());
  f(std::integral_constant<Base, Base::gaussian>());
}

/// log p0(z) and its derivative, for each base.
template <class T, Base base>
struct BaseAt {
  T log, slope;
  EVENFLOW_INLINE explicit BaseAt(T z) {
    if constexpr (base == Base::logistic) {
      log = -(softplus(z) + softplus(-z));
      slope = -tanh(z / T(2));
    } else if constexpr (base == Base::uniform) {
      log = z >= T(0) && z <= T(1) ? T(0) : -std::numeric_limits<T>::infinity();
      slope = T(0);
    } else {
      log = T(-0.5) * (z * z + T(1.8378770664093453));  // log 2 pi
      slope = -z;
    }
  }
};

/// Sum: log p0(z); dz = scale * d log p0 / dz unless null.
template <class T, Base base>
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
    const BaseAt<T, base> at(in[0]);
    sum[0] = at.log;
    out[0] = scale * at.slope;
  }
  template <int n = 1>
  EVENFLOW_INLINE void store(int64_t row, int64_t c, const T* out, int64_t) const {
    if (dz) write(pack_of<n>(out), dz + row * cols + c);
  }
};

/// Draws. Rows are samples, columns are blocks of four numbers: block b has the numbers 4 b ... 4 b + 3.
template <class T, Base base>
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
    if constexpr (base == Base::uniform) {
      for (int k = 0; k < 4; ++k) v[k] = (in[k] + 0.5) * unit;
    } else if constexpr (base == Base::logistic) {
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
