#pragma once

#include <vector>

#include "kernels/device/mma_product.hpp"
#include "kernels/device/mma_stores.hpp"
#include "kernels/device/net_with_mma.hpp"
#include "kernels/device/packing.hpp"

namespace evenflow {

/// Computes a net's units, one product after another.
template <class Launcher, class H>
class MmaStacks {
 public:
  static void forward(Context& ctx, const StackUnit<float>* units, int count, View<const float> x, H* acts,
                      View<float> h) {
    const int64_t pixels = x.shape.pixels();
    if (pixels == 0) return;
    WorkspaceScope scope(ctx.workspace());
    if (!acts) acts = scope.take<H>(hidden_rows_size(units, count, pixels, sizeof(H)));
    Packed packed(ctx, scope);
    Rows from = packed.rows(x);
    for (int u = 0; u < count; ++u) {
      if (u + 1 == count && units[u].dims.kernel == 3) {
        packed.add_taps(units[u], forward_taps(units[u]));
      } else {
        packed.add(units[u]);
      }
    }
    packed.launch();
    for (int u = 0; u < count; ++u) {
      const StackUnit<float>& unit = units[u];
      if (u + 1 == count) return last_unit(ctx, unit, from, packed.weights[u], h);
      const device::MnMajorMatrix<H> b = matrix(unit, packed.weights[u]);
      const Epilogue<float>& e = unit.epilogue;
      const int64_t stride = padded_stride(unit.dims.cout, sizeof(H));
      const device::StoreHidden<H> store{acts, stride, unit.dims.cout, e.bias, e.scale, e.relu};
      if (unit.dims.kernel == 1) {
        product(ctx, pixels, unit.dims.cout, b.rows, pixel_rows(from, pixels), b, store);
      } else {
        product(ctx, pixels, unit.dims.cout, b.rows, patch_rows(unit.dims, 1, from), b, store);
      }
      from = {acts, stride, unit.dims.cout};
      acts += pixels * stride;
    }
  }

  static void backward(Context& ctx, const StackUnit<float>* units, int count, View<const float> x,
                       const H* acts, View<const float> dh, View<float> dx) {
    const int64_t pixels = x.shape.pixels();
    if (pixels == 0) return;
    WorkspaceScope scope(ctx.workspace());
    int64_t widest = 0;
    for (int u = 0; u + 1 < count; ++u) {
      const int64_t stride = padded_stride(units[u].dims.cout, sizeof(H));
      widest = ops::max_of(widest, stride);
      acts += pixels * stride;
    }
    H* buffers[2] = {nullptr, nullptr};
    for (int u = 0; u + 1 < ops::min_of(count, 3); ++u) buffers[u] = scope.take<H>(pixels * widest);
    Packed packed(ctx, scope);
    Rows da = packed.rows(dh);
    const Rows input = packed.rows(x);
    for (int u = 0; u < count; ++u) {
      if (u == 0 && !dx.data) {
        packed.leave_out();
      } else if (u == 0 && units[u].dims.kernel == 3) {
        packed.add_taps(units[u], backward_taps(units[u]));
      } else {
        packed.add(units[u]);
      }
    }
    packed.launch();
    for (int u = count - 1; u > 0; --u) {
      const int64_t width = units[u - 1].dims.cout, stride = padded_stride(width, sizeof(H));
      acts -= pixels * stride;
      H* to = buffers[(u - 1) % 2];
      const Rows y{acts, stride, width}, below{to, stride, width};
      hidden_gradient(ctx, units[u], units[u - 1], da, packed.weights[u], y, to);
      if (units[u].dw) weights_gradient(ctx, units[u], y, da);
      da = below;
    }
    if (dx.data) data_gradient(ctx, units[0], da, packed.weights[0], dx);
    if (units[0].dw) weights_gradient(ctx, units[0], input, da);
  }

 private:
  using Exec = DeviceExec<Launcher>;
  using Mma = typename Launcher::Mma;

  /// Rows of numbers, with `channels` zero-padded to a multiple of eight.
  struct Rows {
    const H* data;
    int64_t stride;
    int64_t channels;
  };

  static device::PatchDims patches(const ConvDims& dims, int32_t sign) {
    const int64_t channels = sign > 0 ? dims.in.c : dims.cout;
    return {static_cast<int32_t>(dims.in.h),
            static_cast<int32_t>(dims.in.w),
            static_cast<int32_t>(dims.in.h * dims.in.w),
            dims.kernel,
            static_cast<int32_t>(device::up_to_eight(channels)),
            sign > 0 && dims.edge,
            sign};
  }

  /// Strides in a unit's weights, for a product with all taps side by side.
  struct TapWeights {
    int64_t tap_step, k_step, c_step, k, channels;
  };

  /// Packed operands of a net: rows, and the weights of one unit after another. launch() packs them all.
  struct Packed {
    Packed(Context& ctx, WorkspaceScope& from) : scope(from), packing(ctx) {}

    Rows rows(View<const float> x) {
      const int64_t pixels = x.shape.pixels(), width = device::up_to_eight(x.shape.c);
      H* out = scope.take<H>(pixels * width);
      packing.add(pixels, width, device::PackRows<H>{x.data, x.stride, x.shape.c, width, out});
      return {out, width, x.shape.c};
    }
    /// Packs a unit's weights by patch index.
    void add(const StackUnit<float>& unit) {
      const device::PatchDims dims = patches(unit.dims, 1);
      const int64_t width = device::up_to_eight(unit.dims.cout);
      H* out = next(dims.size() * width);
      packing.add(dims.size(), width,
                  device::PackWeights<H>{unit.w, dims, unit.dims.in.c, unit.dims.cout, width, out});
    }
    /// Packs a unit's weights for a product with all taps side by side.
    void add_taps(const StackUnit<float>& unit, const TapWeights& w) {
      const int64_t width = device::up_to_eight(9 * w.channels), depth = device::up_to_eight(w.k);
      H* out = next(depth * width);
      packing.add(depth, width,
                  device::PackTaps<H>{unit.w, w.tap_step, w.k_step, w.c_step, w.k,
                                      static_cast<int32_t>(w.channels), width, out});
    }
    /// Skips a unit whose weights no product reads.
    void leave_out() { weights.push_back(nullptr); }
    void launch() { packing.launch(); }

    WorkspaceScope& scope;
    device::Packing<Launcher, H> packing;
    std::vector<const H*> weights;

   private:
    H* next(int64_t size) {
      H* out = scope.take<H>(size);
      weights.push_back(out);
      return out;
    }
  };

  /// Packed weights of a unit, as its products read them.
  static device::MnMajorMatrix<H> matrix(const StackUnit<float>& unit, const H* packed) {
    const int64_t width = device::up_to_eight(unit.dims.cout);
    return {packed, width, patches(unit.dims, 1).size(), width};
  }
  /// The transpose, for a 1x1 kernel.
  static device::KMajorMatrix<H> transposed(const StackUnit<float>& unit, const H* packed) {
    const device::MnMajorMatrix<H> of = matrix(unit, packed);
    return {of.x, of.stride, of.rows, of.columns};
  }

  /// Rows as an operand: the numbers or the patch of a pixel along k, or pixels along k.
  static device::KMajorMatrix<H> pixel_rows(const Rows& x, int64_t pixels) {
    return {x.data, x.stride, pixels, device::up_to_eight(x.channels)};
  }
  static device::PatchRows<H> patch_rows(const ConvDims& dims, int32_t sign, const Rows& x) {
    return {patches(dims, sign), x.data, x.stride, dims.in.pixels()};
  }
  static device::MnMajorMatrix<H> pixel_columns(const Rows& x, int64_t pixels) {
    return {x.data, x.stride, pixels, device::up_to_eight(x.channels)};
  }

  static void hidden_gradient(Context& ctx, const StackUnit<float>& unit, const StackUnit<float>& lower,
                              const Rows& da, const H* packed, const Rows& y, H* below) {
    const int64_t pixels = unit.dims.in.pixels(), width = y.channels, tiles = Exec::ceil_div(pixels, kTileM);
    WorkspaceScope scope(ctx.workspace());
    double* partial = scope.take<double>(tiles * 2 * width);
    const device::StoreHiddenGradient<H> store{
        y.data, y.stride, below, y.stride, width, lower.epilogue.scale, lower.epilogue.relu, partial};
    if (unit.dims.kernel == 1) {
      const device::KMajorMatrix<H> b = transposed(unit, packed);
      product(ctx, pixels, width, b.columns, pixel_rows(da, pixels), b, store);
    } else {
      const auto a = patch_rows(unit.dims, -1, da);
      const device::WeightColumns<H> b{packed, a.dims.taps(), patches(unit.dims, 1).channels.by,
                                       a.dims.channels};
      product(ctx, pixels, width, a.dims.size(), a, b, store);
    }
    Exec::sum_rows(ctx, tiles, width, partial,
                   ops::AddPair<float>{lower.logs_factor, lower.dbias, lower.dlogs});
  }

  // A 3x3 kernel at a net's end connects few channels with many. It is computed as a product with all taps of
  // each pixel, followed by a sum over neighbours. Patches would read each pixel nine times, for tiles that
  // are mostly padding.

  static TapWeights forward_taps(const StackUnit<float>& unit) {
    const int64_t cin = unit.dims.in.c, cout = unit.dims.cout;
    return {unit.dims.weight_rows() * cout, cout, 1, cin, cout};
  }
  static TapWeights backward_taps(const StackUnit<float>& unit) {
    const int64_t cin = unit.dims.in.c, cout = unit.dims.cout;
    return {unit.dims.weight_rows() * cout, 1, cout, cout, cin};
  }

  static void last_unit(Context& ctx, const StackUnit<float>& unit, const Rows& x, const H* packed,
                        View<float> h) {
    const int64_t pixels = h.shape.pixels(), cin = unit.dims.in.c, cout = unit.dims.cout;
    const Epilogue<float>& e = unit.epilogue;
    const device::FinishUnit finish{e.bias, e.scale, e.relu, false, h.data, h.stride};
    WorkspaceScope scope(ctx.workspace());
    if (unit.dims.kernel == 1) {
      const device::MnMajorMatrix<H> b = matrix(unit, packed);
      const device::PartialSums parts =
          split_product(ctx, scope, pixels, cout, b.rows, pixel_rows(x, pixels), b);
      return Exec::for_each(ctx, pixels, cout, device::FinishRows{parts, finish});
    }
    const device::PartialSums parts = product_of_taps(ctx, scope, unit, x, packed, forward_taps(unit));
    const float* edge = unit.dims.edge ? unit.w + cin * cout : nullptr;
    Exec::for_each(
        ctx, pixels, cout,
        device::FinishTaps{parts, patches(unit.dims, 1), cout, edge, unit.dims.weight_rows() * cout, finish});
  }

  static device::PartialSums product_of_taps(Context& ctx, WorkspaceScope& scope,
                                             const StackUnit<float>& unit, const Rows& x, const H* packed,
                                             const TapWeights& w) {
    const int64_t n = 9 * w.channels, width = device::up_to_eight(n), depth = device::up_to_eight(w.k);
    const int64_t pixels = unit.dims.in.pixels();
    return split_product(ctx, scope, pixels, n, depth, pixel_rows(x, pixels),
                         device::MnMajorMatrix<H>{packed, width, depth, width});
  }

  static device::FinishUnit add_to(View<float> dx) {
    return {nullptr, nullptr, false, true, dx.data, dx.stride};
  }
  static void data_gradient(Context& ctx, const StackUnit<float>& unit, const Rows& da, const H* packed,
                            View<float> dx) {
    const int64_t pixels = dx.shape.pixels(), width = dx.shape.c;
    WorkspaceScope scope(ctx.workspace());
    if (unit.dims.kernel == 3) {
      const device::PartialSums parts = product_of_taps(ctx, scope, unit, da, packed, backward_taps(unit));
      Exec::for_each(ctx, pixels, width,
                     device::FinishTaps{parts, patches(unit.dims, -1), width, nullptr, 0, add_to(dx)});
      return;
    }
    const device::KMajorMatrix<H> b = transposed(unit, packed);
    const device::PartialSums parts =
        split_product(ctx, scope, pixels, width, b.columns, pixel_rows(da, pixels), b);
    Exec::for_each(ctx, pixels, width, device::FinishRows{parts, add_to(dx)});
  }

  static device::FinishGradient finish_gradient(const StackUnit<float>& unit) {
    return {static_cast<int32_t>(unit.dims.weight_rows()), unit.dims.in.c, unit.dims.cout, unit.overwrite,
            unit.dw};
  }
  static void weights_gradient(Context& ctx, const StackUnit<float>& unit, const Rows& x, const Rows& da) {
    const int64_t pixels = unit.dims.in.pixels(), cout = unit.dims.cout;
    WorkspaceScope scope(ctx.workspace());
    if (unit.dims.kernel == 3 && cout < unit.dims.in.c) return weights_gradient_by_taps(ctx, unit, x, da);
    const device::PatchDims dims = patches(unit.dims, 1);
    const device::MnMajorMatrix<H> b = pixel_columns(da, pixels);
    const device::PartialSums parts =
        unit.dims.kernel == 1
            ? split_product(ctx, scope, dims.size(), cout, pixels, pixel_columns(x, pixels), b)
            : split_product(ctx, scope, dims.size(), cout, pixels,
                            device::PatchColumns<H>{dims, x.data, x.stride, pixels}, b);
    Exec::for_each(ctx, unit.dims.taps() * unit.dims.weight_rows(), cout,
                   device::FinishWeights{parts, dims, finish_gradient(unit)});
  }

  static void weights_gradient_by_taps(Context& ctx, const StackUnit<float>& unit, const Rows& x,
                                       const Rows& da) {
    const ConvDims& dims = unit.dims;
    const int64_t pixels = dims.in.pixels(), cout = dims.cout, n = 9 * cout, width = device::up_to_eight(n);
    WorkspaceScope scope(ctx.workspace());
    H* readers = scope.take<H>(pixels * width);
    Exec::for_each(ctx, pixels, width,
                   device::PackReaders<H>{da.data, da.stride, patches(dims, -1), static_cast<int32_t>(cout),
                                          width, readers});
    const device::MnMajorMatrix<H> b{readers, width, pixels, width};
    const device::PartialSums taps =
        split_product(ctx, scope, dims.in.c, n, pixels, pixel_columns(x, pixels), b);
    device::PartialSums edge = {};
    if (dims.edge) {
      device::PatchDims indicators = patches(dims, 1);
      indicators.channels = device::Divisor(0);
      const device::PatchColumns<H> outside{indicators, x.data, x.stride, pixels};
      edge = split_product(ctx, scope, indicators.size(), cout, pixels, outside, pixel_columns(da, pixels));
    }
    Exec::for_each(ctx, dims.taps() * dims.weight_rows(), cout,
                   device::FinishTapWeights{taps, edge, finish_gradient(unit)});
  }

  static constexpr int64_t kTileM = 128;
  static constexpr bool kBf16 = std::is_same<H, Bf16>::value;
  static constexpr int64_t kDepth = kBf16 ? 32 : 16;
  static constexpr int kWidest = kBf16 ? 128 : 64;

  /// Cycles of one step of a tile on a multiprocessor, counted from machine code for compute capability 9.0
  /// and not measured: the instructions of two warps or their matrix products, whichever take longer. A warp
  /// needs 90, 100 and 145 instructions for bfloat16 tiles of 16, 32 and 128 columns, and 290, 305 and 360
  /// for float32 tiles of 16, 32 and 64.
  static int64_t step_cost(int tile) {
    if (kBf16) return tile == 16 ? 180 : tile == 32 ? 200 : 410;
    return tile == 16 ? 580 : tile == 32 ? 610 : 720;
  }
  /// Tile width that finishes first on a large GPU, and the wider one of two equals. tiles_m = 0 means that k
  /// will be split as often as it takes to fill the GPU.
  static int tile_n(int64_t n, int64_t tiles_m) {
    const auto cost = [&](int tile) {
      const int64_t tiles = Exec::ceil_div(n, tile);
      return (tiles_m ? Exec::ceil_div(tiles_m * tiles, Launcher::multiprocessors) : tiles) * step_cost(tile);
    };
    int best = 16;
    for (const int tile : {32, kWidest}) {
      if (cost(tile) <= cost(best)) best = tile;
    }
    return best;
  }

  template <class A, class B, class Store>
  static void product(Context& ctx, int64_t m, int64_t n, int64_t k, const A& a, const B& b,
                      const Store& store) {
    launch_product(ctx, m, n, k, a, b, store, 1, tile_n(n, Exec::ceil_div(m, kTileM)));
  }
  template <class A, class B, class Store>
  static void launch_product(Context& ctx, int64_t m, int64_t n, int64_t k, const A& a, const B& b,
                             const Store& store, int64_t splits, int tile) {
    const int64_t chunk = Exec::ceil_div(Exec::ceil_div(k, kDepth), splits) * kDepth;
    const int32_t parts = ctx.matmul_precision() == MatmulPrecision::high ? 2 : 3;
    const auto launch = [&](auto width) {
      const device::MmaProduct<Mma, decltype(width)::value, A, B, Store> body{
          {m, n, k, chunk}, a, b, store, parts};
      Exec::launch(ctx, body.blocks(), body);
    };
    switch (tile) {
      case 16:
        return launch(std::integral_constant<int, 16>());
      case 32:
        return launch(std::integral_constant<int, 32>());
      default:
        return launch(std::integral_constant<int, kWidest>());
    }
  }

  /// Splits k into enough parts to fill a large GPU, if each part has some steps. The count depends on sizes
  /// only.
  template <class A, class B>
  static device::PartialSums split_product(Context& ctx, WorkspaceScope& scope, int64_t m, int64_t n,
                                           int64_t k, const A& a, const B& b) {
    constexpr int64_t kBlocks = 264, kLeastDepth = 128;
    const int tile = tile_n(n, 0);
    const int64_t tiles = Exec::ceil_div(m, kTileM) * Exec::ceil_div(n, tile),
                  steps = Exec::ceil_div(k, kDepth);
    const int64_t wanted = ops::min_of(Exec::ceil_div(kBlocks, tiles), Exec::ceil_div(k, kLeastDepth));
    const int64_t splits = Exec::ceil_div(steps, Exec::ceil_div(steps, wanted));  // no split is empty
    const int64_t width = device::up_to_eight(n);
    float* partial = scope.take<float>(splits * m * width);
    launch_product(ctx, m, n, k, a, b, device::StorePartialSums{partial, m, width}, splits, tile);
    return {splits, m, width, partial};
  }
};

template <class Launcher, class H>
void mma_stack_forward(Context& ctx, const StackUnit<float>* units, int count, View<const float> x, H* acts,
                       View<float> h) {
  MmaStacks<Launcher, H>::forward(ctx, units, count, x, acts, h);
}
template <class Launcher, class H>
void mma_stack_backward(Context& ctx, const StackUnit<float>* units, int count, View<const float> x,
                        const H* acts, View<const float> dh, View<float> dx) {
  MmaStacks<Launcher, H>::backward(ctx, units, count, x, acts, dh, dx);
}

}  // namespace evenflow
