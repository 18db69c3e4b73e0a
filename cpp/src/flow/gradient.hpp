#pragma once

#include "flow/drift.hpp"

// The calls that compute gradients of log p(x), of a loss of forward's outputs and of a loss of inverse's, by
// tiles where the model has them.

namespace evenflow {

/// Calls f(context, params, tile, first row, end) for the tiles of n rows; without tiles once, for all rows.
/// In a tile params.grads are those of its group, or null without `gradients`.
template <class T, class F>
void by_gradient_tiles(Context& ctx, const Chain<T>& chain, const std::optional<Tiles>& tiles, int64_t n,
                       const Params<T>& all, const GroupGradients<T>* gradients, const F& f) {
  if (!tiles) return f(ctx, all, 0, 0, n);
  run_tiles(ctx, *tiles, chain.worth_threads(n), [&](Context& local, int64_t group, int64_t tile) {
    const int64_t first = tiles->begin(tile);
    const RowsScope counted(local, ctx.first_row() + first);
    Params<T> params = rows_of(all, first, chain.context);
    Mode<T> mode = mode_of(all);
    params.mode = &mode;
    if (gradients) {
      params.grads = gradients->of(group);
      mode.overwrite = tile == tiles->first_of(group);
      if (mode.overwrite) begin_gradient(local, chain, params);
    }
    f(local, params, tile, first, tiles->begin(tile + 1));
  });
}

/// Adds the gradients of all tiles to the arena's.
template <class T>
void add_to_total(Context& ctx, const Chain<T>& chain, int64_t n, const std::optional<Tiles>& tiles,
                  const GroupGradients<T>& gradients) {
  if (!tiles) return;
  gradients.add_up(ctx, chain.worth_threads(n));
  gradients.add_to_total(ctx, chain.worth_threads(n));
}

template <class T>
std::optional<Tiles> gradient_tiles(Context& ctx, const Chain<T>& chain, int64_t n) {
  return ctx.on_host() ? chain.gradient_tiles(n) : std::nullopt;
}

template <class T>
void Flow<T>::log_prob_and_grad(Context& ctx, const ParamArena<T>& arena, View<const T> x,
                                const Given<T>& given, double* log_prob, View<T> dx) const {
  const Chain<T>& chain = *chain_;
  const char* call = "log_prob_and_grad";
  const int64_t n = x.shape.n;
  const Call<T> checked(ctx, chain, call, arena, x.shape, given);
  WorkspaceScope scope(ctx);
  HostScope host(ctx);
  check_same_shape(call, "dx", x.shape, dx.shape);
  const Params<T>& params = checked.params;
  by_gradient_tiles<T>(ctx, chain, gradient_tiles(ctx, chain, n), n, params, nullptr,
                       [&](Context& local, const Params<T>& of, int64_t, int64_t first, int64_t end) {
                         WorkspaceScope tile(local);
                         const View<const T> rows = rows_of(x, first, end);
                         const PassArrays<T> arrays(tile, rows.shape, log_prob + first,
                                                    rows_of(dx, first, end));
                         GradientPass<T> pass;
                         // After a pass from the real inputs dx is right at any drift, so the drift that is
                         // left does not matter.
                         guarded_pass(local, chain, of, rows, -1, arrays, pass, call, [] {});
                       });
  end_dcontext(ctx, chain, params, n);
  double* not_finite = scope.take<double>(1);
  ctx.kernels<T>().optim.count_not_finite(ctx, dx, not_finite);
  if (*host.read(not_finite, 1) == 0) return;
  const NotFinite bad = first_not_finite<T>(ctx, dx);
  fail<NumericError>(call, "expected a finite gradient, got ", bad.value, " for sample ",
                     ctx.first_row() + bad.sample);
}

/// How far z is from the latents of the real batch: other parameters may have made it.
template <class T>
double distance_to_latents(Context& ctx, const Chain<T>& chain, const Params<T>& params, View<const T> truth,
                           const T* z) {
  WorkspaceScope scope(ctx);
  const int64_t n = truth.shape.n;
  T* real = scope.take<T>(n * chain.dims());
  run_forward(ctx, chain, params, truth, real, scope.take<double>(n));
  const Shape flat{n, 1, 1, chain.dims()};
  return distance_between(ctx, View<const T>(z, flat), View<const T>(real, flat));
}

/// Backward for a loss of forward's outputs. With `truth`, the batch that z was computed from, a pass whose
/// rebuilt batch is too far from it is repeated from stored inputs. Returns the error that is left, or 0
/// without `truth`.
template <class T>
double Flow<T>::backward(Context& ctx, ParamArena<T>& arena, const T* z, const T* dz, const double* dlogdet,
                         const Given<T>& given, View<T> x, View<T> dx, View<const T> truth) const {
  const Chain<T>& chain = *chain_;
  const char* call = "backward";
  const int64_t n = x.shape.n, trainable = chain.layout->trainable_size();
  const Call<T> checked(ctx, chain, call, arena, x.shape, given);
  WorkspaceScope scope(ctx);
  check_same_shape(call, "dx", x.shape, dx.shape);
  if (truth.data) check_same_shape(call, "truth", x.shape, truth.shape);
  const Params<T>& params = checked.params;
  const std::optional<Tiles> tiles = gradient_tiles(ctx, chain, n);
  const GroupGradients<T> gradients(scope, tiles, trainable, params.grads);
  const View<T> grads(params.grads, {1, 1, 1, trainable});
  View<T> before;
  if (truth.data && !tiles) {
    before = View<T>(scope.take<T>(trainable), grads.shape);
    ctx.kernels<T>().move.copy(ctx, View<const T>(grads), before);
  }
  std::vector<double> drifts(static_cast<size_t>(tiles ? tiles->count : 1), 0.0);
  by_gradient_tiles<T>(ctx, chain, tiles, n, params, &gradients,
                       [&](Context& local, const Params<T>& of, int64_t tile, int64_t first, int64_t end) {
                         WorkspaceScope tile_scope(local);
                         GradientPass<T> pass;
                         if (truth.data) {
                           pass.truth = rows_of(truth, first, end);
                           pass.drifts = tile_scope.take<double>(kDrifts);
                         }
                         const int64_t at = first * chain.dims();
                         pass_backward<T>(local, chain, of, {z + at, dz + at}, dlogdet + first,
                                          {rows_of(x, first, end), rows_of(dx, first, end)}, pass);
                         if (!truth.data) return;
                         HostScope read(local);
                         drifts[static_cast<size_t>(tile)] =
                             largest_drift(read.read(static_cast<const double*>(pass.drifts), kDrifts));
                       });
  double error = *std::max_element(drifts.begin(), drifts.end());
  if (error <= drift_tolerance<T>()) {
    add_to_total(ctx, chain, n, tiles, gradients);
  } else {
    if (before.data) ctx.kernels<T>().move.copy(ctx, View<const T>(before), grads);
    const double moved = distance_to_latents(ctx, chain, params, truth, z);
    if (!(moved <= drift_tolerance<T>())) return moved;
    Drift drift;
    backward_from_checkpoints<T>(ctx, chain, params, truth, {z, dz}, dlogdet, {x, dx}, {}, drift);
    error = drift.layer_value;
  }
  end_dcontext(ctx, chain, params, n);
  return error;
}

/// Gradients of a loss of samples x and of inverse's log-determinants (n), from x alone: the latents are
/// rebuilt from it.
template <class T>
void pass_from_samples(Context& ctx, const Chain<T>& chain, const Params<T>& params, const Batch<const T>& x,
                       const double* dlogdet, const Latents<T>& out) {
  WorkspaceScope scope(ctx);
  begin_dcontext(ctx, chain, params, x.value.shape.n);
  to_latent<T>(ctx, scope, chain, all_nodes(chain), x, out,
               [&](size_t i, const Batch<const T>& in, const Batch<T>& to) {
                 chain.nodes[i].layer->inverse_backward(ctx, params, in.value, in.gradient, dlogdet, to.value,
                                                        to.gradient);
               });
}

/// The same from the latents z (n, D) that x came from: the values between layers are those of inverse, which
/// stores them, and activations. Returns how far x is from the samples of z; if that is too far, it ends
/// there.
template <class T>
double pass_from_latents(Context& ctx, const Chain<T>& chain, const Params<T>& params, const T* z,
                         const Batch<const T>& x, const double* dlogdet, const Latents<T>& out) {
  WorkspaceScope scope(ctx);
  const KernelSet<T>& kernels = ctx.kernels<T>();
  const int64_t n = x.value.shape.n;
  const std::vector<T*> kept = keep_activations(ctx, scope, chain, n, -1);
  std::vector<View<T>> outputs;  // of the nodes' forward
  for (const Node<T>& node : chain.nodes) {
    outputs.emplace_back(scope.take<T>(node.output(n).size()), node.output(n));
  }
  const View<T> samples(scope.take<T>(x.value.shape.size()), x.value.shape);
  double* logdet = scope.take<double>(n);
  kernels.move.fill_doubles(ctx, n, 0, logdet);
  NodeParams<T> keeping(params, kept);
  to_data<T>(ctx, chain, {z}, samples, [&](size_t i, const Batch<T>& at, const Batch<T>& in) {
    kernels.move.copy(ctx, at.value, outputs[i]);
    chain.nodes[i].layer->inverse(ctx, keeping.of(i), at.value, in.value, logdet);
    return true;
  });
  double distances[kDrifts] = {distance_between(ctx, x.value, View<const T>(samples))};
  if (chain.standardised) {  // where no column is larger than the others
    GradientPass<T> pass;
    pass.truth = x.value;
    pass.drifts = scope.take<double>(kDrifts);
    measure_standardised<T>(ctx, chain, params, pass,
                            chain.nodes[chain.standardised - 1].kept(outputs[chain.standardised - 1]));
    distances[1] = HostScope(ctx).read(static_cast<const double*>(pass.drifts), kDrifts)[1];
  }
  const double distance = largest_drift(distances);
  if (!(distance <= drift_tolerance<T>())) return distance;
  begin_dcontext(ctx, chain, params, n);
  NodeParams<T> known(params, kept, true);
  to_latent<T>(ctx, scope, chain, all_nodes(chain), x, out,
               [&](size_t i, const Batch<const T>& in, const Batch<T>& to) {
                 const View<const T> input =
                     i == 0 ? View<const T>(samples) : chain.nodes[i - 1].kept(outputs[i - 1]);
                 kernels.move.copy(ctx, outputs[i], to.value);
                 chain.nodes[i].layer->inverse_backward(ctx, known.of(i), input, in.gradient, dlogdet,
                                                        to.value, to.gradient);
               });
  return distance;
}

/// Backward for a loss of inverse's outputs. known_z (n, D): the latents that x came from, or null. Returns
/// how far x is from their samples, or 0 without them; if that is too far, gradients stay what they were.
template <class T>
double Flow<T>::inverse_backward(Context& ctx, ParamArena<T>& arena, View<const T> x, View<const T> dx,
                                 const double* dlogdet, const Given<T>& given, T* z, T* dz,
                                 const T* known_z) const {
  const Chain<T>& chain = *chain_;
  const char* call = "inverse_backward";
  const int64_t n = x.shape.n;
  const Call<T> checked(ctx, chain, call, arena, x.shape, given);
  WorkspaceScope scope(ctx);
  check_same_shape(call, "dx", x.shape, dx.shape);
  const Params<T>& params = checked.params;
  const std::optional<Tiles> tiles = gradient_tiles(ctx, chain, n);
  const GroupGradients<T> gradients(scope, tiles, chain.layout->trainable_size(), params.grads);
  std::vector<double> distances(static_cast<size_t>(tiles ? tiles->count : 1), 0.0);
  by_gradient_tiles<T>(ctx, chain, tiles, n, params, &gradients,
                       [&](Context& local, const Params<T>& of, int64_t tile, int64_t first, int64_t end) {
                         const int64_t at = first * chain.dims();
                         const Batch<const T> rows(rows_of(x, first, end), rows_of(dx, first, end));
                         const Latents<T> out{z + at, dz + at};
                         if (known_z) {
                           distances[static_cast<size_t>(tile)] =
                               pass_from_latents(local, chain, of, known_z + at, rows, dlogdet + first, out);
                         } else {
                           pass_from_samples(local, chain, of, rows, dlogdet + first, out);
                         }
                       });
  const double distance = *std::max_element(distances.begin(), distances.end());
  if (!(distance <= drift_tolerance<T>())) return distance;
  add_to_total(ctx, chain, n, tiles, gradients);
  end_dcontext(ctx, chain, params, n);
  return distance;
}

}  // namespace evenflow
