#pragma once

#include "flow/gradient.hpp"

// Training steps: the gradient of a batch, as a whole or by tiles, and its update.

namespace evenflow {

constexpr double kStatsRate = 0.1;  ///< rate of running averages (Real NVP)

/// ShapeError if batch norm would see a single row, which has no variance.
template <class T>
void check_moments(Context& ctx, const Chain<T>& chain, const char* call, int64_t n) {
  if (!chain.moments_of || ctx.ranks() || n * chain.moments_of > 1) return;
  fail<ShapeError>(call, "expected at least 2 samples for batch norm, got ", n);
}

/// NumericError if a layer's own inverse is too inaccurate for gradients.
template <class T>
void check_drift(const Chain<T>& chain, const char* call, const Drift& drift) {
  if (drift.layer_value <= drift_tolerance<T>()) return;
  const bool data = chain.standardised > 0 && drift.layer == chain.nodes[chain.standardised - 1].name;
  fail<NumericError>(call, "expected an invertible flow, got layer ", drift.layer,
                     " whose rebuilt input is off by ", drift.layer_value, " of a row's largest value",
                     data ? "; values far from the rest set its mean and deviation: leave them out, or clip "
                            "or transform their column"
                          : "");
}

/// Mean of -sample_weight * log_prob. sample_weight may be null: all 1. nll (n) receives -log_prob, or is
/// null.
inline double mean_nll(const double* log_prob, const double* sample_weight, int64_t n, double* nll) {
  double mean = 0;
  for (int64_t i = 0; i < n; ++i) {
    mean -= (sample_weight ? sample_weight[i] * log_prob[i] : log_prob[i]) / static_cast<double>(n);
    if (nll) nll[i] = -log_prob[i];
  }
  return mean;
}

/// The arguments of a call that computes a gradient.
template <class T>
struct GradientCall {
  const char* name;
  View<const T> x;
  const Given<T>& given;
  int64_t activation_budget;
  double weight;
  bool replace;  ///< replace existing gradients instead of adding
  double* nll;   ///< (n) in host memory, for each sample's negative log-likelihood; or null
};

/// Computes the gradient in tiles, each of which goes through the whole chain and back. Returns false, with
/// nothing changed, if rebuilt rows drift too far.
template <class T>
bool gradient_by_tiles(Context& ctx, const Chain<T>& chain, ParamArena<T>& arena, const GradientCall<T>& call,
                       const std::optional<Tiles>& tiles, StepResult& result) {
  WorkspaceScope scope(ctx);
  HostScope host(ctx);
  const int64_t n = call.x.shape.n, trainable = chain.layout->trainable_size();
  const bool parallel = chain.worth_threads(n), empty = call.replace || arena.grads_are_zero();
  T* total = arena.params().grads;
  const GroupGradients<T> gradients(scope, tiles, trainable, total, empty);
  double* log_prob = scope.take<double>(n);
  double* drifts = scope.take<double>(tiles->count);
  Mode<T> mode;
  const Params<T> all =
      in_training<T>(ctx, scope, host, chain, std::as_const(arena).params(), call.given, n, nullptr, mode);
  const auto undo = [&] {
    if (empty) ctx.kernels<T>().move.zero(ctx, trainable, total);
  };
  const auto one_tile = [&](Context& local, const Params<T>& params, int64_t tile, int64_t first,
                            int64_t end) {
    WorkspaceScope tile_scope(local);
    const View<const T> x = rows_of(call.x, first, end);
    const View<T> dx(tile_scope.take<T>(x.shape.size()), x.shape);
    const PassArrays<T> arrays(tile_scope, x.shape, log_prob + first, dx);
    double distances[kDrifts];
    GradientPass<T> pass;
    pass.weight = -call.weight / static_cast<double>(n);
    if (call.given.sample_weight) pass.sample_weight = call.given.sample_weight + first;
    pass.kept = keep_activations(local, tile_scope, chain, x.shape.n, call.activation_budget);
    if (chain.standardised) pass.standardised = tile_scope.take<T>(x.shape.size());
    pass.truth = x;
    pass.drifts = distances;
    pass_forward(local, chain, params, x, arrays, pass);
    pass_backward<T>(local, chain, params, {arrays.z, arrays.dz}, arrays.dlogdet, {arrays.rebuilt, dx}, pass);
    drifts[tile] = largest_drift(distances);
  };
  double square = 0;
  try {
    by_gradient_tiles(ctx, chain, tiles, n, all, &gradients, one_tile);
    if (!all_finite<T>(ctx, n, log_prob, {})) fail_not_finite(ctx, chain, all, call.name, call.x, log_prob);
    result.nll = mean_nll(log_prob, call.given.sample_weight, n, call.nll);
    result.drift.value = *std::max_element(drifts, drifts + tiles->count);
    if (!(result.drift.value <= drift_tolerance<T>())) {
      undo();
      return false;
    }
    square = gradients.add_up(ctx, parallel);
    check_gradients(ctx, call.name, *chain.layout, gradients.of(0), square);
  } catch (...) {
    undo();
    throw;
  }
  if (empty) arena.set_grads_square(square);
  gradients.add_to_total(ctx, parallel);
  end_dcontext(ctx, chain, all, n);
  result.loss = result.nll;
  return true;
}

/// Computes the gradient of the mean negative log-likelihood times call.weight. Writes the batch's statistics
/// to batch_stats (stats_size() + 1) and leaves the running ones unchanged.
template <class T>
StepResult gradient(Context& ctx, const Chain<T>& chain, ParamArena<T>& arena, const GradientCall<T>& call,
                    T* batch_stats) {
  const View<const T> x = call.x;
  const int64_t n = x.shape.n, trainable = chain.layout->trainable_size();
  check_input(chain, call.name, x.shape);
  check_given(chain, call.name, call.given, n);
  check_moments(ctx, chain, call.name, n);
  check_arena(ctx, chain, call.name, arena);
  if (ctx.on_host()) check_initialized(ctx, chain, call.name, std::as_const(arena).values());
  StepResult result;
  const std::optional<Tiles> tiles = gradient_tiles(ctx, chain, n);
  if (tiles && gradient_by_tiles(ctx, chain, arena, call, tiles, result)) return result;
  result = {};
  WorkspaceScope scope(ctx);
  HostScope host(ctx);
  const KernelSet<T>& kernels = ctx.kernels<T>();
  double* log_prob = scope.take<double>(n);
  View<T> dx(scope.take<T>(n * chain.dims()), x.shape);
  kernels.move.zero(ctx, chain.layout->stats_size() + 1, batch_stats);

  // Existing gradients must survive if the drift guard repeats the pass.
  const bool zero = call.replace || arena.grads_are_zero();
  Mode<T> mode;
  mode.overwrite = zero;
  const Params<T> params =
      in_training(ctx, scope, host, chain, arena.params(), call.given, n, batch_stats, mode);
  if (call.replace) begin_gradient(ctx, chain, params);
  double* square = scope.take<double>(1);
  const Shape flat{1, 1, 1, trainable};
  View<T> saved;
  if (!zero) {
    kernels.optim.sum_squares(ctx, trainable, params.grads, square);
    if (*host.read(static_cast<const double*>(square), 1) != 0) {
      saved = View<T>(scope.take<T>(trainable), flat);
      kernels.move.copy(ctx, View<const T>(params.grads, flat), saved);
    }
  }
  const auto restore = [&] {
    if (saved.data) {
      kernels.move.copy(ctx, View<const T>(saved), View<T>(params.grads, flat));
    } else {
      kernels.move.zero(ctx, trainable, params.grads);
    }
  };

  GradientPass<T> pass;
  const double share = call.weight / static_cast<double>(n);
  pass.weight = -share;
  pass.head_scale = share;
  pass.sample_weight = host.send(call.given.sample_weight, n);
  if (chain.head && share != 0) pass.head_results = scope.take<double>(2);
  pass.square = square;
  const PassArrays<T> arrays(scope, x.shape, log_prob, dx);
  result.drift =
      guarded_pass(ctx, chain, params, x, call.activation_budget, arrays, pass, call.name, restore);
  try {
    check_drift(chain, call.name, result.drift);
    const double norm_squared = *host.read(static_cast<const double*>(square), 1);
    check_gradients(ctx, call.name, *chain.layout, params.grads, norm_squared);
    arena.set_grads_square(norm_squared);
    end_dcontext(ctx, chain, params, n);
  } catch (...) {
    restore();
    throw;
  }
  result.nll =
      mean_nll(host.read(static_cast<const double*>(log_prob), n), call.given.sample_weight, n, call.nll);
  result.loss = result.nll;
  if (pass.head_results) {
    const double* sums = host.read(static_cast<const double*>(pass.head_results), 2);
    result.class_nll = sums[0] / static_cast<double>(n);
    result.class_error = sums[1] / static_cast<double>(n);
    result.loss += chain.head->weight() * result.class_nll;
  }
  return result;
}

/// Moves running statistics towards the batch's.
template <class T>
void move_stats(Context& ctx, const T* batch_stats, ParamArena<T>& arena) {
  const ParamLayout& layout = arena.layout();
  ctx.kernels<T>().optim.average(ctx, layout.stats_size(), batch_stats, T(kStatsRate),
                                 arena.values() + layout.stats_begin());
}

template <class T>
StepResult Flow<T>::loss_and_grad(Context& ctx, ParamArena<T>& arena, View<const T> x, const Given<T>& given,
                                  int64_t activation_budget, double weight, double* nll) const {
  const Chain<T>& chain = *chain_;
  WorkspaceScope scope(ctx);
  T* batch_stats = scope.take<T>(chain.layout->stats_size() + 1);
  const StepResult result = gradient<T>(
      ctx, chain, arena, {"loss_and_grad", x, given, activation_budget, weight, false, nll}, batch_stats);
  move_stats(ctx, batch_stats, arena);
  return result;
}

template <class T>
StepResult Flow<T>::train_step(Context& ctx, ParamArena<T>& arena, View<const T> x, const Given<T>& given,
                               int64_t activation_budget, const Update<T>& update) const {
  const Chain<T>& chain = *chain_;
  const char* call = "train_step";
  // Check all arguments before changing anything.
  update.optimizer.check(arena);
  check_max_norm(update.max_norm);
  if (update.average) check_average_decay(update.average_decay);
  WorkspaceScope scope(ctx);
  T* batch_stats = scope.take<T>(chain.layout->stats_size() + 1);
  StepResult result =
      gradient<T>(ctx, chain, arena, {call, x, given, activation_budget, 1, true, nullptr}, batch_stats);
  try {
    if (!std::isfinite(result.loss)) {
      fail<NumericError>(call, "expected a finite loss, got ", result.loss);
    }
    result.grad_norm = clip_grad_norm(ctx, arena, update.max_norm);
    update.optimizer.step(ctx, arena);
  } catch (...) {
    zero_grad(ctx, arena);
    throw;
  }
  move_stats(ctx, batch_stats, arena);
  if (update.average) update_average(ctx, arena, update.average, update.average_decay);
  return result;
}

}  // namespace evenflow
