#pragma once

#include <algorithm>
#include <cmath>

#include "evenflow/conditioner.hpp"
#include "kernels/kernel_set.hpp"

namespace evenflow {

/// Batch norm inside a net, y = (x - mean) / sqrt(var + 1e-4) + beta, with or without ReLU; without batch
/// norm only the ReLU. In training the moments are the batch's, and are left in params.batch_stats.
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
      ctx.kernels<T>().moments(ctx, -1, x, params.batch_stat(mean_), params.batch_stat(var_));
    }
    const Coefficients c = coefficients(scope, params);
    ctx.kernels<T>().norm_relu(ctx, x, c.shift, c.scale, c.beta, relu_, y);
  }

  /// dy is overwritten; dx +=.
  void backward(Context& ctx, const Params<T>& params, View<const T> x, View<T> dy, View<T> dx) const {
    WorkspaceScope scope(ctx);
    const Coefficients c = coefficients(scope, params);
    double* sums = scope.take<double>(2 * channels_);
    T* means = scope.take<T>(2 * channels_);
    ctx.kernels<T>().norm_relu_sums(ctx, x, c.shift, c.scale, c.beta, relu_, dy, sums);
    const bool through = norm_ && params.training();  // moments depend on x
    for (int64_t k = 0; k < 2 * channels_; ++k) {
      means[k] = through ? static_cast<T>(sums[k] / static_cast<double>(x.shape.pixels())) : T(0);
    }
    if (norm_) {
      for (int64_t k = 0; k < channels_; ++k) params.grad(beta_)[k] += static_cast<T>(sums[k]);
    }
    ctx.kernels<T>().norm_relu_backward(ctx, x, c.shift, c.scale, means, means + channels_, dy, dx);
  }

 private:
  struct Coefficients {
    const T* shift;
    const T* scale;
    const T* beta;
  };

  Coefficients coefficients(WorkspaceScope& scope, const Params<T>& params) const {
    T* shift = scope.take<T>(channels_);
    T* scale = scope.take<T>(channels_);
    T* beta = scope.take<T>(channels_);
    for (int64_t c = 0; c < channels_; ++c) {
      shift[c] = norm_ ? -(params.training() ? params.batch_stat(mean_) : params.value(mean_))[c] : T(0);
      const T var = norm_ ? (params.training() ? params.batch_stat(var_) : params.value(var_))[c] : T(1);
      scale[c] = norm_ ? static_cast<T>(1 / std::sqrt(static_cast<double>(var) + 1e-4)) : T(1);
      beta[c] = norm_ ? params.value(beta_)[c] : T(0);
    }
    return {shift, scale, beta};
  }

  int64_t channels_ = 0;
  bool norm_ = false;
  bool relu_ = false;
  ParamId beta_ = 0;
  ParamId mean_ = 0;
  ParamId var_ = 0;
};

}  // namespace evenflow
