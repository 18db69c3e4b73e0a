#pragma once

#include "kernels/ops/math.hpp"

// Optimiser updates, one element of the flat arena each. g includes L2 where the element is in the decay
// group.

namespace evenflow::ops {

template <class T>
struct StepBase {
  T* w;
  const T* g;
  T lr;
  T shrink;            ///< multiplies w before the step
  T weight_decay;      ///< L2 factor
  int64_t decay_size;  ///< elements [0, decay_size) have L2
  EVENFLOW_HD T grad(int64_t i) const { return g[i] + (i < decay_size ? weight_decay * w[i] : T(0)); }
};

/// A decaying average that nothing feeds any more (a unit that never fires) ends at zero, not among the
/// denormal numbers, whose arithmetic is a hundred times slower.
template <class T>
EVENFLOW_HD T settled(T x) {
  return abs_of(x) < T(1e-30) ? T(0) : x;
}

template <class T>
struct Sgd {
  StepBase<T> base;
  T momentum;
  T* v;
  EVENFLOW_HD void operator()(int64_t, int64_t i) const {
    v[i] = settled(momentum * v[i] - base.lr * base.grad(i));
    base.w[i] = base.shrink * base.w[i] + v[i];
  }
};

/// RMSProp with momentum (NICE's official rule): the root mean square has a floor, not an addend.
template <class T>
struct RmsProp {
  StepBase<T> base;
  T momentum;
  T decay;
  T floor;
  T* v;
  T* square;
  EVENFLOW_HD void operator()(int64_t, int64_t i) const {
    const T g = base.grad(i);
    square[i] = settled(decay * square[i] + (T(1) - decay) * g * g);
    const T rms = max_of(sqrt(square[i]), floor);
    v[i] = settled(momentum * v[i] - base.lr * g / rms);
    base.w[i] = base.shrink * base.w[i] + v[i];
  }
};

/// base.lr already holds the bias correction sqrt(1 - beta2^t) / (1 - beta1^t).
template <class T>
struct Adam {
  StepBase<T> base;
  T beta1;
  T beta2;
  T eps;
  T* m;
  T* v;
  EVENFLOW_HD void operator()(int64_t, int64_t i) const {
    const T g = base.grad(i);
    m[i] = settled(beta1 * m[i] + (T(1) - beta1) * g);
    v[i] = settled(beta2 * v[i] + (T(1) - beta2) * g * g);
    base.w[i] = base.shrink * base.w[i] - base.lr * m[i] / (sqrt(v[i]) + eps);
  }
};

template <class T>
struct Adamax {
  StepBase<T> base;
  T beta1;
  T beta2;
  T eps;
  T* m;
  T* v;
  EVENFLOW_HD void operator()(int64_t, int64_t i) const {
    const T g = base.grad(i);
    m[i] = settled(beta1 * m[i] + (T(1) - beta1) * g);
    v[i] = max_of(beta2 * v[i], abs_of(g));
    base.w[i] = base.shrink * base.w[i] - base.lr * m[i] / (v[i] + eps);
  }
};

/// average += rate (x - average).
template <class T>
struct Average {
  const T* x;
  T rate;
  T* average;
  EVENFLOW_HD void operator()(int64_t, int64_t i) const { average[i] += rate * (x[i] - average[i]); }
};

template <class T>
struct ScaleAll {
  T factor;
  T* x;
  EVENFLOW_HD void operator()(int64_t, int64_t i) const { x[i] *= factor; }
};

template <class T>
struct Zero {
  T* x;
  EVENFLOW_HD void operator()(int64_t, int64_t i) const { x[i] = T(0); }
};

/// Squares of rows of `length` values.
template <class T>
struct SumSquares {
  const T* x;
  int64_t length;
  EVENFLOW_HD double operator()(int64_t row, int64_t i) const {
    const double v = x[row * length + i];
    return v * v;
  }
};

}  // namespace evenflow::ops
