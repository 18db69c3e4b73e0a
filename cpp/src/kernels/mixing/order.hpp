#pragma once

#include <cstdint>
#include <limits>

#include "kernels/ops/inline.hpp"

// Orders of channels.

namespace evenflow::ops {

/// order[from[c]] = c: the inverse of an order of n channels. `order` starts as -1 everywhere. Skips
/// fractions and numbers outside 0 ... n - 1, so that a `from` that is no permutation leaves a -1.
template <class From>
struct InvertOrder {
  const From* from;
  int64_t n;
  int32_t* order;
  EVENFLOW_INLINE void operator()(int64_t, int64_t c) const {
    const From value = from[c];
    if (!(value >= From(0) && value < static_cast<From>(n))) return;
    const int32_t channel = static_cast<int32_t>(value);
    if (static_cast<From>(channel) == value) order[channel] = static_cast<int32_t>(c);
  }
};

/// y[row, c] = x[row, order[c]], or NaN where the order is -1.
template <class T>
struct GatherChannels {
  const T* x;
  int64_t x_stride;
  const int32_t* order;
  T* y;
  int64_t y_stride;
  EVENFLOW_INLINE void operator()(int64_t row, int64_t c) const {
    y[row * y_stride + c] = order[c] < 0 ? std::numeric_limits<T>::quiet_NaN() : x[row * x_stride + order[c]];
  }
};

}  // namespace evenflow::ops
