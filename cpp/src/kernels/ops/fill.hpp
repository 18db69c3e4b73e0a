#pragma once

#include "kernels/ops/pack.hpp"

namespace evenflow::ops {

/// x = value.
template <class U>
struct Fill {
  using Number = U;
  U value;
  U* x;
  EVENFLOW_INLINE bool packs(int n) const { return fits(n, x); }
  template <int n = 1>
  EVENFLOW_INLINE void operator()(int64_t, int64_t i) const {
    Pack<U, n> v;
    for (int e = 0; e < n; ++e) v.v[e] = value;
    write(v, x + i);
  }
};

}  // namespace evenflow::ops
