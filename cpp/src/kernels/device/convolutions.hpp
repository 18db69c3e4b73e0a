#pragma once

#include <type_traits>

#include "kernels/device/cublaslt.hpp"
#include "kernels/device/exec.hpp"
#include "kernels/device/patches.hpp"
#include "kernels/net/launch.hpp"

namespace evenflow {

/// A device's convolutions as matrix products. A dense layer is one. A 3x3 kernel works on its thin side: of
/// a thin input all patches are laid out; for a thin output one product has all taps side by side, which are
/// then added up. Launcher provides, besides what DeviceExec asks for,
///   stream(ctx)     the queue, as cuBLASLt takes it
///   run(f)          calls f, which multiplies on the queue
///   patch_values    most values of a layout; larger ones are made of some images at a time
template <class Launcher, class T>
class DeviceConvolutions : public NetLaunch<DeviceExec<Launcher>, T> {
 public:
  static constexpr const char* name = Launcher::name;

  void conv_forward(Context& ctx, const ConvDims& dims, View<const T> x, const T* w,
                    const Epilogue<T>& epilogue, View<T> y) const override {
    convolve<T>(ctx, dims, x, w, epilogue, y, MatmulPrecision::highest);
  }

  void conv_backward_data(Context& ctx, const ConvDims& dims, View<const T> dy, const T* w, View<T> dx,
                          bool accumulate) const override {
    data_gradient<T>(ctx, dims, dy, w, dx, accumulate, MatmulPrecision::highest);
  }

  void conv_backward_weights(Context& ctx, const ConvDims& dims, View<const T> x, View<const T> dy,
                             T* dw) const override {
    weights_gradient<T>(ctx, dims, x, dy, dw, false, MatmulPrecision::highest);
  }

 protected:
  using Exec = DeviceExec<Launcher>;

  // H is the type of the products' operands; arrays of another type are rounded to it.

  template <class H, class S, class Y>
  static void convolve(Context& ctx, const ConvDims& dims, View<const S> x, const T* w,
                       const Epilogue<T>& epilogue, View<Y> y, MatmulPrecision precision) {
    const int64_t cin = dims.in.c, cout = dims.cout, rows = dims.taps() * dims.weight_rows();
    WorkspaceScope scope(ctx.workspace());
    if (gathers_input(dims)) {
      const device::Matrix<H> b = operand<H>(ctx, scope, matrix(w, rows, cout));
      return in_parts(dims, rows, [&](const Part& part) {
        WorkspaceScope inner(ctx.workspace());
        const device::Matrix<H> a = gather<H>(ctx, inner, dims, part.of(x), dims.edge, 1);
        finished_product<H>(ctx, rows, a, b, epilogue, part.of(y), precision);
      });
    }
    const device::Matrix<H> b = taps_aside<H>(ctx, scope, dims, w);
    in_parts(dims, 9 * cout, [&](const Part& part) {
      WorkspaceScope inner(ctx.workspace());
      T* z = inner.take<T>(part.pixels * 9 * cout);
      const device::Matrix<H> a = operand<H>(ctx, inner, part.of(x));
      multiply<H>(ctx, {part.pixels, 9 * cout, cin, a, b, z, 9 * cout}, precision);
      const View<Y> to = part.of(y);
      Exec::for_each(
          ctx, part.pixels, cout,
          device::SumTaps<T, Y>{z, cout, dims.in.h, dims.in.w, 1, dims.edge ? w + cin * cout : nullptr,
                                dims.weight_rows() * cout, epilogue, false, to.data, to.stride});
    });
  }

  template <class H, class S>
  static void data_gradient(Context& ctx, const ConvDims& dims, View<const S> dy, const T* w, View<T> dx,
                            bool accumulate, MatmulPrecision precision) {
    const int64_t cin = dims.in.c, cout = dims.cout, rows = dims.taps() * dims.weight_rows();
    WorkspaceScope scope(ctx.workspace());
    if (gathers_output(dims)) {
      device::Matrix<H> b = taps_aside<H>(ctx, scope, dims, w);
      b.transposed = true;
      const int64_t k = dims.taps() * cout;
      return in_parts(dims, k, [&](const Part& part) {
        WorkspaceScope inner(ctx.workspace());
        const device::Matrix<H> a = gather<H>(ctx, inner, dims, part.of(dy), false, -1);
        const View<T> to = part.of(dx);
        multiply<H>(ctx, {part.pixels, cin, k, a, b, to.data, to.stride, accumulate}, precision);
      });
    }
    device::Matrix<H> b = operand<H>(ctx, scope, matrix(w, rows, cout));
    b.transposed = true;
    in_parts(dims, rows, [&](const Part& part) {
      WorkspaceScope inner(ctx.workspace());
      T* z = inner.take<T>(part.pixels * rows);
      const device::Matrix<H> a = operand<H>(ctx, inner, part.of(dy));
      multiply<H>(ctx, {part.pixels, rows, cout, a, b, z, rows}, precision);
      const View<T> to = part.of(dx);
      Exec::for_each(ctx, part.pixels, cin,
                     device::SumTaps<T, T>{z, dims.weight_rows(), dims.in.h, dims.in.w, -1, nullptr, 0,
                                           Epilogue<T>(), accumulate, to.data, to.stride});
    });
  }

  /// dw += the sum over all pixels, or dw = with overwrite.
  template <class H, class S, class D>
  static void weights_gradient(Context& ctx, const ConvDims& dims, View<const S> x, View<const D> dy, T* dw,
                               bool overwrite, MatmulPrecision precision) {
    const int64_t cin = dims.in.c, cout = dims.cout, rows = dims.taps() * dims.weight_rows();
    const auto sum = [&](const Part& part, int64_t m, int64_t n, device::Matrix<H> a,
                         const device::Matrix<H>& b, T* to, int64_t stride, bool add) {
      a.transposed = true;
      multiply<H>(ctx, {m, n, part.pixels, a, b, to, stride, add}, precision);
    };
    in_parts(dims, gathers_input(dims) ? rows : 9 * cout, [&](const Part& part) {
      WorkspaceScope scope(ctx.workspace());
      const bool add = part.first > 0 || !overwrite;
      const View<const S> from = part.of(x);
      const device::Matrix<H> slope = operand<H>(ctx, scope, part.of(dy));
      if (gathers_input(dims)) {
        return sum(part, rows, cout, gather<H>(ctx, scope, dims, from, dims.edge, 1), slope, dw, cout, add);
      }
      T* taps = scope.take<T>(cin * 9 * cout);
      sum(part, cin, 9 * cout, operand<H>(ctx, scope, from),
          gather<H>(ctx, scope, dims, part.of(dy), false, -1), taps, 9 * cout, false);
      Exec::for_each(ctx, cin, 9 * cout, device::AddTaps<T>{taps, dims.weight_rows(), cout, !add, dw});
      if (!dims.edge) return;
      sum(part, 9, cout, gather<H>(ctx, scope, dims, from.channels(0, 0), true, 1), slope, dw + cin * cout,
          dims.weight_rows() * cout, add);
    });
  }

 private:
  /// Whether a product reads the patches of the input, or those of the output's gradient. A 1x1 kernel's
  /// patch is a pixel.
  static bool gathers_input(const ConvDims& dims) { return dims.kernel == 1 || dims.in.c <= dims.cout; }
  static bool gathers_output(const ConvDims& dims) { return dims.kernel == 1 || dims.in.c > dims.cout; }

  /// Some of a batch's images.
  struct Part {
    int64_t first;  ///< pixel
    int64_t images;
    int64_t pixels;
    template <class V>
    View<V> of(const View<V>& all) const {
      Shape shape = all.shape;
      shape.n = images;
      return View<V>(all.data + first * all.stride, shape, all.stride);
    }
  };
  /// Calls f for some images at a time, whose patches have `width` values a pixel.
  template <class F>
  static void in_parts(const ConvDims& dims, int64_t width, const F& f) {
    if (dims.kernel == 1) return f(Part{0, dims.in.n, dims.in.pixels()});
    const int64_t area = dims.in.h * dims.in.w;
    const int64_t most = ops::max_of<int64_t>(Launcher::patch_values / (area * width), 1);
    for (int64_t n = 0; n < dims.in.n; n += most) {
      const int64_t images = ops::min_of(most, dims.in.n - n);
      f(Part{n * area, images, images * area});
    }
  }

  static View<const T> matrix(const T* data, int64_t rows, int64_t cols) {
    return View<const T>(data, {rows, 1, 1, cols});
  }

  /// Memory for a matrix whose rows begin at multiples of sixteen bytes.
  template <class H>
  static View<H> take(WorkspaceScope& scope, int64_t rows, int64_t cols) {
    constexpr int64_t kAligned = 16 / sizeof(H);
    const int64_t stride = Exec::ceil_div(cols, kAligned) * kAligned;
    return View<H>(scope.take<H>(rows * stride), {rows, 1, 1, cols}, stride);
  }

  template <class H, class S>
  static device::Matrix<H> operand(Context& ctx, WorkspaceScope& scope, const View<const S>& x) {
    if constexpr (std::is_same<H, S>::value) {
      return {x.data, x.stride};
    } else {
      const View<H> to = take<H>(scope, x.shape.pixels(), x.shape.c);
      Exec::for_each(ctx, x.shape.pixels(), x.shape.c,
                     device::Round<S, H>{x.data, x.stride, to.data, to.stride});
      return {to.data, to.stride};
    }
  }

  template <class H, class S>
  static device::Matrix<H> gather(Context& ctx, WorkspaceScope& scope, const ConvDims& dims,
                                  const View<const S>& x, bool edge, int sign) {
    if (dims.kernel == 1) return operand<H>(ctx, scope, x);
    const int64_t pixels = x.shape.pixels(), width = 9 * (x.shape.c + (edge ? 1 : 0));
    const View<H> to = take<H>(scope, pixels, width);
    Exec::for_each(ctx, pixels, width,
                   device::Patches<S, H>{x.data, x.stride, x.shape.h, x.shape.w, x.shape.c, edge, sign,
                                         to.data, to.stride});
    return {to.data, to.stride};
  }

  template <class H>
  static device::Matrix<H> taps_aside(Context& ctx, WorkspaceScope& scope, const ConvDims& dims, const T* w) {
    if (dims.kernel == 1) return operand<H>(ctx, scope, matrix(w, dims.in.c, dims.cout));
    const View<H> to = take<H>(scope, dims.in.c, 9 * dims.cout);
    Exec::for_each(ctx, dims.in.c, 9 * dims.cout,
                   device::TapsAside<T, H>{w, dims.weight_rows(), dims.cout, to.data, to.stride});
    return {to.data, to.stride};
  }

  /// y = act((a b + bias) * scale). cuBLASLt's own epilogues have no scale, and no ReLU in float64.
  template <class H, class Y>
  static void finished_product(Context& ctx, int64_t k, const device::Matrix<H>& a,
                               const device::Matrix<H>& b, const Epilogue<T>& epilogue, View<Y> y,
                               MatmulPrecision precision) {
    const int64_t pixels = y.shape.pixels(), cout = y.shape.c;
    WorkspaceScope scope(ctx.workspace());
    device::Product<H, T> product{pixels, cout, k, a, b, nullptr, cout};
    if constexpr (std::is_same<Y, T>::value) {
      product.d = y.data;
      product.stride = y.stride;
      if (std::is_same<T, float>::value && !epilogue.scale) {
        product.bias = epilogue.bias;
        product.relu = epilogue.relu;
        return multiply<H>(ctx, product, precision);
      }
    } else {
      product.d = scope.take<T>(pixels * cout);
    }
    multiply<H>(ctx, product, precision);
    Exec::for_each(ctx, pixels, cout,
                   device::Finish<T, Y>{product.d, product.stride, epilogue, y.data, y.stride});
  }

  template <class H>
  static void multiply(Context& ctx, const device::Product<H, T>& product, MatmulPrecision precision) {
    if (product.m == 0 || product.n == 0) return;
    void* const stream = Launcher::stream(ctx);  // also selects the device
    device::CublasLt* const lt = device::CublasLt::get();
    if (lt && product.k > 0) {
      lt->multiply(ctx, product, precision, stream, &Launcher::run);
    } else {
      Exec::for_each(ctx, product.m, product.n, device::PlainProduct<H, T>{product});
    }
  }
};

}  // namespace evenflow
