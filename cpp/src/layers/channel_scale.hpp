#pragma once

#include <cmath>

#include "layers/channel_mask.hpp"

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

/// Base class of layers y = (x + shift) * scale per channel, of some channels or of a checkerboard's pixels.
/// A subclass provides the coefficients and turns the sums of their gradients into parameter gradients.
template <class T>
class ChannelScale : public Layer<T> {
 protected:
  ChannelScale(const char* kind, Shape in) : ChannelScale(kind, in, {0, in.c}) {}
  ChannelScale(const char* kind, Shape in, const Slices& slices)
      : Layer<T>(kind, in, in, true), slices_(slices) {
    int64_t active = 0;
    for (int64_t i = 0; i < in.h; ++i) {
      for (int64_t j = 0; j < in.w; ++j) active += slices.parity < 0 || (i + j) % 2 == slices.parity;
    }
    active_ = static_cast<double>(active);
  }

  int64_t channels() const { return slices_.change; }
  int parity() const { return slices_.parity; }
  double active() const { return active_; }  ///< pixels per sample that change

  template <class U>
  View<U> changed(View<U> v) const {
    return v.channels(slices_.change_first, slices_.change);
  }
  /// Copies the unchanged channels if the buffers differ.
  void pass_others(Context& ctx, View<const T> from, View<T> to) const {
    if (channels() < from.shape.c && from.data != to.data) ctx.kernels<T>().move.copy(ctx, from, to);
  }

  void do_forward(Context& ctx, const Params<T>& params, View<const T> x, View<T> z,
                  double* logdet) const override {
    WorkspaceScope scope(ctx);
    const ChannelCoefficients<T> c = coefficients(ctx, scope, params);
    pass_others(ctx, x, z);
    ctx.kernels<T>().channel.forward(ctx, parity(), changed(x), c.shift, c.scale, changed(z));
    c.add_log_det(ctx, channels(), x.shape.n, active_, logdet);
  }

  void do_inverse(Context& ctx, const Params<T>& params, View<const T> z, View<T> x,
                  double* logdet) const override {
    WorkspaceScope scope(ctx);
    const ChannelCoefficients<T> c = coefficients(ctx, scope, params);
    pass_others(ctx, z, x);
    ctx.kernels<T>().channel.inverse(ctx, parity(), changed(z), c.shift, c.scale, changed(x));
    c.add_log_det(ctx, channels(), z.shape.n, -active_, logdet);
  }

  void do_backward(Context& ctx, const Params<T>& params, View<const T> z, View<const T> dz,
                   const double* dlogdet, View<T> x, View<T> dx) const override {
    WorkspaceScope scope(ctx);
    const ChannelCoefficients<T> c = coefficients(ctx, scope, params);
    double* sums = scope.take<double>(2 * channels());
    pass_others(ctx, z, x);
    pass_others(ctx, dz, dx);
    ctx.kernels<T>().channel.backward(ctx, parity(), changed(z), changed(dz), c.shift, c.scale, changed(x),
                                      changed(dx), sums);
    if (!trained() || !params.grads) return;
    add_gradients(ctx, params, sums, sum_of<T>(ctx, scope, dlogdet, z.shape.n));
  }

  void do_inverse_backward(Context& ctx, const Params<T>& params, View<const T> x, View<const T> dx,
                           const double* dlogdet, View<T> z, View<T> dz) const override {
    WorkspaceScope scope(ctx);
    const ChannelCoefficients<T> c = coefficients(ctx, scope, params);
    pass_others(ctx, x, z);
    pass_others(ctx, dx, dz);
    ctx.kernels<T>().channel.forward(ctx, parity(), changed(x), c.shift, c.scale, changed(z));
    T* zeros = scope.take<T>(channels());
    ctx.kernels<T>().move.zero(ctx, channels(), zeros);
    ctx.kernels<T>().channel.inverse(ctx, parity(), changed(dx), zeros, c.scale, changed(dz));
    if (trained()) this->add_inverse_gradients(ctx, params, z, dz, dlogdet);
  }

 private:
  virtual ChannelCoefficients<T> coefficients(Context& ctx, WorkspaceScope& scope,
                                              const Params<T>& params) const = 0;
  /// sums (2, C): gradients by shift, then by log scale, both without the log-det's part. dlogdet (1): its
  /// sum over samples.
  virtual void add_gradients(Context&, const Params<T>&, const double* /*sums*/,
                             const double* /*dlogdet*/) const {}
  virtual bool trained() const { return true; }

  Slices slices_;
  double active_;
};

}  // namespace evenflow
