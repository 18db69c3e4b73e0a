#include <algorithm>
#include <cmath>
#include <utility>

#include "core/device.hpp"
#include "evenflow/error.hpp"
#include "evenflow/flow.hpp"
#include "kernels/kernel_set.hpp"
#include "models/passes.hpp"

namespace evenflow {
namespace {

void check_same_shape(const char* call, const Shape& x, const Shape& dx) {
  if (dx != x) fail<ShapeError>(call, "expected dx of shape ", to_string(x), ", as x, got ", to_string(dx));
}

constexpr size_t kCheckpointEvery = 8;
constexpr int64_t kSmallBudget = int64_t{1} << 26;

/// Whether it is so on every rank, where ranks meet within a pass: at batch norms.
bool on_all_ranks(Context& ctx, const ParamLayout& layout, bool so) {
  if (!ctx.ranks() || layout.stats_size() == 0) return so;
  double others = so ? 0 : 1;
  ctx.ranks()->sum(&others, 1);
  return others == 0;
}

}  // namespace

template <class T>
std::vector<GradientPart> Flow<T>::gradient_parts(int64_t least) const {
  const std::vector<ParamLayout::Entry>& entries = layout_->entries();
  // Of what is in no part yet, and how much of that is complete. A group holds its entries in the order of
  // layers, so that it fills from its end.
  int64_t ends[2] = {layout_->decay_size(), layout_->trainable_size()};
  int64_t reached[2] = {ends[0], ends[1]};
  std::vector<GradientPart> parts;
  size_t at = entries.size();
  for (size_t i = nodes_.size(); i-- > 1;) {
    while (at > nodes_[i - 1].end_param) {
      const ParamLayout::Entry& entry = entries[--at];
      if (entry.offset < layout_->trainable_size()) reached[entry.group == Group::no_decay] = entry.offset;
    }
    if (head_ && i > head_at_) continue;  // its gradients, at the very end, come with those of head_at_
    for (size_t g = 0; g < 2; ++g) {
      if (ends[g] - reached[g] < std::max<int64_t>(least, 1)) continue;
      parts.push_back({reached[g], ends[g], i});
      ends[g] = reached[g];
    }
  }
  const int64_t middle = layout_->decay_size();
  const bool whole = ends[0] == middle;  // what is left is one piece
  if (!whole && middle < ends[1]) parts.push_back({middle, ends[1], 0});
  if (whole ? ends[1] : ends[0]) parts.push_back({0, whole ? ends[1] : ends[0], 0});
  return parts;
}

template <class T>
void Flow<T>::head_backward(Context& ctx, const Params<T>& params, View<const T> x, View<T> dx,
                            Step& step) const {
  head_->backward(ctx, params, x, step.head_scale, step.sample_weight, dx, step.head_results);
}

template <class T>
void Flow<T>::run_backward(Context& ctx, const Params<T>& params, const T* z, const T* dz,
                           const double* dlogdet, View<T> x, View<T> dx, Step* step, View<const T> truth,
                           double* found) const {
  WorkspaceScope scope(ctx);
  const KernelSet<T>& kernels = ctx.kernels<T>();
  if (found) kernels.fill_doubles(ctx, 2 * kDrifts, 0, found);
  const int64_t n = x.shape.n;
  begin_dcontext(ctx, params, n);
  T* buffers[2] = {scope.take<T>(n * dims()), scope.take<T>(n * dims())};
  T* dbuffers[2] = {scope.take<T>(n * dims()), scope.take<T>(n * dims())};
  int at = 0;
  size_t level = levels_.size() - 1;
  View<T> cur(buffers[at], levels_[level].shape.with_batch(n)), dcur(dbuffers[at], cur.shape);
  get_level(ctx, z, levels_[level], cur);
  get_level(ctx, dz, levels_[level], dcur);
  const bool head = step && step->head_results;
  if (head && head_at_ == nodes_.size()) head_backward(ctx, params, cur, dcur, *step);
  for (size_t i = nodes_.size(); i-- > 0;) {
    const Node& node = nodes_[i];
    if (node.keep) {
      at = 1 - at;
      --level;
      const Shape shape = node.layer->output_shape().with_batch(n);
      const View<T> whole(buffers[at], shape), dwhole(dbuffers[at], shape);
      kernels.copy(ctx, cur, whole.channels(0, node.keep));
      kernels.copy(ctx, dcur, dwhole.channels(0, node.keep));
      get_level(ctx, z, levels_[level], whole.channels(node.keep, shape.c - node.keep));
      get_level(ctx, dz, levels_[level], dwhole.channels(node.keep, shape.c - node.keep));
      cur = whole;
      dcur = dwhole;
    }
    View<T> out = x, dout = dx;
    if (i > 0) {
      out = cur;
      dout = dcur;
      if (!node.layer->in_place()) {
        at = 1 - at;
        const Shape shape = node.layer->input_shape().with_batch(n);
        out = View<T>(buffers[at], shape);
        dout = View<T>(dbuffers[at], shape);
      }
    }
    node.layer->backward(ctx, params, cur, dcur, dlogdet, out, dout, step ? step->kept[i] : nullptr);
    cur = out;
    dcur = dout;
    if (found && i > 0 && i == standardised_) measure_standardised(ctx, params, truth, step, cur, found + 2);
    if (head && head_at_ == i) head_backward(ctx, params, cur, dcur, *step);
    if (!step || !step->watch) continue;
    const std::vector<GradientPart>& parts = step->watch->parts;
    while (step->told < parts.size() && parts[step->told].layer == i) step->watch->complete(step->told++);
  }
  if (nodes_.empty()) {
    kernels.copy(ctx, cur, x);
    kernels.copy(ctx, dcur, dx);
  }
  if (found) kernels.distance(ctx, x, truth, found);
}

template <class T>
void Flow<T>::measure_standardised(Context& ctx, const Params<T>& params, View<const T> x, const Step* step,
                                   View<const T> rebuilt, double* found) const {
  if (step && step->standardised) {
    ctx.kernels<T>().distance(ctx, rebuilt, View<const T>(step->standardised, rebuilt.shape), found);
    return;
  }
  WorkspaceScope scope(ctx);
  const int64_t n = x.shape.n;
  double* unused = scope.take<double>(n);
  ctx.kernels<T>().fill_doubles(ctx, n, 0, unused);
  const View<const T> truth =
      walk_forward(scope, x, standardised_, [&](const Node& node, View<const T> in, View<T> out) {
        node.layer->forward(ctx, params, in, out, unused);
      });
  ctx.kernels<T>().distance(ctx, rebuilt, truth, found);
}

template <class T>
void Flow<T>::run_backward_checkpointed(Context& ctx, const Params<T>& params, View<const T> x, const T* dz,
                                        const double* dlogdet, View<T> dx, Step& step, Drift& drift) const {
  WorkspaceScope scope(ctx);
  const KernelSet<T>& kernels = ctx.kernels<T>();
  const int64_t n = x.shape.n;
  begin_dcontext(ctx, params, n);
  double* unused = scope.take<double>(n);
  kernels.fill_doubles(ctx, n, 0, unused);
  // Outputs of nodes [begin, end), each in its own buffer; an input is the last output's kept channels.
  const auto run = [&](WorkspaceScope& local, View<const T> in, size_t begin, size_t end) {
    std::vector<View<T>> outputs;
    for (size_t i = begin; i < end; ++i) {
      const Shape shape = nodes_[i].layer->output_shape().with_batch(n);
      outputs.emplace_back(local.take<T>(shape.size()), shape);
      nodes_[i].layer->forward(ctx, params, in, outputs.back(), unused);
      in = nodes_[i].keep ? outputs.back().channels(0, nodes_[i].keep) : outputs.back();
    }
    return outputs;
  };

  std::vector<View<const T>> checkpoints{x};  // input of node 0, k, 2k, ...
  for (size_t begin = 0; begin + kCheckpointEvery < nodes_.size(); begin += kCheckpointEvery) {
    const size_t end = begin + kCheckpointEvery;
    const Shape shape = nodes_[end].layer->input_shape().with_batch(n);
    View<T> copy(scope.take<T>(shape.size()), shape);
    WorkspaceScope local(ctx);
    const View<T> last = run(local, checkpoints.back(), begin, end).back();
    kernels.copy(ctx, last.channels(0, shape.c), copy);
    checkpoints.push_back(copy);
  }

  T* dbuffers[2] = {scope.take<T>(n * dims()), scope.take<T>(n * dims())};
  T* rebuilt = scope.take<T>(n * dims());
  double* found = scope.take<double>(2);
  int at = 0;
  size_t level = levels_.size() - 1;
  View<T> dcur(dbuffers[at], levels_[level].shape.with_batch(n));
  get_level(ctx, dz, levels_[level], dcur);
  for (size_t segment = checkpoints.size(); segment-- > 0;) {
    WorkspaceScope local(ctx);
    const size_t begin = segment * kCheckpointEvery, end = std::min(nodes_.size(), begin + kCheckpointEvery);
    const std::vector<View<T>> outputs = run(local, checkpoints[segment], begin, end);
    if (step.head_results && end == nodes_.size() && head_at_ == end) {
      head_backward(ctx, params, outputs.back().channels(0, dcur.shape.c), dcur, step);
    }
    for (size_t i = end; i-- > begin;) {
      const Node& node = nodes_[i];
      const View<T> z = outputs[i - begin];
      if (node.keep) {
        at = 1 - at;
        --level;
        const View<T> whole(dbuffers[at], z.shape);
        kernels.copy(ctx, dcur, whole.channels(0, node.keep));
        get_level(ctx, dz, levels_[level], whole.channels(node.keep, z.shape.c - node.keep));
        dcur = whole;
      }
      at = 1 - at;
      const Shape shape = node.layer->input_shape().with_batch(n);
      const View<T> in(rebuilt, shape), din = i > 0 ? View<T>(dbuffers[at], shape) : dx;
      node.layer->backward(ctx, params, z, dcur, dlogdet, in, din);
      View<const T> truth = checkpoints[segment];
      if (i > begin) truth = outputs[i - begin - 1].channels(0, shape.c);
      kernels.distance(ctx, in, truth, found);
      const double value = relative_distance(HostScope(ctx).read(found, 2));
      if (!(value <= drift.layer_value)) {
        drift.layer_value = value;
        drift.layer = node.name;
      }
      dcur = din;
      if (step.head_results && head_at_ == i) head_backward(ctx, params, truth, dcur, step);
    }
  }
}

template <class T>
double Flow<T>::backward(Context& ctx, ParamArena<T>& arena, const T* z, const T* dz, const double* dlogdet,
                         const Given<T>& given, View<T> x, View<T> dx, View<const T> truth) const {
  check_input("backward", x.shape);
  check_same_shape("backward", x.shape, dx.shape);
  if (truth.data && truth.shape != x.shape) {
    fail<ShapeError>("backward", "expected truth of shape ", to_string(x.shape), ", as x, got ",
                     to_string(truth.shape));
  }
  check_given("backward", given, x.shape.n);
  check_ready(ctx, "backward", arena);
  WorkspaceScope scope(ctx);
  HostScope host(ctx);
  const Params<T> params = with(ctx, scope, host, arena.params(), given, x.shape.n);
  double* found = truth.data ? scope.take<double>(2 * kDrifts) : nullptr;
  run_backward(ctx, params, z, dz, dlogdet, x, dx, nullptr, truth, found);
  end_dcontext(ctx, params, x.shape.n);
  return found ? largest_drift(host.read(static_cast<const double*>(found), 2 * kDrifts)) : 0;
}

template <class T>
void Flow<T>::inverse_backward(Context& ctx, ParamArena<T>& arena, View<const T> x, View<const T> dx,
                               const double* dlogdet, const Given<T>& given, T* z, T* dz) const {
  check_input("inverse_backward", x.shape);
  check_same_shape("inverse_backward", x.shape, dx.shape);
  check_given("inverse_backward", given, x.shape.n);
  check_ready(ctx, "inverse_backward", arena);
  WorkspaceScope scope(ctx);
  HostScope host(ctx);
  const Params<T> params = with(ctx, scope, host, arena.params(), given, x.shape.n);
  begin_dcontext(ctx, params, x.shape.n);
  const int64_t n = x.shape.n, size = n * dims();
  T* buffers[2] = {scope.take<T>(size), scope.take<T>(size)};
  T* dbuffers[2] = {scope.take<T>(size), scope.take<T>(size)};
  int at = 0;
  size_t level = 0;
  for (const Node& node : nodes_) {
    const Shape shape = node.layer->output_shape().with_batch(n);
    View<T> out(buffers[at], shape), dout(dbuffers[at], shape);
    at = 1 - at;
    node.layer->inverse_backward(ctx, params, x, dx, dlogdet, out, dout);
    if (node.keep) {
      put_level(ctx, out.channels(node.keep, shape.c - node.keep), levels_[level], z);
      put_level(ctx, dout.channels(node.keep, shape.c - node.keep), levels_[level++], dz);
      out = out.channels(0, node.keep);
      dout = dout.channels(0, node.keep);
    }
    x = out;
    dx = dout;
  }
  put_level(ctx, x, levels_.back(), z);
  put_level(ctx, dx, levels_.back(), dz);
  end_dcontext(ctx, params, n);
}

template <class T>
void Flow<T>::keep_activations(Context& ctx, WorkspaceScope& scope, int64_t n, int64_t budget,
                               Step& step) const {
  if (budget < 0) {  // asking for the free memory takes longer than a small step's couplings
    int64_t all = 0;
    for (const Node& node : nodes_) all += node.layer->kept_size(n) * static_cast<int64_t>(sizeof(T));
    // What an earlier call's activations took is free as well.
    const int64_t ours = static_cast<int64_t>(ctx.workspace().unused()) / 2;
    budget = all <= kSmallBudget ? all
             : ctx.on_host()     ? default_activation_budget() + ours
                                 : ctx.device()->free_memory() / 2 + ours;
  }
  step.kept.assign(nodes_.size(), nullptr);
  for (size_t i = nodes_.size(); i-- > 0;) {
    const int64_t count = nodes_[i].layer->kept_size(n);
    const int64_t bytes = count * static_cast<int64_t>(sizeof(T));
    if (!count || bytes > budget) continue;
    step.kept[i] = scope.take<T>(count);
    budget -= bytes;
  }
}

template <class T>
std::vector<uint64_t> Flow<T>::key_of(Pass pass, const Params<T>& params, View<const T> x,
                                      std::initializer_list<const void*> arrays) const {
  std::vector<uint64_t> key{static_cast<uint64_t>(pass), id_, static_cast<uint64_t>(x.shape.n),
                            static_cast<uint64_t>(x.stride)};
  const auto add = [&](const void* p) { key.push_back(reinterpret_cast<uintptr_t>(p)); };
  for (const void* p : {static_cast<const void*>(params.values), static_cast<const void*>(params.grads),
                        static_cast<const void*>(params.batch_stats), static_cast<const void*>(params.labels),
                        static_cast<const void*>(params.context), static_cast<const void*>(params.dcontext),
                        static_cast<const void*>(x.data)}) {
    add(p);
  }
  for (const void* p : arrays) add(p);
  return key;
}

template <class T>
std::vector<uint64_t> Flow<T>::key_of(Pass pass, const Params<T>& params, View<const T> x, double weight,
                                      const PassArrays& arrays, const Step& step) const {
  std::vector<uint64_t> key = key_of(pass, params, x,
                                     {arrays.z, arrays.dz, arrays.dlogdet, arrays.log_prob,
                                      arrays.rebuilt.data, arrays.dx.data, arrays.found, step.head_results});
  key.insert(key.end(), {bit_pattern(weight), static_cast<uint64_t>(arrays.dx.stride)});
  for (const T* values : step.kept) key.push_back(reinterpret_cast<uintptr_t>(values));
  key.push_back(reinterpret_cast<uintptr_t>(step.standardised));
  key.push_back(reinterpret_cast<uintptr_t>(step.sample_weight));
  return key;
}

template <class T>
typename Flow<T>::PassArrays Flow<T>::pass_arrays(WorkspaceScope& scope, const Shape& x, double* log_prob,
                                                  double* found) const {
  PassArrays arrays;
  arrays.z = scope.take<T>(x.size());
  arrays.dz = scope.take<T>(x.size());
  arrays.dlogdet = scope.take<double>(x.n);
  arrays.log_prob = log_prob;
  arrays.rebuilt = View<T>(scope.take<T>(x.size()), x);
  arrays.dx = View<T>(scope.take<T>(x.size()), x);
  arrays.found = found;
  return arrays;
}

template <class T>
void Flow<T>::pass_forward(Context& ctx, const Params<T>& params, View<const T> x, double weight,
                           const PassArrays& arrays, const Step& step) const {
  const KernelSet<T>& kernels = ctx.kernels<T>();
  const int64_t n = x.shape.n;
  if (step.sample_weight) {
    kernels.scale_doubles(ctx, n, weight, step.sample_weight, arrays.dlogdet);
  } else {
    kernels.fill_doubles(ctx, n, weight, arrays.dlogdet);
  }
  run_forward(ctx, params, x, arrays.z, arrays.log_prob, &step);
  kernels.base_log_prob(ctx, base_, n, dims(), arrays.z, static_cast<T>(weight), arrays.dz, arrays.log_prob);
  if (step.sample_weight) kernels.scale_rows(ctx, n, dims(), step.sample_weight, arrays.dz);
}

template <class T>
void Flow<T>::pass_backward(Context& ctx, const Params<T>& params, View<const T> x, const PassArrays& arrays,
                            Step& step) const {
  run_backward(ctx, params, arrays.z, arrays.dz, arrays.dlogdet, arrays.rebuilt, arrays.dx, &step, x,
               arrays.found);
}

template <class T>
Drift Flow<T>::differentiate(Context& ctx, const Params<T>& params, View<const T> x,
                             int64_t activation_budget, double weight, Step& step, double* log_prob,
                             View<T> dx, double* square, const std::function<void()>& undo,
                             const char* call) const {
  WorkspaceScope scope(ctx);
  const int64_t n = x.shape.n, size = n * dims();
  const KernelSet<T>& kernels = ctx.kernels<T>();
  PassArrays arrays;
  arrays.z = scope.take<T>(size);
  arrays.dz = scope.take<T>(size);
  arrays.dlogdet = scope.take<double>(n);
  arrays.log_prob = log_prob;
  arrays.dx = dx;
  Drift drift;
  try {
    WorkspaceScope kept(ctx);
    keep_activations(ctx, kept, n, activation_budget, step);
    keep_standardised(kept, n, step);
    arrays.rebuilt = View<T>(kept.take<T>(size), x.shape);
    arrays.found = kept.take<double>(2 * kDrifts);
    const auto forward = [&] { pass_forward(ctx, params, x, weight, arrays, step); };
    const auto backward = [&] {
      pass_backward(ctx, params, x, arrays, step);
      if (square) kernels.sum_squares(ctx, layout_->trainable_size(), params.grads, square);
    };
    const auto check_densities = [&] {
      const bool finite = all_finite(ctx, n, log_prob);
      if (on_all_ranks(ctx, *layout_, finite)) return;
      if (!finite) fail_not_finite(ctx, params, call, x, log_prob);
      fail<NumericError>(call, "expected finite densities on every rank, got others on another");
    };
    if (ctx.on_host()) {
      forward();
      check_densities();
      backward();
    } else {
      // A device is asked once all of the pass is queued: it does not wait for the program in between.
      const auto all = [&] {
        forward();
        backward();
      };
      if (step.watch) {
        all();
      } else {
        std::vector<uint64_t> key = key_of(Pass::gradient, params, x, weight, arrays, step);
        key.push_back(reinterpret_cast<uintptr_t>(square));
        key.push_back(params.overwrite);
        ctx.repeat(std::move(key), all);
      }
      check_initialized(ctx, call, params.values);
      check_densities();
    }
    drift.value = largest_drift(HostScope(ctx).read(arrays.found, 2 * kDrifts));
    if (!on_all_ranks(ctx, *layout_, drift.value <= drift_tolerance<T>())) {
      for (const Node& node : nodes_) node.layer->check_values(ctx, params);
      undo();
      drift.fallback = true;
      run_backward_checkpointed(ctx, params, x, arrays.dz, arrays.dlogdet, dx, step, drift);
      if (square) kernels.sum_squares(ctx, layout_->trainable_size(), params.grads, square);
    }
  } catch (...) {
    undo();
    throw;
  }
  return drift;
}

template <class T>
void Flow<T>::log_prob_and_grad(Context& ctx, const ParamArena<T>& arena, View<const T> x,
                                const Given<T>& given, double* log_prob, View<T> dx) const {
  check_input("log_prob_and_grad", x.shape);
  check_same_shape("log_prob_and_grad", x.shape, dx.shape);
  check_given("log_prob_and_grad", given, x.shape.n);
  check_ready(ctx, "log_prob_and_grad", arena);
  WorkspaceScope scope(ctx);
  HostScope host(ctx);
  // Layers add gradients of parameters along with that of x; these go nowhere.
  const int64_t trainable = layout_->trainable_size();
  Params<T> params = with(ctx, scope, host, arena.params(), given, x.shape.n);
  params.grads = scope.take<T>(trainable);
  begin_gradient(ctx, params);
  Step step;
  // No layer's dx needs its rebuilt input: when a pass is repeated from the inputs, dx is right at any drift.
  differentiate(ctx, params, x, -1, 1.0, step, log_prob, dx, nullptr, [] {}, "log_prob_and_grad");
  end_dcontext(ctx, params, x.shape.n);
  double* not_finite = scope.take<double>(1);
  ctx.kernels<T>().count_not_finite(ctx, dx, not_finite);
  if (*host.read(not_finite, 1) == 0) return;
  const NotFinite bad = first_not_finite<T>(ctx, dx);
  fail<NumericError>("log_prob_and_grad", "expected a finite gradient, got ", bad.value, " for sample ",
                     ctx.first_row() + bad.sample);
}

// Member by member: flow.cpp instantiates the rest of the class.
template std::vector<GradientPart> Flow<float>::gradient_parts(int64_t) const;
template std::vector<GradientPart> Flow<double>::gradient_parts(int64_t) const;
template void Flow<float>::head_backward(Context&, const Params<float>&, View<const float>, View<float>,
                                         Step&) const;
template void Flow<float>::measure_standardised(Context&, const Params<float>&, View<const float>,
                                                const Step*, View<const float>, double*) const;
template void Flow<double>::measure_standardised(Context&, const Params<double>&, View<const double>,
                                                 const Step*, View<const double>, double*) const;
template void Flow<float>::keep_activations(Context&, WorkspaceScope&, int64_t, int64_t, Step&) const;
template void Flow<float>::run_backward(Context&, const Params<float>&, const float*, const float*,
                                        const double*, View<float>, View<float>, Step*, View<const float>,
                                        double*) const;
template void Flow<float>::run_backward_checkpointed(Context&, const Params<float>&, View<const float>,
                                                     const float*, const double*, View<float>, Step&,
                                                     Drift&) const;
template std::vector<uint64_t> Flow<float>::key_of(Pass, const Params<float>&, View<const float>,
                                                   std::initializer_list<const void*>) const;
template Drift Flow<float>::differentiate(Context&, const Params<float>&, View<const float>, int64_t, double,
                                          Step&, double*, View<float>, double*, const std::function<void()>&,
                                          const char*) const;
template void Flow<float>::log_prob_and_grad(Context&, const ParamArena<float>&, View<const float>,
                                             const Given<float>&, double*, View<float>) const;
template double Flow<float>::backward(Context&, ParamArena<float>&, const float*, const float*, const double*,
                                      const Given<float>&, View<float>, View<float>, View<const float>) const;
template void Flow<float>::inverse_backward(Context&, ParamArena<float>&, View<const float>,
                                            View<const float>, const double*, const Given<float>&, float*,
                                            float*) const;
template std::vector<uint64_t> Flow<float>::key_of(Pass, const Params<float>&, View<const float>, double,
                                                   const PassArrays&, const Step&) const;
template Flow<float>::PassArrays Flow<float>::pass_arrays(WorkspaceScope&, const Shape&, double*,
                                                          double*) const;
template void Flow<float>::pass_forward(Context&, const Params<float>&, View<const float>, double,
                                        const PassArrays&, const Step&) const;
template void Flow<float>::pass_backward(Context&, const Params<float>&, View<const float>, const PassArrays&,
                                         Step&) const;
template void Flow<double>::inverse_backward(Context&, ParamArena<double>&, View<const double>,
                                             View<const double>, const double*, const Given<double>&, double*,
                                             double*) const;
template void Flow<double>::head_backward(Context&, const Params<double>&, View<const double>, View<double>,
                                          Step&) const;
template void Flow<double>::keep_activations(Context&, WorkspaceScope&, int64_t, int64_t, Step&) const;
template void Flow<double>::run_backward(Context&, const Params<double>&, const double*, const double*,
                                         const double*, View<double>, View<double>, Step*, View<const double>,
                                         double*) const;
template void Flow<double>::run_backward_checkpointed(Context&, const Params<double>&, View<const double>,
                                                      const double*, const double*, View<double>, Step&,
                                                      Drift&) const;
template std::vector<uint64_t> Flow<double>::key_of(Pass, const Params<double>&, View<const double>,
                                                    std::initializer_list<const void*>) const;
template Drift Flow<double>::differentiate(Context&, const Params<double>&, View<const double>, int64_t,
                                           double, Step&, double*, View<double>, double*,
                                           const std::function<void()>&, const char*) const;
template void Flow<double>::log_prob_and_grad(Context&, const ParamArena<double>&, View<const double>,
                                              const Given<double>&, double*, View<double>) const;
template double Flow<double>::backward(Context&, ParamArena<double>&, const double*, const double*,
                                       const double*, const Given<double>&, View<double>, View<double>,
                                       View<const double>) const;
template std::vector<uint64_t> Flow<double>::key_of(Pass, const Params<double>&, View<const double>, double,
                                                    const PassArrays&, const Step&) const;
template Flow<double>::PassArrays Flow<double>::pass_arrays(WorkspaceScope&, const Shape&, double*,
                                                            double*) const;
template void Flow<double>::pass_forward(Context&, const Params<double>&, View<const double>, double,
                                         const PassArrays&, const Step&) const;
template void Flow<double>::pass_backward(Context&, const Params<double>&, View<const double>,
                                          const PassArrays&, Step&) const;

}  // namespace evenflow
