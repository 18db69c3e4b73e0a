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
    ops::with_rule(config, base, m, v, [&](const auto& f, int64_t cost) { Exec::update(ctx, n, f, cost); });
  }

  void average(Context& ctx, int64_t n, const T* x, T rate, T* average) const override {
    Exec::update(ctx, n, ops::Average<T>{x, rate, average});
  }

  void sum_squares(Context& ctx, int64_t n, const T* x, double* out) const override {
    Exec::sum(ctx, 1, n, ops::SumSquares<T>{x}, out);
  }

  void count_not_finite(Context& ctx, View<const T> x, double* out) const override {
    const Flat flat(x, x);
    Exec::sum(ctx, flat.rows, flat.cols, ops::NotFinite<T>{x.data, flat.x}, out);
  }

  void distance(Context& ctx, View<const T> a, View<const T> b, double* out) const override {
    const Flat flat(a, b);
    Exec::largest(ctx, flat.rows, flat.cols, ops::Distance<T, false>{a.data, flat.x, b.data, flat.y}, out);
    Exec::largest(ctx, flat.rows, flat.cols, ops::Distance<T, true>{a.data, flat.x, b.data, flat.y}, out + 1);
  }

 private:
  /// Rows of two views of one shape: one where both are contiguous.
  struct Flat {
    int64_t rows, cols, x, y;
    Flat(const View<const T>& a, const View<const T>& b)
        : rows(a.shape.pixels()), cols(a.shape.c), x(a.stride), y(b.stride) {
      if (!a.contiguous() || !b.contiguous()) return;
      rows = 1;
      cols = x = y = a.shape.size();
    }
  };
};

}  // namespace evenflow
