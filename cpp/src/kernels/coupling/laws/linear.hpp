#pragma once

#include "kernels/ops/math.hpp"

// What laws that are linear in x share. Their log-scale s is a function of a raw number r, which L::scale
// gives.

namespace evenflow::ops::laws {

/// s, e^s and ds/dr.
template <class V>
struct LogScale {
  V log, exp, ds_dr;
};

/// A point of such a law, and ds/dr there.
template <class V>
struct LinearPoint {
  V x, y, log, slope;
  V ds_dr;
};

/// y = (x + t) e^s, from either side.
template <class V>
EVENFLOW_INLINE LinearPoint<V> shifted_then_scaled(V x, V t, const LogScale<V>& s) {
  return {x, (x + t) * s.exp, s.log, s.exp, s.ds_dr};
}
template <class V>
EVENFLOW_INLINE LinearPoint<V> unscaled_then_shifted(V y, V t, const LogScale<V>& s) {
  return {y / s.exp - t, y, s.log, s.exp, s.ds_dr};
}

/// A law y = (x + t) e^s of two numbers t, r.
template <class L>
struct ShiftThenScale {
  static constexpr int shared = 0;
  EVENFLOW_INLINE int parameters() const { return 2; }

  template <class V>
  using Point = LinearPoint<V>;

  template <class V, class P>
  EVENFLOW_INLINE Point<V> at_input(V x, const P& p) const {
    return shifted_then_scaled(x, p(0), L::scale(p(1)));
  }
  template <class V, class P>
  EVENFLOW_INLINE Point<V> at_output(V y, const P& p) const {
    return unscaled_then_shifted(y, p(0), L::scale(p(1)));
  }
  template <class V, class P, class DP>
  EVENFLOW_INLINE V backward(const Point<V>& at, const P&, V dy, V dlog, const DP& dp, V*) const {
    const V dx = dy * at.slope;
    dp(0, dx);
    dp(1, (dy * at.y + dlog) * at.ds_dr);
    return dx;
  }
};

/// A law y = x e^s + t of two numbers t, r.
template <class L>
struct ScaleThenShift {
  static constexpr int shared = 0;
  EVENFLOW_INLINE int parameters() const { return 2; }

  template <class V>
  using Point = LinearPoint<V>;

  template <class V, class P>
  EVENFLOW_INLINE Point<V> at_input(V x, const P& p) const {
    const LogScale<V> s = L::scale(p(1));
    return {x, x * s.exp + p(0), s.log, s.exp, s.ds_dr};
  }
  template <class V, class P>
  EVENFLOW_INLINE Point<V> at_output(V y, const P& p) const {
    const LogScale<V> s = L::scale(p(1));
    return {(y - p(0)) / s.exp, y, s.log, s.exp, s.ds_dr};
  }
  template <class V, class P, class DP>
  EVENFLOW_INLINE V backward(const Point<V>& at, const P& p, V dy, V dlog, const DP& dp, V*) const {
    dp(0, dy);
    dp(1, (dy * (at.y - p(0)) + dlog) * at.ds_dr);
    return dy * at.slope;
  }
};

}  // namespace evenflow::ops::laws
