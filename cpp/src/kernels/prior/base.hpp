#pragma once

#include <limits>
#include <type_traits>

#include "evenflow/prior.hpp"
#include "kernels/ops/functor.hpp"
#include "kernels/ops/math.hpp"
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
template <class V, Base base>
struct BaseAt {
  V log, slope;
  EVENFLOW_INLINE explicit BaseAt(V z) {
    using T = Element<V>;
    if constexpr (base == Base::logistic) {
      log = -(softplus(z) + softplus(-z));
      slope = -tanh(z / T(2));
    } else if constexpr (base == Base::uniform) {
      const V outside = -std::numeric_limits<T>::infinity();
      log = select(z >= T(0), select(z <= T(1), V(T(0)), outside), outside);
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
  static constexpr int sums = 1;
  int64_t cols;
  const T* z;
  T* dz;
  T scale;
  EVENFLOW_INLINE void prepare() {}
  EVENFLOW_INLINE void element(int64_t row, int64_t c, T* sum) const {
    T slope;
    compute<T>(z + row * cols + c, &slope, sum, 1);
    if (dz) dz[row * cols + c] = slope;
  }
  EVENFLOW_INLINE int inputs() const { return 1; }
  EVENFLOW_INLINE int outputs() const { return 1; }
  template <class Gather>
  EVENFLOW_INLINE void load_run(const Run& run, T* in, int64_t, const Gather& gather) const {
    gather(run, z, cols, 1, in);
  }
  template <class V>
  EVENFLOW_INLINE void compute(const T* in, T* out, T* sum, int64_t) const {
    const BaseAt<V, base> at(loaded<V>(in));
    keep(at.log, sum);
    keep(scale * at.slope, out);
  }
  template <class Scatter>
  EVENFLOW_INLINE void store_run(const Run& run, const T* out, int64_t, const Scatter& scatter) const {
    if (dz) scatter(run, out, dz, cols, 1);
  }
};

/// Draws. Rows are samples, columns are blocks of four numbers: block b has the numbers 4 b ... 4 b + 3.
template <class T, Base base>
struct FillNoise {
  uint64_t seed;
  uint32_t stream;
  uint64_t first;
  T scale;
  int64_t count;  ///< numbers of a sample
  T* out;
  EVENFLOW_INLINE void element(int64_t row, int64_t block, double*) const {
    const Run one{row, block, block + 1, 1};
    double in[4], v[4];
    load_run(one, in, 1, nullptr);
    compute<double>(in, v, nullptr, 1);
    store_run(one, v, 1, nullptr);
  }
  EVENFLOW_INLINE int inputs() const { return 4; }
  EVENFLOW_INLINE int outputs() const { return 4; }
  template <class Gather>
  EVENFLOW_INLINE void load_run(const Run& run, double* in, int64_t room, const Gather&) const {
    each_block(run, [&](int64_t e, int64_t row, int64_t block) {
      const Words words =
          philox(seed, stream, first + static_cast<uint64_t>(row), static_cast<uint32_t>(block));
      for (int k = 0; k < 4; ++k) in[k * room + e] = words.w[k];
    });
  }
  template <class V>
  EVENFLOW_INLINE void compute(const double* words, double* v, double*, int64_t room) const {
    draw(words[0], words[room], v, v + room);
    draw(words[2 * room], words[3 * room], v + 2 * room, v + 3 * room);
  }
  template <class Scatter>
  EVENFLOW_INLINE void store_run(const Run& run, const double* v, int64_t room, const Scatter&) const {
    each_block(run, [&](int64_t e, int64_t row, int64_t block) {
      T* to = out + row * count + 4 * block;
      const int64_t wanted = count - 4 * block;
      for (int k = 0; k < 4 && k < wanted; ++k) to[k] = scale * static_cast<T>(v[k * room + e]);
    });
  }

 private:
  /// Two numbers from two random words. (A loop over numbers would keep compilers from making vectors of
  /// blocks.)
  EVENFLOW_INLINE static void draw(double word, double other, double* x, double* y) {
    const double unit = 2.3283064365386963e-10;  // 2^-32
    const double u = (word + 0.5) * unit, v = (other + 0.5) * unit;
    if constexpr (base == Base::uniform) {
      *x = u;
      *y = v;
    } else if constexpr (base == Base::logistic) {
      *x = noise_log(u) - noise_log((4294967295.5 - word) * unit);
      *y = noise_log(v) - noise_log((4294967295.5 - other) * unit);
    } else {  // Box-Muller
      const double radius = ops::sqrt(-2.0 * noise_log(u));
      double sine, cosine;
      noise_sine(v, &sine, &cosine);
      *x = radius * cosine;
      *y = radius * sine;
    }
  }
  template <class G>
  EVENFLOW_INLINE static void each_block(const Run& run, const G& g) {
    int64_t row = run.row, block = run.col;
    for (int64_t e = 0; e < run.count; ++e) {
      g(e, row, block);
      if (++block == run.cols) block = 0, ++row;
    }
  }
};

}  // namespace evenflow::ops
