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
  const T* slope_at = nullptr;  ///< where prepare() finds them; null: as they are
  const T* offset_at = nullptr;
  EVENFLOW_HD void prepare() {
    if (slope_at) slope = slope_at[0];
    if (offset_at) offset = offset_at[0];
  }
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

// An element of a coupling is loaded into `in`, computed without branches on data, and stored: in[i * step]
// are its inputs. Executors compute many elements at a time, or one; they call prepare() once before.

template <class T, class Law>
struct CouplingForward {
  static constexpr int inputs = 4;
  static constexpr int outputs = 1;
  static constexpr int sums = 1;  // log-det of the sample
  CouplingMap map;
  const T* x;
  int64_t x_stride;
  const T* h;
  int64_t h_stride;
  T* y;
  int64_t y_stride;
  Gain<T> gain;

  EVENFLOW_HD void prepare() { gain.prepare(); }
  EVENFLOW_HD void load(int64_t row, int64_t k, T* in, int64_t step) const {
    const T* raw = h + row * h_stride + k * map.h_step;
    in[0] = x[row * x_stride + k];
    in[step] = raw[0];
    in[2 * step] = Law::affine ? raw[map.r_offset] : T(0);
    in[3 * step] = map.active(row) ? T(1) : T(0);
  }
  EVENFLOW_HD void compute(const T* in, T* out, T* sum) const {
    const T t = Law::shift(in[1]);
    const LogScale<T> scale = Law::log_scale(in[2], gain);
    const T z = !Law::affine ? in[0] + t : Law::shift_first ? (in[0] + t) * scale.e : in[0] * scale.e + t;
    const bool active = in[3] > T(0);
    out[0] = active ? z : in[0];
    sum[0] = active ? scale.s : T(0);
  }
  EVENFLOW_HD void store(int64_t row, int64_t k, const T* out, int64_t) const {
    y[row * y_stride + k] = out[0];
  }
};

template <class T, class Law>
struct CouplingInverse {
  static constexpr int inputs = 4;
  static constexpr int outputs = 1;
  static constexpr int sums = 1;
  CouplingMap map;
  const T* z;
  int64_t z_stride;
  const T* h;
  int64_t h_stride;
  T* x;
  int64_t x_stride;
  Gain<T> gain;

  EVENFLOW_HD void prepare() { gain.prepare(); }
  EVENFLOW_HD void load(int64_t row, int64_t k, T* in, int64_t step) const {
    CouplingForward<T, Law>{map, z, z_stride, h, h_stride, x, x_stride, gain}.load(row, k, in, step);
  }
  EVENFLOW_HD void compute(const T* in, T* out, T* sum) const {
    const T t = Law::shift(in[1]);
    const LogScale<T> scale = Law::log_scale(in[2], gain);
    const T v = !Law::affine ? in[0] - t : Law::shift_first ? in[0] / scale.e - t : (in[0] - t) / scale.e;
    const bool active = in[3] > T(0);
    out[0] = active ? v : in[0];
    sum[0] = active ? -scale.s : T(0);
  }
  EVENFLOW_HD void store(int64_t row, int64_t k, const T* out, int64_t) const {
    x[row * x_stride + k] = out[0];
  }
};

/// Rebuilds x, writes dx and dh; sums: gradients of gain.slope and gain.offset, per sample.
template <class T, class Law>
struct CouplingBackward {
  static constexpr int inputs = 6;
  static constexpr int outputs = 4;
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

  EVENFLOW_HD void prepare() { gain.prepare(); }
  EVENFLOW_HD void load(int64_t row, int64_t k, T* in, int64_t step) const {
    CouplingForward<T, Law>{map, z, z_stride, h, h_stride, x, x_stride, gain}.load(row, k, in, step);
    in[4 * step] = dz[row * dz_stride + k];
    in[5 * step] = static_cast<T>(dlogdet[row / (map.width * map.height)]);
  }
  EVENFLOW_HD void compute(const T* in, T* out, T* sum) const {
    const T v = in[0], g = in[4];
    const T t = Law::shift(in[1]);
    const T dt_sign = Law::shift(T(1));
    const LogScale<T> scale = Law::log_scale(in[2], gain);
    const T scaled = Law::shift_first ? v : v - t;  // d z / d s
    const T rebuilt = !Law::affine ? v - t : Law::shift_first ? v / scale.e - t : scaled / scale.e;
    const T din = g * scale.e;
    const T ds = g * scaled + in[5];
    const bool active = in[3] > T(0);
    out[0] = active ? rebuilt : v;
    out[1] = active ? din : g;
    out[2] = active ? (Law::shift_first ? din : g) * dt_sign : T(0);
    out[3] = active ? ds * scale.ds_dr : T(0);
    sum[0] = active ? ds * scale.ds_dslope : T(0);
    sum[1] = active ? ds * scale.ds_doffset : T(0);
  }
  EVENFLOW_HD void store(int64_t row, int64_t k, const T* out, int64_t step) const {
    T* draw = dh + row * dh_stride + k * map.h_step;
    x[row * x_stride + k] = out[0];
    dx[row * dx_stride + k] = out[step];
    draw[0] = out[2 * step];
    if (Law::affine) draw[map.r_offset] = out[3 * step];
  }
};

}  // namespace evenflow::ops
