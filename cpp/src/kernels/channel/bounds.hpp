#pragma once

#include <cmath>
#include <limits>

#include "kernels/channel/kernels.hpp"
#include "kernels/ops/math.hpp"
#include "kernels/ops/pack.hpp"

// Maps bounded columns to unbounded ones: y = log(x - low) - log(high - x), without the logarithm of a bound
// that is infinite; docs/math/bounds.md.

namespace evenflow::ops {

EVENFLOW_INLINE double next_after(double from, double to) {
  return ::nextafter(from, to);
}
EVENFLOW_INLINE float next_after(float from, float to) {
  return ::nextafterf(from, to);
}

/// The bounds of one column.
template <class T>
struct Interval {
  T low, high, log_width;
  EVENFLOW_INLINE bool has_low() const { return low > -std::numeric_limits<T>::infinity(); }
  EVENFLOW_INLINE bool has_high() const { return high < std::numeric_limits<T>::infinity(); }
  EVENFLOW_INLINE bool holds(T x) const { return x > low && x < high; }
  /// x, or the number next to a bound, on the inside, where x is not inside of it. NaN stays NaN.
  EVENFLOW_INLINE T nearest(T x) const {
    if (x <= low && has_low()) return next_after(low, high);
    if (x >= high && has_high()) return next_after(high, low);
    return x;
  }
};

template <class T>
EVENFLOW_INLINE Interval<T> interval(const ColumnBounds<T>& bounds, int64_t c) {
  return {bounds.low[c], bounds.high[c], bounds.log_width[c]};
}

/// y and log dy/dx at x. Both are NaN where x does not lie between the bounds.
template <class T>
EVENFLOW_INLINE void to_unbounded(T x, const Interval<T>& in, T* y, T* log_slope) {
  const bool low = in.has_low(), high = in.has_high(), inside = in.holds(x);
  const T a = log(low ? x - in.low : T(1)), b = log(high ? in.high - x : T(1));
  *y = !inside ? std::numeric_limits<T>::quiet_NaN() : low || high ? a - b : x;
  *log_slope = inside ? in.log_width - a - b : std::numeric_limits<T>::quiet_NaN();
}

/// What follows from y.
template <class T>
struct FromUnbounded {
  T x;      ///< may be rounded onto a bound; Interval::nearest moves it inside
  T slope;  ///< dx/dy
  T log_slope;
  T bend;  ///< d log(dy/dx) / dy

  EVENFLOW_INLINE FromUnbounded(T y, const Interval<T>& in) {
    const bool low = in.has_low(), high = in.has_high(), both = low && high;
    const T away = both ? -abs_of(y) : low ? y : -y;
    const T e = exp(away), share = both ? T(1) / (T(1) + e) : T(1);
    const T width = both ? in.high - in.low : T(1);
    const T distance = width * (e * share);  // from the bound that x is nearer to
    x = low && (!both || y < T(0)) ? in.low + distance : in.high - distance;
    slope = distance * share;
    log_slope = both ? in.log_width + away + T(2) * log(share) : away;
    bend = both ? (T(1) - e) * (y < T(0) ? -share : share) : low ? T(-1) : T(1);
    if (low || high) return;
    x = y;
    slope = T(1);
    log_slope = bend = T(0);
  }
};

/// y = x within [0, 1], NaN elsewhere.
template <class T>
struct KeepInBox {
  const T* x;
  int64_t x_stride;
  T* y;
  int64_t y_stride;
  EVENFLOW_INLINE void operator()(int64_t row, int64_t c) const {
    const T value = x[row * x_stride + c];
    y[row * y_stride + c] = value >= T(0) && value <= T(1) ? value : std::numeric_limits<T>::quiet_NaN();
  }
};

/// x -> y, sum: log dy/dx; with inverse y -> x, sum: log dx/dy.
template <class T, bool inverse>
struct BoundsMap {
  static constexpr int sums = 1;
  ColumnBounds<T> bounds;
  const T* from;
  int64_t from_stride;
  T* to;
  int64_t to_stride;
  EVENFLOW_INLINE void prepare() {}
  EVENFLOW_INLINE void element(int64_t row, int64_t c, T* sum) const {
    T value;
    apply(from[row * from_stride + c], interval(bounds, c), &value, sum);
    to[row * to_stride + c] = inverse ? interval(bounds, c).nearest(value) : value;
  }
  EVENFLOW_INLINE int inputs() const { return 4; }
  EVENFLOW_INLINE int outputs() const { return 1; }
  template <class Gather>
  EVENFLOW_INLINE void load_run(const Run& run, T* in, int64_t room, const Gather& gather) const {
    gather(run, from, from_stride, 1, in);
    gather(run, bounds.low, 0, 1, in + room);
    gather(run, bounds.high, 0, 1, in + 2 * room);
    gather(run, bounds.log_width, 0, 1, in + 3 * room);
  }
  template <class V>
  EVENFLOW_INLINE void compute(const T* in, T* out, T* sum, int64_t room) const {
    constexpr int kLanes = sizeof(V) / sizeof(T);
#pragma GCC ivdep
    for (int e = 0; e < kLanes; ++e) {
      T value, log_slope;
      apply(in[e], {in[room + e], in[2 * room + e], in[3 * room + e]}, &value, &log_slope);
      out[e] = value;
      sum[e] = log_slope;
    }
  }
  template <class Scatter>
  EVENFLOW_INLINE void store_run(const Run& run, const T* out, int64_t, const Scatter& scatter) const {
    if (!inverse) return scatter(run, out, to, to_stride, 1);
    T values[Run::kMost];
    for (int64_t e = 0; e < run.count; ++e) {
      values[e] = interval(bounds, (run.col + e) % run.cols).nearest(out[e]);
    }
    scatter(run, values, to, to_stride, 1);
  }

 private:
  EVENFLOW_INLINE static void apply(T value, const Interval<T>& ends, T* out, T* log_slope) {
    if constexpr (inverse) {
      const FromUnbounded<T> of(value, ends);
      *out = of.x;
      *log_slope = of.log_slope;
    } else {
      to_unbounded(value, ends, out, log_slope);
    }
  }
};

/// From y and the gradient by y: x and the gradient by x. With inverse: from y and the gradient by x, the
/// gradient by y, for a loss of the inverse and of its log-determinant. x may be null.
template <class T>
struct BoundsBackward {
  using Number = T;
  ColumnBounds<T> bounds;
  bool inverse;
  const T* y;
  int64_t y_stride;
  const T* from;
  int64_t from_stride;
  const double* dlogdet;
  int64_t rows_per_sample;
  T* x;
  int64_t x_stride;
  T* to;
  int64_t to_stride;
  EVENFLOW_INLINE bool packs(int n) const {
    return fits(n, y, y_stride) && fits(n, from, from_stride) && fits(n, x, x_stride) &&
           fits(n, to, to_stride);
  }
  template <int n = 1>
  EVENFLOW_INLINE void operator()(int64_t row, int64_t c) const {
    const Pack<T, n> out = read<n>(y + row * y_stride + c), given = read<n>(from + row * from_stride + c);
    const T det = static_cast<T>(dlogdet[row / rows_per_sample]);
    Pack<T, n> in, wanted;
    for (int e = 0; e < n; ++e) {
      const Interval<T> ends = interval(bounds, c + e);
      const FromUnbounded<T> of(out.v[e], ends);
      const T bent = det * of.bend;
      in.v[e] = ends.nearest(of.x);
      wanted.v[e] = inverse ? given.v[e] * of.slope - bent : (given.v[e] + bent) / of.slope;
    }
    if (x) write(in, x + row * x_stride + c);
    write(wanted, to + row * to_stride + c);
  }
};

}  // namespace evenflow::ops
