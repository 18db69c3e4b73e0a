#pragma once

#include "kernels/coupling/laws/linear.hpp"

namespace evenflow::ops::laws {

/// y = x e^s + t with e^s = sigmoid(r + 2) + 1e-3: the affine law of nflows (Durkan et al. 2019).
struct Sigmoid : ScaleThenShift<Sigmoid> {
  static constexpr const char* name = "sigmoid";
  static constexpr bool for_tables = true;

  template <class V>
  EVENFLOW_INLINE static LogScale<V> scale(V r) {
    const V h = sigmoid(r + 2), e = h + Element<V>(1e-3);
    return {log(e), e, h * (1 - h) / e};
  }
};

}  // namespace evenflow::ops::laws
