#pragma once

#include "kernels/channel/batch_norm.hpp"
#include "kernels/channel/coefficients.hpp"
#include "kernels/channel/kernels.hpp"
#include "kernels/channel/maps.hpp"
#include "kernels/ops/checkerboard.hpp"
#include "kernels/ops/sums.hpp"

namespace evenflow {

template <class Exec, class T>
class ChannelLaunch final : public ChannelKernels<T> {
 public:
  void forward(Context& ctx, int parity, View<const T> x, const T* shift, const T* scale,
               View<T> y) const override {
    with_mask(parity, x.shape, [&](auto mask) {
      Exec::for_each(
          ctx, x.shape.pixels(), x.shape.c,
          ops::ChannelForward<T, decltype(mask)>{mask, x.data, x.stride, shift, scale, y.data, y.stride});
    });
  }

  void inverse(Context& ctx, int parity, View<const T> y, const T* shift, const T* scale,
               View<T> x) const override {
    with_mask(parity, x.shape, [&](auto mask) {
      Exec::for_each(
          ctx, x.shape.pixels(), x.shape.c,
          ops::ChannelInverse<T, decltype(mask)>{mask, y.data, y.stride, shift, scale, x.data, x.stride});
    });
  }

  void backward(Context& ctx, int parity, View<const T> z, View<const T> dz, const T* shift, const T* scale,
                View<T> x, View<T> dx, double* sums) const override {
    with_mask(parity, z.shape, [&](auto mask) {
      Exec::template sum_columns<T>(
          ctx, z.shape.pixels(), z.shape.c,
          ops::ChannelBackward<T, decltype(mask)>{mask, z.data, z.stride, dz.data, dz.stride, shift, scale,
                                                  x.data, x.stride, dx.data, dx.stride},
          sums);
    });
  }

  void moments(Context& ctx, int parity, View<const T> x, T* mean, T* var) const override {
    const int64_t rows = x.shape.pixels(), cols = x.shape.c;
    WorkspaceScope scope(ctx);
    double* sums = scope.take<double>(cols);
    Exec::template sum_columns<T>(ctx, rows, cols, ops::ColumnSum<T>{mask(parity, x.shape), x.data, x.stride},
                                  sums);
    Exec::for_each(ctx, 1, cols, ops::MeanOf<T>{sums, static_cast<double>(rows), mean});
    Exec::template sum_columns<T>(ctx, rows, cols,
                                  ops::ColumnSquares<T>{mask(parity, x.shape), x.data, x.stride, mean}, sums);
    Exec::for_each(ctx, 1, cols, ops::MeanOf<T>{sums, static_cast<double>(rows), var});
  }

  void batch_norm_sums(Context& ctx, int parity, View<const T> y, View<const T> dy,
                       double* sums) const override {
    Exec::template sum_columns<T>(
        ctx, y.shape.pixels(), y.shape.c,
        ops::BatchNormSums<T>{mask(parity, y.shape), y.data, y.stride, dy.data, dy.stride}, sums);
  }

  void norm_means(Context& ctx, int64_t n, const double* sums, const double* dlogdet, double active,
                  double pixels, T* means) const override {
    Exec::for_each(ctx, 2, n, ops::NormMeans<T>{sums, dlogdet, active, pixels, n, means});
  }

  void batch_norm_backward(Context& ctx, int parity, View<const T> y, View<const T> dy, const T* shift,
                           const T* scale, const T* mean_dy, const T* mean_dyy, View<T> x,
                           View<T> dx) const override {
    Exec::for_each(
        ctx, y.shape.pixels(), y.shape.c,
        ops::BatchNormBackward<T>{mask(parity, y.shape), y.data, y.stride, dy.data, dy.stride, shift, scale,
                                  mean_dy, mean_dyy, x.data, x.stride, dx.data, dx.stride});
  }

  void exp_scale(Context& ctx, int64_t n, T factor, const T* logs, T* scale) const override {
    Exec::for_each(ctx, 1, n, ops::ExpScale<T>{factor, logs, scale});
  }

  void log_scale_coefficients(Context& ctx, int64_t n, const T* bias, const T* logs, double factor, T* shift,
                              T* scale, double* log_scale) const override {
    Exec::for_each(ctx, 1, n, ops::LogScaleCoefficients<T>{bias, logs, factor, shift, scale, log_scale});
  }

  void standard_coefficients(Context& ctx, int64_t n, const T* mean, const T* std, T* shift, T* scale,
                             double* log_scale) const override {
    Exec::for_each(ctx, 1, n, ops::StandardCoefficients<T>{mean, std, shift, scale, log_scale});
  }

  void moment_coefficients(Context& ctx, int64_t n, const T* mean, const T* var, double eps, T* shift,
                           T* scale, double* log_scale) const override {
    Exec::for_each(ctx, 1, n, ops::MomentCoefficients<T>{mean, var, eps, shift, scale, log_scale});
  }

  void gradients(Context& ctx, int64_t n, const double* sums, const double* dlogdet, double pixels,
                 double factor, T* dbias, T* dlogs) const override {
    Exec::for_each(ctx, 1, n, ops::ChannelGradients<T>{sums, dlogdet, pixels, factor, n, dbias, dlogs});
  }

 private:
  /// Calls f(the pixels that take part), with a type of its own for all of them.
  template <class F>
  static void with_mask(int parity, const Shape& shape, const F& f) {
    if (parity < 0) return f(ops::AllPixels());
    f(mask(parity, shape));
  }

  static ops::PixelMask mask(int parity, const Shape& shape) { return {parity, shape.w, shape.h}; }
};

}  // namespace evenflow
