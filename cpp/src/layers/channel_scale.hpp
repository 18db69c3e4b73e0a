#pragma once

#include <cmath>

#include "evenflow/layers.hpp"
#include "kernels/kernel_set.hpp"

namespace evenflow {

/// The sum of values (n), in device memory.
template <class T>
const double* sum_of(Context& ctx, WorkspaceScope& scope, const double* values, int64_t n) {
  double* total = scope.take<double>(1);
  ctx.kernels<T>().move.sum_doubles(ctx, n, values, total);
  return total;
}

/// Coefficients of y = (x + shift) * scale per channel, in device memory.
template <class T>
struct ChannelCoefficients {
  ChannelCoefficients(WorkspaceScope& scope, int64_t channels)
      : shift(scope.take<T>(channels)),
        scale(scope.take<T>(channels)),
        log_scale(scope.take<double>(channels)) {}

  /// logdet += factor * (sum of log |scale|).
  void add_log_det(Context& ctx, int64_t channels, int64_t n, double factor, double* logdet) const {
    WorkspaceScope scope(ctx);
    ctx.kernels<T>().move.add_total(ctx, n, factor, sum_of<T>(ctx, scope, log_scale, channels), logdet);
  }

  T* shift;
  T* scale;
  double* log_scale;
};

/// Base class of layers y = (x + shift) * scale per channel. A subclass provides the coefficients and turns
/// the sums of their gradients into parameter gradients.
template <class T>
class ChannelScale : public Layer<T> {
 protected:
  ChannelScale(const char* kind, Shape in) : Layer<T>(kind, in, in, true) {}

  int64_t channels() const { return this->input_shape().c; }

 private:
  virtual ChannelCoefficients<T> coefficients(Context& ctx, WorkspaceScope& scope,
                                              const Params<T>& params) const = 0;
  /// sums (2, C): gradients by shift, then by log scale, both without the log-det's part. dlogdet (1): its
  /// sum over samples. pixels: number per sample.
  virtual void add_gradients(Context&, const Params<T>&, const double* /*sums*/, const double* /*dlogdet*/,
                             double /*pixels*/) const {}
  virtual bool trained() const { return true; }

  void do_forward(Context& ctx, const Params<T>& params, View<const T> x, View<T> z,
                  double* logdet) const override {
    WorkspaceScope scope(ctx);
    const ChannelCoefficients<T> c = coefficients(ctx, scope, params);
    ctx.kernels<T>().channel.forward(ctx, -1, x, c.shift, c.scale, z);
    c.add_log_det(ctx, channels(), x.shape.n, static_cast<double>(x.shape.pixels_per_sample()), logdet);
  }

  void do_inverse(Context& ctx, const Params<T>& params, View<const T> z, View<T> x,
                  double* logdet) const override {
    WorkspaceScope scope(ctx);
    const ChannelCoefficients<T> c = coefficients(ctx, scope, params);
    ctx.kernels<T>().channel.inverse(ctx, -1, z, c.shift, c.scale, x);
    c.add_log_det(ctx, channels(), z.shape.n, -static_cast<double>(z.shape.pixels_per_sample()), logdet);
  }

  void do_backward(Context& ctx, const Params<T>& params, View<const T> z, View<const T> dz,
                   const double* dlogdet, View<T> x, View<T> dx) const override {
    WorkspaceScope scope(ctx);
    const ChannelCoefficients<T> c = coefficients(ctx, scope, params);
    double* sums = scope.take<double>(2 * channels());
    ctx.kernels<T>().channel.backward(ctx, -1, z, dz, c.shift, c.scale, x, dx, sums);
    if (!trained() || !params.grads) return;
    add_gradients(ctx, params, sums, sum_of<T>(ctx, scope, dlogdet, z.shape.n),
                  static_cast<double>(z.shape.pixels_per_sample()));
  }

  void do_inverse_backward(Context& ctx, const Params<T>& params, View<const T> x, View<const T> dx,
                           const double* dlogdet, View<T> z, View<T> dz) const override {
    WorkspaceScope scope(ctx);
    const ChannelCoefficients<T> c = coefficients(ctx, scope, params);
    ctx.kernels<T>().channel.forward(ctx, -1, x, c.shift, c.scale, z);
    T* zeros = scope.take<T>(channels());
    ctx.kernels<T>().move.zero(ctx, channels(), zeros);
    ctx.kernels<T>().channel.inverse(ctx, -1, dx, zeros, c.scale, dz);
    this->add_inverse_gradients(ctx, params, z, dz, dlogdet);
  }
};

}  // namespace evenflow
