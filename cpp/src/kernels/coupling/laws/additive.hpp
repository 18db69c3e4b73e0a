#pragma once

#include "kernels/ops/math.hpp"

namespace evenflow::ops::laws {

/// y = x + t (Dinh, Krueger and Bengio 2014).
struct Additive {
  static constexpr const char* name = "additive";
  static constexpr bool for_tables = true;
  static constexpr int shared = 0;
  EVENFLOW_INLINE int parameters() const { return 1; }

  template <class V>
  struct Point {
    V x, y, log, slope;
  };

  template <class V, class P>
  EVENFLOW_INLINE Point<V> at_input(V x, const P& p) const {
    return {x, x + p(0), V(0), V(1)};
  }
  template <class V, class P>
  EVENFLOW_INLINE Point<V> at_output(V y, const P& p) const {
    return {y - p(0), y, V(0), V(1)};
  }
  template <class V, class P, class DP>
  EVENFLOW_INLINE V backward(const Point<V>&, const P&, V dy, V, const DP& dp, V*) const {
    dp(0, dy);
    return dy;
  }
};

}  // namespace evenflow::ops::laws
