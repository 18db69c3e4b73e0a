#pragma once

#include "kernels/coupling/laws/linear.hpp"

namespace evenflow::ops::laws {

/// y = x e^s + t with e^s = min(softplus(r) + 1e-3, 3): the affine law of glasflow's RealNVP.
struct Softplus : ScaleThenShift<Softplus> {
  static constexpr const char* name = "softplus";
  static constexpr bool for_tables = true;

  template <class V>
  EVENFLOW_INLINE static LogScale<V> scale(V r) {
    const V most = V(3), e = softplus(r) + Element<V>(1e-3);
    const V kept = select(e > most, most, e);
    return {log(kept), kept, select(e > most, V(0), sigmoid(r) / e)};
  }
};

}  // namespace evenflow::ops::laws
