#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>
#include <optional>
#include <utility>

#include "core/device.hpp"
#include "evenflow/error.hpp"
#include "evenflow/flow.hpp"
#include "kernels/flow_program.hpp"
#include "kernels/kernel_set.hpp"
#include "models/tiles.hpp"

namespace evenflow {
namespace {

constexpr double kStatsRate = 0.1;  // of running averages (Real NVP)
constexpr size_t kCheckpointEvery = 8;
constexpr int64_t kSmallBudget = int64_t{1} << 26;
constexpr int64_t kPiece = 4096;  // values of a gradient that one thread adds up

/// Rebuilt inputs may be off by this much, relative to the largest value of the batch.
template <class T>
double drift_tolerance() {
  return std::is_same<T, float>::value ? 1e-3 : 1e-8;
}

/// NumericError naming the parameter, and so the layer, of a gradient that is not finite; `square`: the sum
/// of their squares.
template <class T>
void check_gradients(Context& ctx, const ParamLayout& layout, const T* grads, double square) {
  if (std::isfinite(square)) return;
  HostScope host(ctx);
  grads = host.read(grads, layout.trainable_size());
  for (const ParamLayout::Entry& entry : layout.entries()) {
    if (entry.offset >= layout.trainable_size()) continue;
    for (int64_t i = 0; i < entry.size; ++i) {
      const T value = grads[entry.offset + i];
      if (std::isfinite(value)) continue;
      fail<NumericError>("loss_and_grad", "expected finite gradients, got ", value, " for ", entry.name,
                         ", value ", i);
    }
  }
}

uint64_t bits_of(double value) {
  uint64_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
}

/// Whether it is so on every rank, where ranks meet within a pass: at batch norms.
bool on_all_ranks(Context& ctx, const ParamLayout& layout, bool so) {
  if (!ctx.ranks() || layout.stats_size() == 0) return so;
  double others = so ? 0 : 1;
  ctx.ranks()->sum(&others, 1);
  return others == 0;
}

}  // namespace

template <class T>
void Flow<T>::head_backward(Context& ctx, const Params<T>& params, View<const T> x, View<T> dx,
                            Step& step) const {
  head_->backward(ctx, params, x, step.head_scale, dx, step.head_results);
}

template <class T>
void Flow<T>::run_backward(Context& ctx, const Params<T>& params, const T* z, const T* dz,
                           const double* dlogdet, View<T> x, View<T> dx, Step* step) const {
  WorkspaceScope scope(ctx);
  const KernelSet<T>& kernels = ctx.kernels<T>();
  const int64_t n = x.shape.n;
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
    if (head && head_at_ == i) head_backward(ctx, params, cur, dcur, *step);
    if (!step || !step->watch) continue;
    const std::vector<GradientPart>& parts = step->watch->parts;
    while (step->told < parts.size() && parts[step->told].layer == i) step->watch->complete(step->told++);
  }
  if (nodes_.empty()) {
    kernels.copy(ctx, cur, x);
    kernels.copy(ctx, dcur, dx);
  }
}

template <class T>
void Flow<T>::run_backward_checkpointed(Context& ctx, const Params<T>& params, View<const T> x, const T* dz,
                                        const double* dlogdet, View<T> dx, Step& step, Drift& drift) const {
  WorkspaceScope scope(ctx);
  const KernelSet<T>& kernels = ctx.kernels<T>();
  const int64_t n = x.shape.n;
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
  drift.value = 0;
  for (size_t segment = checkpoints.size(); segment-- > 0;) {
    WorkspaceScope local(ctx);
    const size_t begin = segment * kCheckpointEvery, end = std::min(nodes_.size(), begin + kCheckpointEvery);
    const std::vector<View<T>> outputs = run(local, checkpoints[segment], begin, end);
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
      if (!(value <= drift.value)) {
        drift.value = value;
        drift.layer = node.name;
      }
      dcur = din;
      if (step.head_results && head_at_ == i) head_backward(ctx, params, truth, dcur, step);
    }
  }
}

template <class T>
void Flow<T>::backward(Context& ctx, ParamArena<T>& arena, const T* z, const T* dz, const double* dlogdet,
                       const int32_t* labels, View<T> x, View<T> dx) const {
  check_input("backward", x.shape);
  check_labels("backward", labels, x.shape.n);
  check_ready(ctx, "backward", arena);
  HostScope host(ctx);
  run_backward(ctx, arena.params(nullptr, host.send(labels, x.shape.n)), z, dz, dlogdet, x, dx, nullptr);
}

template <class T>
void Flow<T>::inverse_backward(Context& ctx, ParamArena<T>& arena, View<const T> x, View<const T> dx,
                               const double* dlogdet, const int32_t* labels, T* z, T* dz) const {
  check_input("inverse_backward", x.shape);
  check_labels("inverse_backward", labels, x.shape.n);
  check_ready(ctx, "inverse_backward", arena);
  WorkspaceScope scope(ctx);
  HostScope host(ctx);
  const Params<T> params = arena.params(nullptr, host.send(labels, x.shape.n));
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
}

template <class T>
void Flow<T>::keep_activations(Context& ctx, WorkspaceScope& scope, int64_t n, int64_t budget,
                               Step& step) const {
  if (budget < 0) {  // asking for the free memory takes longer than a small step's couplings
    int64_t all = 0;
    for (const Node& node : nodes_) all += node.layer->kept_size(n) * static_cast<int64_t>(sizeof(T));
    budget = all <= kSmallBudget ? all
             : ctx.on_host()     ? default_activation_budget()
                                 : ctx.device()->free_memory() / 2;
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
bool Flow<T>::step_by_tiles(Context& ctx, ParamArena<T>& arena, View<const T> x, const int32_t* labels,
                            int64_t budget, double weight, bool replace, StepResult& result) const {
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
  const Params<T> all = std::as_const(arena).params(labels);
  const auto undo = [&] {
    if (first_in_place) ctx.kernels<T>().zero(ctx, trainable, total);
  };
  const auto pass = [&](Context& local, int64_t group, int64_t tile) {
    const int64_t first = tiles.begin(tile), end = tiles.begin(tile + 1), rows = end - first,
                  size = rows * dims();
    Params<T> params = rows_of(all, first);
    params.grads = grads_of(group);
    if (tile == tiles.first_of(group)) begin_gradient(local, params);
    WorkspaceScope mine(local);
    T* z = mine.take<T>(size);
    T* dz = mine.take<T>(size);
    double* dlogdet = mine.take<double>(rows);
    std::fill(dlogdet, dlogdet + rows, share);
    Step step;
    keep_activations(local, mine, rows, budget, step);
    const View<const T> in = rows_of(x, first, end);
    run_forward(local, params, in, z, log_prob + first, &step);
    local.kernels<T>().base_log_prob(local, base_, rows, dims(), z, static_cast<T>(share), dz,
                                     log_prob + first);
    View<T> rebuilt(mine.take<T>(size), in.shape), dx(mine.take<T>(size), in.shape);
    run_backward(local, params, z, dz, dlogdet, rebuilt, dx, &step);
    double found[2];
    local.kernels<T>().distance(local, rebuilt, in, found);
    drifts[tile] = relative_distance(found);
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
    for (int64_t i = 0; i < n; ++i) {
      if (!std::isfinite(log_prob[i])) fail_nonfinite(ctx, all, "loss_and_grad", x);
      result.nll -= log_prob[i] / static_cast<double>(n);
    }
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
    check_gradients(ctx, *layout_, grads_of(0), square);
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
  result.loss = result.nll;
  return true;
}

template <class T>
std::vector<uint64_t> Flow<T>::key_of(Pass pass, const Params<T>& params, View<const T> x,
                                      std::initializer_list<const void*> arrays) const {
  std::vector<uint64_t> key{static_cast<uint64_t>(pass), id_, static_cast<uint64_t>(x.shape.n),
                            static_cast<uint64_t>(x.stride)};
  const auto add = [&](const void* p) { key.push_back(reinterpret_cast<uintptr_t>(p)); };
  for (const void* p : {static_cast<const void*>(params.values), static_cast<const void*>(params.grads),
                        static_cast<const void*>(params.batch_stats), static_cast<const void*>(params.labels),
                        static_cast<const void*>(x.data)}) {
    add(p);
  }
  for (const void* p : arrays) add(p);
  return key;
}

template <class T>
Drift Flow<T>::differentiate(Context& ctx, const Params<T>& params, View<const T> x,
                             int64_t activation_budget, double weight, Step& step, double* log_prob,
                             View<T> dx, double* square, const std::function<void()>& undo,
                             const char* call) const {
  WorkspaceScope scope(ctx);
  const int64_t n = x.shape.n, size = n * dims();
  T* z = scope.take<T>(size);
  T* dz = scope.take<T>(size);
  double* dlogdet = scope.take<double>(n);
  const KernelSet<T>& kernels = ctx.kernels<T>();
  kernels.fill_doubles(ctx, n, weight, dlogdet);
  Drift drift;
  try {
    WorkspaceScope kept(ctx);
    keep_activations(ctx, kept, n, activation_budget, step);
    View<T> rebuilt(kept.take<T>(size), x.shape);
    double* found = kept.take<double>(2);
    const auto forward = [&] {
      run_forward(ctx, params, x, z, log_prob, &step);
      kernels.base_log_prob(ctx, base_, n, dims(), z, static_cast<T>(weight), dz, log_prob);
    };
    const auto check_densities = [&] {
      const bool finite = all_finite(ctx, n, log_prob, nullptr);
      if (on_all_ranks(ctx, *layout_, finite)) return;
      if (!finite) fail_nonfinite(ctx, params, call, x);
      fail<NumericError>(call, "expected finite densities on every rank, got others on another");
    };
    const auto backward = [&] {
      run_backward(ctx, params, z, dz, dlogdet, rebuilt, dx, &step);
      kernels.distance(ctx, rebuilt, x, found);
      if (square) kernels.sum_squares(ctx, layout_->trainable_size(), params.grads, square);
    };
    const auto all = [&] {
      forward();
      backward();
    };
    if (ctx.on_host()) {
      forward();
      check_densities();
      backward();
    } else {
      // A device is asked once all of the pass is queued: it does not wait for the program in between.
      if (step.watch) {
        all();
      } else {
        std::vector<uint64_t> key =
            key_of(Pass::gradient, params, x,
                   {log_prob, z, dz, dlogdet, rebuilt.data, dx.data, found, square, step.head_results});
        key.insert(key.end(), {bits_of(weight), static_cast<uint64_t>(dx.stride)});
        key.push_back(params.overwrite);
        for (const T* values : step.kept) key.push_back(reinterpret_cast<uintptr_t>(values));
        ctx.repeat(std::move(key), all);
      }
      check_initialized(ctx, call, params.values);
      check_densities();
    }
    drift.value = relative_distance(HostScope(ctx).read(found, 2));
    if (!on_all_ranks(ctx, *layout_, drift.value <= drift_tolerance<T>())) {
      for (const Node& node : nodes_) node.layer->check_values(ctx, params);
      undo();
      drift.fallback = true;
      run_backward_checkpointed(ctx, params, x, dz, dlogdet, dx, step, drift);
      if (square) kernels.sum_squares(ctx, layout_->trainable_size(), params.grads, square);
    }
  } catch (...) {
    undo();
    throw;
  }
  return drift;
}

template <class T>
StepResult Flow<T>::loss_and_grad(Context& ctx, ParamArena<T>& arena, View<const T> x, const int32_t* labels,
                                  int64_t activation_budget, double weight,
                                  const GradientWatch* watch) const {
  return gradient(ctx, arena, x, labels, activation_budget, weight, watch, false);
}

template <class T>
StepResult Flow<T>::train_step(Context& ctx, ParamArena<T>& arena, View<const T> x, const int32_t* labels,
                               int64_t activation_budget, const Update<T>& update) const {
  if (std::optional<StepResult> taken = step_on_device(ctx, arena, x, labels, activation_budget, update)) {
    return *taken;
  }
  StepResult result = gradient(ctx, arena, x, labels, activation_budget, 1, nullptr, true);
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
  if (update.average) update_average(ctx, arena, update.average, update.average_decay);
  return result;
}

template <class T>
std::optional<StepResult> Flow<T>::step_on_device(Context& ctx, ParamArena<T>& arena, View<const T> x,
                                                  const int32_t* labels, int64_t activation_budget,
                                                  const Update<T>& update) const {
  if (ctx.on_host() || ctx.ranks() || x.shape.n == 0) return std::nullopt;
  check_input("train_step", x.shape);
  check_labels("train_step", labels, x.shape.n);
  check_device(ctx, "train_step", arena);
  using End = StepEnd<T>;
  WorkspaceScope scope(ctx);
  HostScope host(ctx);
  const KernelSet<T>& kernels = ctx.kernels<T>();
  const int64_t n = x.shape.n, size = n * dims();

  // All that the program reads is one array.
  constexpr int64_t kHead = 2, kFound = 2;
  const int64_t count = End::kVerdict + kFound + kHead + 1 + n;
  double* numbers = scope.take<double>(count);
  double *found = numbers + End::kVerdict, *head = found + kFound, *square = head + kHead,
         *log_prob = square + 1;
  double* settings = host.take<double>(End::kSettings);
  settings[End::lr] = update.optimizer.next_rate();
  settings[End::max_norm] = update.max_norm;
  settings[End::average_rate] = 1 - update.average_decay;

  End end;
  double* not_finite = scope.take<double>(1);
  end.not_finite = not_finite;
  end.found = found;
  end.square = square;
  end.head = head_ ? head : nullptr;
  end.tolerance = drift_tolerance<T>();
  end.settings = host.send(static_cast<const double*>(settings), End::kSettings);
  end.verdict = numbers;
  end.config = update.optimizer.config();
  end.trainable = layout_->trainable_size();
  end.decay_size = layout_->decay_size();
  end.total = layout_->total_size();
  end.stats = layout_->stats_size();
  end.stats_rate = kStatsRate;
  T* batch_stats = scope.take<T>(end.stats + 1);
  Params<T> params = arena.params(batch_stats, host.send(labels, n));
  end.initialized = params.value(initialized_);
  end.grads = params.grads;
  end.values = arena.values();
  end.m = update.optimizer.moments()[0].data();
  end.v = update.optimizer.moments().size() > 1 ? update.optimizer.moments()[1].data() : nullptr;
  end.average = update.average;
  end.batch_stats = batch_stats;
  end.running = arena.values() + layout_->stats_begin();

  const double share = 1 / static_cast<double>(n);
  T* z = scope.take<T>(size);
  T* dz = scope.take<T>(size);
  double* dlogdet = scope.take<double>(n);
  const View<T> rebuilt(scope.take<T>(size), x.shape), dx(scope.take<T>(size), x.shape);
  Step step;
  step.head_scale = share;
  if (head_) step.head_results = head;
  keep_activations(ctx, scope, n, activation_budget, step);

  std::vector<uint64_t> key = key_of(Pass::step, params, x,
                                     {numbers, end.not_finite, end.settings, end.m, end.v, end.average, z, dz,
                                      dlogdet, rebuilt.data, dx.data});
  const OptimizerConfig& c = end.config;
  key.push_back(static_cast<uint64_t>(c.rule));
  for (const double setting : {c.momentum, c.beta1, c.beta2, c.decay, c.eps, c.weight_decay, c.shrink}) {
    key.push_back(bits_of(setting));
  }
  for (const T* values : step.kept) key.push_back(reinterpret_cast<uintptr_t>(values));
  ctx.repeat(std::move(key), [&] {
    Params<T> mine = params;
    begin_gradient(ctx, mine);
    kernels.zero(ctx, end.stats + 1, batch_stats);
    kernels.fill_doubles(ctx, n, -share, dlogdet);
    run_forward(ctx, mine, x, z, log_prob, &step);
    kernels.base_log_prob(ctx, base_, n, dims(), z, static_cast<T>(-share), dz, log_prob);
    run_backward(ctx, mine, z, dz, dlogdet, rebuilt, dx, &step);
    kernels.distance(ctx, rebuilt, x, found);
    kernels.sum_squares(ctx, end.trainable, mine.grads, square);
    ctx.kernels<double>().count_not_finite(ctx, View<const double>(log_prob, {1, 1, 1, n}), not_finite);
    flow_kernels<T>(*ctx.device()).finish_step(ctx, end);
  });

  const double* here = host.read(static_cast<const double*>(numbers), count);
  if (here[End::taken] == 0) return std::nullopt;  // for an error, or the drift guard
  update.optimizer.set_steps(update.optimizer.steps() + 1);
  const auto at = [&](const double* number) { return here + (number - numbers); };
  arena.finite_ = true;
  if (here[End::clipped] == 0) arena.square_ = *at(square);
  StepResult result;
  result.grad_norm = std::sqrt(*at(square));
  result.drift.value = relative_distance(at(found));
  for (int64_t i = 0; i < n; ++i) result.nll -= at(log_prob)[i] / static_cast<double>(n);
  if (head_) {
    result.class_nll = at(head)[0] / static_cast<double>(n);
    result.class_error = at(head)[1] / static_cast<double>(n);
  }
  result.loss = result.nll + (head_ ? head_->weight() * result.class_nll : 0);
  return result;
}

template <class T>
StepResult Flow<T>::gradient(Context& ctx, ParamArena<T>& arena, View<const T> x, const int32_t* labels,
                             int64_t activation_budget, double weight, const GradientWatch* watch,
                             bool replace) const {
  check_input("loss_and_grad", x.shape);
  check_labels("loss_and_grad", labels, x.shape.n);
  check_device(ctx, "loss_and_grad", arena);
  if (ctx.on_host()) check_initialized(ctx, "loss_and_grad", std::as_const(arena).values());
  if (by_tiles(ctx, x.shape.n)) {
    StepResult done;
    if (step_by_tiles(ctx, arena, x, labels, activation_budget, weight, replace, done)) return done;
  }
  WorkspaceScope scope(ctx);
  HostScope host(ctx);
  const KernelSet<T>& kernels = ctx.kernels<T>();
  const int64_t n = x.shape.n, stats = layout_->stats_size();
  double* log_prob = scope.take<double>(n);
  View<T> dx(scope.take<T>(n * dims()), x.shape);
  T* batch_stats = scope.take<T>(stats + 1);
  kernels.zero(ctx, stats + 1, batch_stats);

  // Gradients already there must survive a step that the drift guard repeats.
  const int64_t trainable = layout_->trainable_size();
  const bool zero = replace || arena.grads_are_zero();
  Params<T> params = arena.params(batch_stats, host.send(labels, n));
  if (replace) begin_gradient(ctx, params);
  params.overwrite = zero && n > 0;
  const Shape flat{1, 1, 1, trainable};
  T* saved = nullptr;
  double* square = scope.take<double>(1);
  if (!zero) {
    kernels.sum_squares(ctx, trainable, params.grads, square);
    if (*host.read(square, 1) != 0) {
      saved = scope.take<T>(trainable);
      kernels.copy(ctx, View<const T>(params.grads, flat), View<T>(saved, flat));
    }
  }
  const auto restore = [&] {
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
  if (head_ && share != 0) step.head_results = scope.take<double>(2);
  step.watch = watch;
  result.drift = differentiate(ctx, params, x, activation_budget, -share, step, log_prob, dx, square, restore,
                               "loss_and_grad");
  try {
    if (!(result.drift.value <= drift_tolerance<T>())) {
      fail<NumericError>("loss_and_grad", "expected an invertible flow, got layer ", result.drift.layer,
                         " whose rebuilt input is off by ", result.drift.value, " of the largest value");
    }
    const double norm_squared = *host.read(square, 1);
    check_gradients(ctx, *layout_, params.grads, norm_squared);
    arena.square_ = norm_squared;
  } catch (...) {
    restore();
    throw;
  }
  const double* terms = host.read(log_prob, n);
  for (int64_t i = 0; i < n; ++i) result.nll -= terms[i] / static_cast<double>(n);
  kernels.average(ctx, stats, batch_stats, T(kStatsRate), arena.values() + layout_->stats_begin());
  if (step.head_results) {
    const double* sums = host.read(static_cast<const double*>(step.head_results), 2);
    result.class_nll = sums[0] / static_cast<double>(n);
    result.class_error = sums[1] / static_cast<double>(n);
  }
  result.loss = result.nll + (head_ ? head_->weight() * result.class_nll : 0);
  return result;
}

template <class T>
void Flow<T>::log_prob_and_grad(Context& ctx, const ParamArena<T>& arena, View<const T> x,
                                const int32_t* labels, double* log_prob, View<T> dx) const {
  check_input("log_prob_and_grad", x.shape);
  check_labels("log_prob_and_grad", labels, x.shape.n);
  check_ready(ctx, "log_prob_and_grad", arena);
  WorkspaceScope scope(ctx);
  HostScope host(ctx);
  // Layers add gradients of parameters along with that of x; these go nowhere.
  const int64_t trainable = layout_->trainable_size();
  Params<T> params = arena.params(host.send(labels, x.shape.n));
  params.grads = scope.take<T>(trainable);
  begin_gradient(ctx, params);
  Step step;
  // No layer's dx needs its rebuilt input: when a pass is repeated from the inputs, dx is right at any drift.
  differentiate(ctx, params, x, -1, 1.0, step, log_prob, dx, nullptr, [] {}, "log_prob_and_grad");
  const int64_t size = x.shape.n * dims();
  double* not_finite = scope.take<double>(1);
  ctx.kernels<T>().count_not_finite(ctx, View<const T>(dx.data, {1, 1, 1, size}), not_finite);
  if (*host.read(not_finite, 1) == 0) return;
  const T* values = host.read(static_cast<const T*>(dx.data), size);
  const T* bad = std::find_if(values, values + size, [](T v) { return !std::isfinite(v); });
  fail<NumericError>("log_prob_and_grad", "expected a finite gradient, got ", *bad, " for sample ",
                     (bad - values) / dims());
}

// Member by member: flow.cpp instantiates the rest of the class.
template void Flow<float>::head_backward(Context&, const Params<float>&, View<const float>, View<float>,
                                         Step&) const;
template void Flow<float>::keep_activations(Context&, WorkspaceScope&, int64_t, int64_t, Step&) const;
template void Flow<float>::run_backward(Context&, const Params<float>&, const float*, const float*,
                                        const double*, View<float>, View<float>, Step*) const;
template void Flow<float>::run_backward_checkpointed(Context&, const Params<float>&, View<const float>,
                                                     const float*, const double*, View<float>, Step&,
                                                     Drift&) const;
template std::vector<uint64_t> Flow<float>::key_of(Pass, const Params<float>&, View<const float>,
                                                   std::initializer_list<const void*>) const;
template Drift Flow<float>::differentiate(Context&, const Params<float>&, View<const float>, int64_t, double,
                                          Step&, double*, View<float>, double*, const std::function<void()>&,
                                          const char*) const;
template void Flow<float>::log_prob_and_grad(Context&, const ParamArena<float>&, View<const float>,
                                             const int32_t*, double*, View<float>) const;
template void Flow<float>::backward(Context&, ParamArena<float>&, const float*, const float*, const double*,
                                    const int32_t*, View<float>, View<float>) const;
template void Flow<float>::inverse_backward(Context&, ParamArena<float>&, View<const float>,
                                            View<const float>, const double*, const int32_t*, float*,
                                            float*) const;
template void Flow<float>::begin_gradient(Context&, Params<float>&) const;
template bool Flow<float>::step_by_tiles(Context&, ParamArena<float>&, View<const float>, const int32_t*,
                                         int64_t, double, bool, StepResult&) const;
template void Flow<double>::inverse_backward(Context&, ParamArena<double>&, View<const double>,
                                             View<const double>, const double*, const int32_t*, double*,
                                             double*) const;
template void Flow<double>::begin_gradient(Context&, Params<double>&) const;
template bool Flow<double>::step_by_tiles(Context&, ParamArena<double>&, View<const double>, const int32_t*,
                                          int64_t, double, bool, StepResult&) const;
template std::optional<StepResult> Flow<float>::step_on_device(Context&, ParamArena<float>&,
                                                               View<const float>, const int32_t*, int64_t,
                                                               const Update<float>&) const;
template StepResult Flow<float>::train_step(Context&, ParamArena<float>&, View<const float>, const int32_t*,
                                            int64_t, const Update<float>&) const;
template StepResult Flow<float>::gradient(Context&, ParamArena<float>&, View<const float>, const int32_t*,
                                          int64_t, double, const GradientWatch*, bool) const;
template StepResult Flow<float>::loss_and_grad(Context&, ParamArena<float>&, View<const float>,
                                               const int32_t*, int64_t, double, const GradientWatch*) const;
template void Flow<double>::head_backward(Context&, const Params<double>&, View<const double>, View<double>,
                                          Step&) const;
template void Flow<double>::keep_activations(Context&, WorkspaceScope&, int64_t, int64_t, Step&) const;
template void Flow<double>::run_backward(Context&, const Params<double>&, const double*, const double*,
                                         const double*, View<double>, View<double>, Step*) const;
template void Flow<double>::run_backward_checkpointed(Context&, const Params<double>&, View<const double>,
                                                      const double*, const double*, View<double>, Step&,
                                                      Drift&) const;
template std::vector<uint64_t> Flow<double>::key_of(Pass, const Params<double>&, View<const double>,
                                                    std::initializer_list<const void*>) const;
template Drift Flow<double>::differentiate(Context&, const Params<double>&, View<const double>, int64_t,
                                           double, Step&, double*, View<double>, double*,
                                           const std::function<void()>&, const char*) const;
template void Flow<double>::log_prob_and_grad(Context&, const ParamArena<double>&, View<const double>,
                                              const int32_t*, double*, View<double>) const;
template void Flow<double>::backward(Context&, ParamArena<double>&, const double*, const double*,
                                     const double*, const int32_t*, View<double>, View<double>) const;
template std::optional<StepResult> Flow<double>::step_on_device(Context&, ParamArena<double>&,
                                                                View<const double>, const int32_t*, int64_t,
                                                                const Update<double>&) const;
template StepResult Flow<double>::train_step(Context&, ParamArena<double>&, View<const double>,
                                             const int32_t*, int64_t, const Update<double>&) const;
template StepResult Flow<double>::gradient(Context&, ParamArena<double>&, View<const double>, const int32_t*,
                                           int64_t, double, const GradientWatch*, bool) const;
template StepResult Flow<double>::loss_and_grad(Context&, ParamArena<double>&, View<const double>,
                                                const int32_t*, int64_t, double, const GradientWatch*) const;

}  // namespace evenflow
