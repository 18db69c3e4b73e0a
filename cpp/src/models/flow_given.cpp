#include <cmath>
#include <limits>

#include "evenflow/error.hpp"
#include "evenflow/flow.hpp"
#include "kernels/kernel_set.hpp"
#include "models/passes.hpp"

// What a density is conditioned on: labels, or a context, which layers see standardised.

namespace evenflow {

void check_labels(const char* call, const int32_t* labels, int64_t n, int64_t classes) {
  if (!classes) return;
  if (!labels) fail<ConfigError>(call, "expected ", n, " labels for a class-conditional model, got none");
  for (int64_t i = 0; i < n; ++i) {
    if (labels[i] < 0 || labels[i] >= classes) {
      fail<ConfigError>(call, "expected labels in 0 ... ", classes - 1, ", got ", labels[i], " at ", i);
    }
  }
}

template <class T>
void Flow<T>::set_context(int64_t numbers) {
  if (numbers < 0) fail<ConfigError>("set_context", "expected 0 numbers or more, got ", numbers);
  context_ = numbers;
}

template <class T>
void Flow<T>::check_given(const char* call, const Given<T>& given, int64_t n) const {
  check_labels(call, given.labels, n, classes_);
  if (given.context && !context_) {
    fail<ConfigError>(call, "expected no context, since the flow has none, got one");
  }
  if (!given.context && context_) {
    fail<ConfigError>(call, "expected a context of ", context_, " numbers for each of ", n,
                      " samples, got none");
  }
}

template <class T>
Params<T> Flow<T>::with(Context& ctx, WorkspaceScope& scope, HostScope& host, Params<T> params,
                        const Given<T>& given, int64_t n) const {
  params.labels = host.send(given.labels, n);
  if (!context_) return params;
  const KernelSet<T>& kernels = ctx.kernels<T>();
  const Shape shape{n, 1, 1, context_};
  const View<T> standard(scope.take<T>(shape.size()), shape);
  T *shift = scope.take<T>(context_), *scale = scope.take<T>(context_);
  kernels.standard_coefficients(ctx, context_, params.value(context_mean_), params.value(context_std_), shift,
                                scale, scope.take<double>(1));
  kernels.channel_forward(ctx, -1, View<const T>(given.context, shape), shift, scale, standard);
  params.context = standard.data;
  params.dcontext = given.dcontext;
  return params;
}

template <class T>
void Flow<T>::init_context(Context& ctx, ParamArena<T>& arena, const T* context, int64_t n) const {
  HostScope host(ctx);
  context = host.read(context, n * context_);
  T *mean = host.take<T>(context_), *deviation = host.take<T>(context_);
  for (int64_t c = 0; c < context_; ++c) {
    double sum = 0, squares = 0;  // in double, where squares of any unit of T are in range
    for (int64_t i = 0; i < n; ++i) sum += context[i * context_ + c];
    mean[c] = static_cast<T>(sum / static_cast<double>(n));
    for (int64_t i = 0; i < n; ++i) {
      const double off = static_cast<double>(context[i * context_ + c]) - mean[c];
      squares += off * off;
    }
    const double var = squares / static_cast<double>(n);
    if (!std::isfinite(mean[c]) || !std::isfinite(var)) {
      fail<NumericError>("init", "expected a finite context, got mean ", mean[c], ", variance ", var,
                         " in column ", c);
    }
    const double step = static_cast<double>(mean[c]) * std::numeric_limits<T>::epsilon();
    deviation[c] = var > 0 ? static_cast<T>(std::sqrt(var)) : T(1);
    if (var > 0 && (deviation[c] == 0 || var <= 1e4 * step * step)) {
      fail<NumericError>("init", "expected a context that ",
                         sizeof(T) == sizeof(float) ? "float32" : "float64", " resolves, got mean ", mean[c],
                         ", variance ", var, " in column ", c, "; subtract an offset",
                         sizeof(T) == sizeof(float) ? ", or take dtype float64" : "");
    }
  }
  const size_t bytes = static_cast<size_t>(context_) * sizeof(T);
  ctx.to_device(arena.value(context_mean_), mean, bytes);
  ctx.to_device(arena.value(context_std_), deviation, bytes);
}

template <class T>
void Flow<T>::begin_dcontext(Context& ctx, const Params<T>& params, int64_t n) const {
  if (params.dcontext) ctx.kernels<T>().zero(ctx, n * context_, params.dcontext);
}

template <class T>
void Flow<T>::end_dcontext(Context& ctx, const Params<T>& params, int64_t n) const {
  if (!params.dcontext) return;
  WorkspaceScope scope(ctx);
  const KernelSet<T>& kernels = ctx.kernels<T>();
  T *shift = scope.take<T>(context_), *scale = scope.take<T>(context_);
  kernels.standard_coefficients(ctx, context_, params.value(context_mean_), params.value(context_std_), shift,
                                scale, scope.take<double>(1));
  kernels.zero(ctx, context_, shift);
  const View<T> gradient(params.dcontext, {n, 1, 1, context_});
  kernels.channel_forward(ctx, -1, gradient, shift, scale, gradient);
}

// Member by member: flow.cpp instantiates the rest of the class.
template void Flow<float>::set_context(int64_t);
template void Flow<float>::check_given(const char*, const Given<float>&, int64_t) const;
template Params<float> Flow<float>::with(Context&, WorkspaceScope&, HostScope&, Params<float>,
                                         const Given<float>&, int64_t) const;
template void Flow<float>::init_context(Context&, ParamArena<float>&, const float*, int64_t) const;
template void Flow<float>::begin_dcontext(Context&, const Params<float>&, int64_t) const;
template void Flow<float>::end_dcontext(Context&, const Params<float>&, int64_t) const;
template void Flow<double>::set_context(int64_t);
template void Flow<double>::check_given(const char*, const Given<double>&, int64_t) const;
template Params<double> Flow<double>::with(Context&, WorkspaceScope&, HostScope&, Params<double>,
                                           const Given<double>&, int64_t) const;
template void Flow<double>::init_context(Context&, ParamArena<double>&, const double*, int64_t) const;
template void Flow<double>::begin_dcontext(Context&, const Params<double>&, int64_t) const;
template void Flow<double>::end_dcontext(Context&, const Params<double>&, int64_t) const;

}  // namespace evenflow
