#pragma once

#include "kernels/ops/checkerboard.hpp"
#include "kernels/ops/math.hpp"
#include "kernels/ops/pack.hpp"

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

/// Standardises N(t, e^2r), e^2r the variance.
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

/// A net's outputs for n changed channels.
template <class T, int n>
struct RawOutputs {
  Pack<T, n> t, r;
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
    return on_parity(row, width, height, parity);
  }

  /// Whose pixel that is. A division takes as long as the rest of a row.
  EVENFLOW_HD int64_t sample(int64_t row) const {
    const int64_t pixels = width * height;
    return pixels == 1 ? row : row / pixels;
  }

  /// Whether h has n shifts side by side, and n log-scales; or they take turns.
  template <class T>
  EVENFLOW_HD bool packs(int n, const T* h, int64_t h_stride) const {
    return fits(n, h, h_stride) && (h_step == 1 ? r_offset % n == 0 : h_step == 2 && r_offset == 1);
  }
  template <int n, class T>
  EVENFLOW_HD RawOutputs<T, n> read_h(const T* raw) const {
    if constexpr (n > 1) {
      if (h_step == 2) {
        T both[2 * n];
        put(read<n>(raw), both);
        put(read<n>(raw + n), both + n);
        RawOutputs<T, n> out;
        for (int e = 0; e < n; ++e) {
          out.t.v[e] = both[2 * e];
          out.r.v[e] = both[2 * e + 1];
        }
        return out;
      }
    }
    return {read<n>(raw), read<n>(raw + r_offset)};
  }
  template <bool affine, int n, class T>
  EVENFLOW_HD void write_h(const RawOutputs<T, n>& from, T* raw) const {
    if constexpr (n > 1) {
      if (h_step == 2) {
        T both[2 * n];
        for (int e = 0; e < n; ++e) {
          both[2 * e] = from.t.v[e];
          both[2 * e + 1] = from.r.v[e];
        }
        write(pack_of<n>(both), raw);
        write(pack_of<n>(both + n), raw + n);
        return;
      }
    }
    write(from.t, raw);
    if (affine) write(from.r, raw + r_offset);
  }
};

// An element of a coupling is loaded into `in`, computed without branches on data, and stored: in[i * step]
// are its inputs, and in[i * step + e] those of the e-th of n neighbours. Executors compute many elements at
// a time, or one; they call prepare() once before. Of a run of elements, arrays are loaded and stored one
// after the other: gather(run, from, stride, step, to) and scatter(run, from, to, stride, step), where column
// c of row r is stride * r + step * c numbers on.

/// Values of rows, one for each element of a run.
template <class T, class Value, class Gather>
EVENFLOW_HD void spread(const Run& run, const Value& value, T* to, const Gather& gather) {
  T values[Run::kMost];
  const int64_t rows = (run.col + run.count + run.cols - 1) / run.cols;
  for (int64_t i = 0; i < rows; ++i) values[i] = value(run.row + i);
  gather(Run{0, run.col, run.cols, run.count}, values, 1, 0, to);
}

template <class T, class Law>
struct CouplingForward {
  using Number = T;
  static constexpr bool halves = true, runs = true;
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
  EVENFLOW_HD bool packs(int n) const {
    return fits(n, x, x_stride) && fits(n, y, y_stride) && map.packs(n, h, h_stride);
  }
  template <int n = 1>
  EVENFLOW_HD void load(int64_t row, int64_t k, T* in, int64_t step) const {
    const Pack<T, n> v = read<n>(x + row * x_stride + k);
    const RawOutputs<T, n> raw = map.template read_h<n>(h + row * h_stride + k * map.h_step);
    const T active = map.active(row) ? T(1) : T(0);
    for (int e = 0; e < n; ++e) {
      in[e] = v.v[e];
      in[step + e] = raw.t.v[e];
      in[2 * step + e] = Law::affine ? raw.r.v[e] : T(0);
      in[3 * step + e] = active;
    }
  }
  template <class Gather>
  EVENFLOW_HD void load_run(const Run& run, T* in, int64_t room, const Gather& gather) const {
    gather(run, x, x_stride, 1, in);
    gather(run, h, h_stride, map.h_step, in + room);
    const T none = T(0), all = T(1);
    if constexpr (Law::affine) {
      gather(run, h + map.r_offset, h_stride, map.h_step, in + 2 * room);
    } else {
      gather(run, &none, 0, 0, in + 2 * room);
    }
    if (map.parity < 0) return gather(run, &all, 0, 0, in + 3 * room);
    spread<T>(run, [&](int64_t row) { return map.active(row) ? T(1) : T(0); }, in + 3 * room, gather);
  }
  EVENFLOW_HD void compute(const T* in, T* out, T* sum) const {
    const T t = Law::shift(in[1]);
    const LogScale<T> scale = Law::log_scale(in[2], gain);
    const T z = !Law::affine ? in[0] + t : Law::shift_first ? (in[0] + t) * scale.e : in[0] * scale.e + t;
    const bool active = in[3] > T(0);
    out[0] = active ? z : in[0];
    sum[0] = active ? scale.s : T(0);
  }
  template <int n = 1>
  EVENFLOW_HD void store(int64_t row, int64_t k, const T* out, int64_t) const {
    write(pack_of<n>(out), y + row * y_stride + k);
  }
  template <class Scatter>
  EVENFLOW_HD void store_run(const Run& run, const T* out, int64_t, const Scatter& scatter) const {
    scatter(run, out, y, y_stride, 1);
  }
};

template <class T, class Law>
struct CouplingInverse {
  using Number = T;
  static constexpr bool halves = true, runs = true;
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
  EVENFLOW_HD bool packs(int n) const {
    return fits(n, z, z_stride) && fits(n, x, x_stride) && map.packs(n, h, h_stride);
  }
  template <int n = 1>
  EVENFLOW_HD void load(int64_t row, int64_t k, T* in, int64_t step) const {
    CouplingForward<T, Law>{map, z, z_stride, h, h_stride, x, x_stride, gain}.template load<n>(row, k, in,
                                                                                               step);
  }
  template <class Gather>
  EVENFLOW_HD void load_run(const Run& run, T* in, int64_t room, const Gather& gather) const {
    CouplingForward<T, Law>{map, z, z_stride, h, h_stride, x, x_stride, gain}.load_run(run, in, room, gather);
  }
  EVENFLOW_HD void compute(const T* in, T* out, T* sum) const {
    const T t = Law::shift(in[1]);
    const LogScale<T> scale = Law::log_scale(in[2], gain);
    const T v = !Law::affine ? in[0] - t : Law::shift_first ? in[0] / scale.e - t : (in[0] - t) / scale.e;
    const bool active = in[3] > T(0);
    out[0] = active ? v : in[0];
    sum[0] = active ? -scale.s : T(0);
  }
  template <int n = 1>
  EVENFLOW_HD void store(int64_t row, int64_t k, const T* out, int64_t) const {
    write(pack_of<n>(out), x + row * x_stride + k);
  }
  template <class Scatter>
  EVENFLOW_HD void store_run(const Run& run, const T* out, int64_t, const Scatter& scatter) const {
    scatter(run, out, x, x_stride, 1);
  }
};

/// Rebuilds x, writes dx and dh; sums: gradients of gain.slope and gain.offset, per sample.
template <class T, class Law>
struct CouplingBackward {
  using Number = T;
  static constexpr bool halves = true, runs = true;
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
  EVENFLOW_HD bool packs(int n) const {
    return fits(n, z, z_stride) && fits(n, dz, dz_stride) && fits(n, x, x_stride) && fits(n, dx, dx_stride) &&
           map.packs(n, h, h_stride) && map.packs(n, dh, dh_stride);
  }
  template <int n = 1>
  EVENFLOW_HD void load(int64_t row, int64_t k, T* in, int64_t step) const {
    CouplingForward<T, Law>{map, z, z_stride, h, h_stride, x, x_stride, gain}.template load<n>(row, k, in,
                                                                                               step);
    const Pack<T, n> g = read<n>(dz + row * dz_stride + k);
    const T slope = static_cast<T>(dlogdet[map.sample(row)]);
    for (int e = 0; e < n; ++e) {
      in[4 * step + e] = g.v[e];
      in[5 * step + e] = slope;
    }
  }
  template <class Gather>
  EVENFLOW_HD void load_run(const Run& run, T* in, int64_t room, const Gather& gather) const {
    CouplingForward<T, Law>{map, z, z_stride, h, h_stride, x, x_stride, gain}.load_run(run, in, room, gather);
    gather(run, dz, dz_stride, 1, in + 4 * room);
    if (map.width * map.height == 1) return gather(run, dlogdet, 1, 0, in + 5 * room);
    spread<T>(
        run, [&](int64_t row) { return static_cast<T>(dlogdet[map.sample(row)]); }, in + 5 * room, gather);
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
  template <int n = 1>
  EVENFLOW_HD void store(int64_t row, int64_t k, const T* out, int64_t step) const {
    write(pack_of<n>(out), x + row * x_stride + k);
    write(pack_of<n>(out + step), dx + row * dx_stride + k);
    map.template write_h<Law::affine, n>({pack_of<n>(out + 2 * step), pack_of<n>(out + 3 * step)},
                                         dh + row * dh_stride + k * map.h_step);
  }
  template <class Scatter>
  EVENFLOW_HD void store_run(const Run& run, const T* out, int64_t room, const Scatter& scatter) const {
    scatter(run, out, x, x_stride, 1);
    scatter(run, out + room, dx, dx_stride, 1);
    scatter(run, out + 2 * room, dh, dh_stride, map.h_step);
    if constexpr (Law::affine) scatter(run, out + 3 * room, dh + map.r_offset, dh_stride, map.h_step);
  }
};

}  // namespace evenflow::ops
