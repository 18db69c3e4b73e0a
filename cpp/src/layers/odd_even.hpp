#pragma once

#include <memory>

#include "evenflow/layers.hpp"
#include "kernels/kernel_set.hpp"

namespace evenflow {

/// Applies a layer for halves to odd or even channels: it moves even channels first, applies the layer and
/// restores the order.
template <class T>
class OddEven final : public Layer<T> {
 public:
  OddEven(const char* kind, std::unique_ptr<Layer<T>> inner)
      : Layer<T>(kind, inner->input_shape(), inner->input_shape(), true), inner_(std::move(inner)) {}

  void declare(const Scope& scope) override { inner_->declare(scope); }
  void init(ParamArena<T>& arena, Rng& rng) const override { inner_->init(arena, rng); }
  void init_from_data(Context& ctx, ParamArena<T>& arena, View<const T> x) const override {
    WorkspaceScope scope(ctx);
    inner_->init_from_data(ctx, arena, even_first(ctx, scope, x));
  }
  void check_parameters(const ParamArena<T>& arena) const override { inner_->check_parameters(arena); }
  void check_values(Context& ctx, const Params<T>& params) const override {
    inner_->check_values(ctx, params);
  }
  int64_t context() const override { return inner_->context(); }
  int64_t kept_size(int64_t n) const override { return inner_->kept_size(n); }

 private:
  View<T> even_first(Context& ctx, WorkspaceScope& scope, View<const T> x) const {
    View<T> out(scope.take<T>(x.shape.size()), x.shape);
    gather(ctx, x, false, out);
    return out;
  }
  static void restore(Context& ctx, View<const T> from, View<T> to) { gather(ctx, from, true, to); }

  static void gather(Context& ctx, View<const T> from, bool inverse, View<T> to) {
    WorkspaceScope scope(ctx);
    int32_t* order = scope.take<int32_t>(from.shape.c);
    ctx.kernels<T>().mixing.evens_first(ctx, from.shape.c, inverse, order);
    ctx.kernels<T>().mixing.gather_channels(ctx, from, order, to);
  }

  void do_forward(Context& ctx, const Params<T>& params, View<const T> x, View<T> z, double* logdet,
                  T* kept) const override {
    WorkspaceScope scope(ctx);
    View<T> buffer = even_first(ctx, scope, x);
    inner_->forward(ctx, params, buffer, buffer, logdet, kept);
    restore(ctx, buffer, z);
  }
  void do_inverse(Context& ctx, const Params<T>& params, View<const T> z, View<T> x,
                  double* logdet) const override {
    WorkspaceScope scope(ctx);
    View<T> buffer = even_first(ctx, scope, z);
    inner_->inverse(ctx, params, buffer, buffer, logdet);
    restore(ctx, buffer, x);
  }
  void do_backward(Context& ctx, const Params<T>& params, View<const T> z, View<const T> dz,
                   const double* dlogdet, View<T> x, View<T> dx, T* kept) const override {
    WorkspaceScope scope(ctx);
    View<T> buffer = even_first(ctx, scope, z);
    View<T> dbuffer = even_first(ctx, scope, dz);
    inner_->backward(ctx, params, buffer, dbuffer, dlogdet, buffer, dbuffer, kept);
    restore(ctx, buffer, x);
    restore(ctx, dbuffer, dx);
  }
  void do_inverse_backward(Context& ctx, const Params<T>& params, View<const T> x, View<const T> dx,
                           const double* dlogdet, View<T> z, View<T> dz) const override {
    WorkspaceScope scope(ctx);
    View<T> buffer = even_first(ctx, scope, x);
    View<T> dbuffer = even_first(ctx, scope, dx);
    inner_->inverse_backward(ctx, params, buffer, dbuffer, dlogdet, buffer, dbuffer);
    restore(ctx, buffer, z);
    restore(ctx, dbuffer, dz);
  }

  std::unique_ptr<Layer<T>> inner_;
};

}  // namespace evenflow
