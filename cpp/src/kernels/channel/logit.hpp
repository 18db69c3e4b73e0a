#pragma once

#include "kernels/ops/math.hpp"
#include "kernels/ops/pack.hpp"

// The logit of numbers in [0, 1], as Real NVP's official code preprocesses images. Rows are pixels.

namespace evenflow::ops {

/// y = logit((1 + 0.9 (2u - 1)) / 2); sum: log dy/du.
template <class T>
struct LogitForward {
  static constexpr int sums = 1;
  const T* x;
  int64_t x_stride;
  T* y;
  int64_t y_stride;
  EVENFLOW_INLINE void prepare() {}
  EVENFLOW_INLINE void element(int64_t row, int64_t c, T* sum) const {
    compute<T>(x + row * x_stride + c, y + row * y_stride + c, sum, 1);
  }
  EVENFLOW_INLINE int inputs() const { return 1; }
  EVENFLOW_INLINE int outputs() const { return 1; }
  template <class Gather>
  EVENFLOW_INLINE void load_run(const Run& run, T* in, int64_t, const Gather& gather) const {
    gather(run, x, x_stride, 1, in);
  }
  template <class V>
  EVENFLOW_INLINE void compute(const T* in, T* out, T* sum, int64_t) const {
    const V p = T(0.05) + T(0.9) * loaded<V>(in), value = log(p) - log(T(1) - p);
    keep(softplus(value) + softplus(-value) + T(-0.10536051565782628), sum);  // log 0.9
    keep(value, out);
  }
  template <class Scatter>
  EVENFLOW_INLINE void store_run(const Run& run, const T* out, int64_t, const Scatter& scatter) const {
    scatter(run, out, y, y_stride, 1);
  }
};

/// u from y; sum: log du/dy.
template <class T>
struct LogitInverse {
  static constexpr int sums = 1;
  const T* y;
  int64_t y_stride;
  T* x;
  int64_t x_stride;
  EVENFLOW_INLINE void prepare() {}
  EVENFLOW_INLINE void element(int64_t row, int64_t c, T* sum) const {
    compute<T>(y + row * y_stride + c, x + row * x_stride + c, sum, 1);
  }
  EVENFLOW_INLINE int inputs() const { return 1; }
  EVENFLOW_INLINE int outputs() const { return 1; }
  template <class Gather>
  EVENFLOW_INLINE void load_run(const Run& run, T* in, int64_t, const Gather& gather) const {
    gather(run, y, y_stride, 1, in);
  }
  template <class V>
  EVENFLOW_INLINE void compute(const T* in, T* out, T* sum, int64_t) const {
    const V value = loaded<V>(in);
    keep(-(softplus(value) + softplus(-value) + T(-0.10536051565782628)), sum);
    keep((sigmoid(value) - T(0.05)) / T(0.9), out);
  }
  template <class Scatter>
  EVENFLOW_INLINE void store_run(const Run& run, const T* out, int64_t, const Scatter& scatter) const {
    scatter(run, out, x, x_stride, 1);
  }
};

/// u and the gradient by u, from y and the gradient by y. The derivative of log dy/du by y is tanh(y / 2).
template <class T>
struct LogitBackward {
  using Number = T;
  const T* y;
  int64_t y_stride;
  const T* dy;
  int64_t dy_stride;
  const double* dlogdet;
  int64_t rows_per_sample;
  T* x;
  int64_t x_stride;
  T* dx;
  int64_t dx_stride;
  EVENFLOW_INLINE bool packs(int n) const {
    return fits(n, y, y_stride) && fits(n, dy, dy_stride) && fits(n, x, x_stride) && fits(n, dx, dx_stride);
  }
  template <int n = 1>
  EVENFLOW_INLINE void operator()(int64_t row, int64_t c) const {
    const Pack<T, n> out = read<n>(y + row * y_stride + c), above = read<n>(dy + row * dy_stride + c);
    const T det = static_cast<T>(dlogdet[row / rows_per_sample]);
    Pack<T, n> in, din;
    for (int e = 0; e < n; ++e) {
      const T p = sigmoid(out.v[e]);
      const T slope = T(0.9) / (p * sigmoid(-out.v[e]));  // dy/du
      const T g = above.v[e] + det * tanh(out.v[e] / T(2));
      in.v[e] = (p - T(0.05)) / T(0.9);
      din.v[e] = g * slope;
    }
    write(in, x + row * x_stride + c);
    write(din, dx + row * dx_stride + c);
  }
};

/// dz = (dx - bend) / slope, the gradient of the inverse.
template <class T>
struct LogitPull {
  const T* dx;
  int64_t dx_stride;
  const T* bend;
  const T* slope;
  int64_t channels;
  T* dz;
  int64_t dz_stride;
  EVENFLOW_INLINE void operator()(int64_t row, int64_t c) const {
    const int64_t i = row * channels + c;
    dz[row * dz_stride + c] = (dx[row * dx_stride + c] - bend[i]) / slope[i];
  }
};

}  // namespace evenflow::ops
