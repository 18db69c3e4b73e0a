#pragma once

#include "kernels/move/copy.hpp"
#include "kernels/move/kernels.hpp"
#include "kernels/move/scale.hpp"
#include "kernels/ops/extent.hpp"
#include "kernels/ops/fill.hpp"
#include "kernels/ops/sums.hpp"

namespace evenflow {

template <class Exec, class T>
class MoveLaunch final : public MoveKernels<T> {
 public:
  void copy(Context& ctx, View<const T> x, View<T> y) const override {
    const ops::Extent all = ops::extent_of(x, y);
    Exec::for_each(ctx, all.rows, all.cols, ops::Copy<T>{x.data, x.stride, y.data, y.stride});
  }

  void add(Context& ctx, View<const T> x, View<T> y) const override {
    const ops::Extent all = ops::extent_of(x, y);
    Exec::for_each(ctx, all.rows, all.cols, ops::Add<T>{x.data, x.stride, y.data, y.stride});
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

  void mask_pixels(Context& ctx, View<const T> x, int parity, bool accumulate, View<T> y) const override {
    Exec::for_each(
        ctx, x.shape.pixels(), x.shape.c,
        ops::MaskPixels<T>{x.data, x.stride, parity, x.shape.w, x.shape.h, accumulate, y.data, y.stride});
  }

  void add_pixel_sums(Context& ctx, View<const T> x, View<T> y) const override {
    const int64_t pixels = x.shape.pixels_per_sample();
    Exec::for_each(ctx, x.shape.n, x.shape.c,
                   ops::AddPixelSums<T>{pixels, x.data, x.stride, y.data, y.stride}, pixels);
  }

  void fill(Context& ctx, int64_t n, T value, T* x) const override {
    Exec::for_each(ctx, 1, n, ops::Fill<T>{value, x});
  }

  void fill_doubles(Context& ctx, int64_t n, double value, double* x) const override {
    Exec::for_each(ctx, 1, n, ops::Fill<double>{value, x});
  }

  void scale(Context& ctx, int64_t n, T factor, T* x) const override {
    Exec::for_each(ctx, 1, n, ops::ScaleAll<T>{factor, x});
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
};

}  // namespace evenflow
