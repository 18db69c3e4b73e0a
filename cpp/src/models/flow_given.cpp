#include <algorithm>
#include <cmath>
#include <limits>

#include "evenflow/config.hpp"
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

namespace {

template <class T>
void check_sample_weight(const char* call, const double* weight, int64_t n) {
  for (int64_t i = 0; weight && i < n; ++i) {
    if (!std::isfinite(static_cast<T>(weight[i]))) {
      fail<NumericError>(call, "expected sample weights that are finite in ", to_string(dtype_of<T>()),
                         ", got ", weight[i], " for sample ", i);
    }
    if (weight[i] < 0) {
      fail<ConfigError>(call, "expected sample weights >= 0, got ", weight[i], " for sample ", i);
    }
  }
}

}  // namespace

template <class T>
void Flow<T>::check_arena(Context& ctx, const char* call, const ParamArena<T>& arena) const {
  if (arena.device() != ctx.device_name()) {
    fail<DeviceError>(call, "expected a context of ", arena.device(), ", where the parameters are, got ",
                      ctx.device_name());
  }
  const ParamLayout &given = arena.layout(), &own = *layout_;
  if (given.total_size() != own.total_size() || given.trainable_size() != own.trainable_size()) {
    fail<ConfigError>(call, "expected the parameters of this flow, ", own.total_size(), " values, ",
                      own.trainable_size(), " of them trained, got an arena of ", given.total_size(), ", ",
                      given.trainable_size(), " of them trained");
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
  check_sample_weight<T>(call, given.sample_weight, n);
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
                                scale, scope.take<double>(context_));
  kernels.channel_forward(ctx, -1, View<const T>(given.context, shape), shift, scale, standard);
  params.context = standard.data;
  params.dcontext = given.dcontext;
  return params;
}

namespace {

/// A column of contexts, n rows of `width` numbers.
template <class T>
struct Column {
  const T* numbers;
  int64_t n, width;
  double operator[](int64_t row) const { return static_cast<double>(numbers[row * width]); }
};

/// Its deviation from `mean`, in parts of the largest distance: squares of any unit are in range.
template <class T>
double deviation_of(const Column<T>& column, double mean) {
  double largest = 0, squares = 0;
  for (int64_t i = 0; i < column.n; ++i) largest = std::max(largest, std::abs(column[i] - mean));
  if (!(largest > 0 && std::isfinite(largest))) return largest;
  for (int64_t i = 0; i < column.n; ++i) {
    const double part = (column[i] - mean) / largest;
    squares += part * part;
  }
  return largest * std::sqrt(squares / static_cast<double>(column.n));
}

/// Whether the rows within the deviation lie so far from the mean that T, once it is subtracted, rounds off
/// what they differ by: as much as would make the drift guard refuse the preprocessing of x.
template <class T>
bool is_moved_by_far_values(const Column<T>& column, double mean, double deviation) {
  constexpr double kEpsilon = std::numeric_limits<T>::epsilon();
  double low = std::numeric_limits<double>::infinity(), high = -low, away = 0;
  for (int64_t i = 0; i < column.n; ++i) {
    if (!(std::abs(column[i] - mean) <= deviation)) continue;
    low = std::min(low, column[i]);
    high = std::max(high, column[i]);
    away = std::max(away, std::abs(column[i] - mean));
  }
  const double spread = high - low, step = kEpsilon * std::max(std::abs(low), std::abs(high));
  return spread > 100 * step && kEpsilon * away > drift_tolerance<T>() * spread;
}

}  // namespace

template <class T>
void Flow<T>::init_context(Context& ctx, ParamArena<T>& arena, const T* context, int64_t n) const {
  constexpr bool single = sizeof(T) == sizeof(float);
  const char* dtype = to_string(dtype_of<T>());
  HostScope host(ctx);
  context = host.read(context, n * context_);
  T *means = host.take<T>(context_), *deviations = host.take<T>(context_);
  for (int64_t c = 0; c < context_; ++c) {
    const Column<T> column{context + c, n, context_};
    double sum = 0;
    bool constant = true;
    for (int64_t i = 0; i < n; ++i) {
      sum += column[i];
      constant = constant && column[i] == column[0];
    }
    // Exactly: the mean of equal numbers may be rounded.
    const T mean = means[c] = constant ? context[c] : static_cast<T>(sum / static_cast<double>(n));
    const double deviation = deviation_of(column, static_cast<double>(mean));
    deviations[c] = static_cast<T>(deviation);
    if (!std::isfinite(mean) || !std::isfinite(deviations[c])) {
      fail<NumericError>("init", "expected a finite context, got mean ", mean, ", deviation ", deviation,
                         " in column ", c);
    }
    if (constant) {
      // Weights that never saw a column vary are random: a later change of it must not reach them. This
      // deviation leaves of it less than they round off, and denormal numbers, which are slow, only of
      // changes below epsilon squared. A single row shows nothing.
      constexpr T kEpsilon = std::numeric_limits<T>::epsilon();
      deviations[c] = n == 1 ? T(1) : kEpsilon * kEpsilon / std::numeric_limits<T>::min();
      continue;
    }
    if (deviation <= 100 * std::abs(static_cast<double>(mean)) * std::numeric_limits<T>::epsilon()) {
      fail<NumericError>("init", "expected a context that ", dtype, " resolves, got mean ", mean,
                         ", deviation ", deviation, " in column ", c, "; subtract an offset",
                         single ? ", or take dtype float64" : "");
    }
    if (!std::isfinite(1 / deviations[c])) {
      fail<NumericError>("init", "expected a context whose deviation has a reciprocal in ", dtype,
                         ", got deviation ", deviation, " in column ", c, "; take another unit",
                         single ? ", or dtype float64" : "");
    }
    if (is_moved_by_far_values(column, static_cast<double>(mean), deviation)) {
      fail<NumericError>("init", "expected a context that ", dtype, " resolves, got mean ", mean,
                         ", deviation ", deviation, " in column ", c,
                         "; values far from the rest set its mean and deviation: leave them out, or clip or "
                         "transform the column");
    }
  }
  const size_t bytes = static_cast<size_t>(context_) * sizeof(T);
  ctx.to_device(arena.value(context_mean_), means, bytes);
  ctx.to_device(arena.value(context_std_), deviations, bytes);
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
                                scale, scope.take<double>(context_));
  kernels.zero(ctx, context_, shift);
  const View<T> gradient(params.dcontext, {n, 1, 1, context_});
  kernels.channel_forward(ctx, -1, gradient, shift, scale, gradient);
}

// Member by member: flow.cpp instantiates the rest of the class.
template void Flow<float>::check_arena(Context&, const char*, const ParamArena<float>&) const;
template void Flow<float>::set_context(int64_t);
template void Flow<float>::check_given(const char*, const Given<float>&, int64_t) const;
template Params<float> Flow<float>::with(Context&, WorkspaceScope&, HostScope&, Params<float>,
                                         const Given<float>&, int64_t) const;
template void Flow<float>::init_context(Context&, ParamArena<float>&, const float*, int64_t) const;
template void Flow<float>::begin_dcontext(Context&, const Params<float>&, int64_t) const;
template void Flow<float>::end_dcontext(Context&, const Params<float>&, int64_t) const;
template void Flow<double>::check_arena(Context&, const char*, const ParamArena<double>&) const;
template void Flow<double>::set_context(int64_t);
template void Flow<double>::check_given(const char*, const Given<double>&, int64_t) const;
template Params<double> Flow<double>::with(Context&, WorkspaceScope&, HostScope&, Params<double>,
                                           const Given<double>&, int64_t) const;
template void Flow<double>::init_context(Context&, ParamArena<double>&, const double*, int64_t) const;
template void Flow<double>::begin_dcontext(Context&, const Params<double>&, int64_t) const;
template void Flow<double>::end_dcontext(Context&, const Params<double>&, int64_t) const;

}  // namespace evenflow
