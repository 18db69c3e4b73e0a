#pragma once

#include "evenflow/rng.hpp"
#include "kernels/ops/checkerboard.hpp"
#include "kernels/ops/sums.hpp"
#include "kernels/prior/base.hpp"
#include "kernels/prior/class_head.hpp"
#include "kernels/prior/dequantize.hpp"
#include "kernels/prior/kernels.hpp"
#include "kernels/prior/top_prior.hpp"

namespace evenflow {

template <class Exec, class T>
class PriorLaunch final : public PriorKernels<T> {
 public:
  void edge(Context& ctx, const Shape& image, int64_t channels, const T* weight, const T* bias, const T* logs,
            T* edge) const override {
    Exec::for_each(ctx, image.pixels_per_sample(), channels,
                   ops::PriorEdge<T>{image.h, image.w, weight, bias, logs, channels, edge});
  }

  void statistics(Context& ctx, const T* edge, const int32_t* labels, const T* weight, const T* bias,
                  const T* logs, View<T> h) const override {
    Exec::for_each(ctx, h.shape.pixels(), h.shape.c,
                   ops::PriorStatistics<T>{h.shape.pixels_per_sample(), h.shape.c, edge, labels, weight, bias,
                                           logs, h.data});
  }

  void edge_gradients(Context& ctx, View<const T> dh, const T* edge, const T* logs, T* dweight, T* dbias,
                      T* dlogs) const override {
    const int64_t values = dh.shape.per_sample();
    WorkspaceScope scope(ctx);
    double* sums = scope.take<double>(values);
    Exec::template sum_columns<T>(ctx, dh.shape.n, values,
                                  ops::ColumnSum<T>{ops::PixelMask(), dh.data, values}, sums);
    Exec::for_each(ctx, 1, dh.shape.c,
                   ops::PriorEdgeGradients<T>{dh.shape.h, dh.shape.w, sums, edge, logs, dh.shape.c, dweight,
                                              dbias, dlogs});
  }

  void class_gradients(Context& ctx, View<const T> dh, const int32_t* labels, const T* weight, const T* bias,
                       const T* logs, T* dweight, T* dbias, T* dlogs) const override {
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

  void base_log_prob(Context& ctx, Base base, int64_t n, int64_t d, const T* z, T scale, T* dz,
                     double* out) const override {
    // A row a value where rows are not shared: one row a sample would leave a large image to one thread.
    const int64_t rows = Exec::shares_rows ? 1 : d, cols = Exec::shares_rows ? d : 1;
    ops::with_base(base, [&](auto kind) {
      Exec::template map_groups<T>(ctx, n, rows, cols, ops::BaseLogProb<T, kind.value>{cols, z, dz, scale},
                                   out);
    });
  }

  void base_sample(Context& ctx, Base base, int64_t n, int64_t d, T scale, uint64_t seed, uint64_t first,
                   T* out) const override {
    const uint32_t stream = static_cast<uint32_t>(Stream::prior);
    ops::with_base(base, [&](auto kind) {
      Exec::template map<double>(ctx, n, (d + 3) / 4,
                                 ops::FillNoise<T, kind.value>{seed, stream, first, scale, d, out});
    });
  }

  void dequantize(Context& ctx, int64_t n, int64_t count, const uint8_t* x, int bits, bool noise,
                  uint64_t seed, uint64_t first, T* out) const override {
    Exec::for_each(ctx, n, (count + 3) / 4,
                   ops::Dequantize<T>{seed, static_cast<uint32_t>(Stream::dequantize), first, 8 - bits, noise,
                                      count, x, out});
  }
};

}  // namespace evenflow
