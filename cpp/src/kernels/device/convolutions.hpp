#pragma once

#include "kernels/device/exec.hpp"
#include "kernels/device/thin_product.hpp"
#include "kernels/device/tile_product.hpp"
#include "kernels/net/launch.hpp"
#include "kernels/net/layout.hpp"

namespace evenflow {

/// Elements of a chain's hidden activations, one after the other, in rows padded_stride() apart.
template <class T>
int64_t hidden_rows_size(const StackUnit<T>* units, int count, int64_t pixels, int64_t value_bytes) {
  int64_t size = 0;
  for (int u = 0; u + 1 < count; ++u) size += pixels * padded_stride(units[u].dims.cout, value_bytes);
  return size;
}

/// A device's convolutions, by TileProduct or, of few channels, by ThinProduct.
template <class Launcher, class T>
class DeviceConvolutions : public NetLaunch<DeviceExec<Launcher>, T> {
 public:
  static constexpr const char* name = Launcher::name;

  void conv_forward(Context& ctx, const ConvDims& dims, View<const T> x, const T* w,
                    const Epilogue<T>& epilogue, View<T> y) const override {
    if (is_thin(dims)) return thin_product(ctx, x, w, dims.cout, 1, epilogue, false, y);
    convolve<T, T, false>(ctx, dims, x, w, epilogue, y);
  }

  void conv_backward_data(Context& ctx, const ConvDims& dims, View<const T> dy, const T* w, View<T> dx,
                          bool accumulate) const override {
    if (is_thin(dims)) return thin_product(ctx, dy, w, 1, dims.cout, Epilogue<T>(), accumulate, dx);
    data_gradient<T, false>(ctx, dims, dy, w, dx, accumulate);
  }

  void conv_backward_weights(Context& ctx, const ConvDims& dims, View<const T> x, View<const T> dy,
                             T* dw) const override {
    if (is_thin(dims)) return thin_gradient(ctx, x, dy, dw);
    weights_gradient<T, T, false>(ctx, dims, x, dy, dw, false);
  }

 protected:
  using Exec = DeviceExec<Launcher>;

  template <class S, class Y, bool bf16>
  static void convolve(Context& ctx, const ConvDims& dims, View<const S> x, const T* w,
                       const Epilogue<T>& epilogue, View<Y> y) {
    product(ctx, dims.in.pixels(), dims.cout, dims.taps() * dims.weight_rows(),
            patches<S, bf16>(dims, x.data, x.stride, dims.in.c, dims.edge, 1),
            device::Rows<T, T, bf16>{w, dims.cout},
            device::StoreActivated<T, Y>{y.data, y.stride, epilogue.bias, epilogue.scale, epilogue.relu});
  }

  template <class S, bool bf16>
  static void data_gradient(Context& ctx, const ConvDims& dims, View<const S> dy, const T* w, View<T> dx,
                            bool accumulate) {
    const int64_t m = dims.in.pixels(), n = dims.in.c, k = dims.taps() * dims.cout;
    const auto a = patches<S, bf16>(dims, dy.data, dy.stride, dims.cout, false, -1);
    const device::BackwardWeights<T, bf16> b{w, dims.weight_rows(), dims.cout};
    if (accumulate) {
      product(ctx, m, n, k, a, b, device::StoreAdded<T>{dx.data, dx.stride});
    } else {
      product(ctx, m, n, k, a, b, device::StoreActivated<T, T>{dx.data, dx.stride, nullptr, nullptr, false});
    }
  }

  /// dw += the sum over all pixels, or dw = with overwrite. Each split sums one chunk of pixels; splits are
  /// added in order.
  template <class S, class D, bool bf16>
  static void weights_gradient(Context& ctx, const ConvDims& dims, View<const S> x, View<const D> dy, T* dw,
                               bool overwrite) {
    using A = device::Transposed<device::Patches<T, S, bf16>>;
    using B = device::Rows<T, D, bf16>;
    constexpr int64_t kChunk = 1024;
    const int64_t pixels = dims.in.pixels(), rows = dims.taps() * dims.weight_rows();
    if (pixels == 0) return;
    WorkspaceScope scope(ctx.workspace());
    const int64_t splits = Exec::ceil_div(pixels, kChunk);
    T* partial = scope.take<T>(splits * dims.weight_size());
    const device::TileProduct<T, A, B, device::StoreSplit<T>> body{
        {rows, dims.cout, pixels, kChunk},
        {patches<S, bf16>(dims, x.data, x.stride, dims.in.c, dims.edge, 1)},
        {dy.data, dy.stride},
        {partial, rows, dims.cout}};
    Exec::launch(ctx, body.blocks(), body);
    Exec::for_each(ctx, 1, dims.weight_size(),
                   device::AddSplits<T>{splits, dims.weight_size(), partial, overwrite, dw});
  }

 private:
  static bool is_thin(const ConvDims& dims) {
    return dims.kernel == 1 && !dims.edge && dims.in.c <= device::kThin && dims.cout <= device::kThin;
  }

  /// Two views whose channels are accessed in packs of one size.
  struct Pair {
    using Number = T;
    View<const T> a, b;
    EVENFLOW_INLINE bool packs(int n) const {
      return b.shape.c % n == 0 && ops::fits(n, a.data, a.stride) && ops::fits(n, b.data, b.stride);
    }
  };

  static constexpr int64_t kBlocks = 264;  ///< fill a large GPU

  static void thin_product(Context& ctx, View<const T> x, const T* w, int64_t w_down, int64_t w_along,
                           const Epilogue<T>& e, bool add, View<T> y) {
    const int64_t pixels = x.shape.pixels(), depth = x.shape.c, width = y.shape.c;
    if (pixels == 0) return;
    Exec::in_packs(depth, Pair{x, y}, [&](auto n) {
      using Body = device::ThinProduct<T, decltype(n)::value>;
      constexpr int kOwn = device::kOwnThin;
      const int64_t threads = Exec::ceil_div(pixels, kOwn * kBlocks);  // along a tile
      const int64_t most =
          ops::min_of<int64_t>(device::kThreads / Exec::ceil_div(width, kOwn), Body::kTile / depth / kOwn);
      const int tile = static_cast<int>(kOwn * ops::min_of(threads, most));
      Exec::launch(ctx, Exec::ceil_div(pixels, tile),
                   Body{pixels, static_cast<int>(depth), static_cast<int>(width), tile, x.data, x.stride, w,
                        w_down, w_along, y.data, y.stride, e.bias, e.scale, e.relu, add});
    });
  }

  static void thin_gradient(Context& ctx, View<const T> x, View<const T> dy, T* dw) {
    const int64_t pixels = x.shape.pixels(), rows = x.shape.c, cols = dy.shape.c, size = rows * cols;
    if (pixels == 0) return;
    WorkspaceScope scope(ctx.workspace());
    double* sums = scope.take<double>(size);
    Exec::in_packs(rows, Pair{x, dy}, [&](auto n) {
      using Body = device::ThinGradient<T, decltype(n)::value>;
      const int tile = Body::kTile / (device::up_to_four(rows) + device::up_to_four(cols));
      const int64_t chunk = Exec::ceil_div(Exec::ceil_div(pixels, tile), kBlocks) * tile,
                    blocks = Exec::ceil_div(pixels, chunk);
      WorkspaceScope inner(ctx.workspace());
      double* partial = inner.take<double>(blocks * size);
      Exec::launch(ctx, blocks,
                   Body{pixels, static_cast<int>(rows), static_cast<int>(cols), tile, chunk, x.data, x.stride,
                        dy.data, dy.stride, partial});
      Exec::sum_rows(ctx, blocks, size, partial, ops::StoreSum{sums});
    });
    Exec::for_each(ctx, 1, size, ops::AddSums<T>{1, sums, dw});
  }

  template <class S, bool bf16>
  static device::Patches<T, S, bf16> patches(const ConvDims& dims, const S* x, int64_t stride,
                                             int64_t channels, bool edge, int sign) {
    return {x, stride, dims.in.h, dims.in.w, channels, dims.kernel, edge, sign};
  }

  /// A product without splits: k is one chunk.
  template <class A, class B, class Store>
  static void product(Context& ctx, int64_t m, int64_t n, int64_t k, const A& a, const B& b,
                      const Store& store) {
    if (m == 0 || n == 0) return;
    const device::TileProduct<T, A, B, Store> body{{m, n, k, ops::max_of<int64_t>(k, 1)}, a, b, store};
    Exec::launch(ctx, body.blocks(), body);
  }
};

}  // namespace evenflow
