#pragma once

#include "evenflow/layers.hpp"
#include "kernels/kernel_set.hpp"

namespace evenflow {

/// Base class of layers that only move values: gradients move as they do.
template <class T>
class Movement : public Layer<T> {
 protected:
  Movement(const char* kind, Shape in, Shape out) : Layer<T>(kind, in, out, false) {}

 private:
  /// From x to z, or back.
  virtual void move(Context& ctx, const Params<T>& params, bool back, View<const T> from,
                    View<T> to) const = 0;

  void do_forward(Context& ctx, const Params<T>& params, View<const T> x, View<T> z, double*) const override {
    move(ctx, params, false, x, z);
  }
  void do_inverse(Context& ctx, const Params<T>& params, View<const T> z, View<T> x, double*) const override {
    move(ctx, params, true, z, x);
  }
  void do_backward(Context& ctx, const Params<T>& params, View<const T> z, View<const T> dz, const double*,
                   View<T> x, View<T> dx) const override {
    move(ctx, params, true, z, x);
    move(ctx, params, true, dz, dx);
  }
  void do_inverse_backward(Context& ctx, const Params<T>& params, View<const T> x, View<const T> dx,
                           const double*, View<T> z, View<T> dz) const override {
    move(ctx, params, false, x, z);
    move(ctx, params, false, dx, dz);
  }
};

}  // namespace evenflow
