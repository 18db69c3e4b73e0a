#pragma once

#include "kernels/ops/math.hpp"

// What laws that are linear in x share. Their log-scale s is a function of a raw number r.

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

}  // namespace evenflow::ops::laws
