#pragma once

#include <type_traits>

#include "kernels/bf16.hpp"
#include "kernels/coupling/launch.hpp"
#include "kernels/kernel_set.hpp"
#include "kernels/ops/bounds.hpp"
#include "kernels/ops/channel.hpp"
#include "kernels/ops/element.hpp"
#include "kernels/ops/lu.hpp"
#include "kernels/ops/net.hpp"
#include "kernels/ops/optim.hpp"
#include "kernels/ops/prior.hpp"
#include "kernels/ops/small.hpp"

namespace evenflow {

/// The launch sequences of every kernel, written once; Exec supplies loops and reductions, Conv the products.
/// Nothing here follows a pointer: that is the functors' and Conv's work, wherever they run.
template <class Exec, class Conv, class T>
class KernelSetImpl : public KernelSet<T> {
 public:
  const char* isa() const override { return Conv::name; }

  void conv_forward(Context& ctx, const ConvDims& dims, View<const T> x, const T* w,
                    const Epilogue<T>& epilogue, View<T> y) const override {
    Conv::forward(ctx, dims, x, w, epilogue, y);
  }

  void conv_backward_data(Context& ctx, const ConvDims& dims, View<const T> dy, const T* w, View<T> dx,
                          bool accumulate) const override {
    Conv::backward_data(ctx, dims, dy, w, dx, accumulate);
  }

  void conv_backward_weights(Context& ctx, const ConvDims& dims, View<const T> x, View<const T> dy,
                             T* dw) const override {
    Conv::backward_weights(ctx, dims, x, dy, dw);
  }

  void stack_forward(Context& ctx, const StackUnit<T>* units, int count, bool half, View<const T> x,
                     void* acts, View<T> h) const override {
    if constexpr (std::is_same<T, float>::value) {
      if (half) return Conv::template stack_forward<Bf16>(ctx, units, count, x, static_cast<Bf16*>(acts), h);
    }
    Conv::template stack_forward<T>(ctx, units, count, x, static_cast<T*>(acts), h);
  }

  void stack_backward(Context& ctx, const StackUnit<T>* units, int count, bool half, View<const T> x,
                      const void* acts, View<const T> h, View<T> dh, View<T> dx) const override {
    last_epilogue_backward(ctx, units[count - 1], h, dh);
    if constexpr (std::is_same<T, float>::value) {
      if (half) {
        return Conv::template stack_backward<Bf16>(ctx, units, count, x, static_cast<const Bf16*>(acts), dh,
                                                   dx);
      }
    }
    Conv::template stack_backward<T>(ctx, units, count, x, static_cast<const T*>(acts), dh, dx);
  }

  void last_epilogue_backward(Context& ctx, const StackUnit<T>& last, View<const T> h, View<T> dh) const {
    if (last.epilogue.bias || last.epilogue.scale || last.epilogue.relu) {
      epilogue_backward(ctx, h, dh, last.epilogue, last.dbias, last.dlogs, last.logs_factor);
    }
  }

  void epilogue_backward(Context& ctx, View<const T> y, View<T> dy, const Epilogue<T>& epilogue, T* dbias,
                         T* dlogs, T factor) const override {
    const int64_t rows = y.shape.pixels(), cols = y.shape.c;
    with_flag(epilogue.relu, [&](auto relu) {
      Exec::template sum_columns_to<T>(
          ctx, rows, cols,
          ops::EpilogueBackward<T, relu.value>{y.data, y.stride, dy.data, dy.stride, epilogue.scale},
          ops::AddPair<T>{factor, dbias, dlogs});
    });
  }

  void channel_forward(Context& ctx, int parity, View<const T> x, const T* shift, const T* scale,
                       View<T> y) const override {
    with_mask(parity, x.shape, [&](auto mask) {
      Exec::for_each(
          ctx, x.shape.pixels(), x.shape.c,
          ops::ChannelForward<T, decltype(mask)>{mask, x.data, x.stride, shift, scale, y.data, y.stride});
    });
  }

  void channel_inverse(Context& ctx, int parity, View<const T> y, const T* shift, const T* scale,
                       View<T> x) const override {
    with_mask(parity, x.shape, [&](auto mask) {
      Exec::for_each(
          ctx, x.shape.pixels(), x.shape.c,
          ops::ChannelInverse<T, decltype(mask)>{mask, y.data, y.stride, shift, scale, x.data, x.stride});
    });
  }

  void channel_backward(Context& ctx, int parity, View<const T> z, View<const T> dz, const T* shift,
                        const T* scale, View<T> x, View<T> dx, double* sums) const override {
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

  void batch_norm_backward(Context& ctx, int parity, View<const T> y, View<const T> dy, const T* shift,
                           const T* scale, const T* mean_dy, const T* mean_dyy, View<T> x,
                           View<T> dx) const override {
    Exec::for_each(
        ctx, y.shape.pixels(), y.shape.c,
        ops::BatchNormBackward<T>{mask(parity, y.shape), y.data, y.stride, dy.data, dy.stride, shift, scale,
                                  mean_dy, mean_dyy, x.data, x.stride, dx.data, dx.stride});
  }

  const CouplingKernels<T>& coupling() const override { return coupling_; }

  void fill(Context& ctx, int64_t n, T value, T* x) const override {
    Exec::for_each(ctx, 1, n, ops::Fill<T>{value, x});
  }

  void fill_doubles(Context& ctx, int64_t n, double value, double* x) const override {
    Exec::for_each(ctx, 1, n, ops::Fill<double>{value, x});
  }

  void scale_doubles(Context& ctx, int64_t n, double factor, const double* x, double* y) const override {
    Exec::for_each(ctx, 1, n, ops::Scaled{factor, x, y});
  }

  void scale_rows(Context& ctx, int64_t n, int64_t d, const double* factors, T* x) const override {
    Exec::for_each(ctx, n, d, ops::ScaleRows<T>{factors, d, x});
  }

  void add_total(Context& ctx, int64_t n, double factor, const double* total, double* x) const override {
    Exec::for_each(ctx, 1, n, ops::AddTotal<double>{factor, total, x});
  }

  void add_parameter(Context& ctx, int64_t n, double factor, const T* total, double* x) const override {
    Exec::for_each(ctx, 1, n, ops::AddTotal<T>{factor, total, x});
  }

  void sum_doubles(Context& ctx, int64_t n, const double* x, double* out) const override {
    Exec::sum_values(ctx, n, x, out);
  }

  void add_sums(Context& ctx, int64_t n, double factor, const double* sums, T* out) const override {
    Exec::for_each(ctx, 1, n, ops::AddSums<T>{factor, sums, out});
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

  void channel_gradients(Context& ctx, int64_t n, const double* sums, const double* dlogdet, double pixels,
                         double factor, T* dbias, T* dlogs) const override {
    Exec::for_each(ctx, 1, n, ops::ChannelGradients<T>{sums, dlogdet, pixels, factor, n, dbias, dlogs});
  }

  void norm_means(Context& ctx, int64_t n, const double* sums, const double* dlogdet, double active,
                  double pixels, T* means) const override {
    Exec::for_each(ctx, 2, n, ops::NormMeans<T>{sums, dlogdet, active, pixels, n, means});
  }

  void lu_matrix(Context& ctx, int64_t n, const LuParameters<T>& of, T* w, T* inverse,
                 double* log_det) const override {
    WorkspaceScope scope(ctx.workspace());
    Exec::block(ctx, ops::LuMatrix<T, Exec::block_rows, Exec::block_cols>{
                         {of, n}, w, inverse, log_det, scope.take<double>(n * n + n)});
  }

  void lu_gradients(Context& ctx, int64_t n, const LuParameters<T>& of, const T* dw, const double* dlogdet,
                    double pixels, const LuParameterGradients<T>& out) const override {
    WorkspaceScope scope(ctx.workspace());
    Exec::block(ctx, ops::LuGradients<T, Exec::block_rows, Exec::block_cols>{
                         {of, n}, dw, dlogdet, pixels, out, scope.take<double>(3 * n * n + n)});
  }

  // Cold: a few numbers, and code that is small rather than fast.
  [[gnu::cold]] void plain_matrix(Context& ctx, int64_t n, const T* w, T* inverse, double* exact,
                                  double* log_det) const override {
    WorkspaceScope scope(ctx.workspace());
    Exec::block(ctx, ops::PlainMatrix<T, Exec::block_rows, Exec::block_cols>{
                         n, w, inverse, exact, log_det, scope.take<double>(3 * n * n + n + 1)});
  }

  [[gnu::cold]] void plain_gradients(Context& ctx, int64_t n, const T* dw, const double* exact,
                                     const double* dlogdet, double pixels, T* out) const override {
    Exec::for_each(ctx, n, n, ops::PlainGradients<T>{n, dw, exact, dlogdet, pixels, out});
  }

  void prior_edge(Context& ctx, const Shape& image, int64_t channels, const T* weight, const T* bias,
                  const T* logs, T* edge) const override {
    Exec::for_each(ctx, image.pixels_per_sample(), channels,
                   ops::PriorEdge<T>{image.h, image.w, weight, bias, logs, channels, edge});
  }

  void prior_statistics(Context& ctx, const T* edge, const int32_t* labels, const T* weight, const T* bias,
                        const T* logs, View<T> h) const override {
    Exec::for_each(ctx, h.shape.pixels(), h.shape.c,
                   ops::PriorStatistics<T>{h.shape.pixels_per_sample(), h.shape.c, edge, labels, weight, bias,
                                           logs, h.data});
  }

  void prior_edge_gradients(Context& ctx, View<const T> dh, const T* edge, const T* logs, T* dweight,
                            T* dbias, T* dlogs) const override {
    const int64_t values = dh.shape.per_sample();
    WorkspaceScope scope(ctx);
    double* sums = scope.take<double>(values);
    Exec::template sum_columns<T>(ctx, dh.shape.n, values,
                                  ops::ColumnSum<T>{ops::PixelMask(), dh.data, values}, sums);
    Exec::for_each(ctx, 1, dh.shape.c,
                   ops::PriorEdgeGradients<T>{dh.shape.h, dh.shape.w, sums, edge, logs, dh.shape.c, dweight,
                                              dbias, dlogs});
  }

  void prior_class_gradients(Context& ctx, View<const T> dh, const int32_t* labels, const T* weight,
                             const T* bias, const T* logs, T* dweight, T* dbias, T* dlogs) const override {
    Exec::for_each(ctx, 1, dh.shape.c,
                   ops::PriorClassGradients<T>{dh.shape.n, dh.shape.pixels_per_sample(), dh.shape.c, dh.data,
                                               labels, weight, bias, logs, dweight, dbias, dlogs});
  }

  void head_log_prob(Context& ctx, View<const T> x, int64_t classes, const T* weight, const T* bias,
                     const T* logs, double* pooled, double* raw, double* logp) const override {
    const int64_t n = x.shape.n, channels = x.shape.c;
    Exec::for_each(ctx, n, channels,
                   ops::HeadPool<T>{x.shape.pixels_per_sample(), x.data, x.stride, channels, pooled});
    Exec::for_each(ctx, n, classes, ops::HeadLogits<T>{pooled, channels, classes, weight, bias, raw});
    Exec::for_each(ctx, n, 1, ops::HeadLogProb<T>{raw, logs, classes, logp});
  }

  void head_backward(Context& ctx, int64_t classes, const int32_t* labels, const double* sample_weight,
                     const T* weight, const T* logs, double factor, const double* pooled, const double* raw,
                     const double* logp, T* dweight, T* dbias, T* dlogs, View<T> dx,
                     double* results) const override {
    const int64_t n = dx.shape.n, channels = dx.shape.c;
    WorkspaceScope scope(ctx);
    double* dlogit = scope.take<double>(n * classes);
    Exec::for_each(ctx, 1, 1, ops::HeadLoss{logp, labels, sample_weight, n, classes, results});
    Exec::for_each(ctx, n, classes,
                   ops::HeadLossGradient<T>{logp, labels, sample_weight, logs, classes, factor, dlogit});
    Exec::for_each(ctx, channels + 1, classes,
                   ops::HeadGradients<T>{n, pooled, raw, dlogit, channels, classes, dweight, dbias, dlogs});
    Exec::for_each(
        ctx, dx.shape.pixels(), channels,
        ops::HeadInputGradient<T>{dx.shape.pixels_per_sample(), dlogit, weight, classes, dx.data, dx.stride});
  }

  void norm_relu(Context& ctx, View<const T> x, const T* shift, const T* scale, const T* beta, bool relu,
                 View<T> y) const override {
    Exec::for_each(ctx, x.shape.pixels(), x.shape.c,
                   ops::NormRelu<T>{x.data, x.stride, shift, scale, beta, relu, y.data, y.stride});
  }

  void norm_relu_sums(Context& ctx, View<const T> x, const T* shift, const T* scale, const T* beta, bool relu,
                      View<T> dy, double* sums) const override {
    Exec::template sum_columns<T>(
        ctx, x.shape.pixels(), x.shape.c,
        ops::NormReluSums<T>{x.data, x.stride, shift, scale, beta, relu, dy.data, dy.stride}, sums);
  }

  void norm_relu_backward(Context& ctx, View<const T> x, const T* shift, const T* scale, const T* mean_dv,
                          const T* mean_dvn, View<const T> dv, View<T> dx) const override {
    Exec::for_each(ctx, x.shape.pixels(), x.shape.c,
                   ops::NormReluBackward<T>{x.data, x.stride, shift, scale, mean_dv, mean_dvn, dv.data,
                                            dv.stride, dx.data, dx.stride});
  }

  void concat_relu(Context& ctx, View<const T> x, T gain, int parity, View<T> y) const override {
    Exec::for_each(ctx, x.shape.pixels(), x.shape.c,
                   ops::ConcatRelu<T>{x.data, x.stride, x.shape.c, gain, parity, x.shape.w, x.shape.h, y.data,
                                      y.stride});
  }

  void concat_relu_backward(Context& ctx, View<const T> y, View<const T> dy, T gain,
                            View<T> dx) const override {
    Exec::for_each(ctx, dx.shape.pixels(), dx.shape.c,
                   ops::ConcatReluBackward<T>{y.data, y.stride, dy.data, dy.stride, dx.shape.c, gain, dx.data,
                                              dx.stride});
  }

  void mask_pixels(Context& ctx, View<const T> x, int parity, bool accumulate, View<T> y) const override {
    Exec::for_each(
        ctx, x.shape.pixels(), x.shape.c,
        ops::MaskPixels<T>{x.data, x.stride, parity, x.shape.w, x.shape.h, accumulate, y.data, y.stride});
  }

  void weight_norm(Context& ctx, int64_t rows, int64_t cols, const T* v, const T* g, T* norms,
                   T* w) const override {
    WorkspaceScope scope(ctx);
    double* squares = scope.take<double>(cols);
    T* factor = scope.take<T>(cols);
    Exec::template sum_columns<T>(ctx, rows, cols, ops::NormSquares<T>{v, cols}, squares);
    Exec::for_each(ctx, 1, cols, ops::NormFactors<T>{squares, g, norms, factor});
    Exec::for_each(ctx, rows, cols, ops::ScaleColumns<T>{v, factor, cols, w});
  }

  void weight_norm_backward(Context& ctx, int64_t rows, int64_t cols, const T* v, const T* g, const T* norms,
                            const T* dw, T* dv, T* dg) const override {
    WorkspaceScope scope(ctx);
    double* dots = scope.take<double>(cols);
    T* factor = scope.take<T>(cols);
    T* along = scope.take<T>(cols);
    Exec::template sum_columns<T>(ctx, rows, cols, ops::ColumnDots<T>{dw, v, cols}, dots);
    Exec::for_each(ctx, 1, cols, ops::NormFactorsBackward<T>{dots, g, norms, factor, along, dg});
    Exec::for_each(ctx, rows, cols, ops::WeightNormBackward<T>{v, dw, factor, along, cols, dv});
  }

  void copy(Context& ctx, View<const T> x, View<T> y) const override {
    Exec::for_each(ctx, x.shape.pixels(), x.shape.c, ops::Copy<T>{x.data, x.stride, y.data, y.stride});
  }

  void add(Context& ctx, View<const T> x, View<T> y) const override {
    Exec::for_each(ctx, x.shape.pixels(), x.shape.c, ops::Add<T>{x.data, x.stride, y.data, y.stride});
  }

  void add_pixel_sums(Context& ctx, View<const T> x, View<T> y) const override {
    const int64_t pixels = x.shape.pixels_per_sample();
    Exec::for_each(ctx, x.shape.n, x.shape.c,
                   ops::AddPixelSums<T>{pixels, x.data, x.stride, y.data, y.stride}, pixels);
  }

  void copy_blocks(Context& ctx, View<const T> from, int64_t from_step, View<T> to,
                   int64_t to_step) const override {
    const Shape& shape = to.shape;
    if (shape.pixels_per_sample() == 1) {
      Exec::for_each(ctx, shape.n, shape.c, ops::Copy<T>{from.data, from_step, to.data, to_step});
    } else if (from.contiguous() && to.contiguous()) {
      Exec::for_each(ctx, shape.n, shape.per_sample(), ops::Copy<T>{from.data, from_step, to.data, to_step});
    } else if (Exec::cheap_launches) {
      for (int64_t i = 0; i < shape.n; ++i) {
        Exec::for_each(
            ctx, shape.pixels_per_sample(), shape.c,
            ops::Copy<T>{from.data + i * from_step, from.stride, to.data + i * to_step, to.stride});
      }
    } else {
      Exec::for_each(ctx, shape.pixels(), shape.c,
                     ops::CopyBlocks<T>{shape.pixels_per_sample(), from.data, from.stride, from_step, to.data,
                                        to.stride, to_step});
    }
  }

  [[gnu::cold]] void tile_order(Context& ctx, int64_t n, bool inverse, int32_t* order) const override {
    Exec::for_each(ctx, 1, n, ops::TileOrder{n, inverse, order});
  }

  [[gnu::cold]] void channel_order(Context& ctx, int64_t n, const T* stored, bool inverse,
                                   int32_t* order) const override {
    WorkspaceScope scope(ctx);
    int32_t* back = inverse ? order : scope.take<int32_t>(n);
    Exec::for_each(ctx, 1, n, ops::Fill<int32_t>{-1, back});
    Exec::for_each(ctx, 1, n, ops::InvertOrder<T>{stored, n, back});
    if (inverse) return;
    // The inverse's inverse, and not what is stored: that may name a channel twice.
    Exec::for_each(ctx, 1, n, ops::Fill<int32_t>{-1, order});
    Exec::for_each(ctx, 1, n, ops::InvertOrder<int32_t>{back, n, order});
  }

  void gather_channels(Context& ctx, View<const T> x, const int32_t* order, View<T> y) const override {
    Exec::for_each(ctx, y.shape.pixels(), y.shape.c,
                   ops::GatherChannels<T>{x.data, x.stride, order, y.data, y.stride});
  }

  void squeeze(Context& ctx, bool diagonal, bool inverse, View<const T> x, View<T> y) const override {
    const Shape& small = inverse ? x.shape : y.shape;
    const int64_t channels = inverse ? y.shape.c : x.shape.c;
    constexpr int64_t kWorth = 4;
    Exec::for_each(ctx, small.pixels(), channels,
                   ops::Squeeze<T>{small.w, channels, diagonal, inverse, x.data, x.stride, y.data, y.stride},
                   kWorth);
  }

  void logit_forward(Context& ctx, View<const T> x, View<T> y, double* logdet) const override {
    Exec::template map_groups<T>(ctx, x.shape.n, x.shape.pixels_per_sample(), x.shape.c,
                                 ops::LogitForward<T>{x.data, x.stride, y.data, y.stride}, logdet);
  }

  void logit_inverse(Context& ctx, View<const T> y, View<T> x, double* logdet) const override {
    Exec::template map_groups<T>(ctx, x.shape.n, x.shape.pixels_per_sample(), x.shape.c,
                                 ops::LogitInverse<T>{y.data, y.stride, x.data, x.stride}, logdet);
  }

  void logit_backward(Context& ctx, View<const T> y, View<const T> dy, const double* dlogdet, View<T> x,
                      View<T> dx) const override {
    Exec::for_each(ctx, y.shape.pixels(), y.shape.c,
                   ops::LogitBackward<T>{y.data, y.stride, dy.data, dy.stride, dlogdet,
                                         y.shape.pixels_per_sample(), x.data, x.stride, dx.data, dx.stride});
  }

  void logit_pull(Context& ctx, View<const T> dx, const T* bend, const T* slope, View<T> dz) const override {
    Exec::for_each(ctx, dx.shape.pixels(), dx.shape.c,
                   ops::LogitPull<T>{dx.data, dx.stride, bend, slope, dx.shape.c, dz.data, dz.stride});
  }

  void bounds_map(Context& ctx, const ColumnBounds<T>& bounds, bool inverse, View<const T> from, View<T> to,
                  double* logdet) const override {
    with_flag(inverse, [&](auto back) {
      Exec::template map_groups<T>(
          ctx, from.shape.n, from.shape.pixels_per_sample(), from.shape.c,
          ops::BoundsMap<T, back.value>{bounds, from.data, from.stride, to.data, to.stride}, logdet);
    });
  }

  void bounds_backward(Context& ctx, const ColumnBounds<T>& bounds, bool inverse, View<const T> y,
                       View<const T> from, const double* dlogdet, View<T> x, View<T> to) const override {
    Exec::for_each(ctx, y.shape.pixels(), y.shape.c,
                   ops::BoundsBackward<T>{bounds, inverse, y.data, y.stride, from.data, from.stride, dlogdet,
                                          y.shape.pixels_per_sample(), x.data, x.stride, to.data, to.stride});
  }

  void dequantize(Context& ctx, int64_t n, int64_t count, const uint8_t* x, int bits, bool noise,
                  uint64_t seed, uint64_t first, T* out) const override {
    Exec::for_each(ctx, n, (count + 3) / 4,
                   ops::Dequantize<T>{seed, static_cast<uint32_t>(Stream::dequantize), first, 8 - bits, noise,
                                      count, x, out});
  }

  void base_log_prob(Context& ctx, Base base, int64_t n, int64_t d, const T* z, T scale, T* dz,
                     double* out) const override {
    // A row a value where rows are not shared: one row a sample would leave a large image to one thread.
    const int64_t rows = Exec::shares_rows ? 1 : d, cols = Exec::shares_rows ? d : 1;
    with_flag(base == Base::logistic, [&](auto logistic) {
      Exec::template map_groups<T>(ctx, n, rows, cols,
                                   ops::BaseLogProb<T, logistic.value>{cols, z, dz, scale}, out);
    });
  }

  void base_sample(Context& ctx, Base base, int64_t n, int64_t d, T scale, uint64_t seed, uint64_t first,
                   T* out) const override {
    const uint32_t stream = static_cast<uint32_t>(Stream::prior);
    with_flag(base == Base::logistic, [&](auto logistic) {
      Exec::template map<double>(ctx, n, (d + 3) / 4,
                                 ops::FillNoise<T, logistic.value>{seed, stream, first, scale, d, out});
    });
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

  void sum_squares(Context& ctx, int64_t n, const T* x, double* out) const override {
    Exec::sum(ctx, 1, n, ops::SumSquares<T>{x}, out);
  }

  void scale(Context& ctx, int64_t n, T factor, T* x) const override {
    Exec::for_each(ctx, 1, n, ops::ScaleAll<T>{factor, x}, 1);
  }

  void average(Context& ctx, int64_t n, const T* x, T rate, T* average) const override {
    Exec::for_each(ctx, 1, n, ops::Average<T>{x, rate, average}, 1);
  }

  void optimizer_step(Context& ctx, const OptimizerConfig& config, int64_t n, int64_t decay_size, double lr,
                      const T* g, T* m, T* v, T* w) const override {
    const ops::StepBase<T> base{w, g, T(lr), T(config.shrink), T(config.weight_decay), decay_size};
    ops::with_rule(config, base, m, v,
                   [&](const auto& f, int64_t worth) { Exec::for_each(ctx, 1, n, f, worth); });
  }

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

  /// f(the flag, as a type)
  template <class F>
  static void with_flag(bool flag, const F& f) {
    if (flag) return f(std::true_type());
    f(std::false_type());
  }

  /// f(the pixels that take part)
  template <class F>
  static void with_mask(int parity, const Shape& shape, const F& f) {
    if (parity < 0) return f(ops::AllPixels());
    f(mask(parity, shape));
  }

  static ops::PixelMask mask(int parity, const Shape& shape) { return {parity, shape.w, shape.h}; }

 private:
  CouplingLaunch<Exec, T> coupling_;
};

}  // namespace evenflow
