#pragma once

#include <algorithm>
#include <cmath>

#include "evenflow/layers.hpp"
#include "kernels/kernel_set.hpp"

namespace evenflow {

/// Adds `value` to every sample's log-det.
inline void add_to_all(double* logdet, int64_t n, double value) {
  for (int64_t i = 0; i < n; ++i) logdet[i] += value;
}

inline double sum_of(const double* values, int64_t n) {
  double total = 0;
  for (int64_t i = 0; i < n; ++i) total += values[i];
  return total;
}

/// The common part of layers y = (x + shift) * scale per channel. A subclass fills shift and scale, and turns
/// their sums into parameter gradients.
template <class T>
class ChannelScale : public Layer<T> {
 protected:
  ChannelScale(const char* kind, Shape in) : Layer<T>(kind, in, in, true) {}

  int64_t channels() const { return this->input_shape().c; }

 private:
  /// Returns sum_c log |scale_c|.
  virtual double coefficients(const Params<T>& params, T* shift, T* scale) const = 0;
  /// sums (2, C): gradients by shift, then by log scale, without the log-det's; dlogdet_pixels: sum of
  /// dlogdet times pixels.
  virtual void add_gradients(const Params<T>&, const double* /*sums*/, double /*dlogdet_pixels*/) const {}

  void do_forward(Context& ctx, const Params<T>& params, View<const T> x, View<T> z, double* logdet,
                  T*) const override {
    WorkspaceScope scope(ctx);
    T* shift = scope.take<T>(channels());
    T* scale = scope.take<T>(channels());
    const double logs = coefficients(params, shift, scale);
    ctx.kernels<T>().channel_forward(ctx, -1, x, shift, scale, z);
    add_to_all(logdet, x.shape.n, logs * x.shape.pixels_per_sample());
  }

  void do_inverse(Context& ctx, const Params<T>& params, View<const T> z, View<T> x,
                  double* logdet) const override {
    WorkspaceScope scope(ctx);
    T* shift = scope.take<T>(channels());
    T* scale = scope.take<T>(channels());
    const double logs = coefficients(params, shift, scale);
    ctx.kernels<T>().channel_inverse(ctx, -1, z, shift, scale, x);
    add_to_all(logdet, z.shape.n, -logs * z.shape.pixels_per_sample());
  }

  void do_backward(Context& ctx, const Params<T>& params, View<const T> z, View<const T> dz,
                   const double* dlogdet, View<T> x, View<T> dx, T*) const override {
    WorkspaceScope scope(ctx);
    T* shift = scope.take<T>(channels());
    T* scale = scope.take<T>(channels());
    double* sums = scope.take<double>(2 * channels());
    coefficients(params, shift, scale);
    ctx.kernels<T>().channel_backward(ctx, -1, z, dz, shift, scale, x, dx, sums);
    add_gradients(params, sums, sum_of(dlogdet, z.shape.n) * z.shape.pixels_per_sample());
  }

  void do_inverse_backward(Context& ctx, const Params<T>& params, View<const T> x, View<const T> dx,
                           const double* dlogdet, View<T> z, View<T> dz) const override {
    WorkspaceScope scope(ctx);
    T* shift = scope.take<T>(channels());
    T* scale = scope.take<T>(channels());
    coefficients(params, shift, scale);
    ctx.kernels<T>().channel_forward(ctx, -1, x, shift, scale, z);
    std::fill(shift, shift + channels(), T(0));
    ctx.kernels<T>().channel_inverse(ctx, -1, dx, shift, scale, dz);
    this->add_inverse_gradients(ctx, params, z, dz, dlogdet);
  }
};

}  // namespace evenflow
