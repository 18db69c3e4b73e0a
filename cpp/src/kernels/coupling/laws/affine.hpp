#pragma once

#include "kernels/coupling/laws/linear.hpp"

namespace evenflow::ops::laws {

/// y = x e^s + t with s = 2 tanh(r / 2): log-scales within +-2.
struct Affine {
  static constexpr const char* name = "affine";
  static constexpr bool for_tables = true;
  static constexpr int shared = 0;
  EVENFLOW_INLINE int parameters() const { return 2; }

  template <class V>
  using Point = LinearPoint<V>;

  template <class V>
  EVENFLOW_INLINE static LogScale<V> scale(V r) {
    const V h = tanh(r / 2), s = 2 * h;
    return {s, exp(s), 1 - h * h};
  }
  template <class V, class P>
  EVENFLOW_INLINE Point<V> at_input(V x, const P& p) const {
    const LogScale<V> s = scale(p(1));
    return {x, x * s.exp + p(0), s.log, s.exp, s.ds_dr};
  }
  template <class V, class P>
  EVENFLOW_INLINE Point<V> at_output(V y, const P& p) const {
    const LogScale<V> s = scale(p(1));
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
