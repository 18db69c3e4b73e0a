#pragma once

#include <numeric>

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

/// NumericError naming the parameter, and so the layer, of a gradient that is not finite. square: the
/// gradients' sum of squares.
template <class T>
void check_gradients(Context& ctx, const char* call, const ParamLayout& layout, const T* grads,
                     double square) {
  if (std::isfinite(square)) return;
  HostScope host(ctx);
  grads = host.read(grads, layout.trainable_size());
  for (const ParamLayout::Entry& entry : layout.entries()) {
    if (entry.offset >= layout.trainable_size()) continue;
    for (int64_t i = 0; i < entry.size; ++i) {
      const T value = grads[entry.offset + i];
      if (std::isfinite(value)) continue;
      fail<NumericError>(call, "expected finite gradients, got ", value, " for ", entry.name, ", value ", i);
    }
  }
}

/// NumericError if a layer's own inverse is too inaccurate for gradients.
template <class T>
void check_drift(const Chain<T>& chain, const char* call, const Drift& drift) {
  if (drift.layer_value <= drift_tolerance<T>()) return;
  const bool data = chain.standardised > 0 && drift.layer == chain.nodes[chain.standardised - 1].name;
  fail<NumericError>(call, "expected an invertible flow, got layer ", drift.layer,
                     " whose rebuilt input is off by ", drift.layer_value, " of the largest value",
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
  const GradientWatch* watch;
  bool replace;  ///< replace existing gradients instead of adding
  double* nll;   ///< (n) in host memory, for each sample's negative log-likelihood; or null
};

/// Computes the gradient in tiles, each of which goes through the whole chain and back. Returns false, with
/// nothing changed, if rebuilt rows drift too far.
template <class T>
bool gradient_by_tiles(Context& ctx, const Chain<T>& chain, ParamArena<T>& arena, const GradientCall<T>& call,
                       const Tiles& tiles, StepResult& result) {
  constexpr int64_t kPiece = 4096;  // values of a gradient that a thread sums at a time
  WorkspaceScope scope(ctx);
  const KernelSet<T>& kernels = ctx.kernels<T>();
  const int64_t n = call.x.shape.n, trainable = chain.layout->trainable_size();
  const int64_t padded = (trainable + 15) / 16 * 16;
  // Each group of tiles has its own gradient. They are summed in order; the first is computed in place if the
  // arena's gradients are empty.
  const bool first_in_place = call.replace || arena.grads_are_zero();
  T* total = arena.params().grads;
  T* others = scope.take<T>((tiles.groups - first_in_place) * padded);
  const auto grads_of = [&](int64_t group) {
    return first_in_place && group == 0 ? total : others + (group - first_in_place) * padded;
  };
  double* log_prob = scope.take<double>(n);
  double* drifts = scope.take<double>(tiles.count);
  const double share = -call.weight / static_cast<double>(n);
  HostScope host(ctx);
  const Params<T> all = in_training(ctx, scope, host, chain, std::as_const(arena).params(), call.given, n);
  const auto undo = [&] {
    if (first_in_place) kernels.move.zero(ctx, trainable, total);
  };
  const auto one_tile = [&](Context& local, int64_t group, int64_t tile) {
    const int64_t first = tiles.begin(tile), end = tiles.begin(tile + 1);
    Params<T> params = rows_of(all, first, chain.context);
    params.grads = grads_of(group);
    if (tile == tiles.first_of(group)) begin_gradient(local, chain, params);
    WorkspaceScope tile_scope(local);
    const View<const T> x = rows_of(call.x, first, end);
    const View<T> dx(tile_scope.take<T>(x.shape.size()), x.shape);
    const PassArrays<T> arrays(tile_scope, x.shape, log_prob + first, dx);
    double distances[2 * kDrifts];
    GradientPass<T> pass;
    pass.truth = x;
    pass.drifts = distances;
    if (call.given.sample_weight) pass.sample_weight = call.given.sample_weight + first;
    keep_activations(local, tile_scope, chain, x.shape.n, call.activation_budget, pass);
    pass_forward(local, chain, params, x, share, arrays, pass);
    pass_backward(local, chain, params, arrays, pass);
    drifts[tile] = largest_drift(distances);
  };
  const Tiles pieces(trainable, kPiece);
  double* squares = scope.take<double>(pieces.count);
  // Calls f(single-thread context, number, first value, shape) for every piece of the gradient.
  const auto by_pieces = [&](const auto& f) {
    run_tiles(ctx, pieces, chain.worth_threads(n), [&](Context& local, int64_t, int64_t i) {
      f(local, i, pieces.begin(i), Shape{1, 1, 1, pieces.begin(i + 1) - pieces.begin(i)});
    });
  };
  double square = 0;
  try {
    run_tiles(ctx, tiles, chain.worth_threads(n), one_tile);
    if (!all_finite<T>(ctx, n, log_prob, {})) fail_not_finite(ctx, chain, all, call.name, call.x, log_prob);
    result.nll = mean_nll(log_prob, call.given.sample_weight, n, call.nll);
    result.drift.value = *std::max_element(drifts, drifts + tiles.count);
    if (!(result.drift.value <= drift_tolerance<T>())) {
      undo();
      return false;
    }
    by_pieces([&](Context& local, int64_t i, int64_t first, const Shape& shape) {
      for (int64_t g = 1; g < tiles.groups; ++g) {
        local.kernels<T>().move.add(local, View<const T>(grads_of(g) + first, shape),
                                    View<T>(grads_of(0) + first, shape));
      }
      local.kernels<T>().optim.sum_squares(local, shape.c, grads_of(0) + first, squares + i);
    });
    square = std::accumulate(squares, squares + pieces.count, 0.0);
    check_gradients(ctx, call.name, *chain.layout, grads_of(0), square);
  } catch (...) {
    undo();
    throw;
  }
  if (first_in_place) {
    arena.set_grads_square(square);
  } else {
    by_pieces([&](Context& local, int64_t, int64_t first, const Shape& shape) {
      local.kernels<T>().move.add(local, View<const T>(others + first, shape), View<T>(total + first, shape));
    });
  }
  end_dcontext(ctx, chain, all, n);
  for (size_t part = 0; call.watch && part < call.watch->parts.size(); ++part) call.watch->complete(part);
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
  const std::optional<Tiles> tiles = ctx.on_host() ? chain.gradient_tiles(n) : std::nullopt;
  if (tiles && gradient_by_tiles(ctx, chain, arena, call, *tiles, result)) return result;
  result = {};
  WorkspaceScope scope(ctx);
  HostScope host(ctx);
  const KernelSet<T>& kernels = ctx.kernels<T>();
  double* log_prob = scope.take<double>(n);
  View<T> dx(scope.take<T>(n * chain.dims()), x.shape);
  kernels.move.zero(ctx, chain.layout->stats_size() + 1, batch_stats);

  // Existing gradients must survive if the drift guard repeats the pass.
  const bool zero = call.replace || arena.grads_are_zero();
  Params<T> params = in_training(ctx, scope, host, chain, arena.params(batch_stats), call.given, n);
  if (call.replace) begin_gradient(ctx, chain, params);
  params.overwrite = zero;
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
  pass.head_scale = share;
  pass.sample_weight = host.send(call.given.sample_weight, n);
  if (chain.head && share != 0) pass.head_results = scope.take<double>(2);
  pass.watch = call.watch;
  result.drift = differentiate<T>(ctx, chain, params, x, call.activation_budget, -share, pass, log_prob, dx,
                                  square, restore, call.name);
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
StepResult loss_and_grad(Context& ctx, const Chain<T>& chain, ParamArena<T>& arena, View<const T> x,
                         const Given<T>& given, int64_t activation_budget, double weight,
                         const GradientWatch* watch, double* nll) {
  WorkspaceScope scope(ctx);
  T* batch_stats = scope.take<T>(chain.layout->stats_size() + 1);
  const StepResult result =
      gradient<T>(ctx, chain, arena,
                  {"loss_and_grad", x, given, activation_budget, weight, watch, false, nll}, batch_stats);
  move_stats(ctx, batch_stats, arena);
  return result;
}

template <class T>
StepResult train_step(Context& ctx, const Chain<T>& chain, ParamArena<T>& arena, View<const T> x,
                      const Given<T>& given, int64_t activation_budget, const Update<T>& update) {
  const char* call = "train_step";
  // Check all arguments before changing anything.
  update.optimizer.check(arena);
  check_max_norm(update.max_norm);
  if (update.average) check_average_decay(update.average_decay);
  WorkspaceScope scope(ctx);
  T* batch_stats = scope.take<T>(chain.layout->stats_size() + 1);
  StepResult result = gradient<T>(
      ctx, chain, arena, {call, x, given, activation_budget, 1, nullptr, true, nullptr}, batch_stats);
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
