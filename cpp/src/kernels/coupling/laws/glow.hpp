#pragma once

#include "kernels/coupling/laws/linear.hpp"

namespace evenflow::ops::laws {

/// y = (x + t) sigmoid(r + 2) (Kingma and Dhariwal 2018, official code).
struct Glow {
  static constexpr const char* name = "glow";
  static constexpr bool for_tables = false;
  static constexpr int shared = 0;
  EVENFLOW_INLINE int parameters() const { return 2; }

  template <class V>
  using Point = LinearPoint<V>;

  template <class V>
  EVENFLOW_INLINE static LogScale<V> scale(V r) {
    const V e = sigmoid(r + 2);
    return {-softplus(-(r + 2)), e, 1 - e};
  }
  template <class V, class P>
  EVENFLOW_INLINE Point<V> at_input(V x, const P& p) const {
    return shifted_then_scaled(x, p(0), scale(p(1)));
  }
  template <class V, class P>
  EVENFLOW_INLINE Point<V> at_output(V y, const P& p) const {
    return unscaled_then_shifted(y, p(0), scale(p(1)));
  }
  template <class V, class P, class DP>
  EVENFLOW_INLINE V backward(const Point<V>& at, const P&, V dy, V dlog, const DP& dp, V*) const {
    const V dx = dy * at.slope;
    dp(0, dx);
    dp(1, (dy * at.y + dlog) * at.ds_dr);
    return dx;
  }
};

}  // namespace evenflow::ops::laws
