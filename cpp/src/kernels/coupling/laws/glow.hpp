#pragma once

#include "kernels/coupling/laws/linear.hpp"

namespace evenflow::ops::laws {

/// y = (x + t) sigmoid(r + 2) (Kingma and Dhariwal 2018, official code).
struct Glow : ShiftThenScale<Glow> {
  static constexpr const char* name = "glow";
  static constexpr bool for_tables = true;

  template <class V>
  EVENFLOW_INLINE static LogScale<V> scale(V r) {
    const V e = sigmoid(r + 2);
    return {-softplus(-(r + 2)), e, 1 - e};
  }
};

}  // namespace evenflow::ops::laws
