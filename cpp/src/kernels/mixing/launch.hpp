#pragma once

#include "kernels/mixing/kernels.hpp"
#include "kernels/mixing/lu.hpp"
#include "kernels/mixing/order.hpp"
#include "kernels/mixing/plain.hpp"
#include "kernels/mixing/squeeze.hpp"
#include "kernels/ops/fill.hpp"

namespace evenflow {

template <class Exec, class T>
class MixingLaunch final : public MixingKernels<T> {
 public:
  bool mixes_by_factors(int64_t n) const override {
    constexpr int64_t kWhole = 64;  // most channels for which one thread computes W
    return Exec::block_rows * Exec::block_cols == 1 && n > kWhole;
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
};

}  // namespace evenflow
