#pragma once

#include "kernels/ops/math.hpp"

// Coupling laws (Dinh et al. 2014, 2016; Kingma and Dhariwal 2018). A law maps the net's raw outputs (t, r)
// to a log-scale s and decides whether the shift comes before or after the scale.

namespace evenflow::ops {

/// Learned scalars of a law and their gradients.
template <class T>
struct Gain {
  T slope = T(1);
  T offset = T(0);
};

/// s and e^s, and what the chain rule needs: ds/dr, ds/dslope, ds/doffset.
template <class T>
struct LogScale {
  T s, e, ds_dr, ds_dslope, ds_doffset;
};

struct AdditiveLaw {
  static constexpr bool affine = false;
  static constexpr bool shift_first = true;
  template <class T>
  EVENFLOW_HD static T shift(T t) {
    return t;
  }
  template <class T>
  EVENFLOW_HD static LogScale<T> log_scale(T, Gain<T>) {
    return {T(0), T(1), T(0), T(0), T(0)};
  }
};

struct GlowLaw {
  static constexpr bool affine = true;
  static constexpr bool shift_first = true;
  template <class T>
  EVENFLOW_HD static T shift(T t) {
    return t;
  }
  template <class T>
  EVENFLOW_HD static LogScale<T> log_scale(T r, Gain<T>) {
    const T e = sigmoid(r + T(2));
    return {-softplus(-(r + T(2))), e, T(1) - e, T(0), T(0)};
  }
};

struct RealNvpLaw {
  static constexpr bool affine = true;
  static constexpr bool shift_first = true;
  template <class T>
  EVENFLOW_HD static T shift(T t) {
    return t;
  }
  template <class T>
  EVENFLOW_HD static LogScale<T> log_scale(T r, Gain<T> gain) {
    const T h = tanh(r);
    const T s = gain.slope * h + gain.offset;
    return {s, exp(s), gain.slope * (T(1) - h * h), h, T(1)};
  }
};

struct BoundedLaw {
  static constexpr bool affine = true;
  static constexpr bool shift_first = false;
  template <class T>
  EVENFLOW_HD static T shift(T t) {
    return t;
  }
  template <class T>
  EVENFLOW_HD static LogScale<T> log_scale(T r, Gain<T>) {
    const T bound = T(2);
    const T h = tanh(r / bound);
    return {bound * h, exp(bound * h), T(1) - h * h, T(0), T(0)};
  }
};

/// Standardises N(t, e^r).
struct GaussianLaw {
  static constexpr bool affine = true;
  static constexpr bool shift_first = true;
  template <class T>
  EVENFLOW_HD static T shift(T t) {
    return -t;
  }
  template <class T>
  EVENFLOW_HD static LogScale<T> log_scale(T r, Gain<T>) {
    return {-r, exp(-r), T(-1), T(0), T(0)};
  }
};

/// Where the elements of a coupling are. Rows are pixels. `x` arguments point at the first changed channel.
struct CouplingMap {
  int64_t width = 1;  ///< pixels in a line of the image
  int64_t height = 1;
  int64_t count = 0;     ///< changed channels
  int64_t h_step = 1;    ///< from one shift to the next in h
  int64_t r_offset = 0;  ///< from a shift to its raw log-scale in h
  int parity = -1;       ///< checkerboards: (i + j) % 2 of changed pixels; -1: every pixel

  EVENFLOW_HD bool active(int64_t row) const {
    if (parity < 0) return true;
    const int64_t i = row / width % height, j = row % width;
    return ((i + j) & 1) == parity;
  }
};

template <class T, class Law>
struct CouplingForward {
  static constexpr int sums = 1;  // log-det of the sample
  CouplingMap map;
  const T* x;
  int64_t x_stride;
  const T* h;
  int64_t h_stride;
  T* y;
  int64_t y_stride;
  Gain<T> gain;

  EVENFLOW_HD void operator()(int64_t row, int64_t k, double* sum) const {
    const T in = x[row * x_stride + k];
    T& out = y[row * y_stride + k];
    if (!map.active(row)) {
      out = in;
      return;
    }
    const T* raw = h + row * h_stride + k * map.h_step;
    const T t = Law::shift(raw[0]);
    if (!Law::affine) {
      out = in + t;
      return;
    }
    const LogScale<T> scale = Law::log_scale(raw[map.r_offset], gain);
    out = Law::shift_first ? (in + t) * scale.e : in * scale.e + t;
    sum[0] += scale.s;
  }
};

template <class T, class Law>
struct CouplingInverse {
  static constexpr int sums = 1;
  CouplingMap map;
  const T* z;
  int64_t z_stride;
  const T* h;
  int64_t h_stride;
  T* x;
  int64_t x_stride;
  Gain<T> gain;

  EVENFLOW_HD void operator()(int64_t row, int64_t k, double* sum) const {
    const T in = z[row * z_stride + k];
    T& out = x[row * x_stride + k];
    if (!map.active(row)) {
      out = in;
      return;
    }
    const T* raw = h + row * h_stride + k * map.h_step;
    const T t = Law::shift(raw[0]);
    if (!Law::affine) {
      out = in - t;
      return;
    }
    const LogScale<T> scale = Law::log_scale(raw[map.r_offset], gain);
    out = Law::shift_first ? in / scale.e - t : (in - t) / scale.e;
    sum[0] -= scale.s;
  }
};

/// Rebuilds x, writes dx and dh; sums: gradients of gain.slope and gain.offset, per sample.
template <class T, class Law>
struct CouplingBackward {
  static constexpr int sums = 2;
  CouplingMap map;
  const T* z;
  int64_t z_stride;
  const T* dz;
  int64_t dz_stride;
  const double* dlogdet;
  const T* h;
  int64_t h_stride;
  T* x;
  int64_t x_stride;
  T* dx;
  int64_t dx_stride;
  T* dh;
  int64_t dh_stride;
  Gain<T> gain;

  EVENFLOW_HD void operator()(int64_t row, int64_t k, double* sum) const {
    const T out = z[row * z_stride + k];
    const T g = dz[row * dz_stride + k];
    T& in = x[row * x_stride + k];
    T& din = dx[row * dx_stride + k];
    T* draw = dh + row * dh_stride + k * map.h_step;
    if (!map.active(row)) {
      in = out;
      din = g;
      draw[0] = T(0);
      if (Law::affine) draw[map.r_offset] = T(0);
      return;
    }
    const T* raw = h + row * h_stride + k * map.h_step;
    const T t = Law::shift(raw[0]);
    const T dt_sign = Law::shift(T(1));
    if (!Law::affine) {
      in = out - t;
      din = g;
      draw[0] = g * dt_sign;
      return;
    }
    const LogScale<T> scale = Law::log_scale(raw[map.r_offset], gain);
    const T scaled = Law::shift_first ? out : out - t;  // d z / d s
    in = Law::shift_first ? out / scale.e - t : scaled / scale.e;
    din = g * scale.e;
    draw[0] = (Law::shift_first ? din : g) * dt_sign;
    const T ds = g * scaled + static_cast<T>(dlogdet[row / (map.width * map.height)]);
    draw[map.r_offset] = ds * scale.ds_dr;
    sum[0] += ds * scale.ds_dslope;
    sum[1] += ds * scale.ds_doffset;
  }
};

}  // namespace evenflow::ops
