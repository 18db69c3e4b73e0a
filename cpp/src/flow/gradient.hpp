#pragma once

#include "core/device.hpp"
#include "flow/density.hpp"

// Gradients. A pass goes to the latents and back. On the way back it rebuilds each layer's input from its
// output, so no activations need to be stored. The drift guard compares the rebuilt batch with the real one.
// If they differ too much, the pass is repeated from checkpoints of real inputs.

namespace evenflow {

constexpr size_t kCheckpointEvery = 8;              ///< nodes
constexpr int64_t kSmallBudget = int64_t{1} << 26;  ///< bytes
constexpr int64_t kDrifts = 2;                      ///< number of OptimKernels::distance results in a pass

/// Inputs and results of a pass with gradients on n samples.
template <class T>
struct GradientPass {
  std::vector<T*> kept;            ///< activations by node; null: recomputed
  T* standardised = nullptr;       ///< (n, D): output of the first chain.standardised nodes for x; or null
  View<const T> truth;             ///< the real batch, for the drift guard; data null: not compared
  double* drifts = nullptr;        ///< (2 kDrifts): distances of x, and of the standardised x
  double head_scale = 0;           ///< factor of the class head's loss
  double* head_results = nullptr;  ///< (2): results of the class head; null: no head
  const double* sample_weight = nullptr;  ///< (n); null: 1
  const GradientWatch* watch = nullptr;
  size_t complete = 0;  ///< number of parts reported to the watch
};

/// Arrays that a pass fills, allocated from the scope.
template <class T>
struct PassArrays {
  T *z, *dz;         ///< (n, D)
  double* dlogdet;   ///< (n)
  double* log_prob;  ///< (n)
  View<T> rebuilt, dx;

  PassArrays(WorkspaceScope& scope, const Shape& x, double* log_prob_, View<T> dx_)
      : z(scope.take<T>(x.size())),
        dz(scope.take<T>(x.size())),
        dlogdet(scope.take<double>(x.n)),
        log_prob(log_prob_),
        rebuilt(scope.take<T>(x.size()), x),
        dx(dx_) {}
};

inline double largest_drift(const double* distances) {
  const double x = relative_distance(distances), standardised = relative_distance(distances + 2);
  return x >= standardised ? x : standardised;
}

/// Reports to the watch the parts of the gradient that are complete after node i.
template <class T>
void report_complete(GradientPass<T>& pass, size_t i) {
  if (!pass.watch) return;
  const std::vector<GradientPart>& parts = pass.watch->parts;
  while (pass.complete < parts.size() && parts[pass.complete].layer == i) {
    pass.watch->complete(pass.complete++);
  }
}

/// Adds the class head's gradient if the head reads the input of this node.
template <class T>
void head_backward(Context& ctx, const Chain<T>& chain, const Params<T>& params, size_t place,
                   const Batch<T>& at, const GradientPass<T>& pass) {
  if (!pass.head_results || chain.head_at != place) return;
  chain.head->backward(ctx, params, at.value, pass.head_scale, pass.sample_weight, at.gradient,
                       pass.head_results);
}

/// Writes the distance between `rebuilt` and the first chain.standardised nodes' output for pass.truth to
/// pass.drifts + 2.
template <class T>
void measure_standardised(Context& ctx, const Chain<T>& chain, const Params<T>& params,
                          const GradientPass<T>& pass, View<const T> rebuilt) {
  WorkspaceScope scope(ctx);
  View<const T> truth(pass.standardised, rebuilt.shape);
  if (!pass.standardised) {
    double* unused = scope.take<double>(rebuilt.shape.n);
    ctx.kernels<T>().move.fill_doubles(ctx, rebuilt.shape.n, 0, unused);
    truth = to_latent<T>(ctx, scope, chain, {0, chain.standardised}, pass.truth, {},
                         [&](size_t i, const Batch<const T>& in, const Batch<T>& out) {
                           chain.nodes[i].layer->forward(ctx, params, in.value, out.value, unused);
                         })
                .value;
  }
  ctx.kernels<T>().optim.distance(ctx, rebuilt, truth, pass.drifts + 2);
}

/// From latents z, their gradient dz (n, D) and the log-determinants' (n), computes the rebuilt batch x and
/// its gradient dx. Adds to params.grads.
template <class T>
void run_backward(Context& ctx, const Chain<T>& chain, const Params<T>& params, const Latents<const T>& z,
                  const double* dlogdet, const Batch<T>& x, GradientPass<T>& pass) {
  const KernelSet<T>& kernels = ctx.kernels<T>();
  const size_t last = chain.nodes.size() - 1;
  if (pass.drifts) kernels.move.fill_doubles(ctx, 2 * kDrifts, 0, pass.drifts);
  begin_dcontext(ctx, chain, params, x.value.shape.n);
  to_data<T>(ctx, chain, z, x, [&](size_t i, const Batch<T>& out, const Batch<T>& in) {
    const Node<T>& node = chain.nodes[i];
    if (i == last) {
      head_backward(ctx, chain, params, i + 1, out.map([&](View<T> v) { return node.kept(v); }), pass);
    }
    node.layer->backward(ctx, params, out.value, out.gradient, dlogdet, in.value, in.gradient,
                         pass.kept.empty() ? nullptr : pass.kept[i]);
    if (pass.drifts && i > 0 && i == chain.standardised) {
      measure_standardised<T>(ctx, chain, params, pass, in.value);
    }
    head_backward(ctx, chain, params, i, in, pass);
    report_complete(pass, i);
    return true;
  });
  if (pass.drifts) kernels.optim.distance(ctx, x.value, pass.truth, pass.drifts);
}

/// The same from real inputs x: every eighth node's input is stored, and those between are recomputed. Sets
/// `drift` to the layer whose own inverse is worst, and its error.
template <class T>
void run_backward_checkpointed(Context& ctx, const Chain<T>& chain, const Params<T>& params, View<const T> x,
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

  double* distances = scope.take<double>(2);
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
    Params<T> known = params;
    known.input_known = true;
    node.layer->backward(ctx, known, output(i), out.gradient, dlogdet, in.value, in.gradient);
    kernels.optim.distance(ctx, in.value, truth, distances);
    const double value = relative_distance(HostScope(ctx).read(static_cast<const double*>(distances), 2));
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

/// Allocates memory to keep as many activations as the budget (bytes) allows, so that backward need not
/// recompute them.
template <class T>
void keep_activations(Context& ctx, WorkspaceScope& scope, const Chain<T>& chain, int64_t n, int64_t budget,
                      GradientPass<T>& pass) {
  const int64_t value = static_cast<int64_t>(sizeof(T));
  if (budget < 0) {  // querying free memory takes longer than a small step
    int64_t all = 0;
    for (const Node<T>& node : chain.nodes) all += node.layer->kept_size(n) * value;
    // Memory that earlier calls used for activations is free, too.
    const int64_t reusable = static_cast<int64_t>(ctx.workspace().unused()) / 2;
    budget = all <= kSmallBudget ? all
             : ctx.on_host()     ? default_activation_budget() + reusable
                                 : ctx.device()->free_memory() / 2 + reusable;
  }
  pass.kept.assign(chain.nodes.size(), nullptr);
  for (size_t i = chain.nodes.size(); i-- > 0;) {
    const int64_t count = chain.nodes[i].layer->kept_size(n);
    if (!count || count * value > budget) continue;
    pass.kept[i] = scope.take<T>(count);
    budget -= count * value;
  }
  if (chain.standardised) pass.standardised = scope.take<T>(n * chain.dims());
}

/// Prepares params.grads, which may hold anything, for a pass: clears the parts that are added to.
template <class T>
void begin_gradient(Context& ctx, const Chain<T>& chain, Params<T>& params) {
  if (ctx.on_host()) {
    for (const auto& [first, end] : chain.layout->added_to()) {
      std::fill(params.grads + first, params.grads + end, T(0));
    }
  } else {  // one kernel, not one for each gap
    ctx.kernels<T>().move.zero(ctx, chain.layout->trainable_size(), params.grads);
  }
  params.overwrite = true;
}

/// Computes log p(x), and the gradient by the latents of sum(sample weight * log p(x)) * weight.
template <class T>
void pass_forward(Context& ctx, const Chain<T>& chain, const Params<T>& params, View<const T> x,
                  double weight, const PassArrays<T>& arrays, const GradientPass<T>& pass) {
  const KernelSet<T>& kernels = ctx.kernels<T>();
  const int64_t n = x.shape.n;
  WorkspaceScope scope(ctx);
  if (pass.sample_weight) {
    kernels.move.scale_doubles(ctx, n, weight, pass.sample_weight, arrays.dlogdet);
  } else {
    kernels.move.fill_doubles(ctx, n, weight, arrays.dlogdet);
  }
  kernels.move.fill_doubles(ctx, n, 0, arrays.log_prob);
  to_latent<T>(ctx, scope, chain, all_nodes(chain), x, {arrays.z},
               [&](size_t i, const Batch<const T>& in, const Batch<T>& out) {
                 const Node<T>& node = chain.nodes[i];
                 node.layer->forward(ctx, params, in.value, out.value, arrays.log_prob, pass.kept[i]);
                 if (!pass.standardised || i + 1 != chain.standardised) return;
                 const View<T> seen = node.kept(out.value);
                 kernels.move.copy(ctx, seen, View<T>(pass.standardised, seen.shape));
               });
  kernels.prior.base_log_prob(ctx, chain.base, n, chain.dims(), arrays.z, static_cast<T>(weight), arrays.dz,
                              arrays.log_prob);
  if (pass.sample_weight) kernels.move.scale_rows(ctx, n, chain.dims(), pass.sample_weight, arrays.dz);
}

/// Continues to the rebuilt batch and dx, and adds to params.grads.
template <class T>
void pass_backward(Context& ctx, const Chain<T>& chain, const Params<T>& params, const PassArrays<T>& arrays,
                   GradientPass<T>& pass) {
  run_backward<T>(ctx, chain, params, {arrays.z, arrays.dz}, arrays.dlogdet, {arrays.rebuilt, arrays.dx},
                  pass);
}

/// Computes log p(x) (n) and the gradient of its sum times `weight`: adds to params.grads and overwrites dx.
/// square: (1), set to the sum of squares of params.grads afterwards, or null. undo() removes what was added
/// before the drift guard repeats the pass, and after an error.
template <class T, class Undo>
Drift differentiate(Context& ctx, const Chain<T>& chain, const Params<T>& params, View<const T> x,
                    int64_t activation_budget, double weight, GradientPass<T>& pass, double* log_prob,
                    View<T> dx, double* square, const Undo& undo, const char* call) {
  WorkspaceScope scope(ctx);
  const int64_t n = x.shape.n;
  const ParamLayout& layout = *chain.layout;
  const KernelSet<T>& kernels = ctx.kernels<T>();
  const PassArrays<T> arrays(scope, x.shape, log_prob, dx);
  Drift drift;
  try {
    {
      WorkspaceScope kept(ctx);
      keep_activations(ctx, kept, chain, n, activation_budget, pass);
      pass.truth = x;
      pass.drifts = kept.take<double>(2 * kDrifts);
      // The whole pass is queued before its results are read, so that a device never waits for the host.
      pass_forward(ctx, chain, params, x, weight, arrays, pass);
      pass_backward(ctx, chain, params, arrays, pass);
      if (square) kernels.optim.sum_squares(ctx, layout.trainable_size(), params.grads, square);
      check_initialized(ctx, chain, call, params.values);
      const bool finite = all_finite<T>(ctx, n, log_prob, {});
      if (!on_all_ranks(ctx, layout, finite)) {
        if (!finite) fail_not_finite(ctx, chain, params, call, x, log_prob);
        fail<NumericError>(call, "a density on another rank is not finite");
      }
      drift.value = largest_drift(HostScope(ctx).read(static_cast<const double*>(pass.drifts), 2 * kDrifts));
    }
    if (!on_all_ranks(ctx, layout, drift.value <= drift_tolerance<T>())) {
      for (const Node<T>& node : chain.nodes) node.layer->check_values(ctx, params);
      undo();
      drift.fallback = true;
      run_backward_checkpointed<T>(ctx, chain, params, x, {arrays.z, arrays.dz}, arrays.dlogdet,
                                   {arrays.rebuilt, dx}, pass, drift);
      if (square) kernels.optim.sum_squares(ctx, layout.trainable_size(), params.grads, square);
    }
  } catch (...) {
    undo();
    throw;
  }
  return drift;
}

template <class T>
void log_prob_and_grad(Context& ctx, const Chain<T>& chain, const ParamArena<T>& arena, View<const T> x,
                       const Given<T>& given, double* log_prob, View<T> dx) {
  const char* call = "log_prob_and_grad";
  check_input(chain, call, x.shape);
  check_same_shape(call, "dx", x.shape, dx.shape);
  check_given(chain, call, given, x.shape.n);
  check_ready(ctx, chain, call, arena);
  WorkspaceScope scope(ctx);
  HostScope host(ctx);
  // Layers also compute parameter gradients; these are discarded.
  Params<T> params = with_given(ctx, scope, host, chain, arena.params(), given, x.shape.n);
  params.grads = scope.take<T>(chain.layout->trainable_size());
  begin_gradient(ctx, chain, params);
  GradientPass<T> pass;
  // No layer's dx depends on its rebuilt input. After a pass from the real inputs dx is right at any drift,
  // so drift is not checked here.
  differentiate<T>(ctx, chain, params, x, -1, 1.0, pass, log_prob, dx, nullptr, [] {}, call);
  end_dcontext(ctx, chain, params, x.shape.n);
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
  double* distance = scope.take<double>(2);
  ctx.kernels<T>().move.fill_doubles(ctx, 2, 0, distance);
  ctx.kernels<T>().optim.distance(ctx, View<const T>(z, flat), View<const T>(real, flat), distance);
  return relative_distance(HostScope(ctx).read(static_cast<const double*>(distance), 2));
}

/// Backward for a loss of forward's outputs. With `truth`, the batch that z was computed from, a pass whose
/// rebuilt batch is too far from it is repeated from stored inputs. Returns the error that is left, or 0
/// without `truth`.
template <class T>
double backward(Context& ctx, const Chain<T>& chain, ParamArena<T>& arena, const T* z, const T* dz,
                const double* dlogdet, const Given<T>& given, View<T> x, View<T> dx, View<const T> truth) {
  const char* call = "backward";
  check_input(chain, call, x.shape);
  check_same_shape(call, "dx", x.shape, dx.shape);
  if (truth.data) check_same_shape(call, "truth", x.shape, truth.shape);
  check_given(chain, call, given, x.shape.n);
  check_ready(ctx, chain, call, arena);
  WorkspaceScope scope(ctx);
  HostScope host(ctx);
  const Params<T> params = with_given(ctx, scope, host, chain, arena.params(), given, x.shape.n);
  GradientPass<T> pass;
  if (!truth.data) {
    run_backward<T>(ctx, chain, params, {z, dz}, dlogdet, {x, dx}, pass);
    end_dcontext(ctx, chain, params, x.shape.n);
    return 0;
  }
  const int64_t trainable = chain.layout->trainable_size();
  const View<T> grads(params.grads, {1, 1, 1, trainable}), before(scope.take<T>(trainable), grads.shape);
  ctx.kernels<T>().move.copy(ctx, View<const T>(grads), before);
  pass.truth = truth;
  pass.drifts = scope.take<double>(2 * kDrifts);
  run_backward<T>(ctx, chain, params, {z, dz}, dlogdet, {x, dx}, pass);
  double error = largest_drift(host.read(static_cast<const double*>(pass.drifts), 2 * kDrifts));
  if (!(error <= drift_tolerance<T>())) {
    ctx.kernels<T>().move.copy(ctx, View<const T>(before), grads);
    const double moved = distance_to_latents(ctx, chain, params, truth, z);
    if (!(moved <= drift_tolerance<T>())) return moved;
    Drift drift;
    run_backward_checkpointed<T>(ctx, chain, params, truth, {z, dz}, dlogdet, {x, dx}, pass, drift);
    error = drift.layer_value;
  }
  end_dcontext(ctx, chain, params, x.shape.n);
  return error;
}

/// Backward for a loss of inverse's outputs.
template <class T>
void inverse_backward(Context& ctx, const Chain<T>& chain, ParamArena<T>& arena, View<const T> x,
                      View<const T> dx, const double* dlogdet, const Given<T>& given, T* z, T* dz) {
  const char* call = "inverse_backward";
  check_input(chain, call, x.shape);
  check_same_shape(call, "dx", x.shape, dx.shape);
  check_given(chain, call, given, x.shape.n);
  check_ready(ctx, chain, call, arena);
  WorkspaceScope scope(ctx);
  HostScope host(ctx);
  const Params<T> params = with_given(ctx, scope, host, chain, arena.params(), given, x.shape.n);
  begin_dcontext(ctx, chain, params, x.shape.n);
  to_latent<T>(ctx, scope, chain, all_nodes(chain), {x, dx}, {z, dz},
               [&](size_t i, const Batch<const T>& in, const Batch<T>& out) {
                 chain.nodes[i].layer->inverse_backward(ctx, params, in.value, in.gradient, dlogdet,
                                                        out.value, out.gradient);
               });
  end_dcontext(ctx, chain, params, x.shape.n);
}

}  // namespace evenflow
