#pragma once

#include <algorithm>

#include "evenflow/conditioner.hpp"
#include "kernels/ops/constants.hpp"
#include "layers/batch_moments.hpp"

namespace evenflow {

/// Batch norm inside a net, y = (x - mean) / sqrt(var + kBatchNormEps) + beta, with or without ReLU; without
/// batch norm only the ReLU. In training the moments are the batch's (of all ranks), and are left in
/// params.batch_stats.
template <class T>
class NormUnit {
 public:
  NormUnit() = default;
  NormUnit(int64_t channels, bool batch_norm, bool relu)
      : channels_(channels), norm_(batch_norm), relu_(relu) {}

  void declare(const Scope& scope) {
    if (!norm_) return;
    beta_ = scope.add("beta", {channels_}, Group::no_decay);
    mean_ = scope.add("mean", {channels_}, Group::stats);
    var_ = scope.add("var", {channels_}, Group::stats);
  }

  void init(ParamArena<T>& arena) const {
    if (norm_) std::fill(arena.value(var_), arena.value(var_) + channels_, T(1));
  }

  void forward(Context& ctx, const Params<T>& params, View<const T> x, View<T> y) const {
    WorkspaceScope scope(ctx);
    if (norm_ && params.training()) {
      batch_moments(ctx, -1, x, params.batch_stat(mean_), params.batch_stat(var_));
    }
    const Coefficients c = coefficients(ctx, scope, params);
    ctx.kernels<T>().norm_relu(ctx, x, c.shift, c.scale, c.beta, relu_, y);
  }

  /// dy is overwritten; dx +=.
  void backward(Context& ctx, const Params<T>& params, View<const T> x, View<T> dy, View<T> dx) const {
    WorkspaceScope scope(ctx);
    const KernelSet<T>& kernels = ctx.kernels<T>();
    const Coefficients c = coefficients(ctx, scope, params);
    double* sums = scope.take<double>(2 * channels_);
    T* means = scope.take<T>(2 * channels_);
    kernels.norm_relu_sums(ctx, x, c.shift, c.scale, c.beta, relu_, dy, sums);
    if (norm_ && params.training()) {  // moments depend on x
      batch_norm_means(ctx, channels_, sums, nullptr, 0, x.shape.pixels(), means);
    } else {
      kernels.zero(ctx, 2 * channels_, means);
    }
    if (norm_) kernels.add_sums(ctx, channels_, 1, sums, params.grad(beta_));
    kernels.norm_relu_backward(ctx, x, c.shift, c.scale, means, means + channels_, dy, dx);
  }

 private:
  struct Coefficients {
    const T* shift;
    const T* scale;
    const T* beta;
  };

  Coefficients coefficients(Context& ctx, WorkspaceScope& scope, const Params<T>& params) const {
    const KernelSet<T>& kernels = ctx.kernels<T>();
    T* shift = scope.take<T>(channels_);
    T* scale = scope.take<T>(channels_);
    if (!norm_) {
      kernels.zero(ctx, channels_, shift);
      kernels.fill(ctx, channels_, T(1), scale);
      return {shift, scale, shift};
    }
    kernels.moment_coefficients(ctx, channels_,
                                params.training() ? params.batch_stat(mean_) : params.value(mean_),
                                params.training() ? params.batch_stat(var_) : params.value(var_),
                                kBatchNormEps, shift, scale, scope.take<double>(channels_));
    return {shift, scale, params.value(beta_)};
  }

  int64_t channels_ = 0;
  bool norm_ = false;
  bool relu_ = false;
  ParamId beta_ = 0;
  ParamId mean_ = 0;
  ParamId var_ = 0;
};

}  // namespace evenflow
