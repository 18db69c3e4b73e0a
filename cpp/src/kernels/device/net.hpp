#pragma once

#include <type_traits>

#include "kernels/bf16.hpp"
#include "kernels/device/convolutions.hpp"
#include "kernels/net/epilogue.hpp"
#include "kernels/net/layout.hpp"
#include "kernels/ops/sums.hpp"

namespace evenflow {

/// Chains of convolutions, one product after another. `units` is in host memory; what it points to is on the
/// device.
template <class Launcher, class T>
class DeviceNet : public DeviceConvolutions<Launcher, T> {
 public:
  void stack_forward(Context& ctx, const StackUnit<T>* units, int count, bool bf16, View<const T> x,
                     void* acts, View<T> h) const override {
    if constexpr (std::is_same<T, float>::value) {
      if (bf16) return forward(ctx, units, count, x, static_cast<Bf16*>(acts), h);
    }
    forward(ctx, units, count, x, static_cast<T*>(acts), h);
  }

  void stack_backward(Context& ctx, const StackUnit<T>* units, int count, bool bf16, View<const T> x,
                      const void* acts, View<const T> h, View<T> dh, View<T> dx) const override {
    this->last_epilogue_backward(ctx, units[count - 1], h, dh);
    if constexpr (std::is_same<T, float>::value) {
      if (bf16) return backward(ctx, units, count, x, static_cast<const Bf16*>(acts), View<const T>(dh), dx);
    }
    backward(ctx, units, count, x, static_cast<const T*>(acts), View<const T>(dh), dx);
  }

 private:
  using Base = DeviceConvolutions<Launcher, T>;

  // H is the type of stored hidden activations, and of the operands of products.

  template <class H>
  static void forward(Context& ctx, const StackUnit<T>* units, int count, View<const T> x, H* acts,
                      View<T> h) {
    const int64_t pixels = x.shape.pixels();
    WorkspaceScope scope(ctx.workspace());
    if (!acts) acts = scope.take<H>(hidden_values(units, count, sizeof(H)) * pixels);
    const auto convolve = [&](int u, const auto& from, const auto& to) {
      Base::template convolve<H>(ctx, units[u].dims, from, units[u].w, units[u].epilogue, to,
                                 ctx.matmul_precision());
    };
    const auto below = [&](int u) { return View<const H>(hidden(acts, units, u - 1, pixels)); };
    const int last = count - 1;
    if (last == 0) return convolve(0, x, h);
    convolve(0, x, hidden(acts, units, 0, pixels));
    for (int u = 1; u < last; ++u) convolve(u, below(u), hidden(acts, units, u, pixels));
    convolve(last, below(last), h);
  }

  /// dh is the gradient of the last unit's bare convolution.
  template <class H>
  static void backward(Context& ctx, const StackUnit<T>* units, int count, View<const T> x, const H* acts,
                       View<const T> dh, View<T> dx) {
    if (count == 1) return first_unit<H>(ctx, units[0], x, dh, dx);
    const int64_t pixels = x.shape.pixels();
    int64_t widest = 0;
    for (int u = 0; u + 1 < count; ++u) {
      widest = ops::max_of(widest, padded_stride(units[u].dims.cout, sizeof(H)));
    }
    WorkspaceScope scope(ctx.workspace());
    H* buffers[2] = {scope.take<H>(pixels * widest), scope.take<H>(pixels * widest)};
    T* dy = scope.take<T>(pixels * widest);
    const auto buffer = [&](int u) {
      View<H> v = hidden(buffers[u % 2], units, u, pixels);
      v.data = buffers[u % 2];
      return v;
    };
    View<H> da = buffer(count - 2);
    hidden_unit(ctx, units[count - 1], units[count - 2], dh, hidden(acts, units, count - 2, pixels), dy, da);
    for (int u = count - 2; u > 0; --u) {
      const View<H> below = buffer(u - 1);
      hidden_unit(ctx, units[u], units[u - 1], View<const H>(da), hidden(acts, units, u - 1, pixels), dy,
                  below);
      da = below;
    }
    first_unit<H>(ctx, units[0], x, View<const H>(da), dx);
  }

  /// Values of a pixel's hidden activations.
  static int64_t hidden_values(const StackUnit<T>* units, int count, int64_t value_bytes) {
    int64_t values = 0;
    for (int u = 0; u + 1 < count; ++u) values += padded_stride(units[u].dims.cout, value_bytes);
    return values;
  }

  /// Hidden activations of a unit, one after the other, in rows padded_stride() apart.
  template <class H>
  static View<H> hidden(H* acts, const StackUnit<T>* units, int unit, int64_t pixels) {
    acts += pixels * hidden_values(units, unit + 1, sizeof(H));
    const int64_t cout = units[unit].dims.cout;
    return View<H>(acts, units[unit].dims.in.with_channels(cout), padded_stride(cout, sizeof(H)));
  }

  /// Computes the weight gradient of `unit` from its da, then da of the unit below and the gradients of that
  /// unit's bias and scale. dy is scratch memory for the gradient of y.
  template <class D, class H>
  static void hidden_unit(Context& ctx, const StackUnit<T>& unit, const StackUnit<T>& lower, View<const D> da,
                          View<const H> y, T* dy, View<H> below) {
    const int64_t pixels = y.shape.pixels(), width = y.shape.c;
    WorkspaceScope scope(ctx.workspace());
    Base::template data_gradient<H>(ctx, unit.dims, da, unit.w, View<T>(dy, y.shape), false,
                                    ctx.matmul_precision());
    Base::Exec::template sum_columns_to<T>(
        ctx, pixels, width,
        ops::HiddenBackward<T, H>{y.data, y.stride, dy, width, lower.epilogue.scale, lower.epilogue.relu,
                                  below.data, below.stride},
        ops::AddPair<T>{lower.logs_factor, lower.dbias, lower.dlogs});
    if (!unit.dw) return;
    Base::template weights_gradient<H>(ctx, unit.dims, y, da, unit.dw, unit.overwrite,
                                       ctx.matmul_precision());
  }

  template <class H, class D>
  static void first_unit(Context& ctx, const StackUnit<T>& unit, View<const T> x, View<const D> da,
                         View<T> dx) {
    if (dx.data)
      Base::template data_gradient<H>(ctx, unit.dims, da, unit.w, dx, true, ctx.matmul_precision());
    if (!unit.dw) return;
    Base::template weights_gradient<H>(ctx, unit.dims, x, da, unit.dw, unit.overwrite,
                                       ctx.matmul_precision());
  }
};

}  // namespace evenflow
