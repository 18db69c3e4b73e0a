#pragma once

#include "kernels/coupling/laws/linear.hpp"

namespace evenflow::ops::laws {

/// y = x e^s + t with s = 2 tanh(r / 2): log-scales within +-2.
struct Affine : ScaleThenShift<Affine> {
  static constexpr const char* name = "affine";
  static constexpr bool for_tables = true;

  template <class V>
  EVENFLOW_INLINE static LogScale<V> scale(V r) {
    const V h = tanh(r / 2), s = 2 * h;
    return {s, exp(s), 1 - h * h};
  }
};

}  // namespace evenflow::ops::laws
