#pragma once

#include "kernels/coupling/laws/linear.hpp"

namespace evenflow::ops::laws {

/// y = (x + t) e^r, of any scale: the affine law of normflows, from data to latents.
struct Exp : ShiftThenScale<Exp> {
  static constexpr const char* name = "exp";
  static constexpr bool for_tables = true;

  template <class V>
  EVENFLOW_INLINE static LogScale<V> scale(V r) {
    return {r, exp(r), V(1)};
  }
};

}  // namespace evenflow::ops::laws
