#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>

#include "evenflow/error.hpp"
#include "evenflow/flow.hpp"
#include "kernels/kernel_set.hpp"
#include "models/passes.hpp"
#include "models/tiles.hpp"

// Training steps: a gradient of a batch as a whole or by tiles, and its update.

namespace evenflow {
namespace {

constexpr double kStatsRate = 0.1;  // of running averages (Real NVP)
constexpr int64_t kPiece = 4096;    // values of a gradient that one thread adds up

/// NumericError naming the parameter, and so the layer, of a gradient that is not finite; `square`: the sum
/// of their squares.
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

/// Running statistics move towards a batch's.
template <class T>
void move_stats(Context& ctx, const T* batch_stats, ParamArena<T>& arena) {
  const ParamLayout& layout = arena.layout();
  ctx.kernels<T>().average(ctx, layout.stats_size(), batch_stats, T(kStatsRate),
                           arena.values() + layout.stats_begin());
}

/// sample_weight: null: 1.
double mean_nll(const double* log_prob, const double* sample_weight, int64_t n) {
  double nll = 0;
  for (int64_t i = 0; i < n; ++i) {
    nll -= (sample_weight ? sample_weight[i] * log_prob[i] : log_prob[i]) / static_cast<double>(n);
  }
  return nll;
}

/// The loss, and the terms of the class head, from its `sums` (2); null: there is none, or it was left out.
template <class T>
void set_loss(StepResult& result, const ClassHead<T>* head, const double* sums, int64_t n) {
  result.loss = result.nll;
  if (!sums) return;
  result.class_nll = sums[0] / static_cast<double>(n);
  result.class_error = sums[1] / static_cast<double>(n);
  result.loss += head->weight() * result.class_nll;
}

/// A copy of gradients, or null where all are zero. square (1): the sum of their squares.
template <class T>
T* saved_gradients(Context& ctx, WorkspaceScope& scope, T* grads, int64_t count, double* square) {
  const KernelSet<T>& kernels = ctx.kernels<T>();
  kernels.sum_squares(ctx, count, grads, square);
  if (*HostScope(ctx).read(static_cast<const double*>(square), 1) == 0) return nullptr;
  const Shape flat{1, 1, 1, count};
  T* saved = scope.take<T>(count);
  kernels.copy(ctx, View<const T>(grads, flat), View<T>(saved, flat));
  return saved;
}

}  // namespace

template <class T>
void Flow<T>::check_moments(Context& ctx, const char* call, int64_t n) const {
  if (!moments_of_ || ctx.ranks() || n * moments_of_ > 1) return;
  fail<ShapeError>(call, "expected at least 2 samples for batch norm, got ", n);
}

template <class T>
void Flow<T>::begin_gradient(Context& ctx, Params<T>& params) const {
  const int64_t trainable = layout_->trainable_size();
  if (ctx.on_host()) {
    for (const auto& [first, end] : layout_->added_to()) {
      std::fill(params.grads + first, params.grads + end, T(0));
    }
  } else {  // one kernel, not one for each gap
    ctx.kernels<T>().zero(ctx, trainable, params.grads);
  }
  params.overwrite = true;
}

template <class T>
double Flow<T>::pass_tile(Context& ctx, const Params<T>& params, View<const T> x, int64_t budget,
                          double weight, const double* sample_weight, double* log_prob) const {
  WorkspaceScope scope(ctx);
  double found[2 * kDrifts];
  const PassArrays arrays = pass_arrays(scope, x.shape, log_prob, found);
  Step step;
  step.sample_weight = sample_weight;
  keep_activations(ctx, scope, x.shape.n, budget, step);
  keep_standardised(scope, x.shape.n, step);
  pass_forward(ctx, params, x, weight, arrays, step);
  pass_backward(ctx, params, x, arrays, step);
  return largest_drift(found);
}

template <class T>
bool Flow<T>::step_by_tiles(Context& ctx, const char* call, ParamArena<T>& arena, View<const T> x,
                            const Given<T>& given, int64_t budget, double weight, bool replace,
                            StepResult& result) const {
  WorkspaceScope scope(ctx);
  const int64_t n = x.shape.n, trainable = layout_->trainable_size(), room = (trainable + 15) / 16 * 16;
  const Tiles tiles(n, tile_rows_);
  // A gradient for each group, added up in order: the first one's in place where nothing is there yet.
  const bool first_in_place = replace || arena.grads_are_zero();
  T* total = arena.params().grads;
  T* others = scope.take<T>((tiles.groups - first_in_place) * room);
  const auto grads_of = [&](int64_t group) {
    return first_in_place && group == 0 ? total : others + (group - first_in_place) * room;
  };
  double* log_prob = scope.take<double>(n);
  double* drifts = scope.take<double>(tiles.count);
  const double share = -weight / static_cast<double>(n);
  HostScope host(ctx);
  const Params<T> all = with(ctx, scope, host, std::as_const(arena).params(), given, n);
  const auto undo = [&] {
    if (first_in_place) ctx.kernels<T>().zero(ctx, trainable, total);
  };
  const auto pass = [&](Context& local, int64_t group, int64_t tile) {
    const int64_t first = tiles.begin(tile), end = tiles.begin(tile + 1);
    Params<T> params = rows_of(all, first);
    params.grads = grads_of(group);
    if (tile == tiles.first_of(group)) begin_gradient(local, params);
    const double* sample_weight = given.sample_weight ? given.sample_weight + first : nullptr;
    drifts[tile] =
        pass_tile(local, params, rows_of(x, first, end), budget, share, sample_weight, log_prob + first);
  };
  const Tiles pieces(trainable, kPiece);
  double* squares = scope.take<double>(pieces.count);
  // f(context of one thread, number, first value and shape of a piece of the gradient)
  const auto by_pieces = [&](const auto& f) {
    run_tiles(ctx, pieces, worth_threads(n), [&](Context& local, int64_t, int64_t i) {
      f(local, i, pieces.begin(i), Shape{1, 1, 1, pieces.begin(i + 1) - pieces.begin(i)});
    });
  };
  double square = 0;
  try {
    run_tiles(ctx, tiles, worth_threads(n), pass);
    if (!all_finite(ctx, n, log_prob)) fail_not_finite(ctx, all, call, x, log_prob);
    result.nll = mean_nll(log_prob, given.sample_weight, n);
    result.drift.value = *std::max_element(drifts, drifts + tiles.count);
    if (!(result.drift.value <= drift_tolerance<T>())) {
      undo();
      return false;
    }
    by_pieces([&](Context& local, int64_t i, int64_t first, const Shape& shape) {
      for (int64_t g = 1; g < tiles.groups; ++g) {
        local.kernels<T>().add(local, View<const T>(grads_of(g) + first, shape),
                               View<T>(grads_of(0) + first, shape));
      }
      local.kernels<T>().sum_squares(local, shape.c, grads_of(0) + first, squares + i);
    });
    square = std::accumulate(squares, squares + pieces.count, 0.0);
    check_gradients(ctx, call, *layout_, grads_of(0), square);
  } catch (...) {
    undo();
    throw;
  }
  if (first_in_place) {
    arena.square_ = square;
  } else {
    by_pieces([&](Context& local, int64_t, int64_t first, const Shape& shape) {
      local.kernels<T>().add(local, View<const T>(others + first, shape), View<T>(total + first, shape));
    });
  }
  end_dcontext(ctx, all, n);
  result.loss = result.nll;
  return true;
}

template <class T>
StepResult Flow<T>::loss_and_grad(Context& ctx, ParamArena<T>& arena, View<const T> x, const Given<T>& given,
                                  int64_t activation_budget, double weight,
                                  const GradientWatch* watch) const {
  WorkspaceScope scope(ctx);
  T* batch_stats = scope.take<T>(layout_->stats_size() + 1);
  const StepResult result =
      gradient(ctx, "loss_and_grad", arena, x, given, activation_budget, weight, watch, false, batch_stats);
  move_stats(ctx, batch_stats, arena);
  return result;
}

template <class T>
StepResult Flow<T>::train_step(Context& ctx, ParamArena<T>& arena, View<const T> x, const Given<T>& given,
                               int64_t activation_budget, const Update<T>& update) const {
  // What is refused is refused before anything changes.
  update.optimizer.check(arena);
  check_max_norm(update.max_norm);
  if (update.average) check_average_decay(update.average_decay);
  WorkspaceScope scope(ctx);
  T* batch_stats = scope.take<T>(layout_->stats_size() + 1);
  StepResult result =
      gradient(ctx, "train_step", arena, x, given, activation_budget, 1, nullptr, true, batch_stats);
  try {
    if (!std::isfinite(result.loss)) {
      fail<NumericError>("train_step", "expected a finite loss, got ", result.loss);
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

template <class T>
void Flow<T>::check_drift(const char* call, const Drift& drift) const {
  if (drift.layer_value <= drift_tolerance<T>()) return;
  const bool data = standardised_ > 0 && drift.layer == nodes_[standardised_ - 1].name;
  fail<NumericError>(call, "expected an invertible flow, got layer ", drift.layer,
                     " whose rebuilt input is off by ", drift.layer_value, " of the largest value",
                     data ? "; values far from the rest set its mean and deviation: leave them out, or clip "
                            "or transform their column"
                          : "");
}

template <class T>
StepResult Flow<T>::gradient(Context& ctx, const char* call, ParamArena<T>& arena, View<const T> x,
                             const Given<T>& given, int64_t activation_budget, double weight,
                             const GradientWatch* watch, bool replace, T* batch_stats) const {
  check_input(call, x.shape);
  check_given(call, given, x.shape.n);
  check_moments(ctx, call, x.shape.n);
  check_arena(ctx, call, arena);
  if (ctx.on_host()) check_initialized(ctx, call, std::as_const(arena).values());
  if (by_tiles(ctx)) {
    StepResult done;
    if (step_by_tiles(ctx, call, arena, x, given, activation_budget, weight, replace, done)) return done;
  }
  WorkspaceScope scope(ctx);
  HostScope host(ctx);
  const KernelSet<T>& kernels = ctx.kernels<T>();
  const int64_t n = x.shape.n, trainable = layout_->trainable_size();
  double* log_prob = scope.take<double>(n);
  View<T> dx(scope.take<T>(n * dims()), x.shape);
  kernels.zero(ctx, layout_->stats_size() + 1, batch_stats);

  // Gradients already there must survive a step that the drift guard repeats.
  const bool zero = replace || arena.grads_are_zero();
  Params<T> params = with(ctx, scope, host, arena.params(batch_stats), given, n);
  if (replace) begin_gradient(ctx, params);
  params.overwrite = zero;
  double* square = scope.take<double>(1);
  const T* saved = zero ? nullptr : saved_gradients(ctx, scope, params.grads, trainable, square);
  const auto restore = [&] {
    const Shape flat{1, 1, 1, trainable};
    if (saved) {
      kernels.copy(ctx, View<const T>(saved, flat), View<T>(params.grads, flat));
    } else {
      kernels.zero(ctx, trainable, params.grads);
    }
  };

  StepResult result;
  Step step;
  const double share = weight / static_cast<double>(n);
  step.head_scale = share;
  step.sample_weight = host.send(given.sample_weight, n);
  if (head_ && share != 0) step.head_results = scope.take<double>(2);
  step.watch = watch;
  result.drift =
      differentiate(ctx, params, x, activation_budget, -share, step, log_prob, dx, square, restore, call);
  try {
    check_drift(call, result.drift);
    const double norm_squared = *host.read(square, 1);
    check_gradients(ctx, call, *layout_, params.grads, norm_squared);
    arena.square_ = norm_squared;
    end_dcontext(ctx, params, n);
  } catch (...) {
    restore();
    throw;
  }
  result.nll = mean_nll(host.read(log_prob, n), given.sample_weight, n);
  const double* sums = step.head_results;
  set_loss(result, head_.get(), sums ? host.read(sums, 2) : nullptr, n);
  return result;
}

// Member by member: flow.cpp instantiates the rest of the class.
template void Flow<float>::check_moments(Context&, const char*, int64_t) const;
template void Flow<double>::check_moments(Context&, const char*, int64_t) const;
template void Flow<float>::begin_gradient(Context&, Params<float>&) const;
template double Flow<float>::pass_tile(Context&, const Params<float>&, View<const float>, int64_t, double,
                                       const double*, double*) const;
template bool Flow<float>::step_by_tiles(Context&, const char*, ParamArena<float>&, View<const float>,
                                         const Given<float>&, int64_t, double, bool, StepResult&) const;
template StepResult Flow<float>::train_step(Context&, ParamArena<float>&, View<const float>,
                                            const Given<float>&, int64_t, const Update<float>&) const;
template void Flow<float>::check_drift(const char*, const Drift&) const;
template StepResult Flow<float>::gradient(Context&, const char*, ParamArena<float>&, View<const float>,
                                          const Given<float>&, int64_t, double, const GradientWatch*, bool,
                                          float*) const;
template StepResult Flow<float>::loss_and_grad(Context&, ParamArena<float>&, View<const float>,
                                               const Given<float>&, int64_t, double,
                                               const GradientWatch*) const;
template void Flow<double>::begin_gradient(Context&, Params<double>&) const;
template double Flow<double>::pass_tile(Context&, const Params<double>&, View<const double>, int64_t, double,
                                        const double*, double*) const;
template bool Flow<double>::step_by_tiles(Context&, const char*, ParamArena<double>&, View<const double>,
                                          const Given<double>&, int64_t, double, bool, StepResult&) const;
template StepResult Flow<double>::train_step(Context&, ParamArena<double>&, View<const double>,
                                             const Given<double>&, int64_t, const Update<double>&) const;
template void Flow<double>::check_drift(const char*, const Drift&) const;
template StepResult Flow<double>::gradient(Context&, const char*, ParamArena<double>&, View<const double>,
                                           const Given<double>&, int64_t, double, const GradientWatch*, bool,
                                           double*) const;
template StepResult Flow<double>::loss_and_grad(Context&, ParamArena<double>&, View<const double>,
                                                const Given<double>&, int64_t, double,
                                                const GradientWatch*) const;

}  // namespace evenflow
