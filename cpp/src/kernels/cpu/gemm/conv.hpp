#pragma once

#include "kernels/cpu/gemm/pack.hpp"
#include "kernels/kernel_set.hpp"

// Convolutions as matrix products. A 3x3 kernel multiplies the number of columns by nine on one side; it is
// taken on the side with fewer channels: patches of the input while packing, or one product a pixel for all
// taps and a gather of nine neighbours afterwards.

namespace evenflow::gemm {

EVENFLOW_HD bool gather_input(const ConvDims& dims) {
  return dims.kernel == 1 || dims.in.c <= dims.cout;
}

EVENFLOW_HD Taps taps_of(const ConvDims& dims, int sign) {
  return {dims.in.h, dims.in.w, dims.kernel, sign};
}

template <class T>
struct FinishEpilogue {
  Epilogue<T> epilogue;
  void operator()(T* c, int64_t ldc, int64_t, int64_t rows, int64_t n0, int64_t cols) const {
    if (!epilogue.bias && !epilogue.scale && !epilogue.relu) return;
    for (int64_t i = 0; i < rows; ++i) apply(c + i * ldc, n0, cols);
  }
  void apply(T* row, int64_t n0, int64_t cols) const {
    const T* bias = epilogue.bias ? epilogue.bias + n0 : nullptr;
    const T* scale = epilogue.scale ? epilogue.scale + n0 : nullptr;
    if (bias) {
      for (int64_t j = 0; j < cols; ++j) row[j] += bias[j];
    }
    if (scale) {
      for (int64_t j = 0; j < cols; ++j) row[j] *= scale[j];
    }
    if (epilogue.relu) {
      for (int64_t j = 0; j < cols; ++j) row[j] = ops::max_of(row[j], T(0));
    }
  }
};

/// out[m, n] (+)= sum over taps of products[source(m, tap), (tap, n)]; where the source is outside the
/// image, the indicator's weight (tap, n) instead, if there is one. Then the epilogue.
template <class Isa, class T>
void gather_taps(Context& ctx, const Taps& taps, const T* products, int64_t channels, const T* outside,
                 int64_t outside_stride, const Epilogue<T>& epilogue, bool accumulate, View<T> out) {
  const int64_t width = taps.count() * channels, rows = out.shape.pixels();
  const FinishEpilogue<T> finish{epilogue};
  const int threads = CpuExec<Isa>::threads_for(ctx, rows * width);
#pragma omp parallel for num_threads(threads) if (threads > 1)
  for (int64_t m = 0; m < rows; ++m) {
    T* y = out.data + m * out.stride;
    if (!accumulate) {
      for (int64_t n = 0; n < channels; ++n) y[n] = T(0);
    }
    const Pixel pixel = taps.pixel(m);
    for (int t = 0; t < taps.count(); ++t) {
      const int64_t row = taps.source(pixel, t);
      const T* src = row >= 0 ? products + row * width + t * channels
                              : (outside ? outside + t * outside_stride : nullptr);
      if (!src) continue;
      for (int64_t n = 0; n < channels; ++n) y[n] += src[n];
    }
    finish.apply(y, 0, channels);
  }
}

template <class Isa, class T>
void conv_forward(Context& ctx, const ConvDims& dims, View<const T> x, const T* w,
                  const Epilogue<T>& epilogue, View<T> y) {
  const int64_t m = dims.in.pixels(), rows = dims.weight_rows();
  const FinishEpilogue<T> finish{epilogue};
  if (dims.kernel == 1) {
    multiply<Isa, T>(ctx, m, dims.cout, dims.in.c, RowsA<Isa, T>{x.data, x.stride},
                     RowsB<Isa, T>{w, dims.cout}, y.data, y.stride, false, finish);
    return;
  }
  if (gather_input(dims)) {
    multiply<Isa, T>(ctx, m, dims.cout, dims.taps() * rows,
                     PatchesA<Isa, T>{x.data, x.stride, dims.in.c, dims.edge, taps_of(dims, 1)},
                     RowsB<Isa, T>{w, dims.cout}, y.data, y.stride, false, finish);
    return;
  }
  WorkspaceScope scope(ctx);
  const int64_t width = dims.taps() * dims.cout;
  T* products = scope.take<T>(m * width);
  multiply<Isa, T>(ctx, m, width, dims.in.c, RowsA<Isa, T>{x.data, x.stride},
                   WeightsB<Isa, T, WeightsAs::channels_by_tap_outputs>{w, rows, dims.in.c, dims.cout},
                   products, width, false, NoFinish());
  gather_taps<Isa, T>(ctx, taps_of(dims, 1), products, dims.cout,
                      dims.edge ? w + dims.in.c * dims.cout : nullptr, rows * dims.cout, epilogue, false, y);
}

template <class Isa, class T>
void conv_backward_data(Context& ctx, const ConvDims& dims, View<const T> dy, const T* w, View<T> dx,
                        bool accumulate) {
  const int64_t m = dims.in.pixels(), rows = dims.weight_rows();
  if (dims.kernel == 1) {
    multiply<Isa, T>(ctx, m, dims.in.c, dims.cout, RowsA<Isa, T>{dy.data, dy.stride},
                     WeightsB<Isa, T, WeightsAs::tap_outputs_by_channels>{w, rows, dims.in.c, dims.cout},
                     dx.data, dx.stride, accumulate, NoFinish());
    return;
  }
  if (!gather_input(dims)) {
    multiply<Isa, T>(ctx, m, dims.in.c, dims.taps() * dims.cout,
                     PatchesA<Isa, T>{dy.data, dy.stride, dims.cout, false, taps_of(dims, -1)},
                     WeightsB<Isa, T, WeightsAs::tap_outputs_by_channels>{w, rows, dims.in.c, dims.cout},
                     dx.data, dx.stride, accumulate, NoFinish());
    return;
  }
  WorkspaceScope scope(ctx);
  const int64_t width = dims.taps() * dims.in.c;
  T* products = scope.take<T>(m * width);
  multiply<Isa, T>(ctx, m, width, dims.cout, RowsA<Isa, T>{dy.data, dy.stride},
                   WeightsB<Isa, T, WeightsAs::outputs_by_tap_channels>{w, rows, dims.in.c, dims.cout},
                   products, width, false, NoFinish());
  gather_taps<Isa, T>(ctx, taps_of(dims, -1), products, dims.in.c, nullptr, 0, Epilogue<T>(), accumulate, dx);
}

/// dw of the indicator's rows: sums of dy over the pixels whose tap is outside the image.
template <class Isa, class T>
void edge_weight_gradient(Context& ctx, const ConvDims& dims, View<const T> dy, T* dw) {
  const Taps taps = taps_of(dims, 1);
  const int threads = CpuExec<Isa>::threads_for(ctx, dims.in.pixels() * dims.cout);
#pragma omp parallel for num_threads(threads) if (threads > 1)
  for (int t = 0; t < taps.count(); ++t) {
    T* out = dw + (t * dims.weight_rows() + dims.in.c) * dims.cout;
    Pixel pixel = taps.pixel(0);
    for (; pixel.m < dims.in.pixels(); taps.advance(pixel)) {
      if (taps.source(pixel, t) >= 0) continue;
      for (int64_t n = 0; n < dims.cout; ++n) out[n] += dy.data[pixel.m * dy.stride + n];
    }
  }
}

template <class Isa, class T>
void conv_backward_weights(Context& ctx, const ConvDims& dims, View<const T> x, View<const T> dy, T* dw) {
  const int64_t m = dims.in.pixels(), rows = dims.weight_rows();
  if (gather_input(dims)) {
    multiply<Isa, T>(ctx, dims.taps() * rows, dims.cout, m,
                     PatchesTransposedA<Isa, T>{x.data, x.stride, dims.in.c, dims.edge, taps_of(dims, 1)},
                     RowsB<Isa, T>{dy.data, dy.stride}, dw, dims.cout, true, NoFinish());
    return;
  }
  WorkspaceScope scope(ctx);
  const int64_t width = dims.taps() * dims.cout;
  T* by_tap = scope.take<T>(dims.in.c * width);  // (c, (tap, n))
  multiply<Isa, T>(
      ctx, dims.in.c, width, m, PatchesTransposedA<Isa, T>{x.data, x.stride, dims.in.c, false, Taps()},
      PatchesB<Isa, T>{dy.data, dy.stride, dims.cout, taps_of(dims, -1)}, by_tap, width, false, NoFinish());
  for (int64_t t = 0; t < dims.taps(); ++t) {
    for (int64_t c = 0; c < dims.in.c; ++c) {
      for (int64_t n = 0; n < dims.cout; ++n) {
        dw[(t * rows + c) * dims.cout + n] += by_tap[c * width + t * dims.cout + n];
      }
    }
  }
  if (dims.edge) edge_weight_gradient<Isa, T>(ctx, dims, dy, dw);
}

}  // namespace evenflow::gemm
