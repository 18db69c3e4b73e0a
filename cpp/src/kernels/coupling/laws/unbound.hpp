#pragma once

#include <limits>

#include "kernels/coupling/laws/fixed.hpp"

namespace evenflow::ops::laws {

/// y = log(x - low) - log(high - x), without the logarithm of a bound that is infinite; docs/math/bounds.md.
/// The numbers are low, high, log(high - low) or 0 where one is infinite, and the first and the last x of the
/// type between them. y is NaN where x is not between them.
struct Unbound : FixedLaw {
  EVENFLOW_INLINE int parameters() const { return 5; }

  template <class V>
  struct Point {
    V x, y, log, slope;
    V back;  ///< dx/dy
    V bend;  ///< d log(dy/dx) / dy
  };

  template <class V, class P>
  EVENFLOW_INLINE Point<V> at_input(V x, const P& p) const {
    const V above = x - p(0), below = p(1) - x, one = V(1);
    const V a = log(by_ends(p, above, above, one, one)), b = log(by_ends(p, below, one, below, one));
    Point<V> at = at_output(if_inside(x, p, by_ends(p, a - b, a - b, a - b, x)), p);
    at.x = x;
    at.log = if_inside(x, p, p(2) - a - b);
    return at;
  }
  template <class V, class P>
  EVENFLOW_INLINE Point<V> at_output(V y, const P& p) const {
    const V zero = V(0), one = V(1), away = by_ends(p, -abs_of(y), y, -y, zero), e = exp(away);
    const V share = by_ends(p, one / (one + e), one, one, one);
    const V near = e * share;
    const V distance = by_ends(p, V((p(1) - p(0)) * near), near, near, near);  // from the nearer bound
    const V from_low = p(0) + distance, from_high = p(1) - distance;
    const V x = by_ends(p, select(y < zero, from_low, from_high), from_low, from_high, y);
    const V back = distance * share, bend = (one - e) * select(y < zero, -share, share);
    // Rounding may have put x onto a bound. Beside a bound of 0 dx/dy may be too small to divide by.
    constexpr Element<V> least = std::numeric_limits<Element<V>>::min() * (1 << 20);
    Point<V> at;
    at.x = min_of(V(p(4)), max_of(V(p(3)), x));
    at.y = y;
    at.log = -by_ends(p, p(2) + away + 2 * log(share), away, away, zero);
    at.back = by_ends(p, max_of(back, V(least)), max_of(back, V(least)), max_of(back, V(least)), one);
    at.slope = one / at.back;
    at.bend = by_ends(p, bend, -one, one, zero);
    return at;
  }
  template <class V, class P, class DP>
  EVENFLOW_INLINE V backward(const Point<V>& at, const P&, V dy, V dlog, const DP&, V*) const {
    return (dy + dlog * at.bend) / at.back;
  }

 private:
  template <class V, class P>
  EVENFLOW_INLINE static V if_inside(V x, const P& p, V value) {
    const V none = V(std::numeric_limits<Element<V>>::quiet_NaN());
    return select(x > p(0), select(x < p(1), value, none), none);
  }

  /// The value for a column with both ends, with one of them, or with none.
  template <class V, class P>
  EVENFLOW_INLINE static V by_ends(const P& p, V both, V low, V high, V none) {
    const V infinity = V(std::numeric_limits<Element<V>>::infinity());
    return select(p(0) > -infinity, select(p(1) < infinity, both, low), select(p(1) < infinity, high, none));
  }
};

}  // namespace evenflow::ops::laws
