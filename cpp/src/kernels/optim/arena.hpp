#pragma once

#include <cstdint>

#include "kernels/ops/inline.hpp"

// What is done with all parameters or gradients at once, besides an optimiser's update.

namespace evenflow::ops {

/// average += rate (x - average).
template <class T>
struct Average {
  const T* x;
  T rate;
  T* average;
  EVENFLOW_INLINE void operator()(int64_t, int64_t i) const { average[i] += rate * (x[i] - average[i]); }
};

/// The sum of x^2.
template <class T>
struct SumSquares {
  const T* x;
  EVENFLOW_INLINE double operator()(int64_t, int64_t i) const {
    return static_cast<double>(x[i]) * static_cast<double>(x[i]);
  }
};

}  // namespace evenflow::ops
