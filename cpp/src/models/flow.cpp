#include "evenflow/flow.hpp"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <utility>

#include "evenflow/error.hpp"
#include "kernels/kernel_set.hpp"
#include "models/passes.hpp"
#include "models/tiles.hpp"

namespace evenflow {
namespace {

uint64_t next_id() {
  static std::atomic<uint64_t> next{0};
  return next++;
}

}  // namespace

template <class T>
Flow<T>::Flow(Shape sample_shape, Base base)
    : id_(next_id()), sample_shape_(sample_shape.with_batch(0)), current_(sample_shape_), base_(base) {
  if (dims() < 1) fail<ShapeError>("flow", "expected positive sizes, got ", to_string(sample_shape_));
}

template <class T>
void Flow<T>::add(const std::string& name, std::unique_ptr<Layer<T>> layer) {
  if (layer->input_shape() != current_) {
    fail<ShapeError>(name, "expected a layer for ", to_string(current_), ", got ",
                     to_string(layer->input_shape()));
  }
  current_ = layer->output_shape();
  nodes_.emplace_back();
  nodes_.back().name = name;
  nodes_.back().layer = std::move(layer);
}

template <class T>
void Flow<T>::factor_out(int64_t keep) {
  if (nodes_.empty() || keep < 1 || keep >= current_.c) {
    fail<ShapeError>("factor_out", "expected 1 <= channels kept < ", current_.c, ", got ", keep);
  }
  nodes_.back().keep = keep;
  const int64_t offset = levels_.empty() ? 0 : levels_.back().offset + levels_.back().shape.per_sample();
  levels_.push_back({current_.with_channels(current_.c - keep), offset});
  current_.c = keep;
}

template <class T>
void Flow<T>::classify(int64_t classes, double weight) {
  head_ = std::make_unique<ClassHead<T>>(current_, classes, weight);
  head_at_ = nodes_.size();
}

template <class T>
void Flow<T>::finalize() {
  if (head_ && context_) fail<ConfigError>("flow", "expected no class head beside a context, got one");
  const int64_t offset = levels_.empty() ? 0 : levels_.back().offset + levels_.back().shape.per_sample();
  levels_.push_back({current_, offset});
  auto layout = std::make_shared<ParamLayout>();
  const Scope root(*layout, "");
  for (Node& node : nodes_) {
    const Layer<T>& layer = *node.layer;
    if (layer.context() && layer.context() != context_) {
      fail<ShapeError>(node.name, "expected a net for a context of ", context_, ", got one for ",
                       layer.context());
    }
    const size_t first = layout->entries().size();
    node.layer->declare(root / node.name);
    for (size_t e = first; e < layout->entries().size(); ++e) {
      if (layout->entries()[e].group != Group::stats) continue;
      const int64_t pixels = layer.output_shape().pixels_per_sample();
      moments_of_ = moments_of_ ? std::min(moments_of_, pixels) : pixels;
    }
    node.end_param = layout->entries().size();
    if (node.layer->standardizes()) standardised_ = static_cast<size_t>(&node - nodes_.data()) + 1;
  }
  if (head_) head_->declare(root / "class_head");
  if (context_) {
    context_mean_ = root.add("context.mean", {context_}, Group::fixed);
    context_std_ = root.add("context.std", {context_}, Group::fixed);
  }
  initialized_ = root.add("initialized", {1}, Group::fixed);
  layout->finalize();
  layout_ = std::move(layout);

  // Weights and a tile's activations share a second-level cache of a megabyte or more.
  constexpr int64_t kWeightBytes = 1 << 19, kTileBytes = 1 << 20, kLeastRows = 16;
  int64_t kept = 3 * dims() + 2 * context_;
  for (const Node& node : nodes_) kept += node.layer->kept_size(1);
  const int64_t value = static_cast<int64_t>(sizeof(T));
  const int64_t rows = std::min(Tiles::kMaxRows, kTileBytes / (kept * value));
  const bool fits = layout_->trainable_size() * value <= kWeightBytes && rows >= kLeastRows;
  tile_rows_ = fits && layout_->stats_size() == 0 && !head_ ? rows : 0;
}

template <class T>
bool Flow<T>::worth_threads(int64_t n) const {
  constexpr int64_t kProducts = int64_t{1} << 21;
  return n * layout_->trainable_size() >= kProducts;
}

template <class T>
Params<T> Flow<T>::rows_of(Params<T> params, int64_t first) const {
  if (params.labels) params.labels += first;
  if (params.context) params.context += first * context_;
  if (params.dcontext) params.dcontext += first * context_;
  return params;
}

template <class T>
View<T> Flow<T>::rows_of(View<T> x, int64_t first, int64_t end) const {
  return View<T>(x.data + first * x.shape.pixels_per_sample() * x.stride, x.shape.with_batch(end - first),
                 x.stride);
}

template <class T>
View<const T> Flow<T>::rows_of(View<const T> x, int64_t first, int64_t end) const {
  return View<const T>(x.data + first * x.shape.pixels_per_sample() * x.stride,
                       x.shape.with_batch(end - first), x.stride);
}

template <class T>
void Flow<T>::init(ParamArena<T>& arena, uint64_t seed) const {
  Rng rng(seed, Stream::init);
  for (const Node& node : nodes_) node.layer->init(arena, rng);
  if (context_) std::fill_n(arena.value(context_std_), context_, T(1));
}

namespace {

template <class T>
bool finite(const T* values, int64_t count) {
  return std::all_of(values, values + count, [](T v) { return std::isfinite(v); });
}

}  // namespace

template <class T>
void Flow<T>::init_from_data(Context& ctx, ParamArena<T>& arena, View<const T> x,
                             const Given<T>& given) const {
  check_input("init", x.shape);
  WorkspaceScope scope(ctx);
  const int64_t n = x.shape.n;
  // Labels do not matter: the only layer that reads them, the top prior, has nothing to initialise.
  const std::vector<int32_t> zeros(static_cast<size_t>(classes_ ? n : 0), 0);
  const Given<T> known = classes_ ? Given<T>(zeros.data()) : given;
  check_given("init", known, n);
  check_arena(ctx, "init", arena);
  HostScope host(ctx);
  double* logdet = scope.take<double>(n);
  ctx.kernels<T>().fill_doubles(ctx, n, 0, logdet);
  // A layer may refuse what the ones before it have made of the batch.
  const Shape all{1, 1, 1, layout_->total_size()};
  SharedBuffer<T> kept(all.c, arena.device());
  const View<T> values(arena.values(), all), before(kept.data(), all);
  ctx.kernels<T>().copy(ctx, values, before);
  try {
    if (context_) init_context(ctx, arena, given.context, n);
    const Params<T> params = with(ctx, scope, host, std::as_const(arena).params(), known, n);
    walk_forward(scope, x, nodes_.size(), [&](const Node& node, View<const T> in, View<T> out) {
      node.layer->init_from_data(ctx, arena, in);
      node.layer->forward(ctx, params, in, out, logdet);
    });
  } catch (...) {
    ctx.kernels<T>().copy(ctx, before, values);
    ctx.synchronize();
    throw;
  }
  const T one = T(1);
  ctx.to_device(arena.value(initialized_), &one, sizeof one);
}

template <class T>
bool Flow<T>::initialized(const ParamArena<T>& arena) const {
  return arena.value(initialized_)[0] != T(0);
}

template <class T>
void Flow<T>::check_parameters(const ParamArena<T>& arena) const {
  for (const Node& node : nodes_) node.layer->check_parameters(arena);
  const T flag = arena.value(initialized_)[0];
  if (flag != T(0) && flag != T(1)) {
    fail<NumericError>("flow", "expected 0 or 1 for 'initialized', got ", flag);
  }
  for (int64_t c = 0; c < context_; ++c) {
    const T mean = arena.value(context_mean_)[c], std = arena.value(context_std_)[c];
    if (std::isfinite(mean) && std::isfinite(std) && std > 0) continue;
    fail<NumericError>("flow", "expected a finite mean and a positive deviation of the context, got ", mean,
                       " and ", std, " in column ", c);
  }
}

template <class T>
void Flow<T>::check_input(const char* call, const Shape& x) const {
  if (x.n < 1) fail<ShapeError>(call, "expected at least one sample, got an empty batch");
  if (x.with_batch(0) != sample_shape_) {
    fail<ShapeError>(call, "expected x of shape ", to_string(sample_shape_.with_batch(x.n)), ", got ",
                     to_string(x));
  }
}

template <class T>
void Flow<T>::check_ready(Context& ctx, const char* call, const ParamArena<T>& arena) const {
  check_arena(ctx, call, arena);
  check_initialized(ctx, call, arena.values());
}

template <class T>
void Flow<T>::check_initialized(Context& ctx, const char* call, const T* values) const {
  HostScope host(ctx);
  if (*host.read(values + layout_->offset(initialized_), 1) == T(0)) {
    fail<ConfigError>(
        call, "expected an initialised model, got a fresh one; call init(x) with a batch of data first");
  }
}

template <class T>
void Flow<T>::put_level(Context& ctx, View<const T> piece, const Level& level, T* z) const {
  ctx.kernels<T>().copy_blocks(ctx, piece, piece.shape.pixels_per_sample() * piece.stride,
                               View<T>(z + level.offset, piece.shape), dims());
}

template <class T>
void Flow<T>::get_level(Context& ctx, const T* z, const Level& level, View<T> piece) const {
  ctx.kernels<T>().copy_blocks(ctx, View<const T>(z + level.offset, piece.shape), dims(), piece,
                               piece.shape.pixels_per_sample() * piece.stride);
}

template <class T>
void Flow<T>::run_forward(Context& ctx, const Params<T>& params, View<const T> x, T* z, double* logdet,
                          const Step* step) const {
  const int64_t n = x.shape.n;
  const int64_t rows = std::min(tile_rows_, Tiles::kScored);
  if (!step && by_tiles(ctx) && n > rows) {
    const Tiles tiles(n, rows);
    run_tiles(ctx, tiles, worth_threads(n), [&](Context& local, int64_t, int64_t tile) {
      const int64_t first = tiles.begin(tile), end = tiles.begin(tile + 1);
      run_forward(local, rows_of(params, first), rows_of(x, first, end), z + first * dims(), logdet + first,
                  nullptr);
    });
    return;
  }
  WorkspaceScope scope(ctx);
  T* buffers[2] = {scope.take<T>(n * dims()), scope.take<T>(n * dims())};
  ctx.kernels<T>().fill_doubles(ctx, n, 0, logdet);
  View<T> mine;  // x, where it may be overwritten
  int at = 0;
  size_t level = 0;
  for (size_t i = 0; i < nodes_.size(); ++i) {
    const Node& node = nodes_[i];
    View<T> out = mine;
    if (!mine.data || !node.layer->in_place()) {
      out = View<T>(buffers[at], node.layer->output_shape().with_batch(n));
      at = 1 - at;
    }
    node.layer->forward(ctx, params, x, out, logdet, step ? step->kept[i] : nullptr);
    if (node.keep) {
      put_level(ctx, out.channels(node.keep, out.shape.c - node.keep), levels_[level++], z);
      out = out.channels(0, node.keep);
    }
    if (step && step->standardised && i + 1 == standardised_) {
      ctx.kernels<T>().copy(ctx, out, View<T>(step->standardised, out.shape));
    }
    mine = out;
    x = out;
  }
  put_level(ctx, x, levels_.back(), z);
}

template <class T>
void Flow<T>::run_inverse(Context& ctx, const Params<T>& params, const T* z, int64_t n, View<T> x,
                          double* logdet) const {
  const int64_t rows = std::min(tile_rows_, Tiles::kScored);
  if (by_tiles(ctx) && n > rows) {
    const Tiles tiles(n, rows);
    run_tiles(ctx, tiles, worth_threads(n), [&](Context& local, int64_t, int64_t tile) {
      const int64_t first = tiles.begin(tile), end = tiles.begin(tile + 1);
      run_inverse(local, rows_of(params, first), z + first * dims(), end - first, rows_of(x, first, end),
                  logdet + first);
    });
    return;
  }
  walk_back(ctx, params, z, n, x, logdet, [](const Node&, View<const T>) { return true; });
}

template <class T>
View<const T> Flow<T>::walk_forward(
    WorkspaceScope& scope, View<const T> x, size_t end,
    const std::function<void(const Node&, View<const T>, View<T>)>& through) const {
  const int64_t n = x.shape.n;
  T* first = scope.take<T>(n * dims());
  T* buffers[2] = {first, end > 1 ? scope.take<T>(n * dims()) : first};
  for (size_t i = 0; i < end; ++i) {
    const Node& node = nodes_[i];
    const View<T> out(buffers[i % 2], node.layer->output_shape().with_batch(n));
    through(node, x, out);
    x = node.keep ? out.channels(0, node.keep) : out;
  }
  return x;
}

template <class T>
template <class GoOn>
void Flow<T>::walk_back(Context& ctx, const Params<T>& params, const T* z, int64_t n, View<T> x,
                        double* logdet, const GoOn& go_on) const {
  WorkspaceScope scope(ctx);
  T* buffers[2] = {scope.take<T>(n * dims()), scope.take<T>(n * dims())};
  ctx.kernels<T>().fill_doubles(ctx, n, 0, logdet);
  int at = 0;
  size_t level = levels_.size() - 1;
  View<T> cur(buffers[at], levels_[level].shape.with_batch(n));
  get_level(ctx, z, levels_[level], cur);
  for (size_t i = nodes_.size(); i-- > 0;) {
    const Node& node = nodes_[i];
    if (node.keep) {
      at = 1 - at;
      View<T> whole(buffers[at], node.layer->output_shape().with_batch(n));
      ctx.kernels<T>().copy(ctx, cur, whole.channels(0, node.keep));
      --level;
      get_level(ctx, z, levels_[level], whole.channels(node.keep, whole.shape.c - node.keep));
      cur = whole;
    }
    View<T> out = x;
    if (i > 0) {
      out = cur;
      if (!node.layer->in_place()) {
        at = 1 - at;
        out = View<T>(buffers[at], node.layer->input_shape().with_batch(n));
      }
    }
    node.layer->inverse(ctx, params, cur, out, logdet);
    if (!go_on(node, out)) return;
    cur = out;
  }
  if (nodes_.empty()) ctx.kernels<T>().copy(ctx, cur, x);
}

namespace {

/// The first value of a layer that is not finite, and its place; empty: there is none.
template <class T>
std::string value_not_finite(Context& ctx, const std::string& layer, View<const T> v) {
  const NotFinite found = first_not_finite(ctx, v);
  if (found.sample < 0) return "";
  return text_of(found.value, " from layer ", layer, ", channel ", found.channel, ", for sample ",
                 ctx.first_row() + found.sample);
}

/// The same of its values or log-determinants (n).
template <class T>
std::string result_not_finite(Context& ctx, const std::string& layer, View<const T> v, int64_t n,
                              const double* logdet) {
  std::string found = value_not_finite(ctx, layer, v);
  if (!found.empty()) return found;
  HostScope host(ctx);
  const double* det = host.read(logdet, n);
  for (int64_t i = 0; i < n; ++i) {
    if (std::isfinite(det[i])) continue;
    return text_of("log-determinant ", det[i], " from layer ", layer, ", for sample ", ctx.first_row() + i);
  }
  return "";
}

}  // namespace

// The whole batch again, layer by layer: in training its samples depend on each other.
template <class T>
void Flow<T>::check_layers(Context& ctx, const Params<T>& params, const char* call, View<const T> x,
                           size_t end) const {
  WorkspaceScope scope(ctx);
  const RanksScope alone(ctx, nullptr);  // other ranks do not come along
  const NotFinite input = first_not_finite(ctx, x);
  if (input.sample >= 0) {
    fail<NumericError>(call, "expected finite inputs, got ", input.value, " in channel ", input.channel,
                       " of sample ", ctx.first_row() + input.sample);
  }
  const int64_t n = x.shape.n;
  double* logdet = scope.take<double>(n);
  ctx.kernels<T>().fill_doubles(ctx, n, 0, logdet);
  walk_forward(scope, x, end, [&](const Node& node, View<const T> in, View<T> out) {
    node.layer->check_values(ctx, params);
    node.layer->check_inputs(ctx, call, in);
    node.layer->forward(ctx, params, in, out, logdet);
    const std::string found = result_not_finite<T>(ctx, node.name, out, n, logdet);
    if (!found.empty()) fail<NumericError>(call, "expected finite values, got ", found);
  });
}

template <class T>
void Flow<T>::fail_not_finite(Context& ctx, const Params<T>& params, const char* call, View<const T> x,
                              const double* log_prob) const {
  check_layers(ctx, params, call, x, nodes_.size());
  HostScope host(ctx);
  const double* first = host.read(log_prob, x.shape.n);
  const auto bad = std::find_if_not(first, first + x.shape.n, [](double v) { return std::isfinite(v); });
  fail<NumericError>(call,
                     "expected a finite log-likelihood, got latents too large for the base distribution",
                     ", for sample ", ctx.first_row() + (bad - first));
}

template <class T>
std::string Flow<T>::not_finite_inverse(Context& ctx, const Params<T>& params, const T* z, int64_t n) const {
  WorkspaceScope scope(ctx);
  double* logdet = scope.take<double>(n);
  ctx.kernels<T>().fill_doubles(ctx, n, 0, logdet);
  std::string found = result_not_finite<T>(ctx, "(latents)", View<const T>(z, {n, 1, 1, dims()}), n, logdet);
  if (!found.empty()) return found;
  const View<T> x(scope.take<T>(n * dims()), sample_shape().with_batch(n));
  walk_back(ctx, params, z, n, x, logdet, [&](const Node& node, View<const T> out) {
    node.layer->check_values(ctx, params);
    found = result_not_finite<T>(ctx, node.name, out, n, logdet);
    return found.empty();
  });
  return found.empty() ? "others" : found;
}

template <class T>
bool Flow<T>::all_finite(Context& ctx, int64_t n, const double* numbers, View<const T> values) const {
  HostScope host(ctx);
  if (values.data) {
    WorkspaceScope scope(ctx);
    double* bad = scope.take<double>(1);
    ctx.kernels<T>().count_not_finite(ctx, values, bad);
    if (*host.read(bad, 1) != 0) return false;
  }
  numbers = host.read(numbers, n);
  return std::all_of(numbers, numbers + n, [](double v) { return std::isfinite(v); });
}

template <class T>
void Flow<T>::forward(Context& ctx, const ParamArena<T>& arena, View<const T> x, const Given<T>& given, T* z,
                      double* logdet, const char* call) const {
  check_input(call, x.shape);
  check_given(call, given, x.shape.n);
  check_ready(ctx, call, arena);
  WorkspaceScope scope(ctx);
  HostScope host(ctx);
  const Params<T> params = with(ctx, scope, host, arena.params(), given, x.shape.n);
  run_forward(ctx, params, x, z, logdet, nullptr);
  const View<const T> latents(z, {x.shape.n, 1, 1, dims()});
  if (!all_finite(ctx, x.shape.n, logdet, latents)) fail_not_finite(ctx, params, call, x, logdet);
}

template <class T>
void Flow<T>::inverse(Context& ctx, const ParamArena<T>& arena, const T* z, int64_t n, const Given<T>& given,
                      View<T> x, double* logdet, const char* call) const {
  check_input(call, x.shape);
  if (n != x.shape.n) {
    fail<ShapeError>(call, "expected x of as many samples as z, ", n, ", got ", x.shape.n);
  }
  check_given(call, given, n);
  check_ready(ctx, call, arena);
  WorkspaceScope scope(ctx);
  HostScope host(ctx);
  const Params<T> params = with(ctx, scope, host, arena.params(), given, n);
  run_inverse(ctx, params, z, n, x, logdet);
  if (all_finite(ctx, n, logdet, x)) return;
  fail<NumericError>(call, "expected finite values, got ", not_finite_inverse(ctx, params, z, n));
}

template <class T>
void Flow<T>::log_prob(Context& ctx, const ParamArena<T>& arena, View<const T> x, const Given<T>& given,
                       double* out, const char* call) const {
  check_input(call, x.shape);
  check_given(call, given, x.shape.n);
  check_ready(ctx, call, arena);
  WorkspaceScope scope(ctx);
  HostScope host(ctx);
  const int64_t n = x.shape.n;
  T* z = scope.take<T>(n * dims());
  const Params<T> params = with(ctx, scope, host, arena.params(), given, n);
  queue(ctx, Pass::log_prob, params, x, {out, z}, [&] {
    run_forward(ctx, params, x, z, out, nullptr);
    ctx.kernels<T>().base_log_prob(ctx, base_, n, dims(), z, T(0), nullptr, out);
  });
  if (!all_finite(ctx, n, out)) fail_not_finite(ctx, params, call, x, out);
}

template <class T>
template <class F>
void Flow<T>::queue(Context& ctx, Pass pass, const Params<T>& params, View<const T> x,
                    std::initializer_list<const void*> arrays, const F& f) const {
  if (ctx.on_host()) return f();
  ctx.repeat(key_of(pass, params, x, arrays), f);
}

template <class T>
void Flow<T>::sample(Context& ctx, const ParamArena<T>& arena, int64_t first, double temperature,
                     uint64_t seed, const Given<T>& given, View<T> x) const {
  check_input("sample", x.shape);
  check_given("sample", given, x.shape.n);
  check_arena(ctx, "sample", arena);
  if (!(temperature >= 0) || !std::isfinite(temperature)) {
    fail<ConfigError>("sample", "expected a finite temperature >= 0, got ", temperature);
  }
  check_initialized(ctx, "sample", arena.values());
  WorkspaceScope scope(ctx);
  HostScope host(ctx);
  const int64_t n = x.shape.n;
  T* z = scope.take<T>(n * dims());
  double* logdet = scope.take<double>(n);
  ctx.kernels<T>().base_sample(ctx, base_, n, dims(), static_cast<T>(temperature), seed,
                               static_cast<uint64_t>(first), z);
  const Params<T> params = with(ctx, scope, host, arena.params(), given, n);
  double* bad_values = scope.take<double>(1);
  queue(ctx, Pass::sample, params, x, {logdet, z, bad_values}, [&] {
    run_inverse(ctx, params, z, n, x, logdet);
    ctx.kernels<T>().count_not_finite(ctx, x, bad_values);
  });
  if (*host.read(bad_values, 1) == 0) return;
  const T* values = dense_on_host<T>(ctx, scope, host, x);
  int64_t bad = 0;
  for (int64_t i = 0; i < n; ++i) bad += !finite(values + i * dims(), dims());
  fail<NumericError>("sample", "expected finite samples, got ", bad, " of ", n, " that are not, first ",
                     not_finite_inverse(ctx, params, z, n), "; try a lower temperature");
}

template <class T>
void Flow<T>::class_log_prob(Context& ctx, const ParamArena<T>& arena, View<const T> x, double* out) const {
  check_input("class_log_prob", x.shape);
  check_ready(ctx, "class_log_prob", arena);
  if (!head_) fail<ConfigError>("class_log_prob", "expected a model with a class head, got one without");
  WorkspaceScope scope(ctx);
  const int64_t n = x.shape.n;
  const Params<T> params = arena.params();
  double* logdet = scope.take<double>(n);
  ctx.kernels<T>().fill_doubles(ctx, n, 0, logdet);
  const View<const T> seen =
      walk_forward(scope, x, head_at_, [&](const Node& node, View<const T> in, View<T> z) {
        node.layer->forward(ctx, params, in, z, logdet);
      });
  head_->log_prob(ctx, params, seen, out);
  const Shape shape{n, 1, 1, head_->classes()};
  if (all_finite(ctx, shape.size(), out)) return;
  check_layers(ctx, params, "class_log_prob", x, head_at_);
  fail<NumericError>("class_log_prob", "expected finite values, got ",
                     value_not_finite(ctx, "class_head", View<const double>(out, shape)));
}

template class Flow<float>;
template class Flow<double>;

}  // namespace evenflow
