#pragma once

#include <cmath>
#include <limits>

#include "core/mode.hpp"
#include "evenflow/config.hpp"
#include "flow/chain.hpp"
#include "flow/checks.hpp"
#include "kernels/kernel_set.hpp"

// Checks a call's arguments: the batch, the arena, and the labels or context. Layers read the context
// standardised.

namespace evenflow {

template <class T>
void check_input(const Chain<T>& chain, const char* call, const Shape& x) {
  if (x.n < 1) fail<ShapeError>(call, "expected at least one sample, got an empty batch");
  if (x.with_batch(0) != chain.sample_shape) {
    fail<ShapeError>(call, "expected x of shape ", to_string(chain.sample_shape.with_batch(x.n)), ", got ",
                     to_string(x));
  }
}

inline void check_same_shape(const char* call, const char* name, const Shape& x, const Shape& got) {
  if (got == x) return;
  fail<ShapeError>(call, "expected ", name, " of shape ", to_string(x), ", as x, got ", to_string(got));
}

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

template <class T>
void check_given(const Chain<T>& chain, const char* call, const Given<T>& given, int64_t n) {
  check_labels(call, given.labels, n, chain.classes);
  check_sample_weight<T>(call, given.sample_weight, n);
  if (given.context && !chain.context) {
    fail<ConfigError>(call, "a context was given, but the flow has none");
  }
  if (!given.context && chain.context) {
    fail<ConfigError>(call, "expected a context of ", chain.context, " numbers for each of ", n,
                      " samples, got none");
  }
}

template <class T>
void check_arena(Context& ctx, const Chain<T>& chain, const char* call, const ParamArena<T>& arena) {
  if (arena.device() != ctx.device_name()) {
    fail<DeviceError>(call, "expected a context of ", arena.device(), ", where the parameters are, got ",
                      ctx.device_name());
  }
  const ParamLayout &given = arena.layout(), &expected = *chain.layout;
  if (given.total_size() != expected.total_size() || given.trainable_size() != expected.trainable_size()) {
    fail<ConfigError>(call, "expected the parameters of this flow, ", expected.total_size(), " values, ",
                      expected.trainable_size(), " of them trained, got an arena of ", given.total_size(),
                      ", ", given.trainable_size(), " of them trained");
  }
}

template <class T>
void check_initialized(Context& ctx, const Chain<T>& chain, const char* call, const T* values) {
  HostScope host(ctx);
  if (*host.read(values + chain.layout->offset(chain.initialized), 1) == T(0)) {
    fail<ConfigError>(call, "this model is not initialised; call fit(x), or init(x) with a batch of data");
  }
}

template <class T>
void check_ready(Context& ctx, const Chain<T>& chain, const char* call, const ParamArena<T>& arena) {
  check_arena(ctx, chain, call, arena);
  check_initialized(ctx, chain, call, arena.values());
}

/// Coefficients (chain.context) of y = (x + shift) * scale, which standardises a context.
template <class T>
struct Standardising {
  T *shift, *scale;

  Standardising(Context& ctx, WorkspaceScope& scope, const Chain<T>& chain, const Params<T>& params)
      : shift(scope.take<T>(chain.context)), scale(scope.take<T>(chain.context)) {
    ctx.kernels<T>().channel.standard_coefficients(ctx, chain.context, params.value(chain.context_mean),
                                                   params.value(chain.context_std), shift, scale,
                                                   scope.take<double>(chain.context));
  }
};

/// The parameters for a call on n samples, with labels and standardised context in device memory.
template <class T>
Params<T> with_given(Context& ctx, WorkspaceScope& scope, HostScope& host, const Chain<T>& chain,
                     Params<T> params, const Given<T>& given, int64_t n) {
  params.given.labels = host.send(given.labels, n);
  if (!chain.context) return params;
  const Shape shape{n, 1, 1, chain.context};
  const View<T> standard(scope.take<T>(shape.size()), shape);
  const Standardising<T> by(ctx, scope, chain, params);
  ctx.kernels<T>().channel.forward(ctx, -1, View<const T>(given.context, shape), by.shift, by.scale,
                                   standard);
  params.given.context = standard.data;
  params.given.dcontext = given.dcontext;
  return params;
}

/// A call on the rows of x whose arguments are checked: its parameters, and memory for as long as it lasts.
template <class T>
struct Call {
  WorkspaceScope scope;
  HostScope host;
  Params<T> params;

  /// arena: const for a call without gradients by parameters.
  template <class Arena>
  Call(Context& ctx, const Chain<T>& chain, const char* name, Arena& arena, const Shape& x,
       const Given<T>& given)
      : scope(ctx), host(ctx) {
    check_input(chain, name, x);
    check_given(chain, name, given, x.n);
    check_ready(ctx, chain, name, arena);
    params = with_given(ctx, scope, host, chain, arena.params(), given, x.n);
  }
};

/// The same for a training step, in which dropout acts. batch_stats: receives the batch's moments; or null.
template <class T>
Params<T> in_training(Context& ctx, WorkspaceScope& scope, HostScope& host, const Chain<T>& chain,
                      Params<T> params, const Given<T>& given, int64_t n, T* batch_stats, Mode<T>& mode) {
  params = with_given(ctx, scope, host, chain, params, given, n);
  mode.batch_stats = batch_stats;
  if (chain.layout->streams()) mode.masks = host.send(&given.masks, 1);
  params.mode = &mode;
  return params;
}

/// Clears the context's gradient before a pass that adds to it.
template <class T>
void begin_dcontext(Context& ctx, const Chain<T>& chain, const Params<T>& params, int64_t n) {
  T* dcontext = params.given.dcontext;
  if (dcontext) ctx.kernels<T>().move.zero(ctx, n * chain.context, dcontext);
}

/// After the pass, converts the gradient by the standardised context to the one by the call's context.
template <class T>
void end_dcontext(Context& ctx, const Chain<T>& chain, const Params<T>& params, int64_t n) {
  if (!params.given.dcontext) return;
  WorkspaceScope scope(ctx);
  const Standardising<T> by(ctx, scope, chain, params);
  ctx.kernels<T>().move.zero(ctx, chain.context, by.shift);
  const View<T> gradient(params.given.dcontext, {n, 1, 1, chain.context});
  ctx.kernels<T>().channel.forward(ctx, -1, gradient, by.shift, by.scale, gradient);
}

/// One column of a context with n rows of `width` numbers.
template <class T>
struct Column {
  const T* numbers;
  int64_t n, width;
  double operator[](int64_t row) const { return static_cast<double>(numbers[row * width]); }
};

/// Standard deviation about `mean`. Distances are divided by the largest, so that squares stay in range for
/// any unit.
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

/// Whether a few distant values have moved the mean so far from the others that T cannot resolve the others
/// once the mean is subtracted. The tolerance is that of the drift guard for x.
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

/// Stores the mean and deviation of n samples' contexts in the arena.
template <class T>
void init_context(Context& ctx, const Chain<T>& chain, ParamArena<T>& arena, const T* context, int64_t n) {
  constexpr bool single = std::is_same<T, float>::value;
  const int64_t width = chain.context;
  const char* dtype = to_string(dtype_of<T>());
  HostScope host(ctx);
  context = host.read(context, n * width);
  T *means = host.take<T>(width), *deviations = host.take<T>(width);
  for (int64_t c = 0; c < width; ++c) {
    const Column<T> column{context + c, n, width};
    double sum = 0;
    bool constant = true;
    for (int64_t i = 0; i < n; ++i) {
      sum += column[i];
      constant = constant && column[i] == column[0];
    }
    // Take a constant's own value: the computed mean of equal numbers may be rounded.
    const T mean = means[c] = constant ? context[c] : static_cast<T>(sum / static_cast<double>(n));
    const double deviation = deviation_of(column, static_cast<double>(mean));
    deviations[c] = static_cast<T>(deviation);
    if (!std::isfinite(mean) || !std::isfinite(deviations[c])) {
      fail<NumericError>("init", "expected a finite context, got mean ", mean, ", deviation ", deviation,
                         " in column ", c);
    }
    if (constant) {
      // The weights of a column that is constant in the data stay random, so later changes of the column must
      // not reach the net. This deviation scales them below rounding, and makes slow denormal numbers only of
      // changes below epsilon squared. A single row does not show whether a column is constant.
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
  const size_t bytes = static_cast<size_t>(width) * sizeof(T);
  ctx.to_device(arena.value(chain.context_mean), means, bytes);
  ctx.to_device(arena.value(chain.context_std), deviations, bytes);
}

}  // namespace evenflow
