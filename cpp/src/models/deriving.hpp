#pragma once

#include "core/device.hpp"
#include "kernels/flow_program.hpp"
#include "kernels/kernel_set.hpp"

namespace evenflow {

/// Parameters for a pass through all layers: with what a device derives from them first, elsewhere as they
/// are. Arrays last as long as the scope.
template <class T>
class Deriving {
 public:
  Deriving(Context& ctx, WorkspaceScope& scope, const DerivedPlan& plan, const Params<T>& params,
           bool inverses)
      : ctx_(ctx), params_(params) {
    if (ctx.on_host() || plan.empty()) return;
    derived_.plan = &plan;
    derived_.scales = scope.take<T>(plan.scale_values);
    derived_.matrices = scope.take<T>(plan.matrix_values);
    if (inverses) derived_.inverses = scope.take<T>(plan.matrix_values);
    derived_.log_det = scope.take<double>(1);
    flow_kernels<T>(*ctx.device()).derive(ctx, params.values, derived_);
    params_.derived = &derived_;
  }
  Deriving(const Deriving&) = delete;
  Deriving& operator=(const Deriving&) = delete;

  const Params<T>& params() const { return params_; }

  /// logdet (n) += sign * the part of it that layers leave to the pass.
  void add_log_det(int64_t n, double sign, double* logdet) const {
    if (params_.derived) ctx_.kernels<T>().add_total(ctx_, n, sign, derived_.log_det, logdet);
  }

  /// Before layers go backward. together: gradients of matrices become those of parameters at the end, and
  /// not layer by layer.
  void begin_backward(WorkspaceScope& scope, int64_t n, const double* dlogdet, bool together) {
    if (!params_.derived) return;
    double* total = scope.take<double>(1);
    ctx_.kernels<T>().sum_doubles(ctx_, n, dlogdet, total);
    derived_.dlogdet = total;
    const int64_t size = derived_.plan->matrix_values;
    if (together && size > 0) derived_.dmatrices = scope.take<double>(size);
  }
  void end_backward() const {
    if (!derived_.dmatrices) return;
    flow_kernels<T>(*ctx_.device()).add_matrix_gradients(ctx_, params_.values, derived_, params_.grads);
  }

 private:
  Context& ctx_;
  Params<T> params_;
  Derived<T> derived_;
};

}  // namespace evenflow
