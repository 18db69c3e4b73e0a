#pragma once

#include <type_traits>

#include "evenflow/optim.hpp"
#include "kernels/ops/math.hpp"

// The optimisers' update rules, for one element of the flat arena each.

namespace evenflow::ops {

/// What all rules have. The gradient of an element in the decay group includes L2.
template <class T>
struct StepBase {
  T* w;
  const T* g;
  T lr;
  T shrink;            ///< multiplies w before the step
  T weight_decay;      ///< L2 factor
  int64_t decay_size;  ///< elements [0, decay_size) have L2
  EVENFLOW_INLINE T grad(int64_t i, T at) const { return g[i] + (i < decay_size ? weight_decay * at : T(0)); }
};

/// A decaying average to which nothing is added any more (that of a unit that never fires) ends at zero, not
/// at denormal numbers, with which arithmetic is a hundred times slower.
template <class T>
EVENFLOW_INLINE T settled(T x) {
  constexpr T kLeast = static_cast<T>(std::is_same<T, float>::value ? 1e-30 : 1e-300);
  return abs_of(x) < kLeast ? T(0) : x;
}

/// average + rate (x - average). The rate is 1 - beta, computed in double because a beta near 1 leaves few
/// digits of it in T. An average of values >= 0 is >= 0, since rate * average is no larger than average.
template <class T>
EVENFLOW_INLINE T averaged(T average, T rate, T x) {
  return settled((average - rate * average) + rate * x);
}

/// The gradient, limited to numbers whose square is finite: an infinite mean square would stay for ever.
template <class T>
EVENFLOW_INLINE T squarable(T g) {
  constexpr T kMost = static_cast<T>(std::is_same<T, float>::value ? 0x1p63 : 0x1p511);
  return max_of(-kMost, min_of(kMost, g));
}

template <class T>
struct Sgd {
  StepBase<T> base;
  T momentum;
  T* v;
  EVENFLOW_INLINE void operator()(int64_t, int64_t i) const {
    const T w = base.w[i], speed = settled(momentum * v[i] - base.lr * base.grad(i, w));
    v[i] = speed;
    base.w[i] = base.shrink * w + speed;
  }
};

/// RMSProp with momentum, as in NICE's official code: eps is the least root mean square, not added to it.
template <class T>
struct RmsProp {
  T momentum;
  T rate;  ///< 1 - decay
  T floor;
  EVENFLOW_INLINE void operator()(const StepBase<T>& base, T slope, T& w, T& speed, T& mean) const {
    const T g = squarable(slope);
    mean = averaged(mean, rate, g * g);
    speed = settled(momentum * speed - base.lr * g / max_of(sqrt(mean), floor));
    w = base.shrink * w + speed;
  }
};

/// base.lr already holds the bias correction sqrt(1 - beta2^t) / (1 - beta1^t).
template <class T>
struct Adam {
  T rate1;  ///< 1 - beta1
  T rate2;
  T eps;
  EVENFLOW_INLINE void operator()(const StepBase<T>& base, T slope, T& w, T& first, T& second) const {
    const T g = squarable(slope);
    first = averaged(first, rate1, g);
    second = averaged(second, rate2, g * g);
    w = base.shrink * w - base.lr * first / (sqrt(second) + eps);
  }
};

template <class T>
struct Adamax {
  T rate1;  ///< 1 - beta1
  T beta2;
  T eps;
  EVENFLOW_INLINE void operator()(const StepBase<T>& base, T g, T& w, T& first, T& most) const {
    first = averaged(first, rate1, g);
    most = max_of(settled(beta2 * most), abs_of(g));
    w = base.shrink * w - base.lr * first / (most + eps);
  }
};

/// A step of a rule with two moments.
template <class T, class Rule>
struct TwoMoments {
  StepBase<T> base;
  Rule rule;
  T* m;
  T* v;
  EVENFLOW_INLINE void operator()(int64_t, int64_t i) const {
    T w = base.w[i], first = m[i], second = v[i];
    rule(base, base.grad(i, w), w, first, second);
    m[i] = first;
    v[i] = second;
    base.w[i] = w;
  }
};

/// Calls f(the rule's update, what an element costs). m and v are as Optimizer::moments orders them.
template <class T, class F>
void with_rule(const OptimizerConfig& config, const StepBase<T>& base, T* m, T* v, const F& f) {
  const T rate1 = T(1 - config.beta1), eps = T(config.eps), momentum = T(config.momentum);
  const auto two_moments = [&](const auto& rule) {
    constexpr int64_t kRoots = 8;  // and quotients
    f(TwoMoments<T, std::decay_t<decltype(rule)>>{base, rule, m, v}, kRoots);
  };
  switch (config.rule) {
    case Rule::sgd:
      return f(Sgd<T>{base, momentum, m}, 1);
    case Rule::rmsprop:
      return two_moments(RmsProp<T>{momentum, T(1 - config.decay), eps});
    case Rule::adam:
      return two_moments(Adam<T>{rate1, T(1 - config.beta2), eps});
    case Rule::adamax:
      return two_moments(Adamax<T>{rate1, T(config.beta2), eps});
  }
}

}  // namespace evenflow::ops
