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
  template <class G>
  EVENFLOW_INLINE void each_array(const G& g) const {
    g(x, 0), g(average, 0);
  }
  EVENFLOW_INLINE T* target() const { return average; }
  EVENFLOW_INLINE T next(int64_t i) const { return average[i] + rate * (x[i] - average[i]); }
};

/// The sum of x^2.
template <class T>
struct SumSquares {
  const T* x;
  template <class G>
  EVENFLOW_INLINE void each_array(const G& g) const {
    g(x, 0);
  }
  EVENFLOW_INLINE double operator()(int64_t, int64_t i) const {
    return static_cast<double>(x[i]) * static_cast<double>(x[i]);
  }
};

}  // namespace evenflow::ops
