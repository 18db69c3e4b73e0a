#pragma once

#include "flow/pass.hpp"

// The drift guard compares the batch that a pass rebuilt with the real one. If they differ too much, the pass
// is repeated from real inputs: every eighth layer's is stored, and those between are computed again.

namespace evenflow {

constexpr size_t kCheckpointEvery = 8;  ///< nodes

/// pass_backward from real inputs x. Sets `drift` to the layer whose own inverse is worst, and its error.
template <class T>
void backward_from_checkpoints(Context& ctx, const Chain<T>& chain, const Params<T>& params, View<const T> x,
                               const Latents<const T>& z, const double* dlogdet, const Batch<T>& rebuilt,
                               const GradientPass<T>& pass, Drift& drift) {
  WorkspaceScope scope(ctx);
  const KernelSet<T>& kernels = ctx.kernels<T>();
  const int64_t n = x.shape.n, size = n * chain.dims();
  const size_t nodes = chain.nodes.size();
  begin_dcontext(ctx, chain, params, n);
  double* unused = scope.take<double>(n);
  kernels.move.fill_doubles(ctx, n, 0, unused);

  std::vector<View<const T>> checkpoints{x};  // inputs of nodes 0, k, 2k, ...
  {
    std::vector<View<T>> copies;
    for (size_t i = kCheckpointEvery; i < nodes; i += kCheckpointEvery) {
      copies.emplace_back(scope.take<T>(chain.nodes[i].input(n).size()), chain.nodes[i].input(n));
    }
    WorkspaceScope local(ctx);
    to_latent<T>(ctx, local, chain, {0, copies.size() * kCheckpointEvery}, x, {},
                 [&](size_t i, const Batch<const T>& in, const Batch<T>& out) {
                   const Node<T>& node = chain.nodes[i];
                   node.layer->forward(ctx, params, in.value, out.value, unused);
                   if ((i + 1) % kCheckpointEvery) return;
                   kernels.move.copy(ctx, node.kept(out.value), copies[i / kCheckpointEvery]);
                   checkpoints.push_back(copies[i / kCheckpointEvery]);
                 });
  }

  // Outputs of the nodes between two checkpoints.
  T* memory = scope.take<T>(static_cast<int64_t>(kCheckpointEvery) * size);
  const auto output = [&](size_t i) {
    return View<T>(memory + static_cast<int64_t>(i % kCheckpointEvery) * size, chain.nodes[i].output(n));
  };
  const auto compute_outputs = [&](size_t begin, size_t end) {
    WorkspaceScope local(ctx);
    to_latent<T>(ctx, local, chain, {begin, end}, checkpoints[begin / kCheckpointEvery], {},
                 [&](size_t i, const Batch<const T>& in, const Batch<T>& out) {
                   chain.nodes[i].layer->forward(ctx, params, in.value, out.value, unused);
                   kernels.move.copy(ctx, out.value, output(i));
                 });
  };

  const std::vector<T*> none;
  NodeParams<T> known(params, none, true);
  to_data<T>(ctx, chain, z, rebuilt, [&](size_t i, const Batch<T>& out, const Batch<T>& in) {
    const size_t begin = i / kCheckpointEvery * kCheckpointEvery;
    if (i + 1 == nodes || (i + 1) % kCheckpointEvery == 0) compute_outputs(begin, i + 1);
    const Node<T>& node = chain.nodes[i];
    if (i + 1 == nodes) {
      head_backward(ctx, chain, params, nodes, {node.kept(output(i)), node.kept(out.gradient)}, pass);
    }
    const View<const T> truth =
        i == begin ? checkpoints[begin / kCheckpointEvery] : chain.nodes[i - 1].kept(output(i - 1));
    kernels.move.copy(ctx, truth, in.value);
    node.layer->backward(ctx, known.of(i), output(i), out.gradient, dlogdet, in.value, in.gradient);
    const double value = distance_between(ctx, View<const T>(in.value), truth);
    if (!(value <= drift.layer_value)) {
      drift.layer_value = value;
      drift.layer = node.name;
    }
    if (pass.head_results && chain.head_at == i) {
      kernels.move.copy(ctx, truth, in.value);
      head_backward(ctx, chain, params, i, in, pass);
    }
    return true;
  });
}

/// Whether `here` is true on every rank. Asks only if the model has batch norms: only then do ranks depend on
/// each other within a pass.
inline bool on_all_ranks(Context& ctx, const ParamLayout& layout, bool here) {
  if (!ctx.ranks() || layout.stats_size() == 0) return here;
  double failures = here ? 0 : 1;
  ctx.ranks()->sum(&failures, 1);
  return failures == 0;
}

/// Makes the pass under the guard: computes log p(x) and the loss's gradient, adds to params.grads and writes
/// arrays.dx. undo() removes what was added, before the pass is repeated and after an error.
template <class T, class Undo>
Drift guarded_pass(Context& ctx, const Chain<T>& chain, const Params<T>& params, View<const T> x,
                   int64_t activation_budget, const PassArrays<T>& arrays, GradientPass<T>& pass,
                   const char* call, const Undo& undo) {
  WorkspaceScope scope(ctx);
  const int64_t n = x.shape.n;
  const Latents<const T> z{arrays.z, arrays.dz};
  const Batch<T> rebuilt{arrays.rebuilt, arrays.dx};
  const auto check_densities = [&] {
    const bool finite = all_finite<T>(ctx, n, arrays.log_prob, {});
    if (on_all_ranks(ctx, *chain.layout, finite)) return;
    if (!finite) fail_not_finite(ctx, chain, params, call, x, arrays.log_prob);
    fail<NumericError>(call, "a density on another rank is not finite");
  };
  const auto square_gradients = [&] {
    if (!pass.square) return;
    ctx.kernels<T>().optim.sum_squares(ctx, chain.layout->trainable_size(), params.grads, pass.square);
  };
  Drift drift;
  try {
    {
      WorkspaceScope local(ctx);
      pass.kept = keep_activations(ctx, local, chain, n, activation_budget);
      if (chain.standardised) pass.standardised = local.take<T>(n * chain.dims());
      pass.truth = x;
      pass.drifts = local.take<double>(kDrifts);
      pass_forward(ctx, chain, params, x, arrays, pass);
      // On a device the whole pass is queued before results are read: it never waits for the host.
      if (ctx.on_host()) check_densities();
      pass_backward(ctx, chain, params, z, arrays.dlogdet, rebuilt, pass);
      square_gradients();
      if (!ctx.on_host()) {
        check_initialized(ctx, chain, call, params.values);
        check_densities();
      }
      drift.value = largest_drift(HostScope(ctx).read(static_cast<const double*>(pass.drifts), kDrifts));
    }
    if (!on_all_ranks(ctx, *chain.layout, drift.value <= drift_tolerance<T>())) {
      for (const Node<T>& node : chain.nodes) node.layer->check_values(ctx, params);
      undo();
      drift.fallback = true;
      backward_from_checkpoints<T>(ctx, chain, params, x, z, arrays.dlogdet, rebuilt, pass, drift);
      square_gradients();
    }
  } catch (...) {
    undo();
    throw;
  }
  return drift;
}

}  // namespace evenflow
