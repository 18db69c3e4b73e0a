#pragma once

#include <limits>

#include "kernels/coupling/laws/fixed.hpp"

namespace evenflow::ops::laws {

/// y = x in [0, 1], and NaN elsewhere.
struct UnitBox : FixedLaw {
  EVENFLOW_INLINE int parameters() const { return 0; }

  template <class V>
  struct Point {
    V x, y, log, slope;
  };

  template <class V, class P>
  EVENFLOW_INLINE Point<V> at_input(V x, const P&) const {
    const V none = V(std::numeric_limits<Element<V>>::quiet_NaN());
    const V kept = select(x >= V(0), select(x <= V(1), x, none), none);
    return {kept, kept, V(0), V(1)};
  }
  template <class V, class P>
  EVENFLOW_INLINE Point<V> at_output(V y, const P& p) const {
    return at_input(y, p);
  }
  template <class V, class P, class DP>
  EVENFLOW_INLINE V backward(const Point<V>&, const P&, V dy, V, const DP&, V*) const {
    return dy;
  }
};

}  // namespace evenflow::ops::laws
