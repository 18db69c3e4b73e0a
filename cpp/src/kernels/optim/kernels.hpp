#pragma once

#include "evenflow/context.hpp"
#include "evenflow/optim.hpp"
#include "evenflow/types.hpp"
#include "kernels/ops/inline.hpp"

namespace evenflow {

/// An optimiser's work on the flat arena, and what tells whether a step's results can be used.
template <class T>
class OptimKernels {
 public:
  /// One update of n values. m and v are as Optimizer::moments orders them; lr includes any bias correction.
  virtual void step(Context&, const OptimizerConfig&, int64_t n, int64_t decay_size, double lr, const T* g,
                    T* m, T* v, T* w) const = 0;
  /// average += rate (x - average).
  virtual void average(Context&, int64_t n, const T* x, T rate, T* average) const = 0;
  /// out (1).
  virtual void sum_squares(Context&, int64_t n, const T* x, double* out) const = 0;

  /// out (1): how many values are not finite.
  virtual void count_not_finite(Context&, View<const T> x, double* out) const = 0;
  /// out (1): the largest max |a - b| / max(1, max |b|) of a sample, infinite if a is not finite.
  virtual void distance(Context&, View<const T> a, View<const T> b, double* out) const = 0;

 protected:
  ~OptimKernels() = default;
};

}  // namespace evenflow
