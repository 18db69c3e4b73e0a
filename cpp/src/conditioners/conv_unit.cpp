#include "conditioners/conv_unit.hpp"

#include "kernels/ops/constants.hpp"
#include "layers/init_actnorm.hpp"

namespace evenflow {

template <class T>
void ConvUnit<T>::declare(const Scope& scope, bool overwritable) {
  name_ = scope.prefix();
  const int64_t k = config_.kernel, rows = dims(0).weight_rows(), cout = config_.cout;
  const std::vector<int64_t> shape =
      config_.dense ? std::vector<int64_t>{rows, cout} : std::vector<int64_t>{k, k, rows, cout};
  // Real NVP's L2 acts on magnitudes; with them, or with an output scale, the weights' own size is free.
  const bool normalised = config_.weight_norm || config_.logs;
  weight_ = scope.add(config_.weight_norm ? "v" : "weight", shape,
                      normalised ? Group::no_decay : Group::decay, overwritable);
  if (config_.magnitude) magnitude_ = scope.add("magnitude", {cout}, Group::decay);
  if (config_.bias) bias_ = scope.add("bias", {cout}, Group::no_decay);
  if (config_.logs) logs_ = scope.add("logs", {cout}, Group::no_decay);
}

template <class T>
ConvDims ConvUnit<T>::dims(int64_t n) const {
  ConvDims d;
  d.in = config_.in.with_batch(n);
  d.cout = config_.cout;
  d.kernel = config_.kernel;
  d.edge = config_.edge;
  return d;
}

template <class T>
const T* ConvUnit<T>::effective_weight(Context& ctx, WorkspaceScope& scope, const Params<T>& params,
                                       T** norms) const {
  if (!config_.weight_norm) return params.value(weight_);
  *norms = scope.take<T>(config_.cout);
  T* w = scope.take<T>(weight_size());
  ctx.kernels<T>().weight_norm(ctx, weight_size() / config_.cout, config_.cout, params.value(weight_),
                               config_.magnitude ? params.value(magnitude_) : nullptr, *norms, w);
  return w;
}

template <class T>
Epilogue<T> ConvUnit<T>::epilogue(Context& ctx, WorkspaceScope& scope, const Params<T>& params) const {
  Epilogue<T> e;
  e.relu = config_.relu;
  if (config_.bias) e.bias = params.value(bias_);
  if (config_.logs) {
    T* scale = scope.take<T>(config_.cout);
    ctx.kernels<T>().exp_scale(ctx, config_.cout, T(kLogScale), params.value(logs_), scale);
    e.scale = scale;
  }
  return e;
}

template <class T>
void ConvUnit<T>::init_actnorm_from(Context& ctx, ParamArena<T>& arena, View<const T> x) const {
  WorkspaceScope scope(ctx);
  T* norms;
  View<T> raw(scope.take<T>(output_size(x.shape.n)), output_shape(x.shape.n));
  const T* w = effective_weight(ctx, scope, arena.params(), &norms);
  ctx.kernels<T>().conv_forward(ctx, dims(x.shape.n), x, w, Epilogue<T>(), raw);
  init_actnorm<T>(ctx, name_, raw, arena.value(bias_), arena.value(logs_));
}

template <class T>
void ConvUnit<T>::forward(Context& ctx, const Params<T>& params, View<const T> x, View<T> y) const {
  WorkspaceScope scope(ctx);
  T* norms;
  const T* w = effective_weight(ctx, scope, params, &norms);
  ctx.kernels<T>().conv_forward(ctx, dims(x.shape.n), x, w, epilogue(ctx, scope, params), y);
}

template <class T>
void ConvUnit<T>::backward(Context& ctx, const Params<T>& params, View<const T> x, View<const T> y,
                           View<T> dy, View<T> dx, bool accumulate) const {
  const KernelSet<T>& kernels = ctx.kernels<T>();
  WorkspaceScope scope(ctx);
  const ConvDims d = dims(x.shape.n);
  T* norms;
  const T* w = effective_weight(ctx, scope, params, &norms);
  if (config_.bias || config_.logs || config_.relu) {
    kernels.epilogue_backward(ctx, y, dy, epilogue(ctx, scope, params),
                              config_.bias ? params.grad(bias_) : nullptr,
                              config_.logs ? params.grad(logs_) : nullptr, T(kLogScale));
  }
  if (dx.data) kernels.conv_backward_data(ctx, d, dy, w, dx, accumulate);
  if (!config_.weight_norm) {
    kernels.conv_backward_weights(ctx, d, x, dy, params.grad(weight_));
    return;
  }
  T* dw = scope.take<T>(weight_size());
  kernels.zero(ctx, weight_size(), dw);
  kernels.conv_backward_weights(ctx, d, x, dy, dw);
  kernels.weight_norm_backward(ctx, weight_size() / config_.cout, config_.cout, params.value(weight_),
                               config_.magnitude ? params.value(magnitude_) : nullptr, norms, dw,
                               params.grad(weight_), config_.magnitude ? params.grad(magnitude_) : nullptr);
}

template <class T>
void ConvUnit<T>::describe(Context& ctx, WorkspaceScope& scope, const Params<T>& params, int64_t n,
                           StackUnit<T>& unit) const {
  unit.dims = dims(n);
  unit.w = params.value(weight_);
  unit.epilogue = epilogue(ctx, scope, params);
  unit.logs_factor = T(kLogScale);
  if (!params.grads) return;
  unit.dw = params.grad(weight_);
  unit.overwrite = params.overwrite;
  if (config_.bias) unit.dbias = params.grad(bias_);
  if (config_.logs) unit.dlogs = params.grad(logs_);
}

template class ConvUnit<float>;
template class ConvUnit<double>;

}  // namespace evenflow
