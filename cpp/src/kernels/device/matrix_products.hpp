#pragma once

#include <vector>

#include "kernels/device/matrix_product.hpp"
#include "kernels/device/matrix_stores.hpp"
#include "kernels/device/packing.hpp"
#include "kernels/device/products.hpp"
#include "kernels/ops/channel.hpp"

namespace evenflow {

/// A device's products of float32 numbers, with chains by Launcher::Units. Single convolutions are
/// DeviceProducts'.
template <class Launcher>
struct MatrixProducts : DeviceProducts<Launcher, float> {
  using Exec = DeviceExec<Launcher>;

  /// H: how hidden activations are stored, and what is multiplied.
  template <class H>
  static void stack_forward(Context& ctx, const StackUnit<float>* units, int count, View<const float> x,
                            H* acts, View<float> h) {
    const int64_t pixels = x.shape.pixels();
    if (pixels == 0) return;
    WorkspaceScope scope(ctx.workspace());
    if (!acts) acts = scope.take<H>(hidden_size(units, count, pixels, sizeof(H)));
    Packed<H> packed(ctx, scope);
    Rows<H> from = packed.rows(x);
    for (int u = 0; u < count; ++u) {
      packed.add(units[u], u + 1 == count && taps_forward(units[u]) ? forward_taps(units[u]) : TapWeights());
    }
    packed.launch();
    for (int u = 0; u < count; ++u) {
      const StackUnit<float>& unit = units[u];
      WorkspaceScope inner(ctx.workspace());
      if (u + 1 == count && taps_forward(unit)) return forward_by_taps(ctx, unit, from, packed.weights[u], h);
      const device::PatchRows<H> a{patches(unit.dims, 1), from.data, from.stride, pixels};
      const device::MatrixRows<H> b = matrix(unit, packed.weights[u]);
      const Epilogue<float>& e = unit.epilogue;
      if (u + 1 == count) {
        const device::Parts parts = split_product(ctx, inner, pixels, unit.dims.cout, a.dims.size(), a, b);
        Exec::for_each(ctx, pixels, unit.dims.cout,
                       device::FinishRows{parts, {e.bias, e.scale, e.relu, false, h.data, h.stride}});
        return;
      }
      const int64_t stride = padded_stride(unit.dims.cout, sizeof(H));
      product(ctx, pixels, unit.dims.cout, a.dims.size(), a, b,
              device::StoreHidden<H>{acts, stride, unit.dims.cout, e.bias, e.scale, e.relu});
      from = {acts, stride, unit.dims.cout};
      acts += pixels * stride;
    }
  }

  template <class H>
  static void stack_backward(Context& ctx, const StackUnit<float>* units, int count, View<const float> x,
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
    Packed<H> packed(ctx, scope);
    Rows<H> da = packed.rows(dh);
    const Rows<H> input = packed.rows(x);
    for (int u = 0; u < count; ++u) {
      if (u == 0 && !dx.data) {
        packed.leave_out();
      } else {
        packed.add(units[u], u == 0 && taps_backward(units[u]) ? backward_taps(units[u]) : TapWeights());
      }
    }
    packed.launch();
    for (int u = count - 1; u > 0; --u) {
      const int64_t width = units[u - 1].dims.cout, stride = padded_stride(width, sizeof(H));
      acts -= pixels * stride;
      H* to = buffers[(u - 1) % 2];
      const Rows<H> y{acts, stride, width}, below{to, stride, width};
      hidden_gradient(ctx, units[u], units[u - 1], da, packed.weights[u], y, to);
      weights_gradient(ctx, units[u], y, da);
      da = below;
    }
    if (dx.data) data_gradient(ctx, units[0], da, packed.weights[0], dx);
    weights_gradient(ctx, units[0], input, da);
  }

 private:
  using Units = typename Launcher::Units;

  /// Rows of numbers, `channels` of them filled up with zeros to a multiple of eight.
  template <class H>
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

  /// Steps in a unit's weights, for a product with those of all taps side by side.
  struct TapWeights {
    int64_t tap_step, k_step, c_step, k;
    int64_t channels = 0;  ///< 0: another product
  };

  /// What a net multiplies, laid out by launch(): rows, and the weights of one unit after another.
  template <class H>
  struct Packed {
    Packed(Context& ctx, WorkspaceScope& from) : scope(from), packing(ctx) {}

    Rows<H> rows(View<const float> x) {
      const int64_t pixels = x.shape.pixels(), width = device::up_to_eight(x.shape.c);
      H* out = scope.take<H>(pixels * width);
      packing.add(pixels, width, device::PackRows<H>{x.data, x.stride, x.shape.c, width, out});
      return {out, width, x.shape.c};
    }
    void add(const StackUnit<float>& unit, const TapWeights& w) {
      const device::PatchDims dims = patches(unit.dims, 1);
      const bool taps = w.channels > 0;
      const int64_t width = device::up_to_eight(taps ? 9 * w.channels : unit.dims.cout),
                    depth = taps ? device::up_to_eight(w.k) : dims.size();
      H* out = scope.take<H>(depth * width);
      weights.push_back(out);
      if (taps) {
        packing.add(depth, width,
                    device::PackTaps<H>{unit.w, w.tap_step, w.k_step, w.c_step, w.k,
                                        static_cast<int32_t>(w.channels), width, out});
      } else {
        packing.add(depth, width,
                    device::PackWeights<H>{unit.w, dims, unit.dims.in.c, unit.dims.cout, width, out});
      }
    }
    /// A unit whose weights nothing is multiplied with.
    void leave_out() { weights.push_back(nullptr); }
    void launch() { packing.launch(); }

    WorkspaceScope& scope;
    device::Packing<Launcher, H> packing;
    std::vector<const H*> weights;
  };

  /// Packed weights of a unit, as its products read them.
  template <class H>
  static device::MatrixRows<H> matrix(const StackUnit<float>& unit, const H* packed) {
    const int64_t width = device::up_to_eight(unit.dims.cout);
    return {packed, width, patches(unit.dims, 1).size(), width};
  }
  template <class H>
  static device::WeightColumns<H> columns(const StackUnit<float>& unit, const H* packed) {
    const device::PatchDims dims = patches(unit.dims, 1);
    return {packed, dims.taps(), dims.channels.by, static_cast<int32_t>(device::up_to_eight(unit.dims.cout))};
  }

  template <class H>
  static void hidden_gradient(Context& ctx, const StackUnit<float>& unit, const StackUnit<float>& lower,
                              const Rows<H>& da, const H* packed, const Rows<H>& y, H* below) {
    const int64_t pixels = unit.dims.in.pixels(), width = y.channels, tiles = Exec::parts(pixels, kTileM);
    WorkspaceScope scope(ctx.workspace());
    double* partial = scope.take<double>(tiles * 2 * width);
    const device::PatchRows<H> a{patches(unit.dims, -1), da.data, da.stride, pixels};
    product(ctx, pixels, width, a.dims.size(), a, columns(unit, packed),
            device::StoreHiddenGradient<H>{y.data, y.stride, below, y.stride, width, lower.epilogue.scale,
                                           lower.epilogue.relu, partial});
    Exec::sum_rows(ctx, tiles, width, partial,
                   ops::AddPair<float>{lower.logs_factor, lower.dbias, lower.dlogs});
  }

  // A 3x3 kernel with few outputs: a product with all taps of each pixel, and a sum over neighbours. Patches
  // would read each pixel nine times, for tiles that are mostly filled up.

  static bool by_taps(int kernel, int64_t inputs, int64_t outputs) { return kernel == 3 && outputs < inputs; }

  static bool taps_forward(const StackUnit<float>& unit) {
    return by_taps(unit.dims.kernel, unit.dims.in.c, unit.dims.cout);
  }
  static bool taps_backward(const StackUnit<float>& unit) {
    return by_taps(unit.dims.kernel, unit.dims.cout, unit.dims.in.c);
  }
  static TapWeights forward_taps(const StackUnit<float>& unit) {
    const int64_t cin = unit.dims.in.c, cout = unit.dims.cout;
    return {unit.dims.weight_rows() * cout, cout, 1, cin, cout};
  }
  static TapWeights backward_taps(const StackUnit<float>& unit) {
    const int64_t cin = unit.dims.in.c, cout = unit.dims.cout;
    return {unit.dims.weight_rows() * cout, 1, cout, cout, cin};
  }

  template <class H>
  static void forward_by_taps(Context& ctx, const StackUnit<float>& unit, const Rows<H>& x, const H* packed,
                              View<float> h) {
    const int64_t cin = unit.dims.in.c, cout = unit.dims.cout, rows = unit.dims.weight_rows();
    const Epilogue<float>& e = unit.epilogue;
    WorkspaceScope scope(ctx.workspace());
    const device::Parts parts = product_of_taps(ctx, scope, unit, x, packed, forward_taps(unit));
    const float* edge = unit.dims.edge ? unit.w + cin * cout : nullptr;
    Exec::for_each(ctx, h.shape.pixels(), cout,
                   device::FinishTaps{parts,
                                      patches(unit.dims, 1),
                                      cout,
                                      edge,
                                      rows * cout,
                                      {e.bias, e.scale, e.relu, false, h.data, h.stride}});
  }

  static device::PatchDims pointwise(const ConvDims& dims, int64_t channels) {
    ConvDims one = dims;
    one.in = dims.in.with_channels(channels);
    one.kernel = 1;
    one.edge = false;
    return patches(one, 1);
  }

  template <class H>
  static device::Parts product_of_taps(Context& ctx, WorkspaceScope& scope, const StackUnit<float>& unit,
                                       const Rows<H>& x, const H* packed, const TapWeights& w) {
    const int64_t n = 9 * w.channels, width = device::up_to_eight(n), depth = device::up_to_eight(w.k);
    const int64_t pixels = unit.dims.in.pixels();
    const device::PatchRows<H> a{pointwise(unit.dims, depth), x.data, x.stride, pixels};
    return split_product(ctx, scope, pixels, n, depth, a, device::MatrixRows<H>{packed, width, depth, width});
  }

  static device::FinishUnit add_to(View<float> dx) {
    return {nullptr, nullptr, false, true, dx.data, dx.stride};
  }
  template <class H>
  static void data_gradient(Context& ctx, const StackUnit<float>& unit, const Rows<H>& da, const H* packed,
                            View<float> dx) {
    const int64_t pixels = dx.shape.pixels(), width = dx.shape.c;
    WorkspaceScope scope(ctx.workspace());
    if (taps_backward(unit)) {
      const device::Parts parts = product_of_taps(ctx, scope, unit, da, packed, backward_taps(unit));
      Exec::for_each(ctx, pixels, width,
                     device::FinishTaps{parts, patches(unit.dims, -1), width, nullptr, 0, add_to(dx)});
      return;
    }
    const device::PatchRows<H> a{patches(unit.dims, -1), da.data, da.stride, pixels};
    const device::Parts parts =
        split_product(ctx, scope, pixels, width, a.dims.size(), a, columns(unit, packed));
    Exec::for_each(ctx, pixels, width, device::FinishRows{parts, add_to(dx)});
  }

  static device::FinishGradient finish_gradient(const StackUnit<float>& unit) {
    return {static_cast<int32_t>(unit.dims.weight_rows()), unit.dims.in.c, unit.dims.cout, unit.overwrite,
            unit.dw};
  }
  template <class H>
  static void weights_gradient(Context& ctx, const StackUnit<float>& unit, const Rows<H>& x,
                               const Rows<H>& da) {
    const int64_t pixels = unit.dims.in.pixels(), cout = unit.dims.cout;
    WorkspaceScope scope(ctx.workspace());
    if (taps_forward(unit)) return weights_gradient_by_taps(ctx, unit, x, da);
    const device::PatchColumns<H> a{patches(unit.dims, 1), x.data, x.stride, pixels};
    const device::MatrixRows<H> b{da.data, da.stride, pixels, device::up_to_eight(cout)};
    const device::Parts parts = split_product(ctx, scope, a.dims.size(), cout, pixels, a, b);
    Exec::for_each(ctx, unit.dims.taps() * unit.dims.weight_rows(), cout,
                   device::FinishWeights{parts, a.dims, finish_gradient(unit)});
  }

  template <class H>
  static void weights_gradient_by_taps(Context& ctx, const StackUnit<float>& unit, const Rows<H>& x,
                                       const Rows<H>& da) {
    const ConvDims& dims = unit.dims;
    const int64_t pixels = dims.in.pixels(), cout = dims.cout, n = 9 * cout, width = device::up_to_eight(n);
    WorkspaceScope scope(ctx.workspace());
    H* readers = scope.take<H>(pixels * width);
    Exec::for_each(ctx, pixels, width,
                   device::PackReaders<H>{da.data, da.stride, patches(dims, -1), static_cast<int32_t>(cout),
                                          width, readers});
    const device::PatchColumns<H> a{pointwise(dims, device::up_to_eight(dims.in.c)), x.data, x.stride,
                                    pixels};
    const device::MatrixRows<H> b{readers, width, pixels, width};
    const device::Parts taps = split_product(ctx, scope, dims.in.c, n, pixels, a, b);
    device::Parts edge = {};
    if (dims.edge) {
      device::PatchDims indicators = patches(dims, 1);
      indicators.channels = device::Divisor(0);
      const device::PatchColumns<H> outside{indicators, x.data, x.stride, pixels};
      const device::MatrixRows<H> outputs{da.data, da.stride, pixels, device::up_to_eight(cout)};
      edge = split_product(ctx, scope, indicators.size(), cout, pixels, outside, outputs);
    }
    Exec::for_each(ctx, dims.taps() * dims.weight_rows(), cout,
                   device::FinishTapWeights{taps, edge, finish_gradient(unit)});
  }

  static constexpr int64_t kTileM = 128;
  template <class Number>
  static constexpr int64_t depth = std::is_same<Number, Bf16>::value ? 32 : 16;
  template <class Number>
  static constexpr int widest = std::is_same<Number, Bf16>::value ? 128 : 64;

  /// The width of tiles that takes the fewest instructions; of two the wider one. Counted in PTX, a step
  /// takes a warp some 250 with 16 columns of bfloat16, 280 with 32, 420 with 128: most of them to fetch the
  /// left side.
  template <class Number>
  static int tile_n(int64_t n) {
    constexpr int64_t kFetch = 150, kProducts = std::is_same<Number, Bf16>::value ? 1 : 3;
    const auto cost = [&](int tile) { return Exec::parts(n, tile) * (kFetch + kProducts * tile); };
    int best = 16;
    for (const int tile : {32, widest<Number>}) {
      if (cost(tile) <= cost(best)) best = tile;
    }
    return best;
  }

  template <class A, class B, class Store>
  static void product(Context& ctx, int64_t m, int64_t n, int64_t k, const A& a, const B& b,
                      const Store& store, int64_t splits = 1) {
    using Number = typename A::Number;
    const int64_t chunk = Exec::parts(Exec::parts(k, depth<Number>), splits) * depth<Number>;
    const int32_t parts = ctx.matmul_precision() == MatmulPrecision::high ? 2 : 3;
    const auto launch = [&](auto width) {
      const device::MatrixProduct<Units, decltype(width)::value, A, B, Store> body{
          {m, n, k, chunk}, a, b, store, parts};
      Exec::launch(ctx, body.blocks(), body);
    };
    switch (tile_n<Number>(n)) {
      case 16:
        return launch(std::integral_constant<int, 16>());
      case 32:
        return launch(std::integral_constant<int, 32>());
      default:
        return launch(std::integral_constant<int, widest<Number>>());
    }
  }

  /// In as many parts along k as fill a large GPU, if each has some steps; the count depends on sizes alone.
  template <class A, class B>
  static device::Parts split_product(Context& ctx, WorkspaceScope& scope, int64_t m, int64_t n, int64_t k,
                                     const A& a, const B& b) {
    using Number = typename A::Number;
    constexpr int64_t kBlocks = 264, kLeastDepth = 128;
    const int64_t tiles = Exec::parts(m, kTileM) * Exec::parts(n, tile_n<Number>(n)),
                  steps = Exec::parts(k, depth<Number>);
    const int64_t wanted = ops::min_of(Exec::parts(kBlocks, tiles), Exec::parts(k, kLeastDepth));
    const int64_t splits = Exec::parts(steps, Exec::parts(steps, wanted));  // none is empty
    const int64_t width = device::up_to_eight(n);
    float* partial = scope.take<float>(splits * m * width);
    product(ctx, m, n, k, a, b, device::StoreParts{partial, m, width}, splits);
    return {splits, m, width, partial};
  }
};

}  // namespace evenflow
