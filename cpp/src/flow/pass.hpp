#pragma once

#include "core/device.hpp"
#include "core/memory.hpp"
#include "core/mode.hpp"
#include "flow/density.hpp"

// A pass with gradients goes to the latents and back. On the way back it rebuilds each layer's input from its
// output, so no activations need to be stored.

namespace evenflow {

constexpr int64_t kSmallBudget = int64_t{1} << 26;  ///< bytes
constexpr int64_t kDrifts = 2;                      ///< number of OptimKernels::distance results in a pass

/// The parameters of a pass, for one node after the other.
template <class T>
class NodeParams {
 public:
  /// kept: memory for intermediate results by node, null where a node has none; or empty. known: see Mode.
  NodeParams(const Params<T>& params, const std::vector<T*>& kept, bool known = false)
      : params_(params), mode_(mode_of(params)), kept_(kept) {
    mode_.known = known;
    params_.mode = &mode_;
  }
  NodeParams(const NodeParams&) = delete;
  NodeParams& operator=(const NodeParams&) = delete;

  const Params<T>& of(size_t node) {
    mode_.kept = kept_.empty() ? nullptr : kept_[node];
    return params_;
  }

 private:
  Params<T> params_;
  Mode<T> mode_;
  const std::vector<T*>& kept_;
};

/// What a pass on n samples differentiates, and what it leaves.
template <class T>
struct GradientPass {
  /// The loss: the sum of sample_weight * log p(x) times `weight`, and the class head's.
  double weight = 1;
  const double* sample_weight = nullptr;  ///< (n); null: 1
  double head_scale = 0;                  ///< factor of the class head's loss
  double* head_results = nullptr;         ///< (2): results of the class head; null: no head

  std::vector<T*> kept;       ///< intermediate results by node; null: computed again
  T* standardised = nullptr;  ///< (n, D): output of the first chain.standardised nodes for x; or null
  View<const T> truth;        ///< the real batch, for the drift guard; data null: not compared
  double* drifts = nullptr;   ///< (kDrifts): distances of x, and of the standardised x
  double* square = nullptr;   ///< (1): receives the sum of squares of params.grads; null: not wanted
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

/// Memory for the intermediate results of as many layers as the budget (bytes) allows, from the latent end;
/// by node, null for those that are computed again. A negative budget is the default one.
template <class T>
std::vector<T*> keep_activations(Context& ctx, WorkspaceScope& scope, const Chain<T>& chain, int64_t n,
                                 int64_t budget) {
  const int64_t value = static_cast<int64_t>(sizeof(T));
  if (budget < 0) {  // querying free memory takes longer than a small step
    int64_t all = 0;
    for (const Node<T>& node : chain.nodes) all += node.layer->kept_size(n) * value;
    // Memory that earlier calls used for activations is free, too.
    const int64_t reusable = static_cast<int64_t>(ctx.workspace().unused()) / 2;
    budget = all <= kSmallBudget ? all
             : ctx.on_host()     ? free_memory() / 2 + reusable
                                 : ctx.device()->free_memory() / 2 + reusable;
  }
  std::vector<T*> kept(chain.nodes.size(), nullptr);
  for (size_t i = chain.nodes.size(); i-- > 0;) {
    const int64_t count = chain.nodes[i].layer->kept_size(n);
    if (!count || count * value > budget) continue;
    kept[i] = scope.take<T>(count);
    budget -= count * value;
  }
  return kept;
}

/// Clears the parts of params.grads, which may hold anything, that a pass adds to.
template <class T>
void begin_gradient(Context& ctx, const Chain<T>& chain, const Params<T>& params) {
  if (!ctx.on_host()) {  // one kernel, not one for each gap
    return ctx.kernels<T>().move.zero(ctx, chain.layout->trainable_size(), params.grads);
  }
  for (const auto& [first, end] : chain.layout->added_to()) {
    std::fill(params.grads + first, params.grads + end, T(0));
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
/// pass.drifts + 1.
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
  ctx.kernels<T>().optim.distance(ctx, rebuilt, truth, pass.drifts + 1);
}

/// OptimKernels::distance as a number.
template <class T>
double distance_between(Context& ctx, View<const T> a, View<const T> b) {
  WorkspaceScope scope(ctx);
  double* found = scope.take<double>(1);
  ctx.kernels<T>().optim.distance(ctx, a, b, found);
  return HostScope(ctx).read(static_cast<const double*>(found), 1)[0];
}

/// The larger of the distances in pass.drifts.
inline double largest_drift(const double* drifts) {
  return drifts[0] >= drifts[1] ? drifts[0] : drifts[1];
}

/// Computes log p(x), and the gradient of the loss by the latents and by log-determinants.
template <class T>
void pass_forward(Context& ctx, const Chain<T>& chain, const Params<T>& params, View<const T> x,
                  const PassArrays<T>& arrays, const GradientPass<T>& pass) {
  const KernelSet<T>& kernels = ctx.kernels<T>();
  const int64_t n = x.shape.n;
  WorkspaceScope scope(ctx);
  if (pass.sample_weight) {
    kernels.move.scale_doubles(ctx, n, pass.weight, pass.sample_weight, arrays.dlogdet);
  } else {
    kernels.move.fill_doubles(ctx, n, pass.weight, arrays.dlogdet);
  }
  kernels.move.fill_doubles(ctx, n, 0, arrays.log_prob);
  NodeParams<T> node_params(params, pass.kept);
  to_latent<T>(ctx, scope, chain, all_nodes(chain), x, {arrays.z},
               [&](size_t i, const Batch<const T>& in, const Batch<T>& out) {
                 const Node<T>& node = chain.nodes[i];
                 node.layer->forward(ctx, node_params.of(i), in.value, out.value, arrays.log_prob);
                 if (!pass.standardised || i + 1 != chain.standardised) return;
                 const View<T> seen = node.kept(out.value);
                 kernels.move.copy(ctx, seen, View<T>(pass.standardised, seen.shape));
               });
  kernels.prior.base_log_prob(ctx, chain.base, n, chain.dims(), arrays.z, static_cast<T>(pass.weight),
                              arrays.dz, arrays.log_prob);
  if (pass.sample_weight) kernels.move.scale_rows(ctx, n, chain.dims(), pass.sample_weight, arrays.dz);
}

/// From latents z and the gradients by them and by log-determinants (n), computes the rebuilt batch x and its
/// gradient. Adds to params.grads, unless they are null.
template <class T>
void pass_backward(Context& ctx, const Chain<T>& chain, const Params<T>& params, const Latents<const T>& z,
                   const double* dlogdet, const Batch<T>& x, GradientPass<T>& pass) {
  const KernelSet<T>& kernels = ctx.kernels<T>();
  const size_t last = chain.nodes.size() - 1;
  if (pass.drifts) kernels.move.fill_doubles(ctx, kDrifts, 0, pass.drifts);
  begin_dcontext(ctx, chain, params, x.value.shape.n);
  NodeParams<T> node_params(params, pass.kept);
  to_data<T>(ctx, chain, z, x, [&](size_t i, const Batch<T>& out, const Batch<T>& in) {
    const Node<T>& node = chain.nodes[i];
    if (i == last) {
      head_backward(ctx, chain, params, i + 1, out.map([&](View<T> v) { return node.kept(v); }), pass);
    }
    node.layer->backward(ctx, node_params.of(i), out.value, out.gradient, dlogdet, in.value, in.gradient);
    if (pass.drifts && i > 0 && i == chain.standardised) {
      measure_standardised<T>(ctx, chain, params, pass, in.value);
    }
    head_backward(ctx, chain, params, i, in, pass);
    return true;
  });
  if (pass.drifts) kernels.optim.distance(ctx, x.value, pass.truth, pass.drifts);
}

}  // namespace evenflow
