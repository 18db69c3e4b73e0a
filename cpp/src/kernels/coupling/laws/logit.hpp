#pragma once

#include "kernels/coupling/laws/fixed.hpp"

namespace evenflow::ops::laws {

/// y = logit((1 + 0.9 (2x - 1)) / 2) of x in [0, 1], as Real NVP's official code preprocesses images.
struct Logit : FixedLaw {
  EVENFLOW_INLINE int parameters() const { return 0; }

  template <class V>
  struct Point {
    V x, y, log, slope;
  };

  template <class V, class P>
  EVENFLOW_INLINE Point<V> at_input(V x, const P&) const {
    using E = Element<V>;
    const V p = E(0.05) + E(0.9) * x;
    return point(x, log(p) - log(1 - p));
  }
  template <class V, class P>
  EVENFLOW_INLINE Point<V> at_output(V y, const P&) const {
    using E = Element<V>;
    return point((sigmoid(y) - E(0.05)) / E(0.9), y);
  }
  template <class V, class P, class DP>
  EVENFLOW_INLINE V backward(const Point<V>& at, const P&, V dy, V dlog, const DP&, V*) const {
    return (dy + dlog * tanh(at.y / 2)) * at.slope;
  }

 private:
  template <class V>
  EVENFLOW_INLINE static Point<V> point(V x, V y) {
    using E = Element<V>;
    const E log_share = E(-0.10536051565782628);  // log 0.9
    return {x, y, softplus(y) + softplus(-y) + log_share, E(0.9) / (sigmoid(y) * sigmoid(-y))};
  }
};

}  // namespace evenflow::ops::laws
