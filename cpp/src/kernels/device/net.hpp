#pragma once

#include <type_traits>

#include "kernels/bf16.hpp"
#include "kernels/device/convolutions.hpp"
#include "kernels/net/epilogue.hpp"
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

  /// H is the type of stored hidden activations. With Bf16, products are bfloat16 as well.
  template <class H>
  static void forward(Context& ctx, const StackUnit<T>* units, int count, View<const T> x, H* acts,
                      View<T> h) {
    constexpr bool bf16 = std::is_same<H, Bf16>::value;
    const int64_t pixels = x.shape.pixels();
    WorkspaceScope scope(ctx.workspace());
    if (!acts) acts = scope.take<H>(hidden_rows_size(units, count, pixels, sizeof(H)));
    for (int u = 0; u < count; ++u) {
      const StackUnit<T>& unit = units[u];
      const bool first = u == 0, last = u + 1 == count;
      if (first && last) {
        Base::template convolve<T, T, bf16>(ctx, unit.dims, x, unit.w, unit.epilogue, h);
      } else if (first) {
        Base::template convolve<T, H, bf16>(ctx, unit.dims, x, unit.w, unit.epilogue,
                                            hidden(acts, units, u, pixels));
      } else if (last) {
        Base::template convolve<H, T, bf16>(ctx, unit.dims, hidden(acts, units, u - 1, pixels), unit.w,
                                            unit.epilogue, h);
      } else {
        Base::template convolve<H, H, bf16>(ctx, unit.dims, hidden(acts, units, u - 1, pixels), unit.w,
                                            unit.epilogue, hidden(acts, units, u, pixels));
      }
    }
  }

  /// dh is the gradient of the last unit's bare convolution.
  template <class H>
  static void backward(Context& ctx, const StackUnit<T>* units, int count, View<const T> x, const H* acts,
                       View<const T> dh, View<T> dx) {
    constexpr bool bf16 = std::is_same<H, Bf16>::value;
    if (count == 1) return first_unit<T, bf16>(ctx, units[0], x, dh, dx);
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
    hidden_unit<T, H, bf16>(ctx, units[count - 1], units[count - 2], dh,
                            hidden(acts, units, count - 2, pixels), dy, da);
    for (int u = count - 2; u > 0; --u) {
      const View<H> below = buffer(u - 1);
      hidden_unit<H, H, bf16>(ctx, units[u], units[u - 1], da, hidden(acts, units, u - 1, pixels), dy, below);
      da = below;
    }
    first_unit<H, bf16>(ctx, units[0], x, da, dx);
  }

  /// Hidden activations of a unit, laid out as in hidden_rows_size().
  template <class H>
  static View<H> hidden(H* acts, const StackUnit<T>* units, int unit, int64_t pixels) {
    for (int u = 0; u < unit; ++u) acts += pixels * padded_stride(units[u].dims.cout, sizeof(H));
    const int64_t cout = units[unit].dims.cout;
    return View<H>(acts, units[unit].dims.in.with_channels(cout), padded_stride(cout, sizeof(H)));
  }

  /// Computes the weight gradient of `unit` from its da, then da of the unit below and the gradients of that
  /// unit's bias and scale. dy is scratch memory for the gradient of y.
  template <class D, class H, bool bf16>
  static void hidden_unit(Context& ctx, const StackUnit<T>& unit, const StackUnit<T>& lower, View<const D> da,
                          View<const H> y, T* dy, View<H> below) {
    const int64_t pixels = y.shape.pixels(), width = y.shape.c;
    WorkspaceScope scope(ctx.workspace());
    Base::template data_gradient<D, bf16>(ctx, unit.dims, da, unit.w, View<T>(dy, y.shape), false);
    Base::Exec::template sum_columns_to<T>(
        ctx, pixels, width,
        ops::HiddenBackward<T, H>{y.data, y.stride, dy, width, lower.epilogue.scale, lower.epilogue.relu,
                                  below.data, below.stride},
        ops::AddPair<T>{lower.logs_factor, lower.dbias, lower.dlogs});
    if (!unit.dw) return;
    Base::template weights_gradient<H, D, bf16>(ctx, unit.dims, y, da, unit.dw, unit.overwrite);
  }

  template <class D, bool bf16>
  static void first_unit(Context& ctx, const StackUnit<T>& unit, View<const T> x, View<const D> da,
                         View<T> dx) {
    if (dx.data) Base::template data_gradient<D, bf16>(ctx, unit.dims, da, unit.w, dx, true);
    if (!unit.dw) return;
    Base::template weights_gradient<T, D, bf16>(ctx, unit.dims, x, da, unit.dw, unit.overwrite);
  }
};

}  // namespace evenflow
