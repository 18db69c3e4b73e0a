#pragma once

#include <cstdint>

#include "kernels/ops/inline.hpp"

namespace evenflow::ops {

/// x = value.
template <class U>
struct Fill {
  U value;
  U* x;
  EVENFLOW_INLINE void operator()(int64_t, int64_t i) const { x[i] = value; }
};

}  // namespace evenflow::ops
