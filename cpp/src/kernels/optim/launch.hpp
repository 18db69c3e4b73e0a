#pragma once

#include "kernels/optim/arena.hpp"
#include "kernels/optim/judge.hpp"
#include "kernels/optim/kernels.hpp"
#include "kernels/optim/rules.hpp"

namespace evenflow {

template <class Exec, class T>
class OptimLaunch final : public OptimKernels<T> {
 public:
  void step(Context& ctx, const OptimizerConfig& config, int64_t n, int64_t decay_size, double lr, const T* g,
            T* m, T* v, T* w) const override {
    const ops::StepBase<T> base{w, g, T(lr), T(config.shrink), T(config.weight_decay), decay_size};
    ops::with_rule(config, base, m, v,
                   [&](const auto& f, int64_t cost) { Exec::for_each(ctx, 1, n, f, cost); });
  }

  void average(Context& ctx, int64_t n, const T* x, T rate, T* average) const override {
    Exec::for_each(ctx, 1, n, ops::Average<T>{x, rate, average});
  }

  void sum_squares(Context& ctx, int64_t n, const T* x, double* out) const override {
    Exec::sum(ctx, 1, n, ops::SumSquares<T>{x}, out);
  }

  void count_not_finite(Context& ctx, View<const T> x, double* out) const override {
    const bool flat = x.contiguous();
    const int64_t cols = flat ? x.shape.size() : x.shape.c;
    Exec::sum(ctx, flat ? 1 : x.shape.pixels(), cols, ops::NotFinite<T>{x.data, flat ? cols : x.stride}, out);
  }

  void distance(Context& ctx, View<const T> a, View<const T> b, double* out) const override {
    const Shape& s = a.shape;
    Exec::largest(ctx, 1, s.n, ops::SampleDistance<T>{s.h * s.w, s.c, a.data, a.stride, b.data, b.stride},
                  out);
  }
};

}  // namespace evenflow
