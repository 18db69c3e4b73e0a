#pragma once

#include <utility>

#include "flow/diagnose.hpp"
#include "flow/given.hpp"
#include "flow/walk.hpp"

// Densities, samples, and both directions of a chain without gradients. A batch is processed layer by layer;
// on the CPU in tiles, where that is faster.

namespace evenflow {

/// Calls f(single-thread context, first row, end) for tiles of n rows. Returns false, without a call, if the
/// batch is better processed as a whole.
template <class T, class F>
bool by_tiles(Context& ctx, const Chain<T>& chain, int64_t n, const F& f) {
  if (!ctx.on_host()) return false;
  const std::optional<Tiles> tiles = chain.scored_tiles(n, ctx.threads());
  if (!tiles) return false;
  run_tiles(ctx, *tiles, chain.worth_threads(n), [&](Context& local, int64_t, int64_t tile) {
    f(local, tiles->begin(tile), tiles->begin(tile + 1));
  });
  return true;
}

/// x -> z (n, D); logdet (n) is overwritten.
template <class T>
void run_forward(Context& ctx, const Chain<T>& chain, const Params<T>& params, View<const T> x, T* z,
                 double* logdet) {
  const auto tile = [&](Context& local, int64_t first, int64_t end) {
    run_forward(local, chain, rows_of(params, first, chain.context), rows_of(x, first, end),
                z + first * chain.dims(), logdet + first);
  };
  if (by_tiles(ctx, chain, x.shape.n, tile)) return;
  WorkspaceScope scope(ctx);
  ctx.kernels<T>().move.fill_doubles(ctx, x.shape.n, 0, logdet);
  to_latent<T>(ctx, scope, chain, all_nodes(chain), x, {z},
               [&](size_t i, const Batch<const T>& in, const Batch<T>& out) {
                 chain.nodes[i].layer->forward(ctx, params, in.value, out.value, logdet);
               });
}

/// z (n, D) -> x; logdet (n) is overwritten.
template <class T>
void run_inverse(Context& ctx, const Chain<T>& chain, const Params<T>& params, const T* z, View<T> x,
                 double* logdet) {
  const auto tile = [&](Context& local, int64_t first, int64_t end) {
    run_inverse(local, chain, rows_of(params, first, chain.context), z + first * chain.dims(),
                rows_of(x, first, end), logdet + first);
  };
  if (by_tiles(ctx, chain, x.shape.n, tile)) return;
  ctx.kernels<T>().move.fill_doubles(ctx, x.shape.n, 0, logdet);
  to_data<T>(ctx, chain, {z}, x, [&](size_t i, const Batch<T>& out, const Batch<T>& in) {
    chain.nodes[i].layer->inverse(ctx, params, out.value, in.value, logdet);
    return true;
  });
}

template <class T>
void Flow<T>::forward(Context& ctx, const ParamArena<T>& arena, View<const T> x, const Given<T>& given, T* z,
                      double* logdet, const char* call) const {
  const Chain<T>& chain = *chain_;
  const Call<T> checked(ctx, chain, call, arena, x.shape, given);
  const Params<T>& params = checked.params;
  run_forward(ctx, chain, params, x, z, logdet);
  const View<const T> latents(z, {x.shape.n, 1, 1, chain.dims()});
  if (!all_finite(ctx, x.shape.n, logdet, latents)) {
    fail_not_finite<T>(ctx, chain, params, call, x, logdet);
  }
}

template <class T>
void Flow<T>::inverse(Context& ctx, const ParamArena<T>& arena, const T* z, int64_t n, const Given<T>& given,
                      View<T> x, double* logdet, const char* call) const {
  const Chain<T>& chain = *chain_;
  if (n != x.shape.n) {
    fail<ShapeError>(call, "expected x of as many samples as z, ", n, ", got ", x.shape.n);
  }
  const Call<T> checked(ctx, chain, call, arena, x.shape, given);
  const Params<T>& params = checked.params;
  run_inverse(ctx, chain, params, z, x, logdet);
  if (all_finite<T>(ctx, n, logdet, x)) return;
  fail<NumericError>(call, "expected finite values, got ", not_finite_inverse(ctx, chain, params, z, n));
}

template <class T>
void Flow<T>::log_prob(Context& ctx, const ParamArena<T>& arena, View<const T> x, const Given<T>& given,
                       double* out, const char* call) const {
  const Chain<T>& chain = *chain_;
  const Call<T> checked(ctx, chain, call, arena, x.shape, given);
  WorkspaceScope scope(ctx);
  const int64_t n = x.shape.n;
  T* z = scope.take<T>(n * chain.dims());
  const Params<T>& params = checked.params;
  run_forward(ctx, chain, params, x, z, out);
  ctx.kernels<T>().prior.base_log_prob(ctx, chain.base, n, chain.dims(), z, T(0), nullptr, out);
  if (!all_finite<T>(ctx, n, out, {})) fail_not_finite<T>(ctx, chain, params, call, x, out);
}

/// The latents of sample and base_sample, for errors of `call`.
template <class T>
void draw_latents(Context& ctx, const Chain<T>& chain, const char* call, int64_t first, double temperature,
                  uint64_t seed, int64_t n, T* z) {
  if (!(temperature >= 0) || !std::isfinite(temperature)) {
    fail<ConfigError>(call, "expected a finite temperature >= 0, got ", temperature);
  }
  if (chain.base == Base::uniform && temperature != 1) {
    fail<ConfigError>(call, "a uniform base has no temperature but 1, got ", temperature);
  }
  ctx.kernels<T>().prior.base_sample(ctx, chain.base, n, chain.dims(), static_cast<T>(temperature), seed,
                                     static_cast<uint64_t>(first), z);
}

template <class T>
void Flow<T>::base_sample(Context& ctx, int64_t first, double temperature, uint64_t seed, int64_t n,
                          T* z) const {
  draw_latents(ctx, *chain_, "base_sample", first, temperature, seed, n, z);
}

template <class T>
void Flow<T>::base_log_prob(Context& ctx, const T* z, int64_t n, double* out) const {
  const Chain<T>& chain = *chain_;
  ctx.kernels<T>().move.fill_doubles(ctx, n, 0, out);
  ctx.kernels<T>().prior.base_log_prob(ctx, chain.base, n, chain.dims(), z, T(0), nullptr, out);
}

template <class T>
void Flow<T>::sample(Context& ctx, const ParamArena<T>& arena, int64_t first, double temperature,
                     uint64_t seed, const Given<T>& given, View<T> x, double* log_prob, bool* finite) const {
  const Chain<T>& chain = *chain_;
  const char* call = log_prob ? "sample_and_log_prob" : "sample";
  const Call<T> checked(ctx, chain, call, arena, x.shape, given);
  WorkspaceScope scope(ctx);
  HostScope host(ctx);
  const int64_t n = x.shape.n;
  T* z = scope.take<T>(n * chain.dims());
  double* logdet = scope.take<double>(n);
  draw_latents(ctx, chain, call, first, temperature, seed, n, z);
  const Params<T>& params = checked.params;
  run_inverse(ctx, chain, params, z, x, logdet);
  if (log_prob) {
    ctx.kernels<T>().move.scale_doubles(ctx, n, -1, logdet, log_prob);
    ctx.kernels<T>().prior.base_log_prob(ctx, chain.base, n, chain.dims(), z, T(0), nullptr, log_prob);
  }
  const bool good = all_finite<T>(ctx, n, log_prob, x);
  if (finite) *finite = good;
  if (good || finite) return;
  fail<NumericError>(call, "expected finite samples", log_prob ? " and densities" : "", ", got ",
                     not_finite_inverse(ctx, chain, params, z, n), "; try a lower temperature");
}

template <class T>
void Flow<T>::class_log_prob(Context& ctx, const ParamArena<T>& arena, View<const T> x, double* out) const {
  const Chain<T>& chain = *chain_;
  const char* call = "class_log_prob";
  check_input(chain, call, x.shape);
  check_ready(ctx, chain, call, arena);
  if (!chain.head) fail<ConfigError>(call, "this model has no class head");
  WorkspaceScope scope(ctx);
  const int64_t n = x.shape.n;
  const Params<T> params = arena.params();
  double* logdet = scope.take<double>(n);
  ctx.kernels<T>().move.fill_doubles(ctx, n, 0, logdet);
  const Batch<const T> seen =
      to_latent<T>(ctx, scope, chain, {0, chain.head_at}, x, {},
                   [&](size_t i, const Batch<const T>& in, const Batch<T>& z) {
                     chain.nodes[i].layer->forward(ctx, params, in.value, z.value, logdet);
                   });
  chain.head->log_prob(ctx, params, seen.value, out);
  const Shape shape{n, 1, 1, chain.head->classes()};
  if (all_finite<T>(ctx, shape.size(), out, {})) return;
  check_layers(ctx, chain, params, call, x, chain.head_at);
  fail<NumericError>(call, "expected finite values, got ",
                     value_not_finite(ctx, "class_head", View<const double>(out, shape)));
}

/// Data-dependent initialisation, layer by layer.
template <class T>
void Flow<T>::init_from_data(Context& ctx, ParamArena<T>& arena, View<const T> x,
                             const Given<T>& given) const {
  const Chain<T>& chain = *chain_;
  const char* call = "init";
  check_input(chain, call, x.shape);
  WorkspaceScope scope(ctx);
  const int64_t n = x.shape.n;
  // Labels do not matter, so zeros will do: the only layer that reads them, the top prior, has nothing to
  // initialise.
  const std::vector<int32_t> zeros(static_cast<size_t>(chain.classes ? n : 0), 0);
  const Given<T> conditions = chain.classes ? Given<T>(zeros.data()) : given;
  check_given(chain, call, conditions, n);
  check_arena(ctx, chain, call, arena);
  HostScope host(ctx);
  double* logdet = scope.take<double>(n);
  ctx.kernels<T>().move.fill_doubles(ctx, n, 0, logdet);
  // A layer may reject its inputs after earlier layers have been initialised. Keep the values to undo that.
  const Shape all{1, 1, 1, chain.layout->total_size()};
  SharedBuffer<T> kept(all.c, arena.device());
  const View<T> values(arena.values(), all), before(kept.data(), all);
  ctx.kernels<T>().move.copy(ctx, values, before);
  try {
    if (chain.context) init_context(ctx, chain, arena, given.context, n);
    const Params<T> params =
        with_given(ctx, scope, host, chain, std::as_const(arena).params(), conditions, n);
    to_latent<T>(ctx, scope, chain, all_nodes(chain), x, {},
                 [&](size_t i, const Batch<const T>& in, const Batch<T>& out) {
                   chain.nodes[i].layer->init_from_data(ctx, arena, in.value);
                   chain.nodes[i].layer->forward(ctx, params, in.value, out.value, logdet);
                 });
  } catch (...) {
    ctx.kernels<T>().move.copy(ctx, before, values);
    ctx.synchronize();
    throw;
  }
  const T one = T(1);
  ctx.to_device(arena.value(chain.initialized), &one, sizeof one);
}

}  // namespace evenflow
